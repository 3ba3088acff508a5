"""Pictures are read as a viewer shows them, or refused with a reason."""

import io
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_sets import CLASSES, draw_lesion, drawn_table, write_drawn_set
from PIL import Image, ImageCms, ImageOps

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.external import read_external
from hamsynth_utils.data.files.images import MAX_PIXELS, open_picture, read_picture, read_square
from hamsynth_utils.data.ham10000 import read_ham10000

COLOUR = draw_lesion(3)[0]
GREY = np.asarray(Image.fromarray(COLOUR).convert("L"))
GREY_RGB = np.stack([GREY] * 3, axis=-1)


def stored(image: np.ndarray | Image.Image, form: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(content, form, **options)
    return content.getvalue()


def deep(scale: float, dtype: type) -> np.ndarray:
    return (GREY.astype(float) * scale).astype(dtype)


def float_values() -> np.ndarray:
    return (GREY / 255).astype(np.float32)


FULL_RANGE = {
    "PNG, 16 bits": stored(deep(257, np.uint16)),
    "TIFF, 16 bits": stored(deep(257, np.uint16), "TIFF"),
    "TIFF, 16 bits, big-endian": stored(deep(257, ">u2"), "TIFF"),
    "TIFF, 32 bits": stored(deep(2**23, np.int32), "TIFF"),
    "TIFF, floats to 1": stored(float_values(), "TIFF"),
    "TIFF, floats to 255": stored(deep(1, np.float32), "TIFF"),
    "JPEG 2000, 16 bits": stored(deep(257, np.uint16), "JPEG2000"),
    "PGM, 16 bits": b"P5 160 120 65535 " + deep(257, ">u2").tobytes(),
    "PNG, 8 bits": stored(GREY),
}


@pytest.mark.parametrize("content", FULL_RANGE.values(), ids=FULL_RANGE)
def test_numbers_of_any_type_are_scaled_by_their_range(content):
    found = np.asarray(read_picture(content), dtype=int)
    assert np.abs(found - GREY_RGB).max() <= 1


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG of a kind that Pillow does not write, or that would be large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def rgb16_png(values: np.ndarray) -> bytes:
    """A PNG with three channels of 16 bits."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, 2, rows)


def test_colours_of_16_bits_are_scaled_too():
    found = np.asarray(read_picture(rgb16_png(COLOUR.astype(np.uint16) * 257)), dtype=int)
    assert np.abs(found - COLOUR).max() <= 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (stored(deep(1, np.uint16)), "nearly black: .* range of 16 bits"),
        (stored(deep(15, np.uint16)), "nearly black: .* range of 16 bits"),
        (rgb16_png(COLOUR.astype(np.uint16)), "nearly black: .* range of 16 bits"),
        (stored(deep(1, np.int32), "TIFF"), "nearly black: .* range of 32 bits"),
        (stored(deep(3, np.float32), "TIFF"), r"values from \d+ to \d+, where 0 to 1 or 0 to 255"),
        (stored(deep(1, np.float32) - 99, "TIFF"), r"values from -\d+ to \d+, where 0 to 1"),
        (stored(np.where(GREY > 99, np.nan, 1).astype(np.float32), "TIFF"), "values from nan"),
        (
            stored(np.where(GREY > 99, 65535, 65530).astype(np.uint16)),
            "would become a picture of one colour",
        ),
        (stored(np.dstack([COLOUR, 0 * GREY])), "wholly transparent"),
        (stored(np.dstack([0 * COLOUR + 255, GREY])), "would become a picture of one colour"),
        (png(9500, 9500, 1, 0, b""), f"9,500 x 9,500 pixels, more than {MAX_PIXELS:,}"),
        (png(30000, 30000, 1, 0, b""), f"too many pixels, more than {MAX_PIXELS:,}"),
        (
            stored(COLOUR, save_all=True, append_images=[Image.fromarray(COLOUR[::-1])]),
            "holds 2 pictures",
        ),
        (
            stored(COLOUR, "TIFF", save_all=True, append_images=[Image.fromarray(COLOUR[::-1])]),
            "holds 2 pictures",
        ),
        (
            stored(COLOUR, "GIF", save_all=True, append_images=[Image.fromarray(COLOUR[::-1])]),
            "holds 2 pictures",
        ),
        (b"", "is not an image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image that can be read"),
        (stored(COLOUR, "JPEG")[:-40], "truncated"),
        (stored(COLOUR)[:-400], "truncated"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_shown_is_refused_with_a_reason(content, reason):
    with pytest.raises(InputError, match=reason):
        read_square(content, 32)


def with_strip(value: int) -> np.ndarray:
    """A wide picture of one colour, with a mark outside of the central square."""
    wide = np.full((60, 200), value, dtype=np.uint8)
    wide[20:40, :30] = 255 - value
    return wide


@pytest.mark.parametrize("content", [stored(with_strip(0)), stored(with_strip(255), "JPEG")])
def test_a_picture_that_is_not_constant_never_becomes_constant(content):
    with pytest.raises(InputError, match="outside the central square"):
        read_square(content, 32)


def test_a_constant_picture_is_read():
    assert (read_square(stored(np.full((40, 60), 7, np.uint8)), 32) == 7).all()


def test_a_transparent_picture_lies_on_white():
    alpha = np.where(np.arange(160) < 80, 0, 255).astype(np.uint8)[None].repeat(120, axis=0)
    black_below = np.where(alpha[..., None] == 0, 0, COLOUR)
    found = np.asarray(read_picture(stored(np.dstack([black_below, alpha]))))
    assert (found[:, :80] == 255).all() and np.array_equal(found[:, 80:], COLOUR[:, 80:])
    half = np.dstack([0 * COLOUR, np.full_like(GREY, 128)])
    half[0, 0, 3] = 0
    assert abs(int(np.asarray(read_picture(stored(half)))[5, 5, 0]) - 127) <= 1
    palette = Image.fromarray(COLOUR).quantize(16)
    hidden = np.asarray(read_picture(stored(palette, transparency=3)))
    assert (hidden[np.asarray(palette) == 3] == 255).all()
    assert np.array_equal(
        hidden[np.asarray(palette) != 3],
        np.asarray(palette.convert("RGB"))[np.asarray(palette) != 3],
    )


def swapped_profile(space: str = "sRGB") -> bytes:
    """A profile in which red and blue are swapped."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def test_colours_are_those_of_the_profile():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for content, expected in (
        (stored(COLOUR, icc_profile=srgb), COLOUR),
        (stored(COLOUR, icc_profile=swapped_profile()), COLOUR[..., ::-1]),
        (stored(COLOUR, "TIFF", icc_profile=swapped_profile()), COLOUR[..., ::-1]),
        (stored(COLOUR, icc_profile=b"damaged" * 40), COLOUR),
        (stored(GREY, icc_profile=srgb), GREY_RGB),
    ):
        found = np.asarray(read_picture(content), dtype=int)
        assert np.abs(found - expected).max() <= 3
    opaque = np.dstack([COLOUR, np.full_like(GREY, 255)])
    found = np.asarray(read_picture(stored(opaque, icc_profile=swapped_profile())), dtype=int)
    assert np.abs(found - COLOUR[..., ::-1]).max() <= 3
    assert np.array_equal(read_picture(stored(COLOUR, icc_profile=srgb)), COLOUR), "bit by bit"


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_that_of_a_viewer_also_at_reduced_size(tag, form):
    exif = Image.Exif()
    exif[0x0112] = tag
    large = Image.fromarray(COLOUR).resize((800, 600))
    content = stored(
        large, form, exif=exif, **({"quality": 95} if form in ("JPEG", "WEBP") else {})
    )
    with Image.open(io.BytesIO(content)) as image:
        shown = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(read_picture(content), shown)
    assert shown.size == ((800, 600) if tag < 5 else (600, 800))
    small = read_picture(content, 100)
    assert max(small.size) == (200 if form == "JPEG" else 800)
    difference = np.asarray(small.resize(shown.size), int) - np.asarray(shown, int)
    assert np.abs(difference).mean() < 4


