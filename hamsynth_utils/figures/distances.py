"""Distances along a curve: over steps, over guidance, over minutes."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hamsynth_utils.errors import InputError
from hamsynth_utils.figures.charts import name_ends
from hamsynth_utils.figures.style import DASHED, GREY, PALETTE, stacked_axes, styled


@styled
def distance_curves(points: pd.DataFrame, x: str, ylabel: str, series: str | None = None) -> Figure:
    """`mean` over `x` with its interval from `low` to `high`, a line for each value of `series`.

    The floor, the mean of the column `floor`, is a dashed line.
    """
    needed = {x, "mean", "low", "high", "floor"} | ({series} if series else set())
    if absent := sorted(needed - set(points.columns)):
        raise InputError(f"points has no column {absent}; it has {list(points.columns)}")
    figure, (axes,) = stacked_axes(3.6)
    ends = []
    for number, (name, line) in enumerate(points.groupby(series) if series else [("", points)]):
        line, colour = line.sort_values(x), PALETTE[number % len(PALETTE)]
        bars = [line["mean"] - line["low"], line["high"] - line["mean"]]
        beside = 0.01 * number * (points[x].max() - points[x].min())  # so that no bar hides another
        axes.errorbar(line[x] + beside, line["mean"], bars, color=colour, marker="o", capsize=3, elinewidth=1)
        ends.append((float(line["mean"].iloc[-1]), str(name), colour))
    axes.axhline(points["floor"].mean(), color=GREY, **DASHED)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y")
    axes.set_xticks(sorted(points[x].unique()))
    name_ends(axes, [*ends, (float(points["floor"].mean()), "real images", GREY)])
    return figure
