"""What a choice does: a threshold, or how many synthetic images stand beside the real ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import CLASSES
from hamsynth_utils.notebook.plots.style import (
    ARM_COLOURS,
    DASHED,
    GREY,
    INK,
    PALETTE,
    WIDTH,
    BookFigure,
    styled,
)

FOUND, SPARED = PALETTE[4], PALETTE[0]


@styled
def threshold_panels(
    scores: np.ndarray,
    truth: np.ndarray,
    threshold: float,
    sensitivity: Mapping[str, float],
    specificity: Mapping[str, float],
) -> Figure:
    """Left, how scores in [0, 1] [N] fall for images with and without the truth, bool [N], and the threshold;
    right, sensitivity and specificity at every threshold, and at this one with their intervals.

    sensitivity, specificity: value, low and high at `threshold`. Raises InputError where all images are of
    one kind.
    """
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth, dtype=bool)
    if truth.all() or not truth.any():
        raise InputError("a threshold parts two kinds of images, but all of these are of one kind")
    figure = BookFigure(figsize=(WIDTH, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, name, colour in ((truth, "melanoma", FOUND), (~truth, "other", SPARED)):
        n = kind.sum()
        left.hist(
            scores[kind],
            20,
            range=(0, 1),
            weights=np.full(n, 100 / n),
            color=colour,
            alpha=0.55,
            label=f"{name}, n = {n:,}",
        )
    left.set(xlabel="probability of melanoma", ylabel="images of the kind, %")
    grid = np.linspace(0, 1, 201)
    below = [(scores[kind] < grid[:, None]).mean(1) for kind in (truth, ~truth)]  # [201] each
    for name, curve, value, colour in (
        ("sensitivity", 1 - below[0], sensitivity, FOUND),
        ("specificity", below[1], specificity, SPARED),
    ):
        right.plot(grid, 100 * curve, color=colour, label=name)
        right.vlines(
            threshold, 100 * value["low"], 100 * value["high"], color=colour, linewidth=5, alpha=0.6
        )
        right.plot(threshold, 100 * value["value"], "o", color=colour, ms=8)
    right.set(xlabel="threshold", ylabel="%", ylim=(-2, 102))
    for axes in (left, right):
        axes.axvline(threshold, color=INK, **DASHED)
        axes.set_xlim(0, 1)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.3), fontsize=11, handlelength=1)
    return figure


@styled
def mixture_panels(
    real: Mapping[str, int], synthetic: Mapping[str, int], gains: pd.DataFrame, ratio: float
) -> Figure:
    """Left, real and synthetic training images of each class; right, a generator's gain over the ratio.

    gains: of one generator, a row a ratio: arm, ratio, value, low, high; the row of `ratio` is drawn full.
    Raises InputError unless there is one such row, of one arm.
    """
    chosen = gains[gains["ratio"] == ratio]
    if len(chosen) != 1 or gains["arm"].nunique() != 1:
        raise InputError(f"gains must be those of one arm, with one row at ratio {ratio:g}")
    arm = gains["arm"].iloc[0]
    figure = BookFigure(figsize=(WIDTH, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    place = np.arange(len(CLASSES))
    own, added = (np.array([counts[dx] for dx in CLASSES]) for counts in (real, synthetic))
    left.barh(place, own, color=INK, label="real")
    left.barh(place, added, left=own, color=ARM_COLOURS[arm], label=f"synthetic, {ARM_NAMES[arm]}")
    for y, (ours, theirs) in enumerate(zip(own, added, strict=True)):
        text = f"{ours:,} + {theirs:,}" if theirs else f"{ours:,}"
        left.annotate(
            text, (ours + theirs, y), (4, 0), va="center", textcoords="offset points", fontsize=10
        )
    left.set_yticks(place, CLASSES)
    left.invert_yaxis()
    left.tick_params(axis="y", length=0)
    left.set_xlim(0, 1.4 * (own + added).max())
    left.set_xlabel("training images")
    left.legend(loc="lower right", fontsize=11, handlelength=1)
    for row in gains.itertuples():
        colour = ARM_COLOURS[arm] if row.ratio == ratio else GREY
        right.vlines(
            row.ratio, row.low, row.high, color=colour, linewidth=3 if row.ratio == ratio else 1
        )
        right.plot(row.ratio, row.value, "o", color=colour, ms=9 if row.ratio == ratio else 5)
    right.axhline(0, color=INK, **DASHED)
    ratios = sorted(gains["ratio"])
    right.set_xticks(ratios, [f"{value:g}" for value in ratios], fontsize=10)
    right.set(xlabel="synthetic for each real image", ylabel="gain, points")
    right.margins(x=0.15, y=0.15)
    right.grid(axis="y")
    return figure
