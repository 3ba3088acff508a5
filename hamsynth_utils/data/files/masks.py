"""Masks of the lesions: of HAM10000 (Tschandl et al. 2020) and of the phantom.

The masks of HAM10000 were drawn by dermatologists (doi:10.1038/s41591-020-0942-0). The phantom's
masks are computed from its shapes. A mask file has one of these forms:

- two values: the lower one is the background;
- a palette: index 0 is the background, unless all colours are grey;
- more grey levels, if nearly all pixels are near the lowest or the highest one: the usual mask with
  smoothed edges. The middle of the range separates lesion and background;
- colours on black, or an opaque lesion on a transparent background.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.files.images import central_square, open_picture
from hamsynth_utils.data.layouts import IMAGE_SUFFIX, find_layout, first_names
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.phantom.generate import phantom_masks

MASK_NAME = re.compile(rf"([^.].*)_segmentation{IMAGE_SUFFIX}", re.IGNORECASE)
"""The name of a mask: the image_id, and a suffix in capitals or not."""


FEWEST_LEVELS = 16
"""A range of fewer values is no grey scale, but numbers of labels."""


FULL_MASKS, FULL_FRACTION = 2, 0.05
"""Full masks are refused if they are more than this number and this fraction.

A lesion may fill its photo: 2 of HAM10000's 10,015 masks are full, and none is empty."""


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
        InputError: naming the file, for a mask that cannot be decoded, whose values do not say what
            is lesion, or whose proportions differ from its photo's; for masks that are empty, seem
            inverted, or too often cover the whole photo; if no mask belongs to a photo.
    """
    files = _mask_files(Path(folder))
    masks = np.zeros((len(image_ids), image_size, image_size), dtype=bool)
    photos = find_layout(folder).images if files else {}
    if files and not files.keys() & photos.keys():
        raise InputError(
            f"none of the {len(files):,} masks in {folder} has the name of a photo: "
            f"{first_names(path.name for path in files.values())}. A mask is called as its photo, "
            "letter by letter, with _segmentation behind the name"
        )
    doubtful: dict[str, list[str]] = {"empty": [], "inverted": [], "full": []}
    read = 0
    for row, image_id in enumerate(image_ids):
        if image_id not in files:
            continue
        grey = _read(files[image_id], photos[image_id])
        square = central_square(Image.fromarray(grey), image_size, Image.Resampling.BOX)
        masks[row] = np.asarray(square) >= 128
        doubt = _doubt(grey >= 128)
        if doubt:
            doubtful[doubt].append(files[image_id].name)
        read += 1
    if len(doubtful["full"]) <= max(FULL_MASKS, FULL_FRACTION * read):
        doubtful["full"] = []
    for doubt, names in doubtful.items():
        if names:
            raise InputError(
                f"{len(names):,} of {read:,} masks in {folder} {DOUBTS[doubt]}: "
                f"{first_names(names)}. Store them again with 0 for the background and 255 for the "
                "lesion, or remove these files: their photos then count as photos without a mask"
            )
    return masks


DOUBTS = {
    "empty": "show no lesion anywhere in the photo",
    "inverted": "cover the border of the photo and not what is inside, as if they were inverted",
    "full": "cover the whole photo",
}
"""What a message says of doubtful masks."""


def _mask_files(folder: Path) -> dict[str, Path]:
    """The mask of each image that has one."""
    files: dict[str, Path] = {}
    for here, subfolders, names in os.walk(folder, followlinks=True):
        if len(Path(here).relative_to(folder).parts) == 2:
            subfolders.clear()
        for name in filter(None, map(MASK_NAME.fullmatch, sorted(names))):
            path = Path(here, name[0])
            first = files.setdefault(unicodedata.normalize("NFC", name[1]), path)
            if first is not path and first.stat().st_size != path.stat().st_size:
                raise InputError(
                    f"{first} and {path} are different masks of one photo: remove one of them"
                )
    return files


def _doubt(lesion: np.ndarray) -> str | None:
    """Why a mask may not mean what it says; `lesion` is bool [H, W], not cropped."""
    if lesion.all() or not lesion.any():
        return "full" if lesion.all() else "empty"
    height, width = lesion.shape
    border = np.concatenate([lesion[0], lesion[-1], lesion[:, 0], lesion[:, -1]]).mean()
    rows, columns = (slice(3 * size // 8, 5 * size // 8 + 1) for size in (height, width))
    # Of HAM10000's masks that are not full, none covers more than 0.93 of the border, and none that
    # covers half of the border leaves half of the centre free.
    centre = lesion[rows, columns].mean()
    return "inverted" if border == 1 or (border >= 0.5 and centre < 0.5) else None


def _read(file: Path, photo: Path) -> np.ndarray:
    """The grey levels of a mask, uint8 [H, W], 0 for the background and 255 for the lesion."""
    try:
        with open_picture(photo) as image:
            size, turn = image.size, _turn(image)
    except InputError as error:
        raise InputError(f"the photo {photo} of a mask {error}") from error
    try:
        with open_picture(file) as image:
            image.load()
            if _turn(image) == 1:
                _turn_as_photo(image, size, turn)
            ImageOps.exif_transpose(image, in_place=True)
            upright = size[::-1] if turn > 4 else size
            if not _same_proportions(image.size, upright):
                raise InputError(
                    f"is {image.width} x {image.height} pixels, its photo {upright[0]} x "
                    f"{upright[1]}: they are not of one picture"
                )
            return _grey_levels(image)
    except InputError as error:
        raise InputError(f"the mask {file} {error}") from error


def _turn(image: Image.Image) -> int:
    """The orientation that the EXIF tag names, 1 to 8; Pillow turns a TIFF file itself."""
    turn = 1 if image.format == "TIFF" else image.getexif().get(ExifTags.Base.Orientation, 1)
    return turn if turn in range(1, 9) else 1


def _turn_as_photo(mask: Image.Image, size: tuple[int, int], turn: int) -> None:
    """Give a mask that was drawn on the stored pixels of its photo the photo's orientation.

    Args:
        mask: a mask without an orientation of its own; changed in place.
        size: width and height of the photo as it is stored.
        turn: the orientation of the photo.

    Raises:
        InputError: if the mask fits the photo both turned and not turned.
    """
    if turn == 1 or not _same_proportions(mask.size, size):
        return
    if turn < 5 or _same_proportions(mask.size, size[::-1]):
        raise InputError(
            f"does not say whether it lies on its photo as it is stored or as it is shown: the "
            f"photo has the EXIF orientation {turn}. Store the photo upright, without the tag"
        )
    mask.getexif()[ExifTags.Base.Orientation] = turn


def _same_proportions(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(size[0] * other[1] - other[0] * size[1]) <= max(other)


def _grey_levels(image: Image.Image) -> np.ndarray:
    """uint8 [H, W]: the values of a mask, so that the background becomes 0 and the lesion 255."""
    values = _values(image)
    found = np.unique(values).astype(float)
    low, high = found[0], found[-1]
    if low == high:
        return np.full(values.shape, 255 if high else 0, dtype=np.uint8)
    levels = (values - low) / (high - low)
    labels = high - low < FEWEST_LEVELS and (len(found) > 2 or low > 0)
    if labels or (len(found) > 2 and (np.abs(levels - 0.5) > 3 / 8).mean() < 0.8):
        shown = ", ".join(f"{value:g}" for value in found[:5]) + (", ..." if len(found) > 5 else "")
        raise InputError(
            f"has {len(found)} values, {shown}, which do not say what is lesion: store it with 0 "
            "for the background and 255 for the lesion"
        )
    return np.rint(255 * levels).astype(np.uint8)


def _values(image: Image.Image) -> np.ndarray:
    """One number per pixel, the lowest for the background."""
    if image.mode == "P":
        return _palette_values(image)
    if len(image.getbands()) == 1:
        return np.asarray(image)
    channels = np.asarray(image.convert("RGBA"), dtype=int)
    alpha = channels[..., 3]
    colours = channels[..., :3] * alpha[..., None] // 255
    if (colours == colours[:1, :1]).all():
        return alpha if (alpha != alpha[0, 0]).any() else colours.max(-1)
    if np.ptp(colours, axis=-1).max() > FEWEST_LEVELS and not (colours == 0).all(-1).any():
        raise InputError(
            "has colours, but no black background: store it with 0 for the background and 255 for "
            "the lesion"
        )
    return colours.max(-1)


def _palette_values(image: Image.Image) -> np.ndarray:
    indices = np.asarray(image)
    used = np.unique(indices)
    palette = np.zeros((256, 3), dtype=int)
    colours = np.array(image.getpalette("RGB"), dtype=int).reshape(-1, 3)
    palette[: len(colours)] = colours
    shades, grey = palette[used, 0], (palette[used] == palette[used, :1]).all()
    if grey and len(np.unique(shades)) == len(used):
        return palette[indices, 0]
    black = used[(palette[used] == 0).all(axis=1)]
    if len(black) and 0 not in black:
        raise InputError(
            f"has a palette in which index {black[0]} is black, and not index 0, the background: "
            "store it with 0 for the background and 255 for the lesion"
        )
    return indices > 0
