"""Estimates with their intervals: one line an arm, or a curve an arm over what was varied."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import CLASSES
from hamsynth_utils.notebook.plots.charts import name_ends
from hamsynth_utils.notebook.plots.style import (
    ARM_COLOURS,
    DASHED,
    FAINT,
    GREY,
    INK,
    WIDTH,
    BookFigure,
    stacked_axes,
    styled,
)


@styled
def estimate_rows(
    rows: pd.DataFrame, xlabel: str, reference: float | None = None, digits: int = 1
) -> Figure:
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
            f"{row.value:.{digits}f}",
            (np.nanmax([row.value, row.high]), place),
            (6, 0),
            va="center",
            textcoords="offset points",
            fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
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
        raise InputError(
            f"the rows have no column {', '.join(absent)}; they have {list(rows.columns)}"
        )
    if rows.empty or (rows["low"] > rows["high"]).any():
        raise InputError("give at least one row, and no low above its high")


ROW = 0.14
"""Inches between two arms of a class."""


@styled
def class_panels(
    rows: pd.DataFrame,
    counts: Mapping[str, int],
    marked: Collection[str] = (),
    reference: float | None = None,
    xlabel: str = "",
) -> Figure:
    """A point an arm in each class with its interval, a panel a measure, the arms named at the right.

    rows: columns measure, dx, arm, value, low, high; measures and arms in the order in which they come, a
    class that has no row stays empty. counts: n of each class, beside its name. marked: classes on a grey
    ground. reference: a dashed vertical line, such as 0 for gains.
    Raises InputError for missing columns, no rows, or an interval that is upside down.
    """
    absent = [name for name in ("measure", "dx", "arm", "value", "low", "high") if name not in rows]
    if absent or rows.empty or (rows["low"] > rows["high"]).any():
        raise InputError(
            f"the rows lack {absent}, are none, or have a low above its high: {len(rows)} rows"
        )
    measures, arms = list(rows["measure"].unique()), list(rows["arm"].unique())
    step = len(arms) + 1.5
    figure = BookFigure(figsize=(WIDTH, 1.0 + ROW * step * len(CLASSES)), layout="constrained")
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    place = {(dx, arm): step * i + k for i, dx in enumerate(CLASSES) for k, arm in enumerate(arms)}
    for axes, measure in zip(panels, measures, strict=True):
        for row in rows[rows["measure"] == measure].itertuples():
            y, colour = place[row.dx, row.arm], ARM_COLOURS.get(row.arm, GREY)
            axes.hlines(y, row.low, row.high, color=colour, linewidth=2, alpha=0.6)
            axes.plot(row.value, y, "o", color=colour, ms=4.5)
        for i, dx in enumerate(CLASSES):
            if dx in marked:
                axes.axhspan(
                    step * i - 1.2, step * (i + 1) - 1.3, color=FAINT, alpha=0.5, lw=0, zorder=0
                )
        if reference is not None:
            axes.axvline(reference, color=INK, **DASHED)
        axes.set_title(measure)
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(axis="y", length=0)
    middle = step * np.arange(len(CLASSES)) + (len(arms) - 1) / 2
    panels[0].set_yticks(middle, [f"{dx}\nn = {counts[dx]:,}" for dx in CLASSES])
    panels[0].set_ylim(step * len(CLASSES) - 1.3, -1.2)
    for i in range(len(CLASSES)):
        for k, arm in enumerate(arms):
            panels[-1].annotate(
                ARM_NAMES.get(arm, arm),
                (1.02, step * i + k),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                color=ARM_COLOURS.get(arm, GREY),
            )
    figure.supxlabel(xlabel, fontsize=12)
    return figure


@styled
def precision_recall_panels(
    bands: Mapping[str, Mapping[str, pd.DataFrame]],
    chance: Mapping[str, float],
    reference: str = "real",
) -> Figure:
    """Precision over recall with bands: a row an arm beside the reference's, a column a title of `chance`.

    bands: by title and arm the columns recall, value, low, high of `metrics.bands.precision_band`; chance: by
    title, a dashed line. With the reference alone there is one row.
    Raises InputError for no title, titles that differ, or without the reference.
    """
    if (
        not bands
        or set(bands) != set(chance)
        or not all(reference in by_arm for by_arm in bands.values())
    ):
        raise InputError(
            f"give bands and chance for the same titles, each with {reference}: {list(bands)}"
        )
    arms = [arm for arm in next(iter(bands.values())) if arm != reference] or [reference]
    figure = BookFigure(figsize=(WIDTH, 0.7 + 1.35 * len(arms)), layout="constrained")
    grid = figure.subplots(len(arms), len(bands), sharex=True, sharey=True, squeeze=False)
    for column, (title, by_arm) in zip(grid.T, bands.items(), strict=True):
        for axes, arm in zip(column, arms, strict=True):
            axes.axhline(chance[title], color=GREY, **DASHED)
            drawn = list(dict.fromkeys((reference, arm)))
            for each in drawn:
                _band(axes, by_arm[each], ARM_COLOURS.get(each, GREY))
            for k, each in enumerate(drawn):
                axes.annotate(
                    ARM_NAMES.get(each, each),
                    (0.99, 0.97 - 0.17 * k),
                    xycoords="axes fraction",
                    ha="right",
                    va="top",
                    fontsize=10,
                    color=ARM_COLOURS.get(each, GREY),
                )
        column[0].set_title(title)
        column[-1].set_xlabel("recall")
    grid[0, 0].set(xlim=(0, 1.01), ylim=(0, 1.02))
    figure.supylabel("precision", fontsize=12)
    return figure


def _band(axes: Axes, band: pd.DataFrame, colour: str) -> None:
    axes.fill_between(
        band["recall"], band["low"], band["high"], color=colour, alpha=0.22, linewidth=0
    )
    axes.plot(band["recall"], band["value"], color=colour)
