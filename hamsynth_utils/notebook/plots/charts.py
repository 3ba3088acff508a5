"""Plots of numbers: counts, curves, bars with intervals, matrices and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import CLASS_NAMES, CLASSES, LesionSet
from hamsynth_utils.notebook.plots.style import (
    ARM_COLOURS,
    DASHED,
    FAINT,
    GREY,
    INK,
    PALETTE,
    WIDTH,
    BookFigure,
    stacked_axes,
    styled,
)

Array = np.ndarray


MOST_UPRIGHT = 5
"""Labels under an axis that fit side by side; more are turned."""


def plain_log(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, as many as its range can carry."""
    low, high = axis.get_view_interval()
    subs = (1.0,) if high > 300 * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(10, subs=subs) if high > 5 * low else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


@styled
def class_counts(parts: Mapping[str, LesionSet], log: bool = True) -> Figure:
    """Images of each class in each part, as bars with their numbers; `log` for HAM10000's imbalance."""
    if not parts:
        raise InputError("parts is empty: give at least one named LesionSet")
    figure, (axes,) = stacked_axes(1.0 + len(CLASSES) * (0.28 + 0.24 * len(parts)))
    thickness = 0.82 / len(parts)
    for number, (name, lesions) in enumerate(parts.items()):
        counts = np.array(list(lesions.counts.values()))
        y = np.arange(len(CLASSES)) + (number - (len(parts) - 1) / 2) * thickness
        colour = ARM_COLOURS.get(name, PALETTE[number % len(PALETTE)])
        axes.barh(y, counts, 0.9 * thickness, color=colour, label=f"{name} ({counts.sum():,})")
        for position, count in zip(y, counts, strict=True):
            axes.annotate(
                f"{count:,}",
                (max(count, 1) if log else count, position),
                (4, 0),
                va="center",
                textcoords="offset points",
                fontsize=11,
            )
    axes.set_yticks(range(len(CLASSES)), list(CLASS_NAMES.values()))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(1, 2.2 * max(max(lesions.counts.values()) for lesions in parts.values()) + 1)
        plain_log(axes.xaxis)
    else:
        axes.margins(x=0.12)
    axes.margins(y=0.02)
    axes.set_xlabel("images" + (", logarithmic" if log else ""))
    if len(parts) > 1:
        figure.legend(loc="outside upper center", ncols=min(4, len(parts)), handlelength=1)
    return figure


@styled
def loss_curves(
    history: pd.DataFrame,
    columns: Sequence[str],
    x: str = "step",
    log: bool = False,
    smooth: int = 1,
    ylabel: str = "loss",
) -> Figure:
    """The `columns` of `history` over `x`, each named at its end; missing values are passed over.

    smooth > 1 draws the running mean over that many values above the faint raw curve; a column with fewer
    than three times as many values stays as it is.
    """
    absent = [name for name in (x, *columns) if name not in history]
    if absent or not columns:
        raise InputError(f"history has no column {absent}; it has {list(history.columns)}")
    figure, (axes,) = stacked_axes(3.6)
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
        line = curve[name].rolling(window, min_periods=1).mean()
        axes.plot(curve[x], line, color=colour, label=name, marker="o" if len(curve) < 2 else None)
        ends.append((float(line.iloc[-1]), name.replace("_", " "), colour))
    if log:
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    axes.set_xlabel(x)
    axes.set_ylabel(ylabel + (", logarithmic" if log else ""))
    axes.grid(axis="y")
    axes.margins(x=0.01)
    name_ends(axes, ends)
    return figure


