"""How values are distributed, and what a threshold does to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.notebook.plots.intervals import draw_estimates
from hamsynth_utils.notebook.plots.style import (
    DASHED,
    INK,
    PALETTE,
    new_axes,
    styled,
)


def _histograms(
    axes: Axes, values: Mapping[str, np.ndarray], colours: list[str], **how: Any
) -> None:
    """One histogram per name over common bins, each relative to its own n, named above the axes."""
    frames = [
        pd.DataFrame({"value": v, "name": f"{name}, n = {len(v):,}"}) for name, v in values.items()
    ]
    how |= {"element": "step", "alpha": 0.3, "linewidth": 2, "common_norm": False}
    seaborn.histplot(pd.concat(frames), x="value", hue="name", palette=colours, ax=axes, **how)


def _legend_above(axes: Axes, columns: int = 1) -> None:
    """Move the legend above the axes, where it hides nothing."""
    place = {"bbox_to_anchor": (0.5, 1), "ncols": columns, "handlelength": 1}
    seaborn.move_legend(axes, "lower center", **place, title=None, fontsize=11)


@styled
def histogram_pair(
    a: ArrayLike,
    b: ArrayLike,
    labels: tuple[str, str],
    threshold: float | None = None,
    xlabel: str = "distance",
) -> Figure:
    """Two distributions over common bins, each as fractions of its own n.

    Args:
        a, b: finite numbers of any shape, at least one each.
        labels: the names of the two.
        threshold: where a dashed line stands.
        xlabel: the quantity and its unit.

    Returns:
        The figure.

    Raises:
        InputError: if a distribution is empty or not finite.
    """
    both = [np.asarray(values, dtype=float).ravel() for values in (a, b)]
    if any(len(values) == 0 or not np.isfinite(values).all() for values in both):
        raise InputError("both distributions must be finite and hold at least one value")
    figure, (axes,) = new_axes(3.6)
    named = dict(zip(labels, both, strict=True))
    _histograms(axes, named, list(PALETTE[:2]), bins=40, stat="proportion")
    _legend_above(axes, columns=2)
    if threshold is not None:
        axes.axvline(threshold, color=INK, **DASHED)
        top = axes.get_xaxis_transform()
        axes.text(threshold, 1, f" threshold {threshold:.3g}", transform=top, va="top")
    axes.set(xlabel=xlabel, ylabel="fraction of images")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(y=0.2)
    return figure


@styled
def threshold_panels(
    scores: np.ndarray,
    truth: np.ndarray,
    threshold: float,
    sensitivity: Mapping[str, float],
    specificity: Mapping[str, float],
    name: str,
) -> Figure:
    """What a threshold of the probability of one class does.

    Left, the scores of images of the class and of other images, and the threshold. Right,
    sensitivity and specificity at every threshold, and at this threshold with their intervals.

    Args:
        scores: float [N] in [0, 1].
        truth: bool [N], whether the image is of the class.
        threshold: from which score on an image counts as one of the class.
        sensitivity, specificity: value, low and high at `threshold`, in [0, 1].
        name: what a reader calls the class, such as "melanoma".

    Returns:
        The figure.

    Raises:
        InputError: if all images are of the class, or none is.
    """
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth, dtype=bool)
    if truth.all() or not truth.any():
        raise InputError(f"all images are of one kind: a threshold separates {name} from others")
    figure, (left, right) = new_axes(3.6, columns=2)
    colours = [PALETTE[4], PALETTE[0]]
    by_truth = {name: scores[truth], "other": scores[~truth]}
    _histograms(left, by_truth, colours, bins=20, binrange=(0, 1), stat="percent")
    left.set(xlabel=f"probability of {name}", ylabel="images of the group, %")
    grid = np.linspace(0, 1, 201)
    below = [100 * (part < grid[:, None]).mean(1) for part in by_truth.values()]  # [201] each
    curves = {"sensitivity": 100 - below[0], "specificity": below[1]}
    for (name, curve), colour in zip(curves.items(), colours, strict=True):
        right.plot(grid, curve, color=colour, label=name)
    here = 100 * pd.DataFrame([sensitivity, specificity])[["value", "low", "high"]]
    marks = so.Range(linewidth=5, alpha=0.6), so.Dot(pointsize=8)
    draw_estimates(right, here.assign(colour=colours, threshold=threshold), "threshold", *marks)
    right.set(xlabel="threshold", ylabel="%", ylim=(-2, 102))
    right.legend()
    for axes in (left, right):
        _legend_above(axes)
        axes.axvline(threshold, color=INK, zorder=1, **DASHED)
        axes.set_xlim(0, 1)
    return figure
