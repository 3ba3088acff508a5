"""How well a classifier tells the diagnoses apart, with intervals over lesions.

A predictions table has one row per image: image_id, dx (the true diagnosis) and one column
`p_<class>` per class, with its probability. The columns name the K classes of the table, in the
order of the labels. The most probable class is the predicted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import read_csv
from hamsynth_utils.data.lesion_set import labels_of
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids, Interval

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
)


def class_names(predictions: pd.DataFrame) -> list[str]:
    """The classes of a predictions table.

    Args:
        predictions: A predictions table.

    Returns:
        The K short names, in the order of the columns `p_<class>`.
    """
    return [column[2:] for column in predictions.columns if column.startswith("p_")]


def probabilities(predictions: pd.DataFrame) -> np.ndarray:
    """The probabilities of a predictions table.

    Args:
        predictions: A predictions table of N images and K classes.

    Returns:
        float64 [N, K], in the order of `class_names`.
    """
    columns = [f"p_{name}" for name in class_names(predictions)]
    return predictions[columns].to_numpy(dtype=np.float64)


def true_labels(predictions: pd.DataFrame) -> np.ndarray:
    """The true labels of a predictions table.

    Args:
        predictions: A predictions table of N images.

    Returns:
        int64 [N], positions in `class_names`.

    Raises:
        InputError: If a diagnosis has no column of probabilities.
    """
    return labels_of(predictions["dx"], class_names(predictions))


def read_predictions(path: Path, classes: Sequence[str]) -> pd.DataFrame:
    """Read and check a predictions table.

    Args:
        path: A .csv file.
        classes: The classes that the table must have.

    Returns:
        The table, one row per image.

    Raises:
        InputError: Naming the file, if it is missing or `check_predictions` refuses its table.
    """
    if not path.is_file():
        raise InputError(f"no predictions at {path}: run 06_vit for this arm and seed first")
    predictions = read_csv(path, dtype={"image_id": "object", "dx": "object"})
    try:
        return check_predictions(predictions, classes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def check_predictions(
    predictions: pd.DataFrame, classes: Sequence[str] | None = None
) -> pd.DataFrame:
    """Check a predictions table.

    Args:
        predictions: The table.
        classes: The classes that the table must have, in this order; if left out, any two or more.

    Returns:
        The same table.

    Raises:
        InputError: For a missing column, a column of another class, no rows, an unknown diagnosis,
            an image_id that is missing or occurs twice, or probabilities that are not finite, not
            in [0, 1] or do not sum to 1 (within 0.001).
    """
    found = class_names(predictions)
    expected = found if classes is None else classes
    needed = ["image_id", "dx", *(f"p_{name}" for name in expected)]
    missing = [column for column in needed if column not in predictions]
    if missing:
        raise InputError(f"predictions lack the column(s) {', '.join(missing)}")
    unknown = [name for name in found if name not in expected]
    if unknown:
        raise InputError(
            f"predictions have the column 'p_{unknown[0]}', but that is none of the classes "
            f"{', '.join(expected)}"
        )
    if len(found) < 2 or found != list(expected):
        raise InputError(
            f"predictions must have the columns of {', '.join(expected) or 'two or more classes'} "
            f"in this order, but they have {', '.join(found) or 'none'}"
        )
    if predictions.empty:
        raise InputError("predictions hold no row: nothing can be measured")
    true_labels(predictions)
    ids = predictions["image_id"]
    _refuse(predictions, ids.isna().to_numpy(), "have no image_id")
    _refuse(predictions, ids.duplicated().to_numpy(), "repeat an image_id that is there already")
    p = probabilities(predictions)
    _refuse(predictions, ~np.isfinite(p).all(1), "have a probability that is not a number")
    _refuse(predictions, np.any((p < 0) | (p > 1), axis=1), "have a probability outside 0 to 1")
    _refuse(
        predictions, np.abs(p.sum(axis=1) - 1.0) > 1e-3, "have probabilities that do not sum to 1"
    )
    return predictions


def align_table(predictions: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a `LesionSet`'s table that belong to the predicted images.

    Args:
        predictions: A predictions table of N images.
        table: The table of a `LesionSet` that holds these images.

    Returns:
        N rows in the order of `predictions`; the column lesion_id is what bootstraps need.

    Raises:
        InputError: If the table lacks an image or holds it twice.
    """
    ids = predictions["image_id"]
    _refuse(
        predictions, ~ids.isin(table["image_id"]).to_numpy(), "are of an image that the table lacks"
    )
    twice = table["image_id"][table["image_id"].duplicated()]
    _refuse(predictions, ids.isin(twice).to_numpy(), "are of an image that the table holds twice")
    return table.set_index("image_id").loc[ids].reset_index()


