"""Estimates with the intervals that were computed for them."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.notebook.plots.style import (
    DASHED,
    FAINT,
    INK,
    OFFSET,
    THEME,
    arm_colours,
    arm_names,
    new_axes,
    styled,
)
from hamsynth_utils.notebook.tables import dash


def draw_estimates(
    axes: Axes, rows: pd.DataFrame, over: str, *marks: so.Mark, orient: Literal["x", "y"] = "x"
) -> None:
    """Draw precomputed estimates with the marks of `seaborn.objects`.

    Args:
        axes: where to draw. Labels are left empty.
        rows: columns value, low, high, colour, `over`, and group if each line joins some rows only.
            A row without a value, or an interval without an end, is not drawn.
        over: the column of the other axis, with numbers.
        marks: such as `so.Dot()` at the values, `so.Range()` or `so.Band()` from low to high.
        orient: the axis of `over`, as in seaborn.
    """
    value = "y" if orient == "x" else "x"
    ends = {f"{value}min": "low", f"{value}max": "high"}
    group = "group" if "group" in rows else None
    numbers = dict.fromkeys((over, "value", "low", "high"), float)  # objects would be categories
    rows = rows.reset_index(drop=True).astype(numbers)  # seaborn.objects needs a unique index
    plot = so.Plot(rows, **{orient: over, value: "value"}, color="colour", group=group)
    plot = plot.scale(color=None).theme(THEME).on(axes)  # type: ignore[arg-type]
    for mark in marks:
        of_mark = ends if isinstance(mark, so.Range | so.Band) else {}
        plot = plot.add(mark, orient=orient, legend=False, **of_mark)
    plot.plot()
    axes.set(xlabel="", ylabel="")


@styled
def not_measured(reason: str) -> Figure:
    """A figure that shows a dash and the reason, where there is nothing to draw.

    Args:
        reason: why nothing was measured.

    Returns:
        The figure.
    """
    figure, (axes,) = new_axes(1.2)
    axes.axis("off")
    text = textwrap.fill(dash(reason), 70)
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")
    return figure


def require_rows(rows: pd.DataFrame, *columns: str) -> None:
    """Refuse rows that cannot be drawn.

    Args:
        rows: any table.
        columns: the columns that it must have.

    Raises:
        InputError: for a missing column, no rows, or an interval whose low is above its high.
    """
    if absent := [column for column in columns if column not in rows]:
        raise InputError(f"the rows lack the columns {absent}; they have {list(rows.columns)}")
    if rows.empty or (rows["low"] > rows["high"]).any():
        raise InputError("give at least one row, and no low above its high")


@styled
def estimate_rows(
    rows: pd.DataFrame, xlabel: str, reference: float | None = None, digits: int = 1
) -> Figure:
    """One row per estimate: a point, its interval, the value beside it.

    Args:
        rows: columns arm, value, low, high, from top to bottom. An arm may occur twice.
        xlabel: the quantity and its unit.
        reference: where a dashed line stands, such as 0 or the value of the arm `real`.
        digits: decimals of the values.

    Returns:
        The figure.

    Raises:
        InputError: for a missing column, no rows, or an interval whose low is above its high.
    """
    require_rows(rows, "arm", "value", "low", "high")
    figure, (axes,) = new_axes(0.9 + 0.42 * len(rows))
    rows = rows.assign(place=range(len(rows)), colour=arm_colours(rows["arm"]))
    marks = so.Range(linewidth=3, alpha=0.6), so.Dot(pointsize=8)
    draw_estimates(axes, rows, "place", *marks, orient="y")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for place, (value, high) in enumerate(zip(rows["value"], rows["high"], strict=True)):
        end = np.nanmax([value, high]), place
        axes.annotate(f"{value:.{digits}f}", end, (6, -4), fontsize=10, bbox=box, **OFFSET)
    if reference is not None:
        axes.axvline(reference, color=INK, **DASHED)
    axes.set_yticks(rows["place"], arm_names(rows["arm"]))
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.1)
    axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="x")
    return figure


@styled
def class_panels(
    rows: pd.DataFrame,
    counts: Mapping[str, int],
    marked: Collection[str] = (),
    reference: float | None = None,
    xlabel: str = "",
) -> Figure:
    """One panel per measure: in each class one point per arm, with its interval.

    Args:
        rows: columns measure, dx, arm, value, low, high. Panels and arms keep their order.
        counts: number of images of each class. A class without rows stays empty.
        marked: the classes on grey ground.
        reference: where a dashed line stands, such as 0 for gains.
        xlabel: the quantity of all panels and its unit.

    Returns:
        The figure.

    Raises:
        InputError: for a missing column, no rows, or an interval whose low is above its high.
    """
    require_rows(rows, "measure", "dx", "arm", "value", "low", "high")
    classes, arms = list(counts), list(rows["arm"].unique())
    step = len(arms) + 1.5  # rows of a class, and the gap to the next class
    start = step * np.arange(len(classes))
    place = rows["dx"].map(dict(zip(classes, start, strict=True))) + rows["arm"].map(arms.index)
    rows = rows.assign(place=place, colour=arm_colours(rows["arm"]))
    height = 1.0 + 0.14 * step * len(classes)
    figure, panels = new_axes(height, columns=rows["measure"].nunique(), sharey=True)
    for axes, (measure, part) in zip(panels, rows.groupby("measure", sort=False), strict=True):
        marks = so.Range(linewidth=2, alpha=0.6), so.Dot(pointsize=4.5)
        draw_estimates(axes, part, "place", *marks, orient="y")
        for top, dx in zip(start - 1.25, classes, strict=True):
            if dx in marked:
                axes.axhspan(top, top + step, color=FAINT, alpha=0.5, lw=0, zorder=0)
        if reference is not None:
            axes.axvline(reference, color=INK, **DASHED)
        axes.set_title(measure)
        axes.locator_params(axis="x", nbins=3)
        axes.tick_params(axis="y", length=0)
        axes.label_outer()
    names = [f"{dx}\nn = {n:,}" for dx, n in counts.items()]
    panels[0].set_yticks(start + (len(arms) - 1) / 2, names)
    panels[0].set_ylim(step * len(classes) - 1.25, -1.25)
    for top in start:
        for k, name in enumerate(arm_names(arms)):
            beside = panels[-1].get_yaxis_transform()
            panels[-1].text(1.02, top + k, name, transform=beside, va="center", fontsize=8)
    figure.supxlabel(xlabel, fontsize=12)
    return figure
