"""Scores of patient groups: does the classifier serve every group equally well?

Groups are those of class, sex, age band, site and source. Predictions are tables as in
`classification`, one per training seed, of the same images in the same order. Intervals are those
of `comparison.estimate`, over lesions and trainings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.calibration import brier_score, expected_calibration_error
from hamsynth_utils.metrics.classification import align_table, class_names, probabilities
from hamsynth_utils.metrics.comparison.arm_estimates import Estimate, estimates
from hamsynth_utils.metrics.comparison.weighted_statistics import Statistic, classification_score

ATTRIBUTES = ("sex", "age_band", "localization", "dataset")
"""The attributes by which images are grouped."""


AGE_BANDS = {"under 30": 30, "30 to 44": 45, "45 to 59": 60, "60 to 74": 75, "75 and over": 130}
"""Each band and the age in years at which it ends (that age itself belongs to the next)."""


MISSING, NOT_AVAILABLE, EVERYBODY = "missing", "not available", "all images"
"""Group of images without a value; of an attribute without any value; of all images."""


MIN_GROUP_SIZE = 30
"""Groups of fewer images are shown, but no gap is measured with them."""


Predictions: TypeAlias = dict[int, pd.DataFrame]
"""Predictions tables of the same images in the same order, by training seed."""


GroupMasks: TypeAlias = dict[str, np.ndarray]
"""Which of N images are in each group, bool [N] by name."""


GROUP_COLUMNS = ["value", "low", "high", "n", "lesions", "seeds", "enough"]


def recall(predictions: pd.DataFrame, weights: np.ndarray, dx: str) -> np.ndarray:
    """The fraction of the images of a class that are predicted as that class.

    Args:
        predictions: A predictions table of N images.
        weights: [B, N].
        dx: The class.

    Returns:
        [B], in [0, 1]; NaN without an image of the class.
    """
    truth = (predictions["dx"] == dx).to_numpy()
    return _fraction(_predicted_as(predictions, dx), truth, weights)


def false_positive_rate(predictions: pd.DataFrame, weights: np.ndarray, dx: str) -> np.ndarray:
    """The fraction of the images of other classes that are predicted as a class.

    Args:
        predictions: A predictions table of N images.
        weights: [B, N].
        dx: The class.

    Returns:
        [B], in [0, 1]; NaN without an image of another class.
    """
    truth = (predictions["dx"] == dx).to_numpy()
    return _fraction(_predicted_as(predictions, dx), ~truth, weights)


def one_vs_rest_balanced_accuracy(
    predictions: pd.DataFrame, weights: np.ndarray, dx: str
) -> np.ndarray:
    """The mean of the recall of a class and of all other classes as one class.

    Args:
        predictions: A predictions table of N images.
        weights: [B, N].
        dx: The class.

    Returns:
        [B], in [0, 1].
    """
    return (
        recall(predictions, weights, dx) + 1 - false_positive_rate(predictions, weights, dx)
    ) / 2


def class_calibration_error(predictions: pd.DataFrame, weights: np.ndarray, dx: str) -> np.ndarray:
    """The expected calibration error over the images predicted as a class (Gupta & Ramdas 2022).

    Args:
        predictions: A predictions table of N images.
        weights: [B, N].
        dx: The class.

    Returns:
        [B], in [0, 1].
    """
    return expected_calibration_error(
        predictions, np.atleast_2d(weights) * _predicted_as(predictions, dx)
    )


MEASURES = (
    "accuracy",
    "balanced_accuracy",
    "recall",
    "false_positive_rate",
    "brier",
    "calibration_error",
)
"""The measures of a group.

