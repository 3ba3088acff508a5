"""Statistics of weighted predictions: what a comparison of arms can be about."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from hamsynth_utils.data.dataset_info import ClassList
from hamsynth_utils.metrics import ranking
from hamsynth_utils.metrics.calibration import brier_score, expected_calibration_error
from hamsynth_utils.metrics.classification import (
    METRICS,
    class_names,
    probabilities,
    scores_from_confusion,
    true_labels,
)

Statistic = Callable[[pd.DataFrame, np.ndarray], np.ndarray]
"""Maps a predictions table of N images and weights [B, N] to one value per row of weights, [B]."""


SPECIFICITIES = (0.8, 0.9)
"""The specificities at which the sensitivity for the focus class is measured."""


def statistics(classes: ClassList) -> dict[str, Statistic]:
    """Every statistic that an arm gets.

    Args:
        classes: The classes of the predictions tables.

    Returns:
        The statistics by name: the `METRICS` of classification; `recall_<dx>`, `auroc_<dx>` and
        `average_precision_<dx>` of each class against the others, and the mean AUROC; the
        sensitivity for the focus class at each of `SPECIFICITIES`; Brier score and expected
        calibration error.
    """
    named: dict[str, Statistic] = {
        name: partial(classification_score, name=name) for name in METRICS
    }
    named |= {f"recall_{dx}": partial(_recall, label=label) for label, dx in enumerate(classes)}
    for name, function in (
        ("auroc", ranking.auroc),
        ("average_precision", ranking.average_precision),
    ):
        named |= {f"{name}_{dx}": partial(_ranked, dx=dx, function=function) for dx in classes}
    named["auroc_macro"] = _mean_auroc
    for specificity in SPECIFICITIES:
        sensitivity = partial(ranking.sensitivity_at, specificity)
        named[f"{classes.focus}_sensitivity_at_{100 * specificity:.0f}"] = partial(
            _ranked, dx=classes.focus, function=sensitivity
        )
    return {**named, "brier": brier_score, "calibration_error": expected_calibration_error}


def classification_score(predictions: pd.DataFrame, weights: np.ndarray, name: str) -> np.ndarray:
    """One of the `METRICS` of classification, as a `Statistic`.

    Args:
        predictions: A predictions table of N images.
        weights: [B, N], how often an image counts.
        name: The metric.

    Returns:
        The metric per row of weights, [B].
    """
    return scores_from_confusion(_confusion(predictions, weights))[name]


def minority_statistics(minority: np.ndarray) -> dict[str, Statistic]:
    """Mean recall of the minority classes, and how much it exceeds that of the other classes.

    A class without an image of weight is left out of the means.

    Args:
        minority: bool [K], True for minority classes.

    Returns:
        `minority_recall` and `minority_recall_gap`; neither if no class is marked, and no gap if
        all classes are.
    """

    def mean_recall(predictions: pd.DataFrame, weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The mean recall [B] of the classes in `mask` that occur."""
        labels = np.flatnonzero(mask).tolist()
        return np.nanmean([_recall(predictions, weights, label) for label in labels], axis=0)

    def recall(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        """The mean recall [B] of the minority classes."""
        return mean_recall(predictions, weights, minority)

    def gap(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        """The mean recall [B] of the minority classes minus that of the other classes."""
        return recall(predictions, weights) - mean_recall(predictions, weights, ~minority)

    named: dict[str, Statistic] = {"minority_recall": recall} if minority.any() else {}
    return {**named, "minority_recall_gap": gap} if named and not minority.all() else named


def _confusion(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Confusion matrices [B, K, K] of weighted images; rows are the true classes."""
    size = len(class_names(predictions))
    cell = true_labels(predictions) * size + probabilities(predictions).argmax(1)
    return (np.atleast_2d(weights) @ np.eye(size**2)[cell]).reshape(-1, size, size)


def _recall(predictions: pd.DataFrame, weights: np.ndarray, label: int) -> np.ndarray:
    row = _confusion(predictions, weights)[:, label]
    with np.errstate(invalid="ignore"):
        return row[:, label] / row.sum(1)


def _ranked(
    predictions: pd.DataFrame,
    weights: np.ndarray,
    dx: str,
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """A function of `ranking`, of the class `dx` against all others."""
    return function(
        predictions[f"p_{dx}"].to_numpy(), (predictions["dx"] == dx).to_numpy(), weights
    )


def _mean_auroc(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """The mean AUROC of the classes that have images of weight."""
    values = np.stack(
        [_ranked(predictions, weights, dx, ranking.auroc) for dx in class_names(predictions)]
    )
    with np.errstate(invalid="ignore"):  # a resample may hold one class alone
        return np.nansum(values, axis=0) / (~np.isnan(values)).sum(0)
