"""What the book's datasheet (Gebru et al. 2021) says in numbers: those of the run's own copy of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from hamsynth_utils.core.paths import RunPaths
from hamsynth_utils.data.dataset_info import ClassList, describe_data
from hamsynth_utils.data.lesion_set import read_table
from hamsynth_utils.metrics.fairness import AGE_BANDS, MISSING, age_band
from hamsynth_utils.notebook.tables import markdown_table

ATTRIBUTES = {
    "sex": "Sex",
    "age_band": "Age",
    "localization": "Place on the body",
    "dataset": "Source of the image",
}


SMALL = 30
"""A group of fewer lesions is marked: little can be said about it, however good the measure."""


def datasheet_values(folder: Path, record: dict[str, Any]) -> dict[str, str]:
    """The texts and tables, in Markdown, that stand in the datasheet for its names in braces.

    folder: the run; record: what its `run.yaml` holds. A run that has not read its data yet says so.
    """
    path = RunPaths(folder).lesion_table
    names = (
        "datasheet_about",
        "datasheet_classes",
        "datasheet_people",
        "datasheet_alone",
        "datasheet_photos",
    )
    if not path.is_file():
        return dict.fromkeys(names, "This run has not read its data yet.")
    table = read_table(path)
    one = table.drop_duplicates("lesion_id")
    dataset = describe_data(record["data"])
    about = f"The numbers below are those of this run's copy: {dataset.description}, {len(table):,} images."
    if record["data"] == "phantom":
        about += (
            " **The phantom is not HAM10000**: a program draws it in the same form, so that this page can be "
            "rehearsed."
        )
    alone = share_alone(one)
    photos = table["lesion_id"].value_counts()
    return {
        "datasheet_about": about,
        "datasheet_classes": markdown_table(classes(table, dataset.classes)),
        "datasheet_people": "\n\n".join(
            f"**{title}**\n\n{markdown_table(groups(one, attribute))}"
            for attribute, title in ATTRIBUTES.items()
        ),
        "datasheet_alone": f"{100 * alone:.1f} % of the {len(one):,} lesions are the only one with their "
        "combination of age, sex and place.",
        "datasheet_photos": f"{int((photos > 1).sum()):,} of {len(photos):,} lesions have several photos, "
        f"up to {photos.max()}.",
    }


def classes(table: pd.DataFrame, class_list: ClassList) -> pd.DataFrame:
    """One row per class: how many images and lesions the table [N rows] has of the class."""
    lesions = table.drop_duplicates("lesion_id")["dx"]
    rows = [
        (f"{dx}, {name}", int((table["dx"] == dx).sum()), int((lesions == dx).sum()))
        for dx, name in class_list.long_names.items()
    ]
    return pd.DataFrame(
        [*rows, ("all", len(table), len(lesions))], columns=["class", "images", "lesions"]
    )


def groups(lesions: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """One row a group of an attribute: group, lesions, per cent; missing values are the last group.

    lesions: one row a lesion. A group that has fewer than `SMALL` lesions is marked with a star.
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
    """The share of lesions (one row each) that are the only one with their age, sex and place on the body."""
    texts = lesions[["age", "sex", "localization"]].astype(object).fillna(MISSING).astype(str)
    combination = texts.agg(" / ".join, axis=1)
    return float((combination.map(combination.value_counts()) == 1).mean())