def confusion(predictions: pd.DataFrame) -> np.ndarray:
    """The confusion matrix.

    Args:
        predictions: A predictions table of K classes.

    Returns:
        Counts int64 [K, K]: rows are the true, columns the predicted classes, in the order of
        `class_names`.

    Raises:
        InputError: As `check_predictions` does.
    """
    true, predicted = _true_and_predicted(predictions)
    size = len(class_names(predictions))
    return np.bincount(true * size + predicted, minlength=size**2).reshape(size, size)


def scores(predictions: pd.DataFrame) -> dict[str, float]:
    """The `METRICS` of a predictions table.

    Args:
        predictions: A predictions table.

    Returns:
        Each metric in [0, 1], by name. Macro averages run over the classes that occur as true or
        predicted, weighted averages over all images. A class that is never predicted has precision
        0, a class that never occurs has recall 0 (scikit-learn with zero_division=0). Balanced
        accuracy is the mean recall of the classes that occur (Brodersen et al. 2010).

    Raises:
        InputError: As `check_predictions` does.
    """
    return {
        name: float(value) for name, value in scores_from_confusion(confusion(predictions)).items()
    }


def scores_from_confusion(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The `METRICS` of confusion matrices, see `scores`.

    Args:
        counts: Counts or weights [..., K, K]; rows are the true classes.

    Returns:
        Each metric by name, [...]; NaN for an empty matrix.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    true, predicted = counts.sum(-1), counts.sum(-2)
    recall, precision = _ratio(hits, true), _ratio(hits, predicted)
    f1 = _ratio(2 * hits, true + predicted)
    macro, weight = (true + predicted) > 0, true / np.maximum(true.sum(-1, keepdims=True), 1)
    with np.errstate(invalid="ignore"):
        result = {
            "accuracy": hits.sum(-1) / true.sum(-1),
            "balanced_accuracy": recall.sum(-1) / (true > 0).sum(-1),
            **{
                f"{name}_macro": value.sum(-1) / macro.sum(-1)
                for name, value in (("precision", precision), ("recall", recall), ("f1", f1))
            },
            **{
                f"{name}_weighted": np.where(true.sum(-1) > 0, (value * weight).sum(-1), np.nan)
                for name, value in (("precision", precision), ("recall", recall), ("f1", f1))
            },
        }
    return result


def per_class(predictions: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall, F1 and average precision of each class.

    Args:
        predictions: A predictions table.

    Returns:
        One row per class: class, n (true images), precision, recall, f1 and average_precision, each
            in [0, 1]. A class that is never predicted has precision 0. Recall, F1 and average
            precision are NaN for a class without a true image.

    Raises:
        InputError: As `check_predictions` does.
    """
    counts = confusion(predictions)
    hits, true, predicted = np.diagonal(counts), counts.sum(1), counts.sum(0)
    occurs = true > 0
    average_precision = [
        average_precision_score(predictions["dx"] == name, predictions[f"p_{name}"])
        if n
        else np.nan
        for name, n in zip(class_names(predictions), true, strict=True)
    ]
    return pd.DataFrame(
        {
            "class": class_names(predictions),
            "n": true,
            "precision": _ratio(hits, predicted),
            "recall": np.where(occurs, _ratio(hits, true), np.nan),
            "f1": np.where(occurs, _ratio(2 * hits, true + predicted), np.nan),
            "average_precision": average_precision,
        }
    )


def resampled_confusion(predictions: pd.DataFrame, bootstrap: ClusterBootstrap) -> np.ndarray:
    """The confusion matrices of bootstrap resamples.

    Args:
        predictions: A predictions table of K classes.
        bootstrap: B resamples of the lesions of the predicted images.

    Returns:
        Counts int64 [B, K, K], as `confusion` gives them.

    Raises:
        InputError: As `check_predictions` does.
    """
    true, predicted = _true_and_predicted(predictions)
    # Counts add up over the images of a lesion: a resample needs only the counts per lesion.
    size = len(class_names(predictions))
    cells = size**2
    per_lesion = np.bincount(
        (bootstrap.codes * size + true) * size + predicted,
        minlength=bootstrap.n_clusters * cells,
    )
    counts = bootstrap.counts.astype(np.float64) @ per_lesion.reshape(-1, cells)
    return counts.astype(np.int64).reshape(-1, size, size)


def bootstrap_scores(
    predictions: pd.DataFrame, lesion_ids: Ids, n_resamples: int, seed: int
) -> pd.DataFrame:
    """The `scores` of one training, with 95 % intervals over lesions.

    The intervals hold the chance of the test set, not that of training.

    Args:
        predictions: A predictions table of N images.
        lesion_ids: Lesion ids in the order of the rows, [N], see `align_table`.
        n_resamples: Resamples of the lesions.
        seed: Of the resamples.

    Returns:
        One row per metric: metric, value, low, high, n_images, n_lesions.

    Raises:
        InputError: If a lesion id is missing, or as `check_predictions` does.
    """
    bootstrap = ClusterBootstrap(lesion_ids, n_resamples, seed, n_images=len(predictions))
    samples = scores_from_confusion(resampled_confusion(predictions, bootstrap))
    intervals = {name: Interval(v, samples[name]) for name, v in scores(predictions).items()}
    rows = [
        (name, each.value, each.low, each.high, bootstrap.n_images, bootstrap.n_clusters)
        for name, each in intervals.items()
    ]
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "n_images", "n_lesions"])


def confident_mistakes(predictions: pd.DataFrame, first: str) -> pd.DataFrame:
    """The misclassified images, the most confident mistakes first.

    Args:
        predictions: A predictions table.
        first: The class whose images come before all others.

    Returns:
        One row per misclassified image: image_id, truth, predicted, probability (of the predicted
        class) and of_truth (the probability of the true class).

    Raises:
        InputError: As `check_predictions` does.
    """
    check_predictions(predictions)
    p = probabilities(predictions)
    predicted = np.array(class_names(predictions))[p.argmax(1)]
    truth = predictions["dx"].to_numpy()
    of_truth = p[np.arange(len(p)), true_labels(predictions)]
    table = pd.DataFrame(
        {
            "image_id": predictions["image_id"].to_numpy(),
            "truth": truth,
            "predicted": predicted,
            "probability": p.max(1),
            "of_truth": of_truth,
        }
    )
    wrong = table[predicted != truth].assign(after=lambda t: t["truth"] != first)
    wrong = wrong.sort_values(["after", "probability"], ascending=[True, False], kind="stable")
    return wrong.drop(columns="after").reset_index(drop=True)


def _true_and_predicted(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    check_predictions(predictions)
    return true_labels(predictions), probabilities(predictions).argmax(1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return numerator / np.maximum(denominator, 1)


def _refuse(predictions: pd.DataFrame, bad: np.ndarray, what: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        name = predictions["image_id"].iloc[rows[0]]
        raise InputError(
            f"{len(rows)} of {len(bad)} rows {what}, the first is row {rows[0]} (image_id {name})"
        )
