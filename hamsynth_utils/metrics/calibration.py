"""Whether a probability means what it says, and the one number that mends most of it.

Predictions tables are those of `metrics.classification`; weights [B, N] those of `metrics.ranking`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.classification import (
    check_predictions,
    class_names,
    probabilities,
    true_labels,
)

BINS = 15
"""Bins of the expected calibration error, as in Guo et al. (2017)."""


COLDEST, HOTTEST = 0.05, 20.0
"""Between them a temperature is looked for."""


def brier_score(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Mean over images of the squared distance of the probabilities to the truth, in [0, 2]: [B].

    The sum over all classes (Brier 1950), not the half of it that some libraries print for two classes.
    """
    p, labels = _probabilities(predictions)
    error = (p - np.eye(p.shape[1])[labels]) ** 2
    weights = np.atleast_2d(weights)
    return weights @ error.sum(1) / weights.sum(1)


def expected_calibration_error(
    predictions: pd.DataFrame, weights: np.ndarray, bins: int = BINS
) -> np.ndarray:
    """Mean gap between the confidence in the predicted class and how often it is right, in [0, 1]: [B].

    Images are binned by confidence into `bins` equal parts of (0, 1]; each bin's gap counts by its weight
    (Naeini et al. 2015; Guo et al. 2017, eq. 3). It is biased upwards where bins hold few images: compare it
    at equal n. Raises InputError for less than one bin.
    """
    if bins < 1:
        raise InputError(f"an expected calibration error needs at least one bin, not {bins}")
    p, labels = _probabilities(predictions)
    confidence, right = p.max(1), p.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    weights = np.atleast_2d(weights).astype(float)
    # Weight times (right - confidence), summed within each bin, is its gap times its weight.
    gaps = (weights * (right - confidence)) @ np.eye(bins)[place]
    return np.abs(gaps).sum(1) / weights.sum(1)


def fit_temperature(predictions: pd.DataFrame) -> float:
    """The temperature T that makes the true classes of *validation* predictions most likely.

    Probabilities become softmax(log p / T) (Guo et al. 2017): above 1 they are flattened, below 1 sharpened.
    Raises InputError unless one is better than both ends of 0.05 to 20: predictions that are always right, or
    worse than chance, have no best temperature.
    """
    p, labels = _probabilities(predictions)
    log_p = np.log(np.maximum(p, np.finfo(float).tiny))

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(log_p / np.exp(log_temperature), axis=1)
        return -float(log_probabilities[np.arange(len(labels)), labels].mean())

    ends = float(np.log(COLDEST)), float(np.log(HOTTEST))
    found = float(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x)
    if min(map(loss, ends)) <= loss(found):
        raise InputError(
            f"no temperature between {COLDEST:g} and {HOTTEST:g} fits these {len(labels)} predictions best: "
            "they are always right, or no better than chance"
        )
    return float(np.exp(found))


def with_temperature(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The same predictions with their probabilities at a temperature; the predicted classes do not change.

    Raises InputError for a temperature that is not above 0.
    """
    if not 0 < temperature < np.inf:
        raise InputError(f"a temperature must be above 0, but it is {temperature}")
    p, _ = _probabilities(predictions)
    scaled = softmax(np.log(np.maximum(p, np.finfo(float).tiny)) / temperature, axis=1)
    columns = [f"p_{name}" for name in class_names(predictions)]
    return predictions.assign(**dict(zip(columns, scaled.T, strict=True)))


def _probabilities(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    check_predictions(predictions)
    return probabilities(predictions), true_labels(predictions)
