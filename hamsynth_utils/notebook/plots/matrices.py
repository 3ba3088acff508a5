"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.notebook.plots.style import (
    ARM_COLOURS,
    GREY,
    INK,
    for_text,
    new_axes,
    styled,
)


@styled
def confusion_matrix(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """How often each true class was predicted as each class: per cent of the row, and the counts.

    Args:
        counts: int [C, C], rows are true classes, columns predicted ones.
        classes: the C class names.

    Returns:
        The figure.

    Raises:
        InputError: if the counts are negative or not [C, C].
    """
    counts = np.asarray(counts)
    if counts.shape != (len(classes), len(classes)) or (counts < 0).any():
        raise InputError(f"counts must be >= 0 and [{len(classes)}] * 2, not {list(counts.shape)}")
    fractions, totals = _fractions(counts), counts.sum(axis=1)
    cells = [f"{part:.0%}\n{n:,}" for part, n in zip(fractions.flat, counts.flat, strict=True)]
    labels = np.where(totals[:, None] > 0, np.reshape(cells, counts.shape), "")
    figure, (axes,) = new_axes(6.2)
    names = [f"{name}\nn = {n:,}" for name, n in zip(classes, totals, strict=True)]
    _heatmap(axes, fractions, labels, list(classes), names)
    for text, n in zip(axes.texts, counts.flat, strict=True):
        text.set_color(text.get_color() if n else GREY)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


@styled
def confusion_panels(
    matrices: Mapping[str, np.ndarray],
    titles: Mapping[str, str],
    classes: Sequence[str],
) -> Figure:
    """One confusion matrix per arm or generator, in per cent of the row.

    Args:
        matrices: int [C, C] by arm, rows are true classes, columns predicted ones.
        titles: the title of each panel, by arm.
        classes: the C class names.

    Returns:
        The figure.

    Raises:
        InputError: if there is no matrix.
    """
    if not matrices:
        raise InputError("matrices is empty: give at least one confusion matrix")
    rows = -(-len(matrices) // 2)
    figure, panels = new_axes(3.5 * rows, rows, 2)
    for axes in panels[len(matrices) :]:
        axes.axis("off")
    for axes, (arm, counts) in zip(panels, matrices.items(), strict=False):
        fractions = _fractions(counts)
        labels = np.where(counts > 0, np.char.mod("%.0f", 100 * fractions), "")
        _heatmap(axes, fractions, labels, list(classes), list(classes), square=True)
        axes.set_title(titles[arm], color=for_text(ARM_COLOURS[arm]))
        axes.tick_params(labelsize=10)
        axes.tick_params(axis="x", rotation=90)
    return figure


def _fractions(counts: np.ndarray) -> np.ndarray:
    """Each row divided by its sum; a row without images stays 0."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _heatmap(
    axes: Axes,
    fractions: np.ndarray,
    labels: np.ndarray,
    columns: list[str],
    rows: list[str],
    square: bool = False,
) -> None:
    """Fractions [C, C] as shades from 0 to 1, with a label [C, C] in each cell."""
    limits = {"vmin": 0, "vmax": 1, "cmap": "Blues", "cbar": False, "square": square}
    names = {"xticklabels": columns, "yticklabels": rows}
    text = {"annot": labels, "fmt": "", "annot_kws": {"fontsize": 10}}
    seaborn.heatmap(fractions, ax=axes, **limits, **names, **text)
    axes.tick_params(length=0, rotation=0, colors=INK)
