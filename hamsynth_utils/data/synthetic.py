"""Reading a synthetic set: its manifest, its labels, its images."""

from __future__ import annotations

from io import StringIO
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import torch

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import decode_text, read_bytes
from hamsynth_utils.core.weights import sha256_of, sha256_of_bytes
from hamsynth_utils.data.dataset_info import ClassList
from hamsynth_utils.data.files.images import as_shown, open_picture
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet, labels_of

MANIFEST = [
    "file",
    "image_id",
    "dx",
    "generator",
    "generator_seed",
    "checkpoint",
    "seed",
    "sampling",
    "trained_on",
    "sha256",
]
"""The columns of a manifest. `generator_seed` says which training of the generator drew an image,
`seed` from which noise."""


NOTICE = (
    "SYNTHETIC IMAGE, made by a generative model; not a photograph of a patient. "
    "Research and education only."
)


LABELS = ("generator", "checkpoint", "seed", "sampling", "class", "trained_on")
"""What each PNG's metadata says, each key with the prefix `hamsynth:`."""


MAX_SIDE = 4096
"""Height and width in pixels of the largest image that is decoded."""


SYSTEM_FILES = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"}
"""Files that the file managers of macOS and Windows write into any folder, in lower case."""


def is_system_file(name: str) -> bool:
    """Whether a file manager has added this file by itself; it belongs to no set.

    Args:
        name: relative to the set, with / between folders.
    """
    path = PurePosixPath(name.casefold())
    return (
        path.name in SYSTEM_FILES
        or path.name.startswith("._")
        or path.name.endswith(":zone.identifier")
        or "__macosx" in path.parts
    )


def read_synthetic(folder: Path, classes: ClassList) -> LesionSet:
    """Read a synthetic set, and verify that every file is labelled and as the manifest says.

    Args:
        folder: the set.
        classes: the classes of the data set.

    Returns:
        The images. In the table, `synthetic` is True, `lesion_id` equals `image_id`, `dataset` is
        "synthetic:<generator>"; age, sex and site are missing.

    Raises:
        InputError: naming the first altered file; `release.verify.find_alterations` names all of
            them.
    """
    manifest = read_manifest(folder)
    added = files_not_in_manifest(folder, manifest)
    if added:
        raise InputError(f"{folder}: {len(added)} file(s) not in the manifest, first {added[0]}")
    pixels = [verified_image(folder, row) for row in manifest.to_dict("records")]
    sizes = {image.shape for image in pixels}
    if len(sizes) > 1:
        raise InputError(f"{folder} mixes image sizes: {sorted(sizes)}")
    table = pd.DataFrame(
        {
            "image_id": manifest["image_id"],
            "lesion_id": manifest["image_id"],
            "dx": manifest["dx"],
            "age": np.nan,
            "sex": np.nan,
            "localization": np.nan,
            "dataset": "synthetic:" + manifest["generator"],
            "synthetic": True,
        }
    )[list(COLUMNS)]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return LesionSet(images, torch.from_numpy(labels_of(table["dx"], classes)), table, classes)


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read the manifest of a synthetic set.

    Args:
        folder: the set, with `manifest.csv`.

    Returns:
        One row per image, with the columns `MANIFEST`.

    Raises:
        InputError: if the manifest is missing, damaged, or lists a file or an image twice.
    """
    path = folder / "manifest.csv"
    if not path.is_file():
        raise InputError(f"no synthetic set at {folder}: manifest.csv is missing")
    return parse_manifest(read_bytes(path), str(path))


def parse_manifest(content: bytes, name: str) -> pd.DataFrame:
    """Parse the manifest of a synthetic set.

    Args:
        content: the file.
        name: its name in messages.

    Returns:
        One row per image, with the columns `MANIFEST`.

    Raises:
        InputError: as `read_manifest` does.
    """
    text = decode_text(content, name)
    try:
        # As text: pandas 2.3 crashes on some hashes when it tries to read them as numbers.
        seeds = dict.fromkeys(("seed", "generator_seed"), "int64")
        manifest = pd.read_csv(StringIO(text), dtype=dict.fromkeys(MANIFEST, "object") | seeds)
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise InputError(f"{name} is damaged: {' '.join(str(error).split())}") from error
    if "generator" in manifest and "generator_seed" not in manifest:
        # Sets of version 0.1.0, where a generator was trained once, do not have the column.
        manifest.insert(manifest.columns.get_loc("generator") + 1, "generator_seed", 0)
    missing = [column for column in MANIFEST if column not in manifest]
    if missing or manifest[MANIFEST].isna().any().any() or manifest.empty:
        raise InputError(
            f"{name} is damaged: "
            + (f"it lacks {', '.join(missing)}" if missing else "it has gaps")
        )
    for column in ("file", "image_id"):
        repeats = manifest[column][manifest[column].duplicated()]
        if len(repeats):
            raise InputError(f"{name}: {repeats.iloc[0]} is listed twice")
    return manifest


def files_not_in_manifest(folder: Path, manifest: pd.DataFrame) -> list[str]:
    """Find images that the manifest does not list, except what a file manager has added.

    Args:
        folder: the set.
        manifest: its manifest, with the column file.

    Returns:
        The names, relative to the folder, sorted.
    """
    files = {f"images/{path.name}" for path in (folder / "images").glob("*")}
    return sorted(name for name in files - set(manifest["file"]) if not is_system_file(name))


def verified_image(folder: Path, row: dict) -> np.ndarray:
    """Read and verify one image of a synthetic set.

    Args:
        folder: the set.
        row: the image's row of the manifest, by column.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        InputError: if the file is missing, unreadable, not labelled as synthetic, or not what the
            manifest lists.
    """
    path = folder / row["file"]
    if path.parent != folder / "images":
        raise InputError(f"{folder}/manifest.csv lists {row['file']}, which is not in images/")
    if not path.is_file():
        raise InputError(f"{folder}: {row['file']} is listed in the manifest but missing")
    content = read_bytes(path)
    try:
        return verify_image(content, row)
    except InputError as error:
        raise InputError(f"{folder}/{error}") from error


def verify_image(content: bytes, row: dict) -> np.ndarray:
    """Verify the content of one image of a synthetic set.

    Args:
        content: the file.
        row: the image's row of the manifest, by column.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        InputError: if the content is no PNG, not labelled as synthetic, or not what the manifest
            lists. The message begins with the name of the file.
    """
    try:
        with open_picture(content) as file:
            if file.format != "PNG":
                raise InputError(f"is a {file.format}")
            if max(file.size) > MAX_SIDE:
                raise InputError(f"has {file.width} x {file.height} pixels")
            pixels = np.asarray(as_shown(file, content))
            text = dict(file.text)  # type: ignore[attr-defined]
    except InputError as error:
        raise InputError(f"{row['file']} is not a readable PNG: it {error}") from error
    if text.get("hamsynth:synthetic") != "true":
        raise InputError(f"{row['file']} is not labelled as synthetic in its metadata: refused")
    for label in LABELS:
        listed = row["dx" if label == "class" else label]
        if text.get(f"hamsynth:{label}") != str(listed):
            raise InputError(
                f"{row['file']}: its metadata says {label} {text.get(f'hamsynth:{label}')!r}, "
                f"the manifest {str(listed)!r}"
            )
    if sha256_of_bytes(content) != row["sha256"]:
        raise InputError(f"{row['file']} was altered: its SHA-256 is not the manifest's")
    return pixels


SUMS = "SHA256SUMS"
"""The hashes of all other files of an export, in the format of sha256sum."""


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS: the SHA-256 of every other file of a set, in the format of `sha256sum`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
