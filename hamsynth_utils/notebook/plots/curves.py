"""Curves: over training steps, over what was varied, over frequency, over recall."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.notebook.plots.intervals import draw_estimates, require_rows
from hamsynth_utils.notebook.plots.style import (
    DASHED,
    GREY,
    INK,
    PALETTE,
    arm_colours,
    arm_names,
    for_text,
    new_axes,
    styled,
)

NAME_STEP = 0.085
"""Least distance between two names beside a curve, as a fraction of the height of the axes."""


def plain_log(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain numbers, as many as fit its range."""
    low, high = axis.get_view_interval()
    subs = (1.0,) if high > 300 * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(10, subs=subs) if high > 5 * low else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def name_ends(axes: Axes, ends: Iterable[tuple[float, str, str]]) -> None:
    """Write a name right of the axes at the end of each curve; names never overlap.

    Args:
        axes: with its final limits and scale.
        ends: last value, name and colour of each curve.
    """
    ends, to_axes = sorted(ends), axes.transScale + axes.transLimits
    places = [to_axes.transform((axes.get_xlim()[1], value))[1] for value, _, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + NAME_STEP)
    limit = 1.0
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - NAME_STEP
    for place, (_, name, colour) in zip(places, ends, strict=True):
        axes.text(1.015, place, name, color=for_text(colour), transform=axes.transAxes, va="center")


@styled
def loss_curves(
    history: pd.DataFrame,
    columns: Sequence[str],
    x: str = "step",
    log: bool = False,
    smooth: int = 1,
    ylabel: str = "loss",
) -> Figure:
    """Columns of a training history, each named at its end. Missing values are left out.

    Args:
        history: one row per logged step.
        columns: what to draw.
        x: the column of the horizontal axis.
        log: a logarithmic vertical axis.
        smooth: if above 1, the running mean over so many values above the faint raw curve. A
            column with fewer than three times as many values is not smoothed.
        ylabel: the quantity and its unit.

    Returns:
        The figure.

    Raises:
        InputError: for a missing column, no value, or a value <= 0 on a logarithmic axis.
    """
    absent = [name for name in (x, *columns) if name not in history]
    if absent or not columns:
        raise InputError(f"history has no column {absent}; it has {list(history.columns)}")
    figure, (axes,) = new_axes(3.6)
    ends = []
    for number, name in enumerate(columns):
        curve = history[[x, name]].dropna()
        if curve.empty or (log and (curve[name] <= 0).any()):
            raise InputError(
                f"column {name} has no value" + (" or one <= 0: use log=False" if log else "")
            )
        colour = PALETTE[number % len(PALETTE)]
        window = smooth if len(curve) >= 3 * smooth else 1
        if window > 1:
            axes.plot(curve[x], curve[name], color=colour, alpha=0.25, linewidth=1)
        mean = curve[name].rolling(window, min_periods=1).mean()
        marker = "o" if len(curve) < 2 else None
        axes.plot(curve[x], mean, color=colour, label=name, marker=marker)
        ends.append((float(mean.iloc[-1]), name.replace("_", " "), colour))
    if log:
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    axes.set(xlabel=x, ylabel=ylabel + (", logarithmic" if log else ""))
    axes.grid(axis="y")
    axes.margins(x=0.01)
    name_ends(axes, ends)
    return figure


def _interval_curves(rows: pd.DataFrame, x: str, ylabel: str) -> tuple[Figure, Axes]:
    """One curve per `group` in its `colour`, with intervals that do not hide each other."""
    figure, (axes,) = new_axes(3.8)
    number = pd.factorize(rows["group"])[0]
    shift = 0.012 * (number - number.max() / 2) * (rows[x].max() - rows[x].min())
    shifted = rows.assign(**{x: rows[x] + shift})
    draw_estimates(axes, shifted, x, so.Line(marker="o"), so.Range(linewidth=1.2))
    ticks = sorted(rows[x].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel=x, ylabel=ylabel)
    axes.grid(axis="y")
    return figure, axes


def _ends(rows: pd.DataFrame, x: str) -> list[tuple[float, str, str]]:
    """Last value, name and colour of each group, for `name_ends`."""
    last = rows.sort_values(x).drop_duplicates("group", keep="last")
    return list(zip(last["value"].astype(float), last["group"], last["colour"], strict=True))


@styled
def gain_curves(points: pd.DataFrame, x: str, ylabel: str) -> Figure:
    """One curve per arm in its colour, with intervals. A dashed line stands at 0.

    Args:
        points: columns arm, `x`, value, low, high.
        x: what was varied; also the label of the axis.
        ylabel: the quantity and its unit.

    Returns:
        The figure.

    Raises:
        InputError: for a missing column, no rows, or an interval whose low is above its high.
    """
    require_rows(points, "arm", x, "value", "low", "high")
    rows = points.assign(group=arm_names(points["arm"]), colour=arm_colours(points["arm"]))
    figure, axes = _interval_curves(rows, x, ylabel)
    axes.axhline(0, color=INK, **DASHED)
    name_ends(axes, _ends(rows, x))
    return figure