def name_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names right of the axes at the curves' last values, pushed apart where they would overlap."""
    ends = sorted(ends)
    to_axes = axes.transScale + axes.transLimits
    places = [to_axes.transform((axes.get_xlim()[1], value))[1] for value, _, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + 0.085)
    for i in range(len(places) - 1, -1, -1):
        places[i] = min(places[i], 1.0 if i == len(places) - 1 else places[i + 1] - 0.085)
    for place, (_, name, colour) in zip(places, ends, strict=True):
        axes.text(1.015, place, name, color=colour, transform=axes.transAxes, va="center")


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
    """One bar a label from zero, its value above it, its interval where `low` and `high` have one.

    colours: by default `ARM_COLOURS` for the arms' names, grey for the rest. reference: (value, label) of a
    horizontal line, such as the real-versus-real floor. claims: hollow markers beside the bars, such as the
    source report's figures (None where there is none). Raises InputError where lengths do not fit or an
    interval is upside down.
    """
    given = {"values": values, "low": low, "high": high, "colours": colours, "claims": claims}
    for name, sequence in given.items():
        if sequence is not None and len(sequence) != len(labels):
            raise InputError(f"{len(sequence)} {name} for {len(labels)} labels: give one a label")
    bottom, top = (
        np.asarray([np.nan] * len(labels) if s is None else s, float) for s in (low, high)
    )
    if not len(labels) or (low is None) != (high is None) or np.any(bottom > top):
        raise InputError(
            "give at least one label, low and high both or neither, and no low above its high"
        )
    figure, (axes,) = stacked_axes(3.8)
    place = np.arange(len(labels))
    shades = list(colours) if colours else [ARM_COLOURS.get(label, GREY) for label in labels]
    axes.bar(place, values, 0.6, color=shades)
    has = np.isfinite(bottom) & np.isfinite(top)
    axes.vlines(place[has], bottom[has], top[has], color="white", linewidth=5)
    axes.vlines(place[has], bottom[has], top[has], color=INK, linewidth=2)
    heights = np.asarray(values, float)
    for x, value, peak in zip(place, heights, np.fmax(heights, top), strict=True):
        text = "no value" if np.isnan(value) else f"{value:.{digits}f}"
        axes.annotate(
            text, (x, np.nan_to_num(peak)), (0, 5), ha="center", textcoords="offset points"
        )
    hollow = np.asarray([np.nan if claim is None else claim for claim in claims or ()], float)
    if claims is not None:
        (points,) = axes.plot(place + 0.4, hollow, "D", mfc="white", mec=INK, ms=8)
        axes.legend(
            [points], [claims_label], loc="lower left", bbox_to_anchor=(0, 1), handletextpad=0.2
        )
    level = [] if reference is None else [reference[0]]
    if reference is not None:
        axes.axhline(reference[0], color=INK, **DASHED)
        axes.annotate(
            reference[1],
            (1, reference[0]),
            (4, 0),
            xycoords=("axes fraction", "data"),
            va="center",
            textcoords="offset points",
        )
    axes.set_xticks(place, [ARM_NAMES.get(label, label) for label in labels])
    if len(labels) > MOST_UPRIGHT:
        axes.tick_params(axis="x", rotation=30)
        for (
            label
        ) in axes.get_xticklabels():  # each ends under its own bar, so that long ones do not meet
            label.set(ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(ylabel)
    drawn = np.concatenate([heights, bottom, top, hollow, level, [0.0]])
    lowest, highest = np.nanmin(drawn), np.nanmax(drawn)
    axes.set_ylim(lowest, lowest + 1.12 * (highest - lowest or 1.0))
    return figure


@styled
def confusion_matrix(counts: Array, classes: Sequence[str] = CLASSES) -> Figure:
    """Share of each true class (row) predicted as each class (column), with the counts [C, C] beneath."""
    counts = np.asarray(counts)
    if counts.shape != (len(classes), len(classes)) or (counts < 0).any():
        raise InputError(f"counts must be >= 0 and [{len(classes)}] * 2, not {list(counts.shape)}")
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure, (axes,) = stacked_axes(6.2)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if not totals[row, 0]:
            continue
        colour = "white" if share > 0.6 else INK if counts[row, column] else GREY
        axes.text(
            column, row - 0.1, f"{share:.0%}", ha="center", va="center", fontsize=13, color=colour
        )
        count = f"{counts[row, column]:,}"
        axes.text(column, row + 0.26, count, ha="center", va="center", fontsize=10, color=colour)
    axes.set_xticks(range(len(classes)), classes)
    names = [f"{name}\nn = {n:,}" for name, n in zip(classes, totals[:, 0], strict=True)]
    axes.set_yticks(range(len(classes)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@styled
def group_bars(
    groups: pd.DataFrame, measure: str = "accuracy", reference: tuple[float, str] | None = None
) -> Figure:
    """A measure of each group with its interval and n, a panel an attribute; too small groups are grey.

    groups: the columns attribute, group, n, value, low, high, enough (bool) of
    `metrics.fairness.group_scores`, the rows of one measure, whose name is written under the axis.
    reference: (value, label) of a vertical line, such as all images'.
    """
    needed = ("attribute", "group", "n", "value", "low", "high", "enough")
    absent = [name for name in needed if name not in groups]
    if absent or groups.empty:
        raise InputError(
            f"the group table is empty or lacks {absent}; it must have {', '.join(needed)}"
        )
    parts = [(str(name), part) for name, part in groups.groupby("attribute", sort=False)]
    sizes = [len(part) for _, part in parts]
    figure, panels = stacked_axes(0.9 + 0.36 * sum(sizes) + 0.5 * len(parts), len(parts), sizes)
    for axes, (name, part) in zip(panels, parts, strict=True):
        place = np.arange(len(part))
        ok = part["enough"].to_numpy(dtype=bool)
        ink = np.where(ok, INK, GREY).tolist()
        axes.barh(place, part["value"], 0.7, color=np.where(ok, PALETTE[0], FAINT))
        axes.hlines(
            place, part["low"], part["high"], color=np.where(ok, "white", FAINT), linewidth=5
        )
        axes.hlines(place, part["low"], part["high"], color=ink, linewidth=2)
        axes.set_yticks(place, part["group"].astype(str))
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
def histogram_pair(
    a: Array,
    b: Array,
    labels: tuple[str, str],
    threshold: float | None = None,
    xlabel: str = "distance",
) -> Figure:
    """Two distributions over common bins, each as shares of its own n; `threshold` is a vertical line."""
    both = [np.asarray(values, dtype=float).ravel() for values in (a, b)]
    if any(len(values) == 0 or not np.isfinite(values).all() for values in both):
        raise InputError("both distributions must be finite and hold at least one value")
    figure, (axes,) = stacked_axes(3.6)
    edges = np.histogram_bin_edges(np.concatenate(both), bins=40).tolist()
    for values, label, colour in zip(both, labels, PALETTE, strict=False):
        weights = np.full(len(values), 1 / len(values))
        axes.hist(values, edges, weights=weights, histtype="stepfilled", color=colour, alpha=0.25)
        name = f"{label} (n = {len(values):,})"
        axes.hist(
            values, edges, weights=weights, histtype="step", color=colour, linewidth=2, label=name
        )
    if threshold is not None:
        axes.axvline(threshold, color=INK, **DASHED)
        axes.annotate(
            f"threshold {threshold:.3g}",
            (threshold, 1),
            (5, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
        )
    axes.set(xlabel=xlabel, ylabel="share of images")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(y=0.2)
    figure.legend(loc="outside upper center", ncols=2, handlelength=1)
    return figure


@styled
def confusion_panels(matrices: Mapping[str, np.ndarray], titles: Mapping[str, str]) -> Figure:
    """A confusion matrix [7, 7] of counts for each arm or generator, as per cent of the row."""
    if not matrices:
        raise InputError("matrices is empty: give at least one confusion matrix")
    rows = -(-len(matrices) // 2)
    figure = BookFigure(figsize=(WIDTH, 3.5 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, (arm, matrix) in zip(panels, matrices.items(), strict=False):
        share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        axes.axis("on")
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        for (row, column), value in np.ndenumerate(share):
            if matrix[row, column]:
                axes.text(
                    column,
                    row,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=10,
                    color="white" if value > 60 else INK,
                )
        axes.set_title(titles[arm], color=ARM_COLOURS[arm])
        axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=90, fontsize=10)
        axes.set_yticks(range(len(CLASSES)), CLASSES, fontsize=10)
        axes.tick_params(length=0)
    return figure
