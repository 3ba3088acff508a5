"""Where a copy of HAM10000 keeps its files, and what its metadata says (Tschandl et al. 2018)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import COLUMNS

HAM10000_METADATA = r"ham10000_metadata(\.csv|\.tab|\.tsv)?"
"""Pattern of the name of HAM10000's own metadata."""


ISIC_METADATA = r"isic2018_task3_{part}_groundtruth[^/]*(/(?!.*lesiongroupings)[^/]+)?\.(csv|tab)"
"""Pattern of the name of ISIC's metadata for one part of the challenge."""


PATTERNS = [
    ("HAM10000", HAM10000_METADATA),
    *(
        ("ISIC 2018 Task 3", ISIC_METADATA.replace("{part}", p))
        for p in ("training", "validation", "test")
    ),
]
"""Layouts and patterns of their metadata; the first match in this order counts."""


GROUPINGS = r"isic2018_task3_training_lesiongroupings\.csv"
"""Pattern of the name of ISIC's table of lesion ids."""


NOT_A_LESION = ("ISIC_0035068",)
"""The one image of the ISIC 2018 test set without a lesion; a row of it is left out."""


@dataclass(frozen=True)
class Layout:
    """Where a copy of HAM10000 keeps its files.

    Attributes:
        name: "HAM10000" or "ISIC 2018 Task 3".
        metadata: the table of the images.
        images: the file of each image, by image_id.
        groupings: ISIC's table of lesion ids; None if the copy does not have it.
    """

    name: str
    metadata: Path
    images: dict[str, Path]
    groupings: Path | None


