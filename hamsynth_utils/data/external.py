"""An external test set, and checks before a test.

- Images: `ISIC2018_Task3_Test_Input/ISIC_00xxxxx.jpg`, or image files in any subfolder.
- Truth: `ISIC2018_Task3_Test_GroundTruth.csv` or `.tab`, in a folder of its name or not, or another
  file with such a table.

The truth is one of three tables, with its columns in any order:

- one-hot, as ISIC 2018 Task 3 has it: image, MEL, NV, BCC, AKIEC, BKL, DF and VASC. One of the
  seven classes is 1, all others are 0;
- HAM10000's columns, as `hamsynth download --include-test` fetches them;
- the table of the ISIC archive.

A one-hot table does not say which photos show one lesion, so each image counts as a lesion.
Intervals are therefore a little too narrow where a lesion was photographed twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.files.metadata import read_metadata
from hamsynth_utils.data.files.tables import read_header
from hamsynth_utils.data.ham10000 import read_images
from hamsynth_utils.data.layouts import (
    CLASS_COLUMNS,
    KNOWN_COLUMNS,
    NOT_A_LESION,
    Layout,
    files_in,
    first_names,
    images_of,
    is_table,
    table_kind,
    tables_by_columns,
)
from hamsynth_utils.data.lesion_set import LesionSet, labels_of
from hamsynth_utils.data.phantom.generate import make_phantom

COLUMNS = ("image", *CLASS_COLUMNS)
"""The columns of a one-hot table."""


ISIC_TEST = "isic2018_task3_test_groundtruth"


PHANTOM_IMAGES = 300


@dataclass(frozen=True, eq=False)
class ExternalSet:
    """Images for a test that no model has seen.

    Attributes:
        lesions: the images. Where the truth does not name the lesion, `lesion_id` is the id of the
            image. What the truth does not say of age, sex, site and source is missing.
        sha256: hash of all image ids, diagnoses and files; the names of folders do not count.
    """

    lesions: LesionSet
    sha256: str


def find_external(folder: Path) -> Layout:
    """Find the truth and the images of an external set.

    Args:
        folder: the folder of the set.

    Returns:
        The files of the set.

    Raises:
        InputError: if there is no folder, no truth, more than one possible truth, or no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}")
    files = files_in(folder)
    tables = [name for name in files if is_table(name)]
    found = [name for name in tables if ISIC_TEST in name.lower()]
    found = found or [name for _, name in tables_by_columns(folder, files)]
    if not found:
        raise InputError(
            f"no ground truth in {folder} or the folders in it: looked for "
            "ISIC2018_Task3_Test_GroundTruth.csv (or .tab), or another table with the columns "
            f"{', '.join(COLUMNS)}, or image_id and dx, or isic_id and diagnosis_3; tables there: "
            f"{first_names(tables) or 'none'}"
        )
    if len(found) > 1:
        raise InputError(
            f"{folder} has {len(found)} ground truths, {first_names(found)}: keep the one to test "
            "on"
        )
    return Layout("ISIC 2018 Task 3", folder / found[0], images_of(folder, files), None)


def read_truth(layout: Layout) -> pd.DataFrame:
    """Read the table of an external set, with stricter checks than `read_metadata`.

    Args:
        layout: the files of the set.

    Returns:
        One row per image, with the columns of `read_metadata`; where the lesion is not known,
        `lesion_id` is the id of the image.

    Raises:
        InputError: naming file and line, as for `read_metadata`; also for a column of a one-hot
            table outside `COLUMNS`, an image without a row, or fewer than two classes.
    """
    table = read_metadata(layout)
    header = read_header(layout.metadata, KNOWN_COLUMNS)
    unknown = [name for name in header if name and name not in COLUMNS]
    if unknown and table_kind(header) == "ISIC 2018 Task 3":
        raise InputError(
            f"{layout.metadata} has the column(s) {', '.join(map(repr, unknown))}, but only "
            f"{', '.join(COLUMNS)} are known: a class that the classifiers have not learned cannot "
            "be tested"
        )
    unnamed = sorted(set(layout.images).difference(table["image_id"], NOT_A_LESION))
    if unnamed:
        raise InputError(
            f"{len(unnamed):,} images have no row in {layout.metadata}: {first_names(unnamed)}. "
            "Add their rows, or take the files out"
        )
    if table["dx"].nunique() < 2:
        raise InputError(
            f"{layout.metadata} has only the class {table['dx'].iloc[0]}: a test needs two or more"
        )
    return table.assign(lesion_id=table["lesion_id"].fillna(table["image_id"]))


def check_external(source: str, data: str) -> None:
    """Check an external set before a long training, without reading its images.

    Args:
        source: the folder of the external set, or `phantom`.
        data: the data of the run: `phantom`, or a folder.

    Raises:
        InputError: as for `find_external` and `read_truth`, or if the external set is the phantom
            but the data of the run is not.
    """
    if source != "phantom":
        read_truth(find_external(Path(source).expanduser()))
    elif data != "phantom":
        raise InputError(
            "the phantom can test only a run on the phantom: name a folder as the external set"
        )


def read_external(
    source: str, image_size: int = 64, seed: int = 0, progress: bool = True
) -> ExternalSet:
    """Read an external test set; its images are cropped and resized as those of a run.

    Args:
        source: the folder, or `phantom` for a small phantom, whose lesions are known.
        image_size: height and width in pixels.
        seed: seed of the phantom.
        progress: whether to show a progress bar.

    Returns:
        The images and the hash of the set.

    Raises:
        InputError: as `find_external` and `read_truth`, or for images that cannot be decoded.
    """
    if source == "phantom":
        lesions = make_phantom(PHANTOM_IMAGES, image_size, seed)
        contents = lesions.contents()
    else:
        folder = Path(source).expanduser()
        layout = find_external(folder)
        table = read_truth(layout)
        files = [layout.images[image_id] for image_id in table["image_id"]]
        pixels, records, broken = read_images(folder, files, image_size, progress)
        if broken:
            named = [f"{records[position][0]} ({reason})" for position, reason in broken.items()]
            raise InputError(
                f"{len(broken):,} of {len(table):,} images in {folder} are broken: "
                f"{first_names(named)}. Fetch them again: an external set is tested on as a whole"
            )
        labels = torch.from_numpy(labels_of(table["dx"], HAM10000.classes))
        lesions = LesionSet(torch.from_numpy(pixels), labels, table, HAM10000.classes)
        contents = [sha256 for *_, sha256 in records]
    rows = zip(lesions.table["image_id"], lesions.table["dx"], contents, strict=True)
    sha256 = hashlib.sha256("\n".join(sorted(map(" ".join, rows))).encode()).hexdigest()
    return ExternalSet(lesions, sha256)
