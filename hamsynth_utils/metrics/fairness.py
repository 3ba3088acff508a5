"""Does the classifier serve every group alike? Scores by sex, age band, site and source."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics.classification import (
    bootstrap_counts,
    check_predictions,
    confusion,
    rows_of,
    scores_of_counts,
)
from hamsynth_utils.metrics.intervals import percentile_interval

ATTRIBUTES = ("sex", "age_band", "localization", "dataset")
AGE_BANDS = {"under 30": 30, "30 to 44": 45, "45 to 59": 60, "60 to 74": 75, "75 and over": 130}
"""Each band and the age in years at which it ends (that age itself belongs to the next)."""

MISSING = "missing"
NOT_AVAILABLE = "not available"
MEASURES = {
    "accuracy": ("accuracy", "low", "high"),
    "balanced_accuracy": ("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"),
    "melanoma_recall": ("melanoma_recall", "melanoma_recall_low", "melanoma_recall_high"),
}
"""Each measure's columns: its value and its 95 % interval."""


def age_band(age: pd.Series) -> pd.Series:
    """The band of each age in years (`AGE_BANDS`), "missing" for NaN; raises InputError outside 0 to 130."""
    known = age.dropna()
    wrong = known[(known < 0) | (known >= 130)]
    if len(wrong):
        raise InputError(f"{len(wrong)} ages are not in 0 to 130 years, the first is {wrong.iloc[0]}")
    bands = pd.cut(age, [0, *AGE_BANDS.values()], right=False, labels=list(AGE_BANDS))
    return bands.astype("object").fillna(MISSING).rename("age_band")


def group_scores(
    predictions: pd.DataFrame, table: pd.DataFrame, attribute: str, draws: int, seed: int, minimum: int = 30
) -> pd.DataFrame:
    """One row for each group of `attribute` (one of `ATTRIBUTES`) among the predicted images.

    Columns: attribute, group, n_images, n_lesions, n_melanomas (images); accuracy, low, high;
    balanced_accuracy (over the classes that the group has) and melanoma_recall, each with <name>_low and
    <name>_high; enough. Low and high are the 95 % interval over the group's lesions. `enough` is False for
    a group of fewer than `minimum` images: it is shown, not trusted. Images without a value are the group
    "missing", the last row. Recall is NaN without a melanoma, an interval is NaN for a single lesion.

    An attribute of which no image has a value gives one row, group "not available", with NaN scores.
    Groups differ in their diagnoses too: a gap says where to look, not why.
    Raises InputError for an unknown attribute, unsound predictions, or images that the table lacks.
    """
    if attribute not in ATTRIBUTES:
        raise InputError(f"unknown attribute {attribute!r}; known are {', '.join(ATTRIBUTES)}")
    check_predictions(predictions)
    rows = rows_of(predictions, table)
    groups = _groups(rows, attribute)
    order = AGE_BANDS if attribute == "age_band" else sorted(set(groups))
    named = [name for name in order if name != MISSING and name in set(groups)]
    if not named:
        empty = {column: np.nan for columns in MEASURES.values() for column in columns}
        record = {"attribute": attribute, "group": NOT_AVAILABLE, **_sizes(predictions, rows), **empty}
        return pd.DataFrame([{**record, "enough": False}])
    result = []
    for name in [*named, *({MISSING} & set(groups))]:
        inside = (groups == name).to_numpy()
        part, lesions = predictions[inside], rows["lesion_id"][inside]
        values = _measures(confusion(part))
        samples, number = bootstrap_counts(part, lesions, draws, seed)
        drawn = _measures(samples)
        record = {"attribute": attribute, "group": name, **_sizes(part, rows[inside])}
        for measure, columns in MEASURES.items():
            interval = percentile_interval(drawn[measure]) if number > 1 else (np.nan, np.nan)
            record |= zip(columns, (float(values[measure]), *interval), strict=True)
        result.append({**record, "enough": bool(inside.sum() >= minimum)})
    return pd.DataFrame(result)


def _groups(rows: pd.DataFrame, attribute: str) -> pd.Series:
    column = "age" if attribute == "age_band" else attribute
    values = rows[column] if column in rows else pd.Series(np.nan, index=rows.index)
    if attribute == "age_band":
        return age_band(values)
    # The archives write some unknown sexes and sites as this word.
    return values.astype("object").replace("unknown", np.nan).fillna(MISSING)


def _sizes(predictions: pd.DataFrame, rows: pd.DataFrame) -> dict[str, int]:
    return {
        "n_images": len(predictions),
        "n_lesions": rows["lesion_id"].nunique(),
        "n_melanomas": int((predictions["dx"] == "mel").sum()),
    }


def _measures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The `MEASURES` of confusion matrices [..., 7, 7]."""
    general = scores_of_counts(counts)
    melanoma = CLASSES.index("mel")
    true = counts[..., melanoma, :].sum(-1)
    recall = np.where(true > 0, counts[..., melanoma, melanoma] / np.maximum(true, 1), np.nan)
    return {**general, "melanoma_recall": recall}