Recall and false-positive rate are those of the focus class. Balanced accuracy is the mean recall of
the
classes that the group has. A calibration error is biased upwards where images are few."""


GENERAL_MEASURES: dict[str, Statistic] = {
    "accuracy": partial(classification_score, name="accuracy"),
    "balanced_accuracy": partial(classification_score, name="balanced_accuracy"),
    "brier": brier_score,
    "calibration_error": expected_calibration_error,
}
"""The measures of all classes together; the other `MEASURES` are those of one class."""


def age_band(age: pd.Series) -> pd.Series:
    """The age band of each image.

    Args:
        age: In years, [N]; NaN where missing.

    Returns:
        A name of `AGE_BANDS`, or "missing", [N].

    Raises:
        InputError: If an age is not in 0 to 130.
    """
    known = age.dropna()
    wrong = known[(known < 0) | (known >= 130)]
    if len(wrong):
        raise InputError(
            f"{len(wrong)} ages are not in 0 to 130 years, the first is {wrong.iloc[0]}"
        )
    bands = pd.cut(age, [0, *AGE_BANDS.values()], right=False, labels=list(AGE_BANDS))
    return bands.astype("object").fillna(MISSING).rename("age_band")


def group_masks(rows: pd.DataFrame, attribute: str) -> GroupMasks:
    """Which images are in each group of an attribute.

    Args:
        rows: A `LesionSet`'s table of N images.
        attribute: One of `ATTRIBUTES`.

    Returns:
        bool [N] by group. Images without a value are the last group, "missing". Empty if no image
        has a value.

    Raises:
        InputError: If the attribute is unknown, or an age is not in 0 to 130.
    """
    if attribute not in ATTRIBUTES:
        raise InputError(f"unknown attribute {attribute!r}; known are {', '.join(ATTRIBUTES)}")
    column = "age" if attribute == "age_band" else attribute
    values = rows[column] if column in rows else pd.Series(np.nan, index=rows.index)
    if attribute == "age_band":
        values = age_band(values)
    else:  # the archives write some unknown sexes and sites as this word
        values = values.astype("object").where(values.notna() & (values != "unknown"), MISSING)
    present = set(values)
    order = AGE_BANDS if attribute == "age_band" else sorted(present - {MISSING})
    named = [name for name in order if name in present]
    if not named:
        return {}
    return {name: (values == name).to_numpy() for name in [*named, *({MISSING} & present)]}


def group_scores(
    by_seed: Predictions,
    table: pd.DataFrame,
    n_resamples: int,
    seed: int,
    min_group_size: int = MIN_GROUP_SIZE,
) -> pd.DataFrame:
    """Scores of every group, with 95 % intervals over lesions and trainings.

    Args:
        by_seed: The arm's predictions, by training seed.
        table: The table of the `LesionSet` that holds the images.
        n_resamples: Resamples of lesions and trainings.
        seed: Of the resamples.
        min_group_size: Images that `enough` asks for.

    Returns:
        One row per group and measure: attribute, group, dx (the class, or "" for a measure of all
            classes), measure, value, low, high, n (the images that the measure is over, by the
            first seed where predictions decide it), lesions, seeds and enough. Groups have the
            `GENERAL_MEASURES`, and recall and false-positive rate of each class. The first group,
            "all images", also has balanced accuracy and calibration error of each class. A value
            without an image is NaN, and so is an interval of one lesion. An attribute without any
            value has one row, group "not available".

    Raises:
        InputError: If predictions are not sound, or the table lacks an image.
    """
    first = next(iter(by_seed.values()))
    rows = align_table(first, table)
    keys, named, records = [], {}, []
    for attribute in (EVERYBODY, *ATTRIBUTES):
        everybody = attribute == EVERYBODY
        members = (
            {EVERYBODY: np.ones(len(rows), dtype=bool)}
            if everybody
            else group_masks(rows, attribute)
        )
        if not members:
            keys.append((attribute, NOT_AVAILABLE, "", ""))
            records.append({"n": 0, "lesions": 0, "seeds": len(by_seed), "enough": False})
        for group, inside in members.items():
            for (measure, dx), statistic in _statistics(class_names(first), everybody).items():
                keys.append((attribute, group, dx, measure))
                named[keys[-1]] = restrict_to(statistic, inside)
                over = inside & denominator_mask(first, measure, dx)
                records.append({"n": int(over.sum()), "lesions": rows["lesion_id"][over].nunique()})
    found = estimates(named, by_seed, rows["lesion_id"], n_resamples, seed)
    for key, record in zip(keys, records, strict=True):
        record |= _group_record(found.get(key), record, min_group_size)
    about = pd.DataFrame(keys, columns=["attribute", "group", "dx", "measure"])
    return pd.concat([about, pd.DataFrame(records, columns=GROUP_COLUMNS)], axis=1)


def denominator_mask(predictions: pd.DataFrame, measure: str, dx: str) -> np.ndarray:
    """The images that a measure is over.

    Args:
        predictions: A predictions table of N images.
        measure: The name of a measure.
        dx: The class of the measure, or "" for a measure of all classes.

    Returns:
        bool [N].
    """
    truth = (predictions["dx"] == dx).to_numpy()
    if measure == "recall":
        return truth
    if measure == "false_positive_rate":
        return ~truth
    if measure == "calibration_error" and dx:
        return _predicted_as(predictions, dx)
    return np.ones(len(truth), bool)


def restrict_to(statistic: Statistic, inside: np.ndarray) -> Statistic:
    """The statistic of some images alone.

    Args:
        statistic: A statistic of N images.
        inside: bool [N], the images that count.

    Returns:
        A statistic of the same N images.
    """

    def of_group(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        """The statistic [B] of the group's images."""
        with np.errstate(invalid="ignore"):  # a resample may hold none of the group's lesions
            return statistic(predictions[inside], np.atleast_2d(weights)[:, inside])

    return of_group


def _statistics(classes: Sequence[str], everybody: bool) -> dict[tuple[str, str], Statistic]:
    """The statistics of `group_scores`, by measure and class."""
    named = {(name, ""): statistic for name, statistic in GENERAL_MEASURES.items()}
    by_class = {"recall": recall, "false_positive_rate": false_positive_rate}
    if everybody:
        by_class |= {
            "balanced_accuracy": one_vs_rest_balanced_accuracy,
            "calibration_error": class_calibration_error,
        }
    return named | {(name, dx): partial(f, dx=dx) for name, f in by_class.items() for dx in classes}


def _group_record(estimate: Estimate | None, sizes: dict, min_group_size: int) -> dict:
    """What `group_scores` adds to the sizes of a row; an interval of one lesion is undefined."""
    if estimate is None:
        return dict.fromkeys(("value", "low", "high"), np.nan)
    several = sizes["lesions"] > 1
    return {
        "value": estimate.value,
        "low": estimate.low if several else np.nan,
        "high": estimate.high if several else np.nan,
        "seeds": estimate.seeds,
        "enough": sizes["n"] >= min_group_size,
    }


def _predicted_as(predictions: pd.DataFrame, dx: str) -> np.ndarray:
    return probabilities(predictions).argmax(1) == class_names(predictions).index(dx)


def _fraction(hit: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    weights = np.atleast_2d(weights)
    with np.errstate(invalid="ignore"):
        return weights @ (hit & among) / (weights @ among.astype(float))
