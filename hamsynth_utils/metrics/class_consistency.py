"""Class consistency: a probe of real images tests whether synthetic ones show their class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hamsynth_utils.core.errors import InputError, NotMeasured
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids, Interval
from hamsynth_utils.metrics.classification import (
    confusion,
    resampled_confusion,
    scores_from_confusion,
)

REGULARIZATION_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Values of scikit-learn's C to choose from; a smaller value regularises more."""


def fit_probe(
    features: np.ndarray, labels: Tensor, validation_features: np.ndarray, validation_labels: Tensor
) -> Pipeline:
    """A linear probe: logistic regression on standardised features, with equal weight per class.

    The value of `REGULARIZATION_STRENGTHS` with the best balanced accuracy on the validation images
    is chosen, the stronger regularisation of two equal ones. The fit is deterministic.

    Args:
        features: Of the training images, [N, D].
        labels: int64 [N].
        validation_features: [V, D].
        validation_labels: int64 [V].

    Returns:
        The fitted scikit-learn pipeline.

    Raises:
        NotMeasured: If there are fewer than two classes, or no images.
        InputError: If rows and labels do not fit.
    """
    for rows, given in ((features, labels), (validation_features, validation_labels)):
        if len(rows) != len(given):
            raise InputError(
                f"{len(rows)} rows of features for {len(given)} labels: give one for each"
            )
        if not len(rows):
            raise NotMeasured("a probe needs training and validation images, but there are none")
    if len(labels.unique()) < 2:
        raise NotMeasured("a probe tells classes apart: its training images must show at least two")
    probes = [
        make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
        ).fit(features, labels.numpy())
        for strength in REGULARIZATION_STRENGTHS
    ]
    truth = validation_labels.numpy()
    return max(
        probes, key=lambda probe: balanced_accuracy_score(truth, probe.predict(validation_features))
    )


def probe_predictions(
    probe: Pipeline, features: np.ndarray, table: pd.DataFrame, classes: Sequence[str]
) -> pd.DataFrame:
    """The probe's predictions table, see `classification`.

    Args:
        probe: From `fit_probe`.
        features: [N, D].
        table: The images' table, with image_id and dx. For synthetic images dx is the requested
            class.
        classes: The K classes, in the order of the labels.

    Returns:
        N rows. A class that the probe has never seen has probability 0.

    Raises:
        InputError: If features and table have different numbers of rows.
    """
    if len(features) != len(table):
        raise InputError(f"{len(features)} rows of features for {len(table)} rows of the table")
    probabilities = np.zeros((len(features), len(classes)))
    probabilities[:, probe.classes_] = probe.predict_proba(features)
    named = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in classes])
    return pd.concat([table[["image_id", "dx"]].reset_index(drop=True), named], axis=1)


def class_consistency(
    synthetic: pd.DataFrame,
    real: pd.DataFrame,
    real_lesions: Ids,
    n_resamples: int,
    seed: int,
) -> dict[str, float]:
    """How often the probe names the requested class, beside the true class of real images.

    The intervals do not hold the chance of the probe's training. A ratio above 1 is possible:
    synthetic images may be more typical of their class than real ones.

    Args:
        synthetic: The probe's predictions for synthetic images.
        real: Its predictions for real images that it was not trained on.
        real_lesions: Lesion ids of the rows of `real`.
        n_resamples: Resamples of the synthetic images and of the real lesions.
        seed: Of the resamples.

    Returns:
        The balanced accuracies `synthetic` and `real`, over the classes that occur, and their
        `ratio`, each with _low and _high (95 %); n_synthetic and n_real.

    Raises:
        InputError: If a lesion id is missing, or as `check_predictions` does.
    """
    intervals = {
        "synthetic": _balanced_accuracy(synthetic, synthetic["image_id"], n_resamples, seed),
        "real": _balanced_accuracy(real, real_lesions, n_resamples, seed + 1),
    }
    intervals["ratio"] = intervals["synthetic"] / intervals["real"]
    result: dict[str, float] = {"n_synthetic": len(synthetic), "n_real": len(real)}
    for name, each in intervals.items():
        result |= {name: float(each.value), f"{name}_low": each.low, f"{name}_high": each.high}
    return result


def _balanced_accuracy(
    predictions: pd.DataFrame, ids: Ids, n_resamples: int, seed: int
) -> Interval:
    bootstrap = ClusterBootstrap(ids, n_resamples, seed, n_images=len(predictions))
    value, samples = (
        scores_from_confusion(counts)["balanced_accuracy"]
        for counts in (confusion(predictions), resampled_confusion(predictions, bootstrap))
    )
    return Interval(value, samples)
