"""Does a synthetic image show the class that was asked for? A probe, trained on real images, names it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids, Interval
from hamsynth_utils.metrics.classification import (
    confusion,
    resampled_confusion,
    scores_from_confusion,
)

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Values of scikit-learn's C to choose from: the smaller, the more the weights are held to zero."""


def fit_probe(
    features: np.ndarray, labels: Tensor, validation_features: np.ndarray, validation_labels: Tensor
) -> Pipeline:
    """Logistic regression on standardised features [N, D], every class weighted alike (a linear probe).

    Of the `STRENGTHS` the one with the best balanced accuracy on the validation images is taken, the
    stronger regularisation if two are equal. Deterministic. Raises InputError for fewer than two classes or
    where rows and labels do not fit.
    """
    for rows, given in ((features, labels), (validation_features, validation_labels)):
        if len(rows) != len(given) or not len(rows):
            raise InputError(
                f"{len(rows)} rows of features for {len(given)} labels: give one for each, and some"
            )
    if len(labels.unique()) < 2:
        raise InputError("a probe tells classes apart: its training images must show at least two")
    probes = [
        make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
        ).fit(features, labels.numpy())
        for strength in STRENGTHS
    ]
    truth = validation_labels.numpy()
    return max(
        probes, key=lambda probe: balanced_accuracy_score(truth, probe.predict(validation_features))
    )


def probe_predictions(
    probe: Pipeline, features: np.ndarray, table: pd.DataFrame, classes: Sequence[str]
) -> pd.DataFrame:
    """The probe's predictions table, see `metrics.classification`; dx is the class that `table` says.

    For synthetic images that is the requested one. A class that the probe has never seen has probability 0.
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
    """How often the probe names the requested class, beside how often it names the true one of real images.

    synthetic, real: its predictions for synthetic images and for real ones that it was not trained on;
    real_lesions: lesion ids of the rows of `real`. Returns the balanced accuracies `synthetic` and `real`,
    their `ratio`, each with _low and _high (95 %, bootstrap over synthetic images and real lesions), and
    n_synthetic, n_real. Only classes that occur count; the chance of the probe's training is not in the
    intervals. A ratio above 1 is possible: images may be more typical of their class than real ones.
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
