"""Several confusion matrices side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.figures.style import ARM_COLOURS, INK, WIDTH, BookFigure, styled


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
                    column, row, f"{value:.0f}", ha="center", va="center", fontsize=10,
                    color="white" if value > 60 else INK,
                )  # fmt: skip
        axes.set_title(titles[arm], color=ARM_COLOURS[arm])
        axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=90, fontsize=10)
        axes.set_yticks(range(len(CLASSES)), CLASSES, fontsize=10)
        axes.tick_params(length=0)
    return figure
