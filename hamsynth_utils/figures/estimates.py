"""Estimates with their intervals: one line an arm, or a curve an arm over what was varied."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hamsynth_utils.errors import InputError
from hamsynth_utils.figures.charts import name_ends
from hamsynth_utils.figures.style import ARM_COLOURS, ARM_NAMES, DASHED, GREY, INK, stacked_axes, styled


@styled
def estimate_rows(rows: pd.DataFrame, xlabel: str, reference: float | None = None, digits: int = 1) -> Figure:
    """A point a row with its interval from `low` to `high`, the `value` and its label beside it.

    rows: columns arm, value, low, high, in the order from top to bottom; an arm's name may repeat.
    reference: a dashed vertical line, such as 0 or the value of the real-only arm.
    Raises InputError for missing columns, no rows, or an interval that is upside down.
    """
    _check(rows, ["arm", "value", "low", "high"])
    figure, (axes,) = stacked_axes(0.9 + 0.42 * len(rows))
    for place, row in enumerate(rows.itertuples()):
        colour = ARM_COLOURS.get(row.arm, GREY)
        axes.hlines(place, row.low, row.high, color=colour, linewidth=3, alpha=0.6)
        axes.plot(row.value, place, "o", color=colour, ms=8)
        axes.annotate(
            f"{row.value:.{digits}f}", (np.nanmax([row.value, row.high]), place), (6, 0), va="center",
            textcoords="offset points", fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    if reference is not None:
        axes.axvline(reference, color=INK, **DASHED)
    axes.set_yticks(range(len(rows)), [ARM_NAMES.get(arm, arm) for arm in rows["arm"]])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x")
    return figure


@styled
def gain_curves(points: pd.DataFrame, x: str, ylabel: str) -> Figure:
    """`value` over `x` with its interval from `low` to `high`, a line an arm in its colour; 0 is dashed.

    Raises InputError for missing columns, no rows, or an interval that is upside down.
    """
    _check(points, ["arm", x, "value", "low", "high"])
    figure, (axes,) = stacked_axes(3.8)
    axes.axhline(0, color=INK, **DASHED)
    ends = []
    width = points[x].max() - points[x].min()
    for number, (arm, line) in enumerate(points.groupby("arm", sort=False)):
        line, colour = line.sort_values(x), ARM_COLOURS.get(str(arm), GREY)
        bars = [line["value"] - line["low"], line["high"] - line["value"]]
        beside = 0.012 * (number - 1) * width  # so that no interval hides another
        axes.errorbar(
            line[x] + beside, line["value"], bars, color=colour, marker="o", capsize=3, elinewidth=1
        )
        ends.append((float(line["value"].iloc[-1]), ARM_NAMES.get(str(arm), str(arm)), colour))
    axes.set(xlabel=x, ylabel=ylabel)
    axes.grid(axis="y")
    axes.set_xticks(sorted(points[x].unique()))
    name_ends(axes, ends)
    return figure


def _check(rows: pd.DataFrame, columns: list[str]) -> None:
    if absent := [column for column in columns if column not in rows]:
        raise InputError(f"the rows have no column {', '.join(absent)}; they have {list(rows.columns)}")
    if rows.empty or (rows["low"] > rows["high"]).any():
        raise InputError("give at least one row, and no low above its high")
