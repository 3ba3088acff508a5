"""Reading a synthetic set: its manifest, its labels, its images."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.weights import sha256_of, sha256_of_bytes
from hamsynth_utils.data.dataset_info import ClassList
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
    try:
        # As text: pandas 2.3 crashes on some hashes when it tries to read them as numbers.
        seeds = dict.fromkeys(("seed", "generator_seed"), "int64")
        manifest = pd.read_csv(path, dtype=dict.fromkeys(MANIFEST, "object") | seeds)
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if "generator" in manifest and "generator_seed" not in manifest:
        # Sets of version 0.1.0, where a generator was trained once, do not have the column.
        manifest.insert(manifest.columns.get_loc("generator") + 1, "generator_seed", 0)
    missing = [column for column in MANIFEST if column not in manifest]
    if missing or manifest[MANIFEST].isna().any().any() or manifest.empty:
        raise InputError(
            f"{path} is damaged: "
            + (f"it lacks {', '.join(missing)}" if missing else "it has gaps")
        )
    for column in ("file", "image_id"):
        repeats = manifest[column][manifest[column].duplicated()]
        if len(repeats):
            raise InputError(f"{path}: {repeats.iloc[0]} is listed twice")
    return manifest


def files_not_in_manifest(folder: Path, manifest: pd.DataFrame) -> list[str]:
    """Find images that the manifest does not list.

    Args:
        folder: the set.
        manifest: its manifest, with the column file.

    Returns:
        The names, relative to the folder, sorted.
    """
    return sorted(
        {f"images/{path.name}" for path in (folder / "images").glob("*")} - set(manifest["file"])
    )


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
    content = path.read_bytes()
    try:
        with Image.open(BytesIO(content)) as file:
            text, pixels = dict(file.text), np.asarray(file.convert("RGB"))  # type: ignore[attr-defined]
    except (OSError, SyntaxError, UnidentifiedImageError, AttributeError) as error:
        raise InputError(f"{path} is not a readable PNG ({error})") from error
    if text.get("hamsynth:synthetic") != "true":
        raise InputError(f"{path} is not labelled as synthetic in its metadata: refused")
    for label in LABELS:
        listed = row["dx" if label == "class" else label]
        if text.get(f"hamsynth:{label}") != str(listed):
            raise InputError(
                f"{path}: its metadata says {label} {text.get(f'hamsynth:{label}')!r}, "
                f"the manifest {str(listed)!r}"
            )
    if sha256_of_bytes(content) != row["sha256"]:
        raise InputError(f"{path} was altered: its SHA-256 is not the manifest's")
    return pixels


SUMS = "SHA256SUMS"
"""The hashes of all other files of an export, in the format of sha256sum."""


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS: the SHA-256 of every other file of a set, in the format of `sha256sum`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
