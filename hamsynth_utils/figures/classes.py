"""Arms compared class by class, and over every threshold."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.figures.style import (
    ARM_COLOURS,
    ARM_NAMES,
    DASHED,
    FAINT,
    GREY,
    INK,
    WIDTH,
    BookFigure,
    styled,
)

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
        raise InputError(f"the rows lack {absent}, are none, or have a low above its high: {len(rows)} rows")
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
                axes.axhspan(step * i - 1.2, step * (i + 1) - 1.3, color=FAINT, alpha=0.5, lw=0, zorder=0)
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
                ARM_NAMES.get(arm, arm), (1.02, step * i + k), xycoords=("axes fraction", "data"),
                va="center", fontsize=8, color=ARM_COLOURS.get(arm, GREY),
            )  # fmt: skip
    figure.supxlabel(xlabel, fontsize=12)
    return figure


@styled
def precision_recall_panels(
    bands: Mapping[str, Mapping[str, pd.DataFrame]], chance: Mapping[str, float], reference: str = "real"
) -> Figure:
    """Precision over recall with bands: a row an arm beside the reference's, a column a title of `chance`.

    bands: by title and arm the columns recall, value, low, high of `metrics.bands.precision_band`; chance: by
    title, a dashed line. With the reference alone there is one row.
    Raises InputError for no title, titles that differ, or without the reference.
    """
    if not bands or set(bands) != set(chance) or not all(reference in by_arm for by_arm in bands.values()):
        raise InputError(f"give bands and chance for the same titles, each with {reference}: {list(bands)}")
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
                    ARM_NAMES.get(each, each), (0.99, 0.97 - 0.17 * k), xycoords="axes fraction", ha="right",
                    va="top", fontsize=10, color=ARM_COLOURS.get(each, GREY),
                )  # fmt: skip
        column[0].set_title(title)
        column[-1].set_xlabel("recall")
    grid[0, 0].set(xlim=(0, 1.01), ylim=(0, 1.02))
    figure.supylabel("precision", fontsize=12)
    return figure


def _band(axes: Axes, band: pd.DataFrame, colour: str) -> None:
    axes.fill_between(band["recall"], band["low"], band["high"], color=colour, alpha=0.22, linewidth=0)
    axes.plot(band["recall"], band["value"], color=colour)
