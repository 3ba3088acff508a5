"""How well probabilities rank one class before the others, for many weightings at once.

A bootstrap over lesions weighs images instead of copying them: an image whose lesion was drawn
twice counts twice. The functions of scores take

    scores   [N], higher for more likely positive,
    truth    bool [N], True for positive images,
    weights  [B, N], not negative,

and return one value per row of weights, [B]. Equal scores are one threshold, since no threshold can
separate them. A value is NaN where it is not defined: without a positive or a negative image of
weight. All raise InputError for shapes that do not fit and scores that are not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError, NotMeasured
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids
from hamsynth_utils.metrics.classification import check_predictions


def auroc(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve (Hanley & McNeil 1982).

    Args:
        scores: [N].
        truth: bool [N].
        weights: [B, N].

    Returns:
        The probability that a positive image ranks before a negative one, in [0, 1], [B]; ties
        count half.
    """
    true_positives, false_positives = _cumulative_weights(scores, truth, weights)
    rising = np.diff(false_positives, axis=1, prepend=0)
    middle = true_positives - np.diff(true_positives, axis=1, prepend=0) / 2
    return _ratio((rising * middle).sum(1), true_positives[:, -1] * false_positives[:, -1])


def average_precision(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Precision averaged over the recall that each threshold adds (scikit-learn's definition).

    Args:
        scores: [N].
        truth: bool [N].
        weights: [B, N].

    Returns:
        Average precision in [0, 1], [B].
    """
    true_positives, false_positives = _cumulative_weights(scores, truth, weights)
    precision = true_positives / np.maximum(true_positives + false_positives, np.finfo(float).tiny)
    return _ratio(
        (np.diff(true_positives, axis=1, prepend=0) * precision).sum(1), true_positives[:, -1]
    )


def sensitivity_at(
    specificity: float, scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The highest sensitivity of a threshold that keeps at least a given specificity.

    Args:
        specificity: In 0 to 1.
        scores: [N].
        truth: bool [N].
        weights: [B, N].

    Returns:
        Sensitivity in [0, 1], [B].

    Raises:
        InputError: If the specificity is not in 0 to 1.
    """
    if not 0 <= specificity <= 1:
        raise InputError(f"a specificity lies in 0 to 1, but it is {specificity}")
    true_positives, false_positives = _cumulative_weights(scores, truth, weights)
    allowed = false_positives <= (1 - specificity) * false_positives[:, -1:] + 1e-9
    # A threshold above all scores calls nothing positive: always allowed, with sensitivity 0.
    best = np.where(allowed, true_positives, 0).max(1)
    return np.where(false_positives[:, -1] > 0, _ratio(best, true_positives[:, -1]), np.nan)


def precision_at(
    recall: np.ndarray, scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The best precision of a threshold that reaches each recall.

    Args:
        recall: [R], in 0 to 1.
        scores: [N].
        truth: bool [N].
        weights: [B, N].

    Returns:
        Precision in [0, 1], [B, R].

    Raises:
        InputError: If a recall is not in 0 to 1.
    """
    recall = np.asarray(recall, dtype=float)
    if recall.ndim != 1 or not ((recall >= 0) & (recall <= 1)).all():
        raise InputError(f"recall must be values in 0 to 1, [R], but it is {recall}")
    true_positives, false_positives = _cumulative_weights(scores, truth, weights)
    precision = true_positives / np.maximum(true_positives + false_positives, np.finfo(float).tiny)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = true_positives[:, -1:] * recall - 1e-9
    first = np.stack([(true_positives < each[:, None]).sum(1) for each in needed.T], axis=1)
    return np.where(true_positives[:, -1:] > 0, np.take_along_axis(best, first, axis=1), np.nan)


def _cumulative_weights(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives at or above each distinct score, falling: [B, T]."""
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth, dtype=bool)
    weights = np.atleast_2d(weights)
    if not scores.shape == truth.shape == weights.shape[1:]:
        raise InputError(
            f"scores {scores.shape}, truth {truth.shape} and weights {weights.shape} must be "
            "[N], [N] and [B, N]"
        )
    if not np.isfinite(scores).all():
        raise InputError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite"
        )
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.flatnonzero(np.diff(scores[order], append=np.nan))
    ordered = weights[:, order].astype(float)
    positives, negatives = (
        (ordered * side[order]).cumsum(1)[:, last_of_equals] for side in (truth, ~truth)
    )
    return positives, negatives


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)


def precision_band(
    by_seed: dict[int, pd.DataFrame],
    classes: Sequence[str],
    recall: np.ndarray,
    lesion_ids: Ids,
    n_resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Precision at each recall, averaged over classes and over the trainings of an arm.

    Args:
        by_seed: Predictions of the same images in the same order, by the seed of the training.
        classes: The classes to average over. A resample counts those that it holds.
        recall: [R], in 0 to 1.
        lesion_ids: Lesion ids, in the order of the predictions.
        n_resamples: Resamples of lesions and trainings, those of `comparison.estimate`.
        seed: Of the resamples.

    Returns:
        R rows: recall, value, low, high. The 95 % interval holds at one recall, not for the whole
        curve.

    Raises:
        NotMeasured: If a class has no true image.
        InputError: If there are no predictions.
    """
    if not by_seed or not classes:
        raise InputError(
            "a band needs the predictions of at least one seed, and at least one class"
        )
    frames = [check_predictions(frame) for frame in by_seed.values()]
    absent = [dx for dx in classes if not (frames[0]["dx"] == dx).any()]
    if absent:
        raise NotMeasured(f"no image of class {absent[0]}: it has no precision-recall curve")
    bootstrap = ClusterBootstrap(
        lesion_ids, n_resamples, seed, n_seeds=len(frames), n_images=len(frames[0])
    )
    curve = bootstrap.average_over_seeds(
        [bootstrap.interval(partial(_mean_curve, frame, classes, recall)) for frame in frames]
    )
    return pd.DataFrame(
        {"recall": recall, "value": curve.value, "low": curve.low, "high": curve.high}
    )


def _mean_curve(
    frame: pd.DataFrame, classes: Sequence[str], recall: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Precision [B, R], averaged over the classes that have weight in a row of weights."""
    curves = np.stack(
        [
            precision_at(
                recall, frame[f"p_{dx}"].to_numpy(), (frame["dx"] == dx).to_numpy(), weights
            )
            for dx in classes
        ]
    )
    with np.errstate(invalid="ignore"):  # a resample may hold none of the classes
        return np.nansum(curves, axis=0) / (~np.isnan(curves)).sum(0)
