"""How well probabilities rank one class before the others, for many weightings of the images at once.

A bootstrap over lesions weighs images rather than copying them: an image whose lesion was drawn twice counts
twice. Every function here takes scores [N] (higher: more likely positive), truth bool [N] and weights [B, N],
not negative, and returns one value a weighting, [B]. Equal scores are one threshold: they cannot be told
apart, whatever their order. A value that is not defined, without a positive or without a negative image of
weight, is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids
from hamsynth_utils.metrics.classification import check_predictions


def auroc(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, in [0, 1]: how often a positive ranks before a negative; ties count half.

    (Hanley & McNeil 1982.)
    """
    hits, alarms = _passed(scores, truth, weights)
    rising = np.diff(alarms, axis=1, prepend=0)
    middle = hits - np.diff(hits, axis=1, prepend=0) / 2
    return _over((rising * middle).sum(1), hits[:, -1] * alarms[:, -1])


def average_precision(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Precision averaged over the recall that each threshold adds, in [0, 1] (scikit-learn's definition)."""
    hits, alarms = _passed(scores, truth, weights)
    precision = hits / np.maximum(hits + alarms, np.finfo(float).tiny)
    return _over((np.diff(hits, axis=1, prepend=0) * precision).sum(1), hits[:, -1])


def sensitivity_at(
    specificity: float, scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The highest sensitivity of a threshold whose specificity is at least the given one, in [0, 1].

    Raises InputError for a specificity that is not between 0 and 1.
    """
    if not 0 <= specificity <= 1:
        raise InputError(f"a specificity lies in 0 to 1, but it is {specificity}")
    hits, alarms = _passed(scores, truth, weights)
    allowed = alarms <= (1 - specificity) * alarms[:, -1:] + 1e-9
    # Above all scores nothing is called positive: that threshold is always allowed, and finds nothing.
    best = np.where(allowed, hits, 0).max(1)
    return np.where(alarms[:, -1] > 0, _over(best, hits[:, -1]), np.nan)


def precision_at(
    recall: np.ndarray, scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The best precision of a threshold that reaches each recall [R], in [0, 1]: [B, R].

    Raises InputError for a recall that is not between 0 and 1.
    """
    recall = np.asarray(recall, dtype=float)
    if recall.ndim != 1 or not ((recall >= 0) & (recall <= 1)).all():
        raise InputError(f"recall must be values in 0 to 1, [R], but it is {recall}")
    hits, alarms = _passed(scores, truth, weights)
    precision = hits / np.maximum(hits + alarms, np.finfo(float).tiny)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = hits[:, -1:] * recall - 1e-9
    first = np.stack([(hits < each[:, None]).sum(1) for each in needed.T], axis=1)
    return np.where(hits[:, -1:] > 0, np.take_along_axis(best, first, axis=1), np.nan)


def _passed(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives at or above each distinct score, from the highest down: [B, T]."""
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
    return tuple((ordered * side[order]).cumsum(1)[:, last_of_equals] for side in (truth, ~truth))  # type: ignore[return-value]


def _over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)


def precision_band(
    by_seed: dict[int, pd.DataFrame],
    classes: Sequence[str],
    recall: np.ndarray,
    lesion_ids: Ids,
    n_resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Precision at each recall, averaged over `classes` and the seeds of an arm: recall, value, low, high.

    by_seed, lesion_ids: as for `comparison.estimate`, whose draws of lesions and seeds these are; low to high
    is the 95 % interval at one recall, not of the curve as a whole. Of a draw the classes count that it has.
    Raises InputError for no predictions, or for a class without a true image.
    """
    if not by_seed or not classes:
        raise InputError(
            "a band needs the predictions of at least one seed, and at least one class"
        )
    frames = [check_predictions(frame) for frame in by_seed.values()]
    absent = [dx for dx in classes if not (frames[0]["dx"] == dx).any()]
    if absent:
        raise InputError(f"no image of class {absent[0]}: it has no precision-recall curve")
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
    """Precision [B, R], averaged over the classes that a weighting has."""
    curves = np.stack(
        [
            precision_at(
                recall, frame[f"p_{dx}"].to_numpy(), (frame["dx"] == dx).to_numpy(), weights
            )
            for dx in classes
        ]
    )
    return np.nansum(curves, axis=0) / (~np.isnan(curves)).sum(0)