def test_damaged_exif_data_do_not_hide_a_picture():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 30
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = np.asarray(read_picture(stored(COLOUR, "JPEG", quality=95, exif=exif)), dtype=int)
    assert np.abs(found - COLOUR).mean() < 3


def test_a_photo_of_a_phone_with_a_second_picture_is_read():
    second = Image.fromarray(COLOUR[::-1])
    content = stored(COLOUR, "MPO", quality=95, save_all=True, append_images=[second])
    assert np.abs(np.asarray(read_picture(content), int) - COLOUR).mean() < 3


def test_a_refused_picture_is_named_in_training_and_external_sets(tmp_path: Path):
    def save(picture: np.ndarray, path: Path) -> None:
        dark = path.name.endswith("4303")
        grey = np.asarray(Image.fromarray(picture).convert("L")).astype(np.uint16)
        Image.fromarray(grey * (1 if dark else 257)).save(path.with_suffix(".png"))

    folder = write_drawn_set(tmp_path, 14, save=save)
    reason = r"1 of 14 images .*ISIC_0024303.png \(is nearly black"
    with pytest.raises(InputError, match=reason):
        read_ham10000(folder, 32, progress=False)
    reading = read_ham10000(folder, 32, skip_broken=True, progress=False)
    assert reading.skipped["image_id"].tolist() == ["ISIC_0024303"]
    assert reading.lesions.images.float().std((1, 2, 3)).min() > 10
    (folder / "HAM10000_metadata.csv").unlink()
    truth = pd.DataFrame({"image": drawn_table(14)["image_id"]})
    for name in CLASSES:
        truth[name.upper()] = (drawn_table(14)["dx"] == name).astype(int)
    truth.to_csv(folder / "truth.csv", index=False)
    with pytest.raises(InputError, match=reason):
        read_external(str(folder), 32, progress=False)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "PPM"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_and_never_a_traceback(form):
    """Bytes are flipped, cut and inserted."""
    rng = random.Random(0)
    original = stored(Image.fromarray(COLOUR).resize((40, 30)), form)
    refused = 0
    for _ in range(200):
        content = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            change = rng.randrange(3)
            if change == 0:
                content[place] ^= 1 << rng.randrange(8)
            elif change == 1:
                del content[place : place + rng.randint(1, 20)]
            else:
                content[place:place] = rng.randbytes(rng.randint(1, 9))
        try:
            assert read_square(bytes(content), 16).shape == (3, 16, 16)
        except InputError as error:
            refused += 1
            assert str(error)
    assert refused > 20


def test_a_missing_file_is_named():
    with (
        pytest.raises(InputError, match="cannot be read: No such file"),
        open_picture(Path("no.png")),
    ):
        pass
