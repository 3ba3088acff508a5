"""Calibration: whether a probability means what it says, and a temperature that corrects it.

Predictions tables are those of `classification`, weights [B, N] those of `ranking`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from hamsynth_utils.core.errors import InputError, NotMeasured
from hamsynth_utils.metrics.classification import (
    check_predictions,
    class_names,
    probabilities,
    true_labels,
)

N_BINS = 15
"""Bins of the expected calibration error, as in Guo et al. (2017)."""


MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""The range in which `fit_temperature` searches."""


def brier_score(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """The Brier score: the mean squared distance of the probabilities to the truth (Brier 1950).

    It sums over all classes. Some libraries print half of this sum for two classes.

    Args:
        predictions: A predictions table of N images.
        weights: [B, N].

    Returns:
        [B], in [0, 2].

    Raises:
        InputError: As `check_predictions` does.
    """
    p, labels = _probabilities(predictions)
    error = (p - np.eye(p.shape[1])[labels]) ** 2
    weights = np.atleast_2d(weights)
    return weights @ error.sum(1) / weights.sum(1)


def expected_calibration_error(
    predictions: pd.DataFrame, weights: np.ndarray, n_bins: int = N_BINS
) -> np.ndarray:
    """The mean gap between confidence and accuracy (Guo et al. 2017, equation 3).

    Images are binned by the probability of the predicted class, and each bin's gap counts by its
    weight. The error is biased upwards where bins hold few images: compare it at equal numbers.

    Args:
        predictions: A predictions table of N images.
        weights: [B, N].
        n_bins: Equal parts of (0, 1].

    Returns:
        [B], in [0, 1].

    Raises:
        InputError: If there is no bin, or as `check_predictions` does.
    """
    if n_bins < 1:
        raise InputError(f"an expected calibration error needs at least one bin, not {n_bins}")
    p, labels = _probabilities(predictions)
    confidence, right = p.max(1), p.argmax(1) == labels
    place = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    weights = np.atleast_2d(weights).astype(float)
    # Weight times (right - confidence), summed within each bin, is its gap times its weight.
    gaps = (weights * (right - confidence)) @ np.eye(n_bins)[place]
    return np.abs(gaps).sum(1) / weights.sum(1)


def fit_temperature(predictions: pd.DataFrame) -> float:
    """The temperature that makes the true classes of validation predictions most likely.

    Probabilities become softmax(log p / T) (Guo et al. 2017, section 4.2). A temperature above 1
    flattens them, a temperature below 1 sharpens them.

    Args:
        predictions: Predictions of validation images, not of test images.

    Returns:
        T, above 0.

    Raises:
        NotMeasured: If no temperature in the range fits better than both its ends: predictions
            that are always right, or worse than chance, have no best temperature.
        InputError: As `check_predictions` does.
    """
    p, labels = _probabilities(predictions)
    log_p = np.log(np.maximum(p, np.finfo(float).tiny))

    def loss(log_temperature: float) -> float:
        """The mean negative log likelihood at a temperature, in nats."""
        log_probabilities = log_softmax(log_p / np.exp(log_temperature), axis=1)
        return -float(log_probabilities[np.arange(len(labels)), labels].mean())

    ends = float(np.log(MIN_TEMPERATURE)), float(np.log(MAX_TEMPERATURE))
    found = float(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x)
    if min(map(loss, ends)) <= loss(found):
        raise NotMeasured(
            f"no temperature between {MIN_TEMPERATURE:g} and {MAX_TEMPERATURE:g} fits these "
            f"{len(labels)} predictions best: they are always right, or no better than chance"
        )
    return float(np.exp(found))


def with_temperature(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The same predictions with their probabilities at a temperature.

    Args:
        predictions: A predictions table.
        temperature: From `fit_temperature`.

    Returns:
        The table with other probabilities; the predicted classes do not change.

    Raises:
        InputError: If the temperature is not above 0.
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
