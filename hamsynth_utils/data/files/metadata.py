"""Reads the table of a data set: HAM10000's, the one-hot table of ISIC 2018, or the ISIC archive's.

Every table becomes one row per image, with one spelling per group and NaN for whatever is missing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.files.tables import (
    as_numbers,
    group_names,
    read_text,
    refuse,
    require_columns,
    without_missing,
)
from hamsynth_utils.data.layouts import (
    ARCHIVE_COLUMNS,
    CLASS_COLUMNS,
    IMAGE_SUFFIX,
    KNOWN_COLUMNS,
    NOT_A_LESION,
    Layout,
    first_names,
    table_kind,
)
from hamsynth_utils.data.lesion_set import COLUMNS

OLDEST = 120
"""The highest age in years that is taken for an age."""


ARCHIVE_DIAGNOSES = {
    "solar or actinic keratosis": "akiec",
    "actinic keratosis": "akiec",
    "squamous cell carcinoma in situ": "akiec",
    "basal cell carcinoma": "bcc",
    "pigmented benign keratosis": "bkl",
    "seborrheic keratosis": "bkl",
    "solar lentigo": "bkl",
    "lichen planus like keratosis": "bkl",
    "dermatofibroma": "df",
    "melanoma": "mel",
    "melanoma, nos": "mel",
    "melanoma in situ": "mel",
    "melanoma invasive": "mel",
    "nevus": "nv",
    "vascular lesion": "vasc",
    "angioma": "vasc",
    "benign soft tissue proliferations - vascular": "vasc",
    "hemorrhagic lesions": "vasc",
}
"""Diagnoses of the ISIC archive, in lower case, and the class that HAM10000's paper puts them in.

The archive does not say more about HAM10000's vascular lesions than the group in `diagnosis_2`."""


SQUAMOUS = ("squamous cell carcinoma, nos", "squamous cell carcinoma")
"""How the archive files HAM10000's intraepithelial carcinomas, which belong to akiec.

In photos from elsewhere the name means an invasive carcinoma, which is none of the classes."""


HAM10000_NUMBERS = range(24306, 36065)
"""The numbers of HAM10000's photos in the archive, with those of the ISIC 2018 test set."""


def read_metadata(layout: Layout) -> pd.DataFrame:
    """Read and check the metadata of a data set.

    Kaggle's copy has no `dataset`. ISIC 2018's copy has only `dx`, and `lesion_id` if the groupings
    are there. The archive's table has no `dataset`. An image_id may be the file's name with its
    suffix. Otherwise it must be the file's name, letter by letter.

    Args:
        layout: the files of the copy.

    Returns:
        One row per image, with the columns `COLUMNS`. `age` is in years. Sex, localization and
        dataset are in lower case. Whatever is missing is NaN.

    Raises:
        InputError: naming file and line, for a missing column, an unknown diagnosis, a row that is
            not one-hot, an age that is not a number or not in 0 to `OLDEST`, an image_id that is
            empty or repeated, or an image without a file; also as for `read_text`.
    """
    path = layout.metadata
    rows = read_text(path, KNOWN_COLUMNS)
    name, needed, read = READERS[table_kind(list(rows.columns)) or layout.name]
    require_columns(path, rows, needed)
    rows = rows.assign(image_id=file_names(rows[name], layout))
    rows = rows[~rows["image_id"].isin(NOT_A_LESION)]
    if rows.empty:
        raise InputError(f"{path} names no image: it has a header only")
    rows = read(layout, rows)
    refuse(path, "has no image_id", rows.index[rows["image_id"] == ""])
    twice = rows["image_id"][rows["image_id"].duplicated()]
    refuse(path, "repeats an image_id: keep one row per image", twice.index, twice)
    missing = rows["image_id"][~rows["image_id"].isin(list(layout.images))]
    if len(missing):
        raise InputError(
            f"{len(missing):,} of the {len(rows):,} images in {path} have no file: "
            f"{first_names(missing)}. {_advice(missing, layout)}"
        )
    return rows.assign(synthetic=False)[list(COLUMNS)].reset_index(drop=True)


def file_names(ids: pd.Series, layout: Layout) -> pd.Series:
    """Image ids without the suffix of a picture, where the file is called so.

    Args:
        ids: N texts.
        layout: the files of the copy.

    Returns:
        The ids [N].
    """
    stems = ids.str.replace(rf"{IMAGE_SUFFIX}$", "", case=False, regex=True)
    return ids.where(ids.isin(list(layout.images)), stems)


def _advice(missing: pd.Series, layout: Layout) -> str:
    near = {_letters_and_numbers(name): name for name in layout.images}
    for image_id in missing:
        name = near.get(_letters_and_numbers(image_id))
        if name:
            return (
                f"{image_id!r} is nearly the name of {layout.images[name].name}: write both names "
                "alike"
            )
    return "Unpack all image archives, or take these rows out"


