"""Distances along a curve: over steps, over guidance, over minutes."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.notebook.plots.charts import name_ends, plain_log
from hamsynth_utils.notebook.plots.style import (
    ARM_COLOURS,
    DASHED,
    GREY,
    INK,
    PALETTE,
    stacked_axes,
    styled,
)


@styled
def distance_curves(points: pd.DataFrame, x: str, ylabel: str, series: str | None = None) -> Figure:
    """`mean` over `x` with its interval from `low` to `high`, a line for each value of `series`.

    The floor, the mean of the column `floor`, is a dashed line.
    """
    needed = {x, "mean", "low", "high", "real_baseline"} | ({series} if series else set())
    if absent := sorted(needed - set(points.columns)):
        raise InputError(f"points has no column {absent}; it has {list(points.columns)}")
    figure, (axes,) = stacked_axes(3.6)
    ends = []
    for number, (name, line) in enumerate(points.groupby(series) if series else [("", points)]):
        line, colour = line.sort_values(x), PALETTE[number % len(PALETTE)]
        bars = [line["mean"] - line["low"], line["high"] - line["mean"]]
        beside = 0.01 * number * (points[x].max() - points[x].min())  # so that no bar hides another
        axes.errorbar(
            line[x] + beside, line["mean"], bars, color=colour, marker="o", capsize=3, elinewidth=1
        )
        ends.append((float(line["mean"].iloc[-1]), str(name), colour))
    axes.axhline(points["real_baseline"].mean(), color=GREY, **DASHED)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y")
    axes.set_xticks(sorted(points[x].unique()))
    name_ends(axes, [*ends, (float(points["real_baseline"].mean()), "real images", GREY)])
    return figure


@styled
def spectrum_curves(ratios: pd.DataFrame) -> Figure:
    """Power as a share of real images', on a logarithmic axis, with bands; a dashed line at one.

    ratios: the rows of `metrics.spectra.power_ratio` with a number in cycles, and a column `images`: the
    name of a generator, or "real_baseline" for other real images, which are grey. Raises InputError for missing
    columns, no rows, or a share that is not positive.
    """
    needed = ["images", "cycles", "value", "low", "high"]
    if absent := [column for column in needed if column not in ratios]:
        raise InputError(f"ratios has no column {absent}; it has {list(ratios.columns)}")
    if ratios.empty or not (ratios["low"] > 0).all():
        raise InputError(
            "give at least one row, and shares above zero only: the axis is logarithmic"
        )
    figure, (axes,) = stacked_axes(4.2)
    axes.axhline(1, color=INK, **DASHED)
    axes.set_yscale("log")
    ends = []
    for name, line in ratios.groupby("images", sort=False):
        line, colour = (
            line.sort_values("cycles").astype({"cycles": float}),
            ARM_COLOURS.get(str(name), GREY),
        )
        axes.fill_between(
            line["cycles"], line["low"], line["high"], color=colour, alpha=0.25, linewidth=0
        )
        axes.plot(line["cycles"], line["value"], color=colour)
        title = (
            "other real images" if name == "real_baseline" else ARM_NAMES.get(str(name), str(name))
        )
        ends.append((float(line["value"].iloc[-1]), title, colour))
    axes.set(xlabel="cycles an image, coarse to fine", ylabel="power, share of real images'")
    axes.grid(axis="y")
    plain_log(axes.yaxis)
    name_ends(axes, ends)
    return figure
