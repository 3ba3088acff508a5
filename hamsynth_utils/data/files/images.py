"""Reads a picture as a viewer shows it, or says why it cannot be read.

Training images, external sets, synthetic sets and lesion masks are all opened here.

- **Orientation**: the EXIF tag is applied, so that a photo is upright.
- **Bit depth**: whole numbers of more than 8 bits are scaled by the range of their type. Floats lie
  in 0 to 1, or in 0 to 255.
- **Transparency**: the picture lies on white, as on a page.
- **Colour profile**: colours are converted to sRGB. Viewers ignore a damaged profile, and so does
  this module.
- **Several pictures in one file** are refused. The exception is a JPEG of a phone (MPO), because
  viewers show its first picture.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from hamsynth_utils.core.errors import InputError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
"""Formats that are read, whatever the suffix says. None of them starts another program."""


MAX_PIXELS = 80_000_000
"""Larger pictures are refused: a small file can hold one that fills the memory."""


NEARLY_BLACK = 16
"""A picture of more than 8 bits that does not pass this grey level of 255 wastes its range."""


PROFILE_TOLERANCE = 3
"""A profile that moves no colour by more than this many levels of 255 is sRGB."""


TIFF_BITS, TIFF_SAMPLE_FORMAT, SIGNED = 258, 339, 2
"""Tags of a TIFF file, and the sample format of signed whole numbers."""


@contextmanager
def open_picture(source: Path | bytes) -> Iterator[Image.Image]:
    """Open a picture; every fault of the file is an error that gives a reason.

    Args:
        source: the file, or its content.

    Yields:
        The opened picture. Pixels are decoded at their first use.

    Raises:
        InputError: if the file is empty, damaged, too large, no picture or several pictures. The
            message is a reason that fits behind the name of the file.
    """
    try:
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
        ) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(_too_large(f"{image.width:,} x {image.height:,} pixels"))
            count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if count > 1:
                raise InputError(f"holds {count} pictures: save the right one as a file of its own")
            yield image
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError("is not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise InputError(_too_large("too many pixels")) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # Pillow's decoders raise errors of any kind for damaged files
        raise InputError(f"is damaged: {error!r}") from error


def as_shown(image: Image.Image, content: bytes, shortest_side: int = 0) -> Image.Image:
    """Decode an opened picture as a viewer shows it.

    Args:
        image: the picture, as `open_picture` yields it.
        content: the content of its file.
        shortest_side: the pixels that the caller needs. A large JPEG is decoded at a half, a
            quarter or an eighth of its size, which is faster, but never below this. 0 decodes the
            whole size.

    Returns:
        The picture, RGB with 8 bits per channel, upright, in sRGB.

    Raises:
        InputError: with a reason, if the picture is wholly transparent, has numbers outside the
            range of their type, or stays nearly black because its numbers use a small part of their
            range.
    """
    factor = shortest_side / min(image.size)
    if 0 < factor < 1:
        size = (int(np.ceil(image.width * factor)), int(np.ceil(image.height * factor)))
        image.draft(None, size)
    profile, bits = image.info.get("icc_profile"), _bits(image, content)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    shallow = _eight_bits(image, bits)
    alpha = shallow.convert("RGBA").getchannel("A") if shallow.has_transparency_data else None
    picture = _to_srgb(shallow, profile)
    if bits > 8 and int(np.asarray(picture).max()) <= NEARLY_BLACK:
        raise InputError(
            f"is nearly black: its values use less than a sixteenth of the range of {bits} bits. "
            "Save it with 8 bits per channel"
        )
    if alpha is None:
        return picture
    if alpha.getextrema()[1] == 0:
        raise InputError("is wholly transparent: save it without transparency")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=alpha)
    return white


def read_picture(content: bytes, shortest_side: int = 0) -> Image.Image:
    """Read a picture as a viewer shows it.

    Args:
        content: the content of the file.
        shortest_side: as for `as_shown`.

    Returns:
        The picture, as `as_shown` gives it.

    Raises:
        InputError: with a reason, as for `open_picture` and `as_shown`.
    """
    with open_picture(content) as image:
        return as_shown(image, content, shortest_side)


def read_square(content: bytes, image_size: int) -> np.ndarray:
    """Read a picture, cropped to the central square and resized with antialiasing.

    Args:
        content: the content of the file.
        image_size: height and width in pixels.

    Returns:
        uint8 [3, image_size, image_size], RGB.

    Raises:
        InputError: with a reason, as for `read_picture`; also if the result has one colour and the
            file has not.
    """
    # The resize still gets twice the target.
    picture = read_picture(content, 2 * image_size)
    square = central_square(picture, image_size, Image.Resampling.BICUBIC)
    pixels = np.asarray(square).transpose(2, 0, 1)
    if (pixels == pixels[:, :1, :1]).all() and not _has_one_value(content):
        raise InputError(
            "would become a picture of one colour: what it shows lies outside the central square, "
            "under transparency, or in differences too fine for 8 bits. Save it as a viewer should "
            "show it"
        )
    return pixels


def central_square(image: Image.Image, size: int, resampling: Image.Resampling) -> Image.Image:
    """The central square of an image, resized.

    Args:
        image: of any mode that can be resized.
        size: height and width in pixels.
        resampling: the filter.

    Returns:
        The square, of the mode of the image.
    """
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return image.resize((size, size), resampling, box=(left, top, left + short, top + short))


def _too_large(size: str) -> str:
    return f"has {size}, more than {MAX_PIXELS:,}: save it smaller"


def _bits(image: Image.Image, content: bytes) -> int:
    """Bits per channel, before decoding."""
    if image.format == "PNG":
        return content[24]  # the header chunk comes first: RFC 2083, 11.2.2
    if image.format == "TIFF":
        return max(image.tag_v2.get(TIFF_BITS, (1,)))  # type: ignore[attr-defined]
    return 16 if image.mode.startswith("I") else 8


def _eight_bits(image: Image.Image, bits: int) -> Image.Image:
    """The image with 8 bits per channel. Pillow's `convert` would clip larger numbers at 255."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    if "transparency" in image.info:
        raise InputError(f"has {bits} bits and a transparent colour: save it without transparency")
    values = np.asarray(image)
    if image.mode == "F":
        top = _float_range(values)
    else:
        tags = getattr(image, "tag_v2", {})
        signed = SIGNED in tags.get(TIFF_SAMPLE_FORMAT, ())
        if bits == 32 and not signed:
            values = values.view(np.uint32)
        top = float(2 ** (bits - 1 if signed else bits) - 1)
        if values.min() < 0:
            raise InputError(f"has negative values, down to {values.min():,}: save it with 8 bits")
    return Image.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))


