"""HAM10000 from disk, in any of its official layouts (Tschandl, Rosendahl & Kittler 2018).

The paper is doi:10.1038/sdata.2018.161. The layouts are:

- Kaggle: images in `HAM10000_images_part_1/` and `_part_2/`, also in lower case;
  `HAM10000_metadata.csv`.
- Harvard Dataverse: images in the same two folders; `HAM10000_metadata`, `.csv` or `.tab`.
- ISIC 2018 Task 3: images in `ISIC2018_Task3_Training_Input/`;
  `ISIC2018_Task3_Training_GroundTruth.csv`.

- ISIC archive: images and `metadata.csv`, with the columns isic_id, diagnosis_3 and others.

The images may also lie in one folder of any name, or beside the metadata. If there are several
metadata files, HAM10000's own comes first, then ISIC's training, validation and test metadata. So
a second set, for example the ISIC test images, needs its own folder.
"""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import read_csv
from hamsynth_utils.data.dataset_info import HAM10000, PHANTOM
from hamsynth_utils.data.files.images import read_square
from hamsynth_utils.data.files.metadata import read_metadata
from hamsynth_utils.data.files.tables import read_text
from hamsynth_utils.data.layouts import NOT_A_LESION, find_layout, first_names
from hamsynth_utils.data.lesion_set import LesionSet, labels_of

IDENTITY = "e1a87097f87fc4ae180433741388137151472f018318f82ba635e4bdf67806b1"
"""SHA-256 of HAM10000's 10,015 image ids with their diagnoses, sorted, one per line."""


NO_PAIRS = pd.DataFrame({"image_id_a": [], "image_id_b": []}, dtype=object)


@dataclass(frozen=True, eq=False)
class Reading:
    """What `read_ham10000` found.

    Attributes:
        lesions: the images that were read.
        index: one row per file, metadata first; columns file (relative to the folder), size
            (bytes), mtime_ns and sha256.
        skipped: images that were left out, because they are broken or not in the metadata; columns
            image_id and reason.
    """

    lesions: LesionSet
    index: pd.DataFrame
    skipped: pd.DataFrame


def dataset_name(data: str, table: pd.DataFrame) -> str:
    """The name of a run's data set.

    A folder is HAM10000 if it has all of HAM10000's image ids, each with its diagnosis, and no
    other. A part of HAM10000 is not HAM10000. Pixels are not compared.

    Args:
        data: the data of the run: `phantom`, or a folder.
        table: the table of the images, with image_id and dx.

    Returns:
        The name of HAM10000 or of the phantom, or a phrase that names the folder.
    """
    if data == "phantom":
        return PHANTOM.name
    lines = "\n".join(sorted(table["image_id"] + " " + table["dx"]))
    if hashlib.sha256(lines.encode()).hexdigest() == IDENTITY:
        return HAM10000.name
    return f"the folder {Path(data).name}, which is not HAM10000"


def read_ham10000(
    folder: Path, image_size: int = 64, skip_broken: bool = False, progress: bool = True
) -> Reading:
    """Read a copy of HAM10000.

    Images are cropped to the central square and resized with antialiasing. Images that the metadata
    does not name are left out, recorded, and reported on stderr.

    Args:
        folder: the copy, in one of the official layouts.
        image_size: height and width in pixels.
        skip_broken: leave out and record images that cannot be decoded, instead of raising.
        progress: whether to show a progress bar.

    Returns:
        The images, the index of the files that were read, and the images that were left out.

    Raises:
        InputError: as for `find_layout` and `read_metadata`, or for broken images (the message
            names the first five).
    """
    folder = Path(folder)
    layout = find_layout(folder)
    table = read_metadata(layout)
    ids = table["image_id"].tolist()
    unnamed = sorted(set(layout.images).difference(ids))
    if unnamed:
        names = first_names(unnamed)
        where = layout.metadata.name
        print(f"{len(unnamed):,} images not in {where} are left out: {names}", file=sys.stderr)
    pixels, records, broken = read_images(
        folder, [layout.images[i] for i in ids], image_size, progress
    )
    if broken and (not skip_broken or len(broken) == len(ids)):
        named = [f"{records[position][0]} ({reason})" for position, reason in broken.items()]
        raise InputError(
            f"{len(broken):,} of {len(ids):,} images in {folder} are broken: {first_names(named)}. "
            "Fetch them again, or go on without them: SKIP_BROKEN=1 for make, skip_broken=True in "
            "Python"
        )
    texts = [layout.metadata, layout.groupings, folder / "near_duplicates.csv"]
    records = [_read_file(folder, file)[0] for file in texts if file and file.is_file()] + records
    index = pd.DataFrame(records, columns=["file", "size", "mtime_ns", "sha256"])
    skipped = [(ids[position], reason) for position, reason in broken.items()]
    skipped += [
        (i, "not a lesion" if i in NOT_A_LESION else "not in the metadata") for i in unnamed
    ]
    keep = np.setdiff1d(np.arange(len(ids)), list(broken))
    table = table.iloc[keep].reset_index(drop=True)
    pixels = pixels[keep] if broken else pixels
    labels = torch.from_numpy(labels_of(table["dx"], HAM10000.classes))
    lesions = LesionSet(torch.from_numpy(pixels), labels, table, HAM10000.classes)
    return Reading(
        lesions, index, pd.DataFrame(skipped, columns=["image_id", "reason"], dtype=object)
    )


