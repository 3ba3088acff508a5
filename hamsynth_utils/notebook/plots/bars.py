"""Counts and scores as bars."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import seaborn
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.notebook.plots.curves import plain_log
from hamsynth_utils.notebook.plots.intervals import draw_estimates, require_rows
from hamsynth_utils.notebook.plots.style import (
    ARM_COLOURS,
    ARM_NAMES,
    DASHED,
    FAINT,
    GREY,
    INK,
    OFFSET,
    PALETTE,
    arm_colours,
    arm_names,
    new_axes,
    styled,
)

MOST_UPRIGHT = 5
"""Labels under an axis that fit side by side; more labels are turned."""

INTERVAL = (so.Range(color="white", linewidth=5), so.Range(color=INK, linewidth=2))
"""A dark line with a white edge, which is seen on every bar."""


@styled
def class_counts(parts: Mapping[str, LesionSet], log: bool = True) -> Figure:
    """Images of each class in each part: bars with their numbers.

    Args:
        parts: lesion sets by name, at least one, all of the same classes. The name of an arm has
            its colour.
        log: a logarithmic axis, for the imbalance of HAM10000.

    Returns:
        The figure.

    Raises:
        InputError: if there is no part.
    """
    if not parts:
        raise InputError("parts is empty: give at least one named LesionSet")
    counts = pd.DataFrame({name: part.counts for name, part in parts.items()})  # [classes, parts]
    counts.columns = [f"{name} ({total:,})" for name, total in counts.sum().items()]
    colours = [ARM_COLOURS.get(name, PALETTE[k % len(PALETTE)]) for k, name in enumerate(parts)]
    figure, (axes,) = new_axes(1.0 + len(counts) * (0.28 + 0.24 * len(parts)))
    counts = counts.rename(dict(next(iter(parts.values())).classes.long_names))
    long = counts.melt(ignore_index=False, var_name="part", value_name="images")
    bar = {"palette": colours, "saturation": 1, "width": 0.82, "gap": 0.1}
    seaborn.barplot(long, x="images", y=long.index, hue="part", ax=axes, **bar)
    for bar in chain.from_iterable(axes.containers):
        n, y = int(bar.get_width()), bar.get_y() + bar.get_height() / 2
        end = (max(n, 1) if log else n, y)  # a logarithmic axis has no 0
        axes.annotate(f"{n:,}", end, (4, 0), va="center", fontsize=11, **OFFSET)
    if log:
        axes.set(xscale="log", xlim=(1, 2.2 * counts.to_numpy().max() + 1))
        plain_log(axes.xaxis)
    else:
        axes.margins(x=0.12)
    axes.margins(y=0.02)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="images" + (", logarithmic" if log else ""), ylabel="")
    look = {"ncols": min(4, len(parts)), "title": None, "handlelength": 1}
    seaborn.move_legend(axes, "lower center", bbox_to_anchor=(0.4, 1), **look)
    return figure


@styled
def bars_with_intervals(
    labels: Sequence[str],
    values: Sequence[float],
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    colours: Sequence[str] | None = None,
    ylabel: str = "",
    reference: tuple[float, str] | None = None,
    claims: Sequence[float | None] | None = None,
    claims_label: str = "source report",
    digits: int = 2,
) -> Figure:
    """One bar per label from zero, with its value above it and its interval.

    Args:
        labels: at least one; the name of an arm is written out.
        values: one per label; NaN is written "no value".
        low, high: the ends of the intervals, both or neither; NaN where there is no interval.
        colours: by default those of the arms, and grey for other labels.
        ylabel: the quantity and its unit.
        reference: value and label of a dashed line, such as the real-versus-real baseline.
        claims: values of hollow markers beside the bars; None where there is none.
        claims_label: what the markers are.
        digits: decimals of the values.

    Returns:
        The figure.

    Raises:
        InputError: for no label, lengths that differ, or an interval whose low is above its high.
    """
    n = len(labels)
    rows = _bar_rows(n, value=values, low=low, high=high, claim=claims, colour=colours)
    rows["colour"] = list(colours or arm_colours(labels))
    figure, (axes,) = new_axes(3.8)
    draw_estimates(axes, rows, "place", so.Bar(width=0.6, alpha=1, edgewidth=0), *INTERVAL)
    tops = rows[["value", "high"]].max(axis=1).fillna(0).clip(lower=0)
    for place, (value, top) in enumerate(zip(rows["value"], tops, strict=True)):
        text = "no value" if np.isnan(value) else f"{value:.{digits}f}"
        size = 12 if n <= MOST_UPRIGHT else 10
        axes.annotate(text, (place, top), (0, 5), ha="center", fontsize=size, **OFFSET)
    if claims is not None:
        hollow: Any = {"mfc": "white", "mec": INK, "ms": 8 if n <= MOST_UPRIGHT else 6}
        axes.plot(rows["place"] + 0.4, rows["claim"], "D", label=claims_label, **hollow)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), handlelength=1)
    if reference is not None:
        level, name = reference
        axes.axhline(level, color=INK, **DASHED)
        axes.text(1.01, level, name, transform=axes.get_yaxis_transform(), va="center")
    axes.margins(y=0.12)
    axes.set(ylabel=ylabel, xlim=(-0.5, n - 0.5))
    levels = rows[["value", "low", "claim"]].to_numpy().ravel()
    if np.nanmin([0, *levels, reference[0] if reference else 0]) == 0:
        axes.set_ylim(bottom=0)
    _name_bars(axes, arm_names(labels))
    return figure


def _bar_rows(n: int, **columns: Sequence[float | None] | Sequence[str] | None) -> pd.DataFrame:
    """One row per bar with its `place`; a column that is not given is NaN.

    Raises:
        InputError: if a column has not n entries, if only one of low and high is given, if a low
            is above its high, or if n is 0.
    """
    for name, column in columns.items():
        if column is not None and len(column) != n:
            raise InputError(f"{len(column)} {name}s for {n} labels: give one per label")
    if (columns["low"] is None) != (columns["high"] is None):
        raise InputError("give low and high, both or neither")
    rows = pd.DataFrame({"place": range(n)})
    for name, column in columns.items():
        numbers = [np.nan] * n if column is None else list(column)
        rows[name] = numbers if name == "colour" else np.asarray(numbers, dtype=float)
    require_rows(rows)
    return rows


def _name_bars(axes: Axes, names: list[str]) -> None:
    """Write the names under their bars: few in lines side by side, many turned."""
    axes.tick_params(axis="x", length=0)
    if len(names) <= MOST_UPRIGHT:
        width = 64 // len(names)  # letters under a bar
        names = [
            "\n".join(textwrap.fill(line, width) for line in name.split("\n")) for name in names
        ]
        axes.set_xticks(range(len(names)), names)
    else:  # each name ends under its own bar
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")


@styled
def group_bars(
    groups: pd.DataFrame, measure: str = "accuracy", reference: tuple[float, str] | None = None
) -> Figure:
    """One panel per attribute: the measure of each group, its interval and n.

    Args:
        groups: columns attribute, group, n, value, low, high, enough (bool) of
            `metrics.fairness.group_scores`, the rows of one measure in [0, 1]. Groups that are not
            large enough are grey.
        measure: the name of the measure.
        reference: value and label of a dashed line, such as that of all images.

    Returns:
        The figure.

    Raises:
        InputError: for a missing column, no rows, or an interval whose low is above its high.
    """
    require_rows(groups, "attribute", "group", "n", "value", "low", "high", "enough")
    parts = [(str(name), part) for name, part in groups.groupby("attribute", sort=False)]
    sizes = [len(part) for _, part in parts]
    height = 0.9 + 0.36 * sum(sizes) + 0.5 * len(parts)
    figure, panels = new_axes(height, len(parts), height_ratios=sizes)
    for axes, (name, part) in zip(panels, parts, strict=True):
        enough = part["enough"].to_numpy(dtype=bool)
        ink = np.where(enough, INK, GREY)
        rows = part.assign(place=range(len(part)), colour=np.where(enough, PALETTE[0], FAINT))
        bar = so.Bar(width=0.7, alpha=1, edgewidth=0)
        draw_estimates(axes, rows, "place", bar, *INTERVAL, orient="y")
        axes.set_yticks(rows["place"], part["group"].astype(str))
        for y, (label, n) in enumerate(zip(axes.get_yticklabels(), part["n"], strict=True)):
            label.set_color(ink[y])
            axes.text(1.02, y, f"n = {n:,}", va="center", fontsize=11, color=ink[y])
        axes.set(xlim=(0, 1), ylim=(len(part) - 0.5, -0.5), title=name.replace("_", " "))
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
        if reference is not None:
            axes.axvline(reference[0], color=INK, **DASHED)
    panels[-1].set_xlabel(measure + (f" (dashed: {reference[1]})" if reference else ""))
    return figure


@styled
def mixture_panels(
    real: Mapping[str, int], synthetic: Mapping[str, int], gains: pd.DataFrame, ratio: float
) -> Figure:
    """Real and synthetic training images of each class, and what a generator's images gain.

    Args:
        real: number of real training images by class.
        synthetic: number of synthetic training images by class.
        gains: one row per ratio, of one generator: arm, ratio, value, low, high in points.
        ratio: synthetic images per real image. Its row is drawn in colour.

    Returns:
        The figure.

    Raises:
        InputError: unless the gains are those of one arm with one row at `ratio`.
    """
    if (gains["ratio"] == ratio).sum() != 1 or gains["arm"].nunique() != 1:
        raise InputError(f"gains must be those of one arm, with one row at ratio {ratio:g}")
    arm = gains["arm"].iloc[0]
    figure, (left, right) = new_axes(3.8, columns=2)
    counts = pd.DataFrame({"real": real, "synthetic": synthetic})
    left.barh(counts.index, counts["real"], color=INK, label="real")
    look: Any = {"color": ARM_COLOURS[arm], "label": f"synthetic, {ARM_NAMES[arm]}"}
    added = left.barh(counts.index, counts["synthetic"], left=counts["real"], **look)
    sums = [f"{own:,} + {more:,}" if more else f"{own:,}" for own, more in counts.to_numpy()]
    left.bar_label(added, sums, padding=4, fontsize=10)
    left.invert_yaxis()
    left.tick_params(axis="y", length=0)
    left.locator_params(axis="x", nbins=4)
    left.set(xlabel="training images", xlim=(0, 1.4 * counts.sum(axis=1).max()))
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=11, handlelength=1)
    for chosen, part in gains.groupby(gains["ratio"] == ratio):
        marks = so.Range(linewidth=3 if chosen else 1), so.Dot(pointsize=9 if chosen else 5)
        colour = ARM_COLOURS[arm] if chosen else GREY
        draw_estimates(right, part.assign(colour=colour), "ratio", *marks)
    right.axhline(0, color=INK, **DASHED)
    ratios = sorted(gains["ratio"])
    right.set_xticks(ratios, [f"{value:g}" for value in ratios], fontsize=9)
    right.set(xlabel="synthetic per real image", ylabel="gain, points")
    right.margins(x=0.15, y=0.15)
    right.grid(axis="y")
    return figure
