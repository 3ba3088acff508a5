"""Small data sets in HAM10000's layout whose pictures a program draws; no photo of a patient."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from hamsynth_utils.data.dataset_info import HAM10000

CLASSES = HAM10000.classes.names


def draw_lesion(number: int, height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """A disc on plain ground, another one for each number: uint8 [height, width, 3], and its bool mask."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width]
    row, column = height * rng.uniform(0.35, 0.65), width * rng.uniform(0.4, 0.6)
    mask = (y - row) ** 2 + (x - column) ** 2 < (height * rng.uniform(0.15, 0.3)) ** 2
    picture = np.where(mask[..., None], rng.uniform(40, 120, 3), rng.uniform(150, 230, 3))
    waves = np.sin(x / rng.uniform(5, 15) + y / rng.uniform(5, 15))
    return (picture + 20 * waves[..., None]).clip(0, 255).astype(np.uint8), mask


def drawn_table(
    images: int,
    classes: tuple[str, ...] = CLASSES,
    first: int = 24300,
    photos_per_lesion: int = 1,
) -> pd.DataFrame:
    """HAM10000's table of so many images, the classes in turn."""
    numbers = range(images)
    period = len(classes) * photos_per_lesion
    lesions = [(k // period) * len(classes) + k % len(classes) for k in numbers]
    return pd.DataFrame(
        {
            "lesion_id": [f"HAM_{lesion:07}" for lesion in lesions],
            "image_id": [f"ISIC_{first + k:07}" for k in numbers],
            "dx": [classes[k % len(classes)] for k in numbers],
            "dx_type": "histo",
            "age": "45.0",
            "sex": "male",
            "localization": "back",
            "dataset": "vidir_modern",
        }
    )


def save_jpeg(picture: np.ndarray, path: Path) -> None:
    """Save a picture as a JPEG of quality 95; `path` has no suffix."""
    Image.fromarray(picture).save(path.with_suffix(".jpg"), quality=95)


def write_drawn_set(
    folder: Path,
    images: int = 70,
    classes: tuple[str, ...] = CLASSES,
    photos_per_lesion: int = 1,
    save: Callable[[np.ndarray, Path], None] = save_jpeg,
    save_mask: Callable[[np.ndarray, Path], None] | None = None,
) -> Path:
    """A drawn data set in HAM10000's layout.

    `save` writes a picture, uint8 [H, W, 3], to a path that has no suffix. `save_mask` writes a mask,
    bool [H, W], to the path that HAM10000 gives it; without it there are no masks.
    """
    table = drawn_table(images, classes, photos_per_lesion=photos_per_lesion)
    photos, masks = folder / "HAM10000_images_part_1", folder / "HAM10000_segmentations"
    for made in (photos, masks)[: 2 if save_mask else 1]:
        made.mkdir(parents=True)
    table.to_csv(folder / "HAM10000_metadata.csv", index=False)
    for number, image_id in enumerate(table["image_id"]):
        picture, mask = draw_lesion(number)
        save(picture, photos / image_id)
        if save_mask:
            save_mask(mask, masks / f"{image_id}_segmentation.png")
    return folder