def _float_range(values: np.ndarray) -> float:
    """1 or 255, the value that means white."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # not a number is neither
        raise InputError(
            f"has values from {low:g} to {high:g}, where 0 to 1 or 0 to 255 is known: save it with "
            "8 bits per channel"
        )
    return 1.0 if high <= 1 else 255.0


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours of an image of 8 bits per channel as RGB, without its transparency."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
    mode = image.mode if image.mode in ("L", "CMYK") else "RGB"
    transform = _transform(profile, mode) if profile else None
    if transform:
        return transform.apply(image.convert(mode))
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion to sRGB; None if the profile is sRGB, damaged, or of another mode."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    if mode == "CMYK":
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "L":
        probe = Image.fromarray(levels[None])
    else:
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
        probe = Image.fromarray(cube.reshape(1, -1, 3))
    moved = np.asarray(transform.apply(probe), dtype=int)
    far = np.abs(moved - np.asarray(probe.convert("RGB"), dtype=int)).max()
    return transform if far > PROFILE_TOLERANCE else None


def _has_one_value(content: bytes) -> bool:
    """Whether every pixel of a file holds the same value, before any conversion."""
    with open_picture(content) as image:
        # Of several channels of 16 bits, Pillow keeps the upper 8, so equality cannot be seen.
        if _bits(image, content) > 8 and len(image.getbands()) > 1:
            return False
        values = np.asarray(image)
        return bool((values == values[:1, :1]).all())
