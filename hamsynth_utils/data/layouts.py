"""Where a copy of HAM10000 keeps its files (Tschandl et al. 2018)."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.files.tables import read_header

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


IMAGE_SUFFIX = r"\.(jpe?g|png|tiff?|bmp|webp)"
"""Pattern of the suffixes that name a picture, in capitals or not."""


PATIENT_COLUMNS = ("lesion_id", "dx", "age", "sex", "localization", "dataset")


CLASS_COLUMNS = tuple(name.upper() for name in HAM10000.classes)
"""The columns of ISIC's one-hot table."""


ARCHIVE_COLUMNS = (
    *("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnosis"),
    *("isic_id", "age_approx", "anatom_site_general"),
)
"""The columns of a table that the ISIC archive gives; the most precise diagnosis comes first."""


KNOWN_COLUMNS = ("image_id", "image", *PATIENT_COLUMNS, *CLASS_COLUMNS, *ARCHIVE_COLUMNS)
"""The columns of all tables of images that have a meaning here."""


GROUPINGS = r"isic2018_task3_training_lesiongroupings\.csv"
"""Pattern of the name of ISIC's table of lesion ids."""


NOT_A_LESION = ("ISIC_0035068",)
"""The one image of the ISIC 2018 test set without a lesion; a row of it is left out."""


@dataclass(frozen=True)
class Layout:
    """Where a copy of HAM10000 keeps its files.

    Attributes:
        name: "HAM10000", "ISIC 2018 Task 3" or "ISIC archive".
        metadata: the table of the images.
        images: the file of each image, by image_id.
        groupings: ISIC's table of lesion ids; None if the copy does not have it.
    """

    name: str
    metadata: Path
    images: dict[str, Path]
    groupings: Path | None


def find_layout(folder: Path) -> Layout:
    """Find the layout of a data folder from its file names, or from the columns of its tables.

    Args:
        folder: the data folder.

    Returns:
        The metadata and the images. The first metadata file in the order of `PATTERNS` counts. If
        no file has such a name, the one table with the columns of a known kind counts.

    Raises:
        InputError: if there is no folder, no metadata or no image, if several tables may be the
            metadata, or if one image_id has two files of different size (the second copies in
            Kaggle's archive are equal).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}")
    files = files_in(folder)
    others = [name for name in files if not _is_image(name)]
    found = [
        (kind, name) for kind, pattern in PATTERNS for name in others if _matches(pattern, name)
    ]
    found = found or tables_by_columns(folder, files)
    if not found:
        raise InputError(
            f"no metadata in {folder} or the folders in it: looked for HAM10000_metadata.csv (or "
            ".tab), ISIC2018_Task3_Training_GroundTruth.csv (or _Validation_, _Test_), and a .csv "
            "table with the columns image_id and dx, or isic_id and diagnosis_3. Put the file "
            f"there, or fetch the data: hamsynth download {folder}"
        )
    kind, metadata = found[0]
    if len(found) > 1 and not any(_matches(pattern, metadata) for _, pattern in PATTERNS):
        raise InputError(
            f"{folder} has {len(found)} tables that may be the metadata, "
            f"{first_names(name for _, name in found)}: keep one, or call it HAM10000_metadata.csv"
        )
    images = images_of(folder, files)
    groupings = [folder / name for name in others if _matches(GROUPINGS, name)]
    return Layout(kind, folder / metadata, images, groupings[0] if groupings else None)


def table_kind(columns: Collection[str]) -> str | None:
    """What kind of table of images has these columns.

    Args:
        columns: names of columns, in the spelling of `KNOWN_COLUMNS`.

    Returns:
        "HAM10000", "ISIC 2018 Task 3" (one-hot) or "ISIC archive"; None for any other table.
    """
    if "dx" in columns:
        return "HAM10000"
    if len(set(columns) & set(CLASS_COLUMNS)) > 1:
        return "ISIC 2018 Task 3"
    if "isic_id" in columns and set(columns) & set(ARCHIVE_COLUMNS[:-3]):
        return "ISIC archive"
    return None


def tables_by_columns(folder: Path, files: list[str]) -> list[tuple[str, str]]:
    """The tables of a folder whose columns are those of a table of images.

    Args:
        folder: the folder.
        files: names relative to the folder.

    Returns:
        The kind of each table, see `table_kind`, and its name.
    """
    kinds = [
        (table_kind(read_header(folder / name, KNOWN_COLUMNS)), name)
        for name in files
        if is_table(name)
    ]
    return [(kind, name) for kind, name in kinds if kind]


def is_table(name: str) -> bool:
    """Whether a file is called as a table is."""
    return name.lower().endswith((".csv", ".tab", ".tsv"))


def images_of(folder: Path, files: list[str]) -> dict[str, Path]:
    """The images among the files of a folder.

    Args:
        folder: the folder.
        files: names relative to the folder, as `files_in` lists them.

    Returns:
        The file of each image, by image_id. The id is composed Unicode (NFC), because macOS takes
        the letters of file names apart.

    Raises:
        InputError: if there is no image, or if one image_id has two files of different size.
    """
    images: dict[str, Path] = {}
    for name in filter(_is_image, files):
        file = folder / name
        first = images.setdefault(unicodedata.normalize("NFC", file.stem), file)
        if first is not file and first.stat().st_size != file.stat().st_size:
            raise InputError(
                f"{first} and {file} are different files for one image: remove one of them"
            )
    if not images:
        raise InputError(
            f"no image (.jpg, .png, .tif, .bmp, .webp) in {folder} or its folders: unpack the "
            "archives there"
        )
    return images


def _matches(pattern: str, name: str) -> bool:
    return re.search(rf"(^|/){pattern}$", name, re.IGNORECASE) is not None


def _is_image(name: str) -> bool:
    return re.search(rf"(?<!_segmentation){IMAGE_SUFFIX}$", name, re.IGNORECASE) is not None


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


def first_names(names: Iterable[str]) -> str:
    """The first five names, separated by commas, for messages."""
    names = list(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