@styled
def distance_curves(points: pd.DataFrame, x: str, ylabel: str, series: str | None = None) -> Figure:
    """One curve of distances per series, with intervals. The dashed line is that of real images.

    Args:
        points: columns `x`, mean, low, high, real_baseline (the distance of other real images),
            and `series` if it is given.
        x: what was varied; also the label of the axis.
        ylabel: the name of the distance.
        series: the column that separates the curves.

    Returns:
        The figure.

    Raises:
        InputError: for a missing column, no rows, or an interval whose low is above its high.
    """
    names = [series] if series else []
    require_rows(points, x, "mean", "low", "high", "real_baseline", *names)
    groups = points[series].astype(str) if series else pd.Series("", points.index)
    colours = [PALETTE[k % len(PALETTE)] for k in pd.factorize(groups, sort=True)[0]]
    rows = points.rename(columns={"mean": "value"}).assign(group=groups, colour=colours)
    figure, axes = _interval_curves(rows, x, ylabel)
    baseline = float(points["real_baseline"].mean())
    axes.axhline(baseline, color=GREY, **DASHED)
    axes.set_ylim(bottom=0)
    name_ends(axes, [*(_ends(rows, x) if series else ()), (baseline, "real images", GREY)])
    return figure


@styled
def spectrum_curves(ratios: pd.DataFrame) -> Figure:
    """Power at each frequency relative to real images, with bands, on a logarithmic axis.

    Args:
        ratios: columns images, cycles, value, low, high: the rows of
            `metrics.power_spectrum.power_ratio` whose `cycles` is a number. `images` is the name
            of a generator, or "real_baseline" for other real images, which are grey.

    Returns:
        The figure. The dashed line stands at 1.

    Raises:
        InputError: for a missing column, no rows, an interval whose low is above its high, or a
            ratio that is not positive.
    """
    require_rows(ratios, "images", "cycles", "value", "low", "high")
    if not (ratios["low"] > 0).all():
        raise InputError("give at least one row, and ratios above 0 only: the axis is logarithmic")
    rows = ratios.assign(group=arm_names(ratios["images"]), colour=arm_colours(ratios["images"]))
    rows = rows.astype({"cycles": float}).replace({"group": {"real_baseline": "other real images"}})
    figure, (axes,) = new_axes(4.2)
    axes.axhline(1, color=INK, **DASHED)
    draw_estimates(axes, rows, "cycles", so.Band(alpha=0.25), so.Line())
    axes.set(xlabel="cycles per image, coarse to fine", ylabel="power relative to real images")
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.grid(axis="y")
    name_ends(axes, _ends(rows, "cycles"))
    return figure


@styled
def precision_recall_panels(
    bands: Mapping[str, Mapping[str, pd.DataFrame]],
    chance: Mapping[str, float],
    reference: str = "real",
) -> Figure:
    """Precision over recall with bands: one row per arm, beside the reference arm.

    Args:
        bands: by title of a column and by arm, the columns recall, value, low, high of
            `metrics.ranking.precision_band`.
        chance: by title, the precision of guessing, a dashed line.
        reference: the arm in every panel. If it is the only arm, there is one row.

    Returns:
        The figure.

    Raises:
        InputError: for no title, titles that differ, or a title without the reference.
    """
    complete = all(reference in by_arm for by_arm in bands.values())
    if not bands or set(bands) != set(chance) or not complete:
        raise InputError(
            f"give bands and chance for the same titles, each with {reference}: {list(bands)}"
        )
    arms = [arm for arm in next(iter(bands.values())) if arm != reference] or [reference]
    shared = {"sharex": True, "sharey": True}
    figure, panels = new_axes(0.9 + 1.45 * len(arms), len(arms), len(bands), **shared)
    for axes, (arm, title) in zip(panels, product(arms, bands), strict=True):
        pair = list(dict.fromkeys((reference, arm)))
        rows = pd.concat([bands[title][name].assign(group=name) for name in pair])
        rows["colour"] = arm_colours(rows["group"])
        axes.axhline(chance[title], color=GREY, **DASHED)
        draw_estimates(axes, rows, "recall", so.Band(alpha=0.22), so.Line())
        for x, name, side in zip((0, 1), pair, ("left", "right"), strict=False):
            look: Any = {"color": for_text(*arm_colours([name])), "ha": side, "fontsize": 10}
            axes.text(x, 1.04, arm_names([name])[0], transform=axes.transAxes, **look)
        axes.set_title(title if axes in panels[: len(bands)] else "", pad=20)
        axes.label_outer()
    panels[0].set(xlim=(0, 1.01), ylim=(0, 1.02))
    figure.supxlabel("recall", fontsize=12)
    figure.supylabel("precision", fontsize=12)
    return figure