def read_images(
    folder: Path, files: list[Path], image_size: int, progress: bool = True
) -> tuple[np.ndarray, list[tuple[str, int, int, str]], dict[int, str]]:
    """Read images as a viewer shows them, cropped to the central square and resized.

    Args:
        folder: the folder of the data; records name files relative to it.
        files: the N files.
        image_size: height and width in pixels.
        progress: whether to show a progress bar.

    Returns:
        Three values. The first is uint8 [N, 3, image_size, image_size], 0 for images that cannot be
        decoded. The second is one record per file: name, size in bytes, mtime_ns, sha256. The third
        says why an image cannot be decoded, by its position.
    """
    pixels = np.zeros((len(files), 3, image_size, image_size), dtype=np.uint8)

    def read(position: int) -> tuple[tuple, str | None]:
        """Decode one image into `pixels`; returns its record, and the reason if it is broken."""
        file = files[position]
        try:
            record, content = _read_file(folder, file)
        except OSError as error:
            return (
                file.relative_to(folder).as_posix(),
                0,
                0,
                "",
            ), f"cannot be read: {error.strerror}"
        try:
            pixels[position] = read_square(content, image_size)
        except InputError as error:
            return record, str(error)
        return record, None

    with ThreadPoolExecutor() as pool:
        work = pool.map(read, range(len(files)))
        results = list(
            tqdm(work, "reading images", len(files), unit=" images", disable=not progress)
        )
    broken = {position: reason for position, (_, reason) in enumerate(results) if reason}
    return pixels, [record for record, _ in results], broken


def read_index(path: Path) -> pd.DataFrame:
    """Read the index of a `Reading` from a .csv file.

    Args:
        path: the file.

    Returns:
        The index, with the types of its columns.
    """
    # Hashes as text: pandas 2.3 crashes on some when it tries to read them as numbers.
    return read_csv(path, dtype={"file": "object", "sha256": "object"})


def changes_since(folder: Path, index: pd.DataFrame) -> str | None:
    """Compare a data folder with the index of an earlier reading.

    Only files whose size or time differ are read again, so that the usual call takes a fraction of
    a second.

    Args:
        folder: the data folder.
        index: the index of a `Reading`.

    Returns:
        None if the content is the same, else a sentence that names the changed files.
    """

    def differs(file: str, size: int, mtime_ns: int, sha256: str) -> bool:
        """Whether a file is gone or has another content."""
        path = os.path.join(folder, file)
        try:
            status = os.stat(path)
            if status.st_size == size and status.st_mtime_ns == mtime_ns:
                return False
            return (
                status.st_size != size
                or hashlib.sha256(Path(path).read_bytes()).hexdigest() != sha256
            )
        except OSError:
            return True

    columns = [index[column].tolist() for column in ("file", "size", "mtime_ns", "sha256")]
    changed = [row[0] for row in zip(*columns, strict=True) if differs(*row)]
    if not changed:
        return None
    names = first_names(changed)
    return f"{len(changed):,} of {len(index):,} files in {folder} have changed or are gone: {names}"


def read_near_duplicates(folder: Path) -> pd.DataFrame:
    """Read the published near-duplicates of HAM10000 (Abhishek et al. 2025, Sci Data 12:196).

    Args:
        folder: the data folder, with or without `near_duplicates.csv`.

    Returns:
        Pairs of images of different lesions, with the columns image_id_a and image_id_b; no row if
        the file is not there.

    Raises:
        InputError: if the file is not a readable table or lacks a column.
    """
    path = Path(folder) / "near_duplicates.csv"
    if not path.is_file():
        return NO_PAIRS.copy()
    names = list(NO_PAIRS.columns)
    return read_text(path, names, names)[names].reset_index(drop=True)


def _read_file(folder: Path, file: Path) -> tuple[tuple, bytes]:
    status, content = file.stat(), file.read_bytes()
    name = file.relative_to(folder).as_posix()
    return (name, len(content), status.st_mtime_ns, hashlib.sha256(content).hexdigest()), content
