"""Where in each photo the lesion is: masks drawn for HAM10000 (Tschandl et al. 2020,
doi:10.1038/s41591-020-0942-0), and those that the phantom was painted by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.layouts import find_layout
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.phantom.generate import phantom_masks

SUFFIX = "_segmentation"


def lesion_masks(lesions: LesionSet, data: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool [N, H, W] of the photos, True on the lesion, and whether each photo has one, bool [N].

    data, seed: those of the run that the photos come from. A photo whose mask is missing, or shows no lesion
    in the square that was cut out, has an empty one. Raises InputError as `read_masks` does.
    """
    if data == "phantom":
        masks = phantom_masks(lesions.table, lesions.image_size, seed)
    else:
        masks = read_masks(Path(data), lesions.table["image_id"].tolist(), lesions.image_size)
    return masks, np.any(masks, axis=(1, 2))


def read_masks(folder: Path, image_ids: list[str], image_size: int) -> np.ndarray:
    """The masks `<image_id>_segmentation.png` in `folder` or its folders, cut and resized as their photos.

    bool [N, image_size, image_size]; all False where there is no file. Raises InputError for a mask that
    cannot be decoded, or whose sides are not in the proportion of its photo's.
    """
    files = {
        path.stem.removesuffix(SUFFIX): path
        for depth in ("", "*/", "*/*/")
        for path in folder.glob(f"{depth}*{SUFFIX}.png")
    }
    masks = np.zeros((len(image_ids), image_size, image_size), dtype=bool)
    photos = find_layout(folder).images if files else {}
    for row, image_id in enumerate(image_ids):
        if image_id in files:
            masks[row] = _read(files[image_id], photos[image_id], image_size)
    return masks


def _read(file: Path, photo: Path, image_size: int) -> np.ndarray:
    try:
        with Image.open(photo) as image:
            width, height = image.size
        with Image.open(file) as image:
            grey = image.convert("L")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"the mask {file} or its photo cannot be read: {error}. Fetch them again"
        ) from error
    if abs(grey.width * height - width * grey.height) > max(width, height):
        raise InputError(
            f"the mask {file} is {grey.width} x {grey.height} pixels, its photo {width} x {height}: "
            "they are not of one picture"
        )
    short = min(grey.size)
    left, top = (grey.width - short) / 2, (grey.height - short) / 2
    small = grey.resize(
        (image_size, image_size), Image.Resampling.BOX, box=(left, top, left + short, top + short)
    )
    return np.asarray(small) >= 128
