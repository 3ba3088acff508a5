"""A phantom with planted faults, as a data folder: a report must notice the faults."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.data.lesion_set import LesionSet, labels_of
from hamsynth_utils.data.phantom.generate import make_phantom

PART = "HAM10000_images_part_1"


def with_label_noise(lesions: LesionSet, fraction: float, seed: int) -> LesionSet:
    """Give a fraction of the lesions, drawn at random, a wrong diagnosis.

    Args:
        lesions: the images; they stay the same.
        fraction: the fraction of the lesions, in [0, 1].
        seed: seed of the draw.

    Returns:
        A new set; a wrong diagnosis is one of the other classes, all equally probable.

    Raises:
        InputError: for a fraction outside [0, 1].
    """
    rng = np.random.default_rng(seed)
    names = lesions.table["lesion_id"].unique()
    wrong = rng.choice(names, round(_fraction(fraction) * len(names)), replace=False)
    classes = lesions.classes
    change = pd.Series(rng.integers(1, len(classes), len(wrong)), index=wrong)
    labels = lesions.labels.numpy()
    labels = (labels + lesions.table["lesion_id"].map(change).fillna(0).to_numpy(dtype=int)) % len(
        classes
    )
    table = lesions.table.assign(dx=np.array(classes.names)[labels])
    return LesionSet(
        lesions.images, torch.from_numpy(labels_of(table["dx"], classes)), table, classes
    )


def with_copies(lesions: LesionSet, fraction: float, seed: int) -> LesionSet:
    """Add copies of a fraction of the photos, drawn at random.

    Args:
        lesions: the images.
        fraction: the fraction of the photos, in [0, 1].
        seed: seed of the draw.

    Returns:
        The images, and then the copies: flipped left-right, each with its own image and lesion id.

    Raises:
        InputError: for a fraction outside [0, 1].
    """
    count = round(_fraction(fraction) * len(lesions))
    rows = np.random.default_rng(seed).choice(len(lesions), count, replace=False)
    copied = lesions.subset(np.sort(rows))
    table = copied.table.assign(
        image_id="COPY_" + copied.table["image_id"], lesion_id="COPY_" + copied.table["image_id"]
    )
    return lesions + LesionSet(copied.images.flip(3), copied.labels, table, copied.classes)


def write_folder(lesions: LesionSet, folder: Path) -> None:
    """Write images in HAM10000's layout.

    Args:
        lesions: the images.
        folder: a new folder.

    Raises:
        InputError: if the folder exists.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already: name a new folder, or delete it first")
    with atomic_path(folder) as made:
        (made / PART).mkdir(parents=True)
        for name, image in zip(lesions.table["image_id"], lesions.images, strict=True):
            content = BytesIO()  # Pillow itself would not notice a full disk
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "JPEG", quality=95)
            (made / PART / f"{name}.jpg").write_bytes(content.getvalue())
        table = lesions.table.drop(columns="synthetic").assign(dx_type="drawn")
        table.to_csv(made / "HAM10000_metadata.csv", index=False)


def write_corrupted_phantom(
    folder: Path, n_images: int = 1500, noise: float = 0.0, copies: float = 0.0, seed: int = 0
) -> LesionSet:
    """Write a phantom with planted faults as a data folder.

    Args:
        folder: a new folder, in HAM10000's layout.
        n_images: number of images before copies.
        noise: the fraction of lesions with a wrong diagnosis, in [0, 1].
        copies: the fraction of images that appear twice, in [0, 1].
        seed: seed of the phantom and of its faults.

    Returns:
        The set that was written.

    Raises:
        InputError: for a fraction outside [0, 1], or a folder that exists.
    """
    lesions = with_label_noise(make_phantom(n_images, seed=seed), noise, seed)
    lesions = with_copies(lesions, copies, seed)
    write_folder(lesions, folder)
    return lesions


def _fraction(fraction: float) -> float:
    if not 0 <= fraction <= 1:
        raise InputError(f"a fraction lies between 0 and 1, not at {fraction:g}")
    return fraction
