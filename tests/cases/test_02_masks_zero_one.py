"""Masks stored as 0/1, by a palette, or in capitals are masks; an empty or inverted one is asked about.

Reports: https://github.com/GriffinLiang/AISD/issues/17, https://github.com/open-mmlab/mmsegmentation/issues/681,
https://github.com/JCruan519/EGE-UNet/issues/13
"""

import numpy as np
import pytest
from drawn_sets import drawn_table, write_drawn_set
from PIL import Image, ImageFilter

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.files.masks import read_masks

IDS = drawn_table(7)["image_id"].tolist()


def grey(mask, path, high=255, dtype=np.uint8):
    Image.fromarray((mask * high).astype(dtype)).save(path)


def by_palette(colours):
    def save(mask, path):
        image = Image.fromarray(mask.astype(np.uint8))
        image.putpalette(colours)
        image.save(path)

    return save


def coloured(lesion, background):
    def save(mask, path):
        Image.fromarray(np.where(mask[..., None], lesion, background).astype(np.uint8)).save(path)

    return save


def smoothed(mask, path):
    Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1)).save(path)


def as_jpeg(mask, path):
    Image.fromarray((mask * 255).astype(np.uint8)).save(path, "JPEG", quality=60)


WAYS = {
    "0/255": grey,
    "0/1": lambda m, p: grey(m, p, 1),
    "0/65535": lambda m, p: grey(m, p, 65535, np.uint16),
    "0/1 in 16 bits": lambda m, p: grey(m, p, 1, np.uint16),
    "1 bit": lambda m, p: Image.fromarray(m).save(p),
    "palette, black and red": by_palette([0, 0, 0, 128, 0, 0]),
    "palette, black and white": by_palette([0, 0, 0, 255, 255, 255]),
    "palette, white first": lambda m, p: by_palette([255, 255, 255, 0, 0, 0])(~m, p),
    "palette of one colour": by_palette([0, 0, 0, 0, 0, 0]),
    "red on black": coloured([255, 0, 0], [0, 0, 0]),
    "white on black in RGB": coloured([255, 255, 255], [0, 0, 0]),
    "white on transparent": coloured([255, 255, 255, 255], [0, 0, 0, 0]),
    "black on transparent": coloured([0, 0, 0, 255], [0, 0, 0, 0]),
    "grey with alpha": coloured([255, 255, 255, 255], [0, 0, 0, 255]),
    "smoothed": smoothed,
    "JPEG under .png": as_jpeg,
    "suffix in capitals": lambda m, p: grey(m, p.with_suffix(".PNG")),
    "name in capitals": lambda m, p: grey(m, p.with_name(f"{p.stem[:12]}_Segmentation.png")),
    "JPEG": lambda m, p: grey(m, p.with_suffix(".jpg")),
    "TIFF": lambda m, p: grey(m, p.with_suffix(".tif")),
}


@pytest.mark.parametrize("save", WAYS.values(), ids=WAYS)
def test_every_form_of_mask_is_the_same_mask(save, tmp_path):
    expected = read_masks(write_drawn_set(tmp_path / "a", 7, save_mask=grey), IDS, 32)
    assert expected.any((1, 2)).all() and 0.05 < expected.mean() < 0.5
    masks = read_masks(write_drawn_set(tmp_path / "b", 7, save_mask=save), IDS, 32)
    assert (masks != expected).mean(axis=(1, 2)).max() < 0.02


def spoil(folder, change):
    """Store the third mask of a set in another way."""
    file = folder / f"HAM10000_segmentations/{IDS[2]}_segmentation.png"
    with Image.open(file) as image:
        mask = np.asarray(image) > 0
    change(mask, file)


def photo_as_mask(mask, path):
    Image.fromarray(np.linspace(0, 255, mask.size).reshape(mask.shape).astype(np.uint8)).save(path)


def off_the_centre(mask, path):
    small = np.zeros_like(mask)
    small[10:20, 10:20] = True
    grey(~small, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, p: grey(0 * m, p), rf"1 of 7 masks .*show no lesion anywhere.*{IDS[2]}_seg"),
        (lambda m, p: grey(~m, p), rf"1 of 7 masks .*inverted: {IDS[2]}_segmentation.png"),
        (off_the_centre, rf"1 of 7 masks .*inverted: {IDS[2]}_segmentation.png"),
        (lambda m, p: grey(m + 1, p, 1), rf"{IDS[2]}_segmentation.png has 2 values, 1, 2"),
        (
            lambda m, p: grey(m * 2 + (np.arange(m.shape[1]) > 80), p, 1),
            rf"{IDS[2]}_segmentation.png has 4 values, 0, 1, 2, 3, which do not say",
        ),
        (photo_as_mask, rf"{IDS[2]}_segmentation.png has 256 values, 0, 1, 2, 3, 4, \.\.\."),
        (coloured([255, 0, 0], [255, 255, 255]), r"has colours, but no black background"),
        (
            by_palette([128, 0, 0, 0, 0, 0]),
            r"palette in which index 1 is black, and not index 0",
        ),
    ],
)
def test_a_mask_that_does_not_say_what_is_lesion_is_asked_about(change, message, tmp_path):
    folder = write_drawn_set(tmp_path, 7, save_mask=grey)
    spoil(folder, change)
    with pytest.raises(InputError, match=message):
        read_masks(folder, IDS, 32)


def test_lesions_that_fill_their_photo_are_masks_unless_there_are_many(tmp_path):
    few = write_drawn_set(tmp_path / "few", 7, save_mask=grey)
    spoil(few, lambda m, p: grey(m | True, p))
    assert read_masks(few, IDS, 32)[2].all()
    all_full = write_drawn_set(tmp_path / "all", 7, save_mask=lambda m, p: grey(m | True, p))
    with pytest.raises(InputError, match=r"7 of 7 masks .*cover the whole photo"):
        read_masks(all_full, IDS, 32)


def test_masks_with_other_names_and_two_masks_of_one_photo_are_named(tmp_path):
    lower = write_drawn_set(
        tmp_path / "lower", 7, save_mask=lambda m, p: grey(m, p.with_name(p.name.lower()))
    )
    with pytest.raises(InputError, match=r"none of the 7 masks .*isic_0024300_segmentation.png"):
        read_masks(lower, IDS, 32)
    twice = write_drawn_set(tmp_path / "twice", 7, save_mask=grey)
    grey(np.ones((90, 90), bool), twice / f"{IDS[0]}_segmentation.PNG")
    with pytest.raises(InputError, match="different masks of one photo"):
        read_masks(twice, IDS, 32)