def _letters_and_numbers(name: str) -> str:
    """What is left of a name without capitals, accents, folders, signs and leading zeros."""
    plain = unicodedata.normalize("NFKD", re.split(r"[/\\]", name)[-1]).casefold()
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", re.sub(r"[\W_]+", "", plain))


def _ham10000_rows(layout: Layout, rows: pd.DataFrame) -> pd.DataFrame:
    path, dx = layout.metadata, rows["dx"].str.lower()
    rows = rows if "dataset" in rows else rows.assign(dataset="")
    unknown = rows["dx"][~dx.isin(HAM10000.classes)]
    refuse(path, f"has an unknown diagnosis (known are {HAM10000.classes})", unknown.index, unknown)
    return _with_patient(path, rows.assign(dx=dx), rows["age"])


def _archive_rows(layout: Layout, rows: pd.DataFrame) -> pd.DataFrame:
    path = layout.metadata
    levels = [name for name in ARCHIVE_COLUMNS if name.startswith("diagnosis") and name in rows]
    named = rows[levels].apply(lambda column: column.str.lower())
    numbers = as_numbers(rows["image_id"].str.extract(r"^ISIC_([0-9]{7})$", expand=False))
    own = numbers.isin(HAM10000_NUMBERS)
    dx = pd.Series(np.nan, rows.index, dtype=object)
    for level in levels:  # the most precise diagnosis that is known decides
        dx = dx.where(dx.notna(), named[level].map(ARCHIVE_DIAGNOSES))
        dx = dx.mask(dx.isna() & own & named[level].isin(SQUAMOUS), "akiec")
    unknown = rows[levels][dx.isna()].apply(lambda row: " / ".join(filter(None, row[::-1])), axis=1)
    refuse(
        path,
        f"has a diagnosis that is none of the classes {HAM10000.classes}: take the row and its "
        "photo out",
        unknown.index,
        unknown,
    )
    empty = pd.Series("", rows.index)
    rows = rows.assign(
        dx=dx,
        sex=rows.get("sex", empty),
        localization=rows.get("anatom_site_general", empty),
        dataset="",
        lesion_id=rows.get("lesion_id", empty),
    )
    return _with_patient(path, rows, rows.get("age_approx", empty))


def _with_patient(path: Path, rows: pd.DataFrame, ages: pd.Series) -> pd.DataFrame:
    """The rows with what is known about lesion and patient; NaN where nothing is."""
    known = without_missing(ages)
    age = as_numbers(known)
    wrong = ages[age.isna() & known.notna()]
    refuse(path, "has an age that is not a number", wrong.index, wrong)
    wrong = ages[(age < 0) | (age > OLDEST)]
    refuse(path, f"has an age that is not in 0 to {OLDEST} years", wrong.index, wrong)
    groups = {name: group_names(rows[name]) for name in ("sex", "localization", "dataset")}
    return rows.assign(lesion_id=without_missing(rows["lesion_id"]), age=age, **groups)


def _one_hot_rows(layout: Layout, rows: pd.DataFrame) -> pd.DataFrame:
    names = list(CLASS_COLUMNS)
    values = rows[names].apply(as_numbers).to_numpy(dtype=float)
    wrong = ~(np.isin(values, (0, 1)).all(axis=1) & (values.sum(axis=1) == 1))
    if wrong.any():
        texts = zip(names, rows[names].to_numpy()[wrong][0], values[wrong][0], strict=True)
        cells = [f"{name} is {text!r}" for name, text, value in texts if value != 0]
        shown = ", ".join(cells) or "every column is 0"
        what = f"is not one-hot ({shown}): one class must be 1, all others 0"
        refuse(layout.metadata, what, rows.index[wrong])
    dx = np.array(HAM10000.classes.names, dtype=object)[values.argmax(axis=1)]
    unknown = pd.DataFrame(
        np.nan, rows.index, ["lesion_id", "sex", "localization", "dataset"], dtype=object
    )
    table = unknown.assign(image_id=rows["image_id"], dx=dx, age=np.nan)
    if layout.groupings and "_training_" in layout.metadata.name.lower():
        groups = read_text(layout.groupings, KNOWN_COLUMNS, ["image", "lesion_id"])
        groups = groups.assign(image=file_names(groups["image"], layout))
        twice = groups["image"][groups["image"].duplicated()]
        refuse(layout.groupings, "repeats an image: keep one row per image", twice.index, twice)
        lesions = without_missing(groups.set_index("image")["lesion_id"])
        table["lesion_id"] = table["image_id"].map(lesions).astype(object)
    return table


READERS: dict[str, tuple[str, tuple[str, ...], Callable[[Layout, pd.DataFrame], pd.DataFrame]]] = {
    "HAM10000": (
        "image_id",
        ("image_id", "lesion_id", "dx", "age", "sex", "localization"),
        _ham10000_rows,
    ),
    "ISIC 2018 Task 3": ("image", ("image", *CLASS_COLUMNS), _one_hot_rows),
    "ISIC archive": ("isic_id", ("isic_id",), _archive_rows),
}
"""For each kind of table the column of the image ids, the columns that it must have, its reader."""