def find_layout(folder: Path) -> Layout:
    """Find the layout of a data folder from its file names.

    Args:
        folder: the data folder.

    Returns:
        The metadata and the images. The first metadata file in the order of `PATTERNS` counts.

    Raises:
        InputError: if there is no folder, no metadata or no image, or if one image_id has two files
            of different size (the second copies in Kaggle's archive are equal).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}")
    files = files_in(folder)
    others = [name for name in files if not _is_image(name)]
    found = [
        (kind, name) for kind, pattern in PATTERNS for name in others if _matches(pattern, name)
    ]
    if not found:
        raise InputError(
            f"no metadata in {folder} or the folders in it: looked for HAM10000_metadata.csv (or "
            ".tab) and ISIC2018_Task3_Training_GroundTruth.csv (or _Validation_, _Test_). Put the "
            f"file there, or fetch the data: hamsynth download {folder}"
        )
    images = images_of(folder, files)
    kind, metadata = found[0]
    groupings = [folder / name for name in others if _matches(GROUPINGS, name)]
    return Layout(kind, folder / metadata, images, groupings[0] if groupings else None)


def images_of(folder: Path, files: list[str]) -> dict[str, Path]:
    """The images among the files of a folder.

    Args:
        folder: the folder.
        files: names relative to the folder, as `files_in` lists them.

    Returns:
        The file of each image, by image_id.

    Raises:
        InputError: if there is no image, or if one image_id has two files of different size.
    """
    images: dict[str, Path] = {}
    for name in filter(_is_image, files):
        file = folder / name
        first = images.setdefault(file.stem, file)
        if first is not file and first.stat().st_size != file.stat().st_size:
            raise InputError(
                f"{first} and {file} are different files for one image: remove one of them"
            )
    if not images:
        raise InputError(
            f"no image (.jpg, .jpeg, .png) in {folder} or its folders: unpack the archives there"
        )
    return images


def read_metadata(layout: Layout) -> pd.DataFrame:
    """Read and check the metadata of a copy of HAM10000.

    Kaggle's copy has no `dataset`. ISIC's copy has only `dx`, and `lesion_id` if the groupings are
    there.

    Args:
        layout: the files of the copy.

    Returns:
        One row per image, with the columns `COLUMNS`; `age` is in years, unknown values are NaN.

    Raises:
        InputError: naming file and line, for a missing column, an unknown diagnosis, a row that is
            not one-hot, an age that is not a number, an image_id that is empty or repeated, or an
            image without a file.
    """
    path = layout.metadata
    rows = read_text(path, [])
    rows = rows[~rows.isin(NOT_A_LESION).any(axis=1)]
    # Dataverse has the ISIC test set's metadata too, under ISIC's name but with HAM10000's columns.
    one_hot = layout.name != "HAM10000" and "dx" not in rows
    rows = _isic_rows(layout, rows) if one_hot else _ham10000_rows(path, rows)
    if rows.empty:
        raise InputError(f"{path} names no image: it has a header only")
    _refuse(path, "has no image_id", rows.index[rows["image_id"] == ""])
    twice = rows["image_id"][rows["image_id"].duplicated()]
    _refuse(path, "repeats an image_id: keep one row per image", twice.index, twice)
    missing = rows["image_id"][~rows["image_id"].isin(list(layout.images))]
    if len(missing):
        raise InputError(
            f"{len(missing):,} of the {len(rows):,} images in {path} have no file: "
            f"{first_names(missing)}. Unpack all image archives, or take these rows out"
        )
    return rows.assign(synthetic=False)[list(COLUMNS)].reset_index(drop=True)


def _matches(pattern: str, name: str) -> bool:
    return re.search(rf"(^|/){pattern}$", name, re.IGNORECASE) is not None


def _is_image(name: str) -> bool:
    return re.search(r"(?<!_segmentation)\.(jpg|jpeg|png)$", name, re.IGNORECASE) is not None


def files_in(folder: Path) -> list[str]:
    """List the data files of a folder.

    Args:
        folder: the folder. Its subfolders count too, and `x/x`, which some unzip programs create.

    Returns:
        Names relative to the folder, those of the top folder first. Hidden files, the shadow files
        of macOS, and lesion masks are left out.
    """
    found: list[str] = []
    for path, subfolders, names in os.walk(folder, followlinks=True):
        here = Path(path).relative_to(folder)
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith((".", "__MACOSX"))
            and "segmentation" not in name.lower()
            and (not here.parts or here.as_posix().lower() == name.lower())
        ]
        prefix = f"{here.as_posix()}/" if here.parts else ""
        found += [prefix + name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda name: (name.count("/"), name))


def read_text(path: Path, needed: list[str]) -> pd.DataFrame:
    """Read a table as text.

    Args:
        path: a file with commas or tabs.
        needed: the columns that the table must have.

    Returns:
        Every cell as stripped text, without empty rows; the row index is the line in the file.

    Raises:
        InputError: if the file is not a readable table, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            separator = "\t" if "\t" in lines.readline() else ","
        rows = pd.read_csv(
            path,
            sep=separator,
            dtype=object,
            na_filter=False,
            index_col=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable table: {error}") from error
    rows.columns = rows.columns.str.strip()
    _need(path, rows, needed)
    rows = rows.apply(lambda column: column.astype(str).str.strip().astype(object))
    rows.index += 2
    return rows[(rows != "").any(axis=1)]


def _need(path: Path, rows: pd.DataFrame, columns: list[str]) -> None:
    lacking = [column for column in columns if column not in rows]
    if lacking:
        raise InputError(
            f"{path} lacks the column(s) {', '.join(lacking)}; it has {', '.join(rows.columns)}"
        )


def _ham10000_rows(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    text = ["lesion_id", "sex", "localization", "dataset"]
    _need(path, rows, ["image_id", "lesion_id", "dx", "age", "sex", "localization"])
    rows = rows if "dataset" in rows else rows.assign(dataset="")
    unknown = rows["dx"][~rows["dx"].isin(HAM10000.classes)]
    _refuse(
        path, f"has an unknown diagnosis (known are {HAM10000.classes})", unknown.index, unknown
    )
    values = rows[[*text, "age"]]
    values = values.mask(values.isin(["", "unknown", "nan"]), np.nan).astype(object)
    age = pd.to_numeric(values["age"], errors="coerce")
    wrong = rows["age"][age.isna() & values["age"].notna()]
    _refuse(path, "has an age that is not a number", wrong.index, wrong)
    return rows.assign(**{column: values[column] for column in text}, age=age.astype(float))


def _isic_rows(layout: Layout, rows: pd.DataFrame) -> pd.DataFrame:
    names = [name.upper() for name in HAM10000.classes]
    _need(layout.metadata, rows, ["image", *names])
    values = rows[names].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    wrong = ~(np.isin(values, (0, 1)).all(axis=1) & (values.sum(axis=1) == 1))
    if wrong.any():
        first = dict(
            zip(
                names,
                zip(rows[names].to_numpy()[wrong][0], values[wrong][0], strict=True),
                strict=True,
            )
        )
        cells = [f"{name} is {text!r}" for name, (text, value) in first.items() if value != 0]
        shown = ", ".join(cells) or "every column is 0"
        what = f"is not one-hot ({shown}): one class must be 1, all others 0"
        _refuse(layout.metadata, what, rows.index[wrong])
    dx = np.array(HAM10000.classes.names, dtype=object)[values.argmax(axis=1)]
    unknown = pd.DataFrame(
        np.nan, rows.index, ["lesion_id", "sex", "localization", "dataset"], dtype=object
    )
    table = unknown.assign(image_id=rows["image"], dx=dx, age=np.nan)
    if layout.groupings and "_training_" in layout.metadata.name.lower():
        groups = read_text(layout.groupings, ["image", "lesion_id"])
        twice = groups["image"][groups["image"].duplicated()]
        _refuse(layout.groupings, "repeats an image: keep one row per image", twice.index, twice)
        table["lesion_id"] = (
            rows["image"].map(groups.set_index("image")["lesion_id"]).astype(object)
        )
    return table


def _refuse(path: Path, what: str, lines: Iterable[int], values: Iterable[str] = ()) -> None:
    """Raise InputError if there is any line; line 1 is the header."""
    lines, values = list(lines), list(values)
    if lines:
        more = f" (and {len(lines) - 1:,} more lines)" if len(lines) > 1 else ""
        raise InputError(
            f"{path}, line {lines[0]}{more} {what}" + (f": {values[0]!r}" if values else "")
        )


def first_names(names: Iterable[str]) -> str:
    """The first five names, separated by commas, for messages."""
    names = list(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
