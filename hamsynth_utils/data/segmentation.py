"""Masks of the lesions: of HAM10000 (Tschandl et al. 2020) and of the phantom.

The masks of HAM10000 were drawn by dermatologists (doi:10.1038/s41591-020-0942-0). The phantom's
masks are computed from its shapes.
"""

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
    """Masks of the lesions of a run's images.

    Args:
        lesions: N images of the run.
        data: the data of the run: `phantom`, or a folder.
        seed: the seed of the run's data.

    Returns:
        Two arrays. The first is bool [N, H, W], True on the lesion. The second is bool [N], False
        for an image whose mask is missing, or shows no lesion in the central square.

    Raises:
        InputError: as for `read_masks`.
    """
    if data == "phantom":
        masks = phantom_masks(lesions.table, lesions.image_size, seed)
    else:
        masks = read_masks(Path(data), lesions.table["image_id"].tolist(), lesions.image_size)
    return masks, np.any(masks, axis=(1, 2))


def read_masks(folder: Path, image_ids: list[str], image_size: int) -> np.ndarray:
    """Read masks, cropped and resized as the images.

    Args:
        folder: the folder of the data; the files `<image_id>_segmentation.png` lie in the folder or
            in subfolders.
        image_ids: the N images.
        image_size: height and width in pixels.

    Returns:
        bool [N, image_size, image_size]; all False for an image without a file.

    Raises:
        InputError: for a mask that cannot be decoded, or whose proportions differ from its image's.
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
            f"the mask {file} is {grey.width} x {grey.height} pixels, its photo {width} x "
            f"{height}: they are not of one picture"
        )
    short = min(grey.size)
    left, top = (grey.width - short) / 2, (grey.height - short) / 2
    small = grey.resize(
        (image_size, image_size), Image.Resampling.BOX, box=(left, top, left + short, top + short)
    )
    return np.asarray(small) >= 128
