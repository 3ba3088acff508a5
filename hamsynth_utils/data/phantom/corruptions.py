"""A phantom with faults planted on purpose, as a data folder: does a report's ledger notice?"""

from __future__ import annotations

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


def with_label_noise(lesions: LesionSet, share: float, seed: int) -> LesionSet:
    """The same images; so large a share of the lesions, at random, has one of the six other diagnoses."""
    chance = np.random.default_rng(seed)
    names = lesions.table["lesion_id"].unique()
    wrong = chance.choice(names, round(_share(share) * len(names)), replace=False)
    classes = lesions.classes
    change = pd.Series(chance.integers(1, len(classes), len(wrong)), index=wrong)
    labels = lesions.labels.numpy()
    labels = (labels + lesions.table["lesion_id"].map(change).fillna(0).to_numpy(dtype=int)) % len(
        classes
    )
    table = lesions.table.assign(dx=np.array(classes.names)[labels])
    return LesionSet(
        lesions.images, torch.from_numpy(labels_of(table["dx"], classes)), table, classes
    )


def with_copies(lesions: LesionSet, share: float, seed: int) -> LesionSet:
    """And so large a share of the photos, at random, once more: flipped, under names of their own."""
    count = round(_share(share) * len(lesions))
    rows = np.random.default_rng(seed).choice(len(lesions), count, replace=False)
    copied = lesions.subset(np.sort(rows))
    table = copied.table.assign(
        image_id="COPY_" + copied.table["image_id"], lesion_id="COPY_" + copied.table["image_id"]
    )
    return lesions + LesionSet(copied.images.flip(3), copied.labels, table, copied.classes)


def write_folder(lesions: LesionSet, folder: Path) -> None:
    """Write them in HAM10000's layout; raises InputError if `folder` is there already."""
    if folder.exists():
        raise InputError(f"{folder} is there already: name a new folder, or delete it first")
    with atomic_path(folder) as made:
        (made / PART).mkdir(parents=True)
        for name, image in zip(lesions.table["image_id"], lesions.images, strict=True):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(
                made / PART / f"{name}.jpg", quality=95
            )
        table = lesions.table.drop(columns="synthetic").assign(dx_type="drawn")
        table.to_csv(made / "HAM10000_metadata.csv", index=False)


def write_corrupted_phantom(
    folder: Path, n_images: int = 1500, noise: float = 0.0, copies: float = 0.0, seed: int = 0
) -> LesionSet:
    """Write a phantom with planted faults as a data folder.

    Args:
        folder: a new folder, in HAM10000's layout.
        n_images: of the phantom, before copies.
        noise: the fraction of lesions with a wrong diagnosis, in [0, 1].
        copies: the fraction of images that appear twice, in [0, 1].
        seed: of the phantom and of its faults.

    Returns:
        What was written.

    Raises:
        InputError: for a fraction outside [0, 1], or a folder that exists.
    """
    lesions = with_label_noise(make_phantom(n_images, seed=seed), noise, seed)
    lesions = with_copies(lesions, copies, seed)
    write_folder(lesions, folder)
    return lesions


def _share(share: float) -> float:
    if not 0 <= share <= 1:
        raise InputError(f"a share lies between 0 and 1, not at {share:g}")
    return share
