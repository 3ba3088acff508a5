"""The numbers of the book's datasheet (Gebru et al. 2021), from the run's copy of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from hamsynth_utils.core.paths import RunPaths
from hamsynth_utils.data.dataset_info import ClassList, describe_data
from hamsynth_utils.data.lesion_set import read_table
from hamsynth_utils.metrics.fairness import AGE_BANDS, MISSING, age_band
from hamsynth_utils.notebook.templates import render

ATTRIBUTES = {
    "sex": "Sex",
    "age_band": "Age",
    "localization": "Place on the body",
    "dataset": "Source of the image",
}


PARTS = (
    "datasheet_about",
    "datasheet_classes",
    "datasheet_people",
    "datasheet_alone",
    "datasheet_photos",
)
"""The parts of the datasheet that depend on the run."""


SMALL = 30
"""A group of fewer lesions is marked, because every measure of a small group is uncertain."""


def datasheet_values(folder: Path, record: dict[str, Any]) -> dict[str, str]:
    """The parts of the datasheet that depend on the run's copy of the data.

    Args:
        folder: the run folder.
        record: the content of its `run.yaml`.

    Returns:
        Markdown by the names in braces of `book/datasheet.md`, each the result of the template of
        this name. A run that has not read its data yet says so.
    """
    path = RunPaths(folder).lesion_table
    values: dict[str, Any] = {"read": path.is_file()}
    if path.is_file():
        table = read_table(path)
        lesions, images = table.drop_duplicates("lesion_id"), table["lesion_id"].value_counts()
        dataset = describe_data(record["data"])
        values |= {
            "dataset": dataset,
            "phantom": record["data"] == "phantom",
            "n_images": len(table),
            "n_lesions": len(lesions),
            "classes": classes(table, dataset.classes),
            "groups": {title: groups(lesions, name) for name, title in ATTRIBUTES.items()},
            "alone": share_alone(lesions),
            "several": int((images > 1).sum()),
            "most": int(images.max()),
        }
    return {name: render(f"{name}.md", **values).strip() for name in PARTS}


def classes(table: pd.DataFrame, class_list: ClassList) -> pd.DataFrame:
    """Images and lesions per class.

    Args:
        table: the table of the images, N rows.
        class_list: the classes of the data set.

    Returns:
        One row per class and one for all, with the columns class, images, lesions.
    """
    lesions = table.drop_duplicates("lesion_id")["dx"]
    rows = [
        (f"{dx}, {name}", int((table["dx"] == dx).sum()), int((lesions == dx).sum()))
        for dx, name in class_list.long_names.items()
    ]
    return pd.DataFrame(
        [*rows, ("all", len(table), len(lesions))], columns=["class", "images", "lesions"]
    )


def groups(lesions: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Lesions per group.

    Args:
        lesions: one row per lesion.
        attribute: one of the `ATTRIBUTES`.

    Returns:
        One row per group, with the columns group, lesions and %. Missing values are the last group.
        A star marks a group of fewer than `SMALL` lesions.
    """
    column = "age" if attribute == "age_band" else attribute
    values = lesions[column] if column in lesions else pd.Series(index=lesions.index, dtype=object)
    named = (
        age_band(values)
        if attribute == "age_band"
        else values.astype(object).replace("unknown", None).fillna(MISSING)
    )
    counts = named.value_counts()
    order = (
        [band for band in AGE_BANDS if band in counts]
        if attribute == "age_band"
        else list(counts.index)
    )
    order = [*(name for name in order if name != MISSING), *({MISSING} & set(counts.index))]
    rows = [
        (
            f"{name} *" if counts[name] < SMALL else name,
            int(counts[name]),
            f"{100 * counts[name] / len(lesions):.1f}",
        )
        for name in order
    ]
    return pd.DataFrame(rows, columns=["group", "lesions", "%"])


def share_alone(lesions: pd.DataFrame) -> float:
    """The fraction of lesions that are the only lesion with their age, sex and place on the body.

    Args:
        lesions: one row per lesion.

    Returns:
        A fraction in [0, 1].
    """
    known = lesions[["age", "sex", "localization"]]
    texts = known.astype(object).where(known.notna(), MISSING).astype(str)
    combination = texts.agg(" / ".join, axis=1)
    return float((combination.map(combination.value_counts()) == 1).mean())
