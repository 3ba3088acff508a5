"""Photos of the run that were stored again with their turn in the EXIF tag do not pass as external.

Reports: https://github.com/qarmin/czkawka/issues/714, https://github.com/jhnc/findimagedupes/issues/3,
https://github.com/huggingface/datasets/issues/6252, https://github.com/Peterande/D-FINE/issues/308
"""

import numpy as np
import pandas as pd
import pytest
from drawn_sets import CLASSES, draw_lesion, drawn_table, write_drawn_set
from PIL import Image

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.duplicates import repeated_photos
from hamsynth_utils.data.external import read_external
from hamsynth_utils.data.files.masks import read_masks
from hamsynth_utils.data.ham10000 import NO_PAIRS, read_ham10000
from hamsynth_utils.data.split import lesion_split
from hamsynth_utils.experiment.external_test import shared_photos

STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the pixels of an upright photo are stored under each EXIF orientation."""


def save_turned(tag, suffix=".jpg"):
    """Stores a picture so that a viewer shows it upright, by an EXIF tag."""

    def save(picture, path):
        exif = Image.Exif()
        exif[0x0112] = tag
        image = Image.fromarray(picture)
        image = image.transpose(STORED[tag]) if tag in STORED else image
        image.save(path.with_suffix(suffix), quality=92, exif=exif)

    return save


def as_it_is(picture, path):
    Image.fromarray(picture).save(path.with_suffix(".jpg"), quality=92)


def turned_pixels(turn):
    return lambda picture, path: as_it_is(
        np.asarray(Image.fromarray(picture).transpose(turn)), path
    )


COPIES = {
    "as it is": as_it_is,
    **{f"tag {tag}": save_turned(tag) for tag in STORED},
    "tag 6 of a PNG": save_turned(6, ".png"),
    **{f"pixels turned, {turn.name}": turned_pixels(turn) for turn in STORED.values()},
}


@pytest.fixture(scope="module")
def run_lesions(tmp_path_factory):
    folder = write_drawn_set(tmp_path_factory.mktemp("run"), 70)
    return read_ham10000(folder, 64, progress=False).lesions


@pytest.mark.parametrize("save", COPIES.values(), ids=COPIES)
def test_every_copy_is_found(save, run_lesions, tmp_path):
    truth = pd.DataFrame({"image": [f"X_{k:03}" for k in range(14)]})
    for name in CLASSES:
        truth[name.upper()] = (drawn_table(14)["dx"] == name).astype(float)
    truth.to_csv(tmp_path / "truth.csv", index=False)
    (tmp_path / "photos").mkdir()
    for k in range(14):
        save(draw_lesion(k)[0], tmp_path / f"photos/X_{k:03}")
    external = read_external(str(tmp_path), 64, progress=False).lesions
    split = lesion_split(run_lesions.table, run_lesions.classes, NO_PAIRS, 0)
    shared = shared_photos(external, run_lesions, split)
    assert shared["image_id"].tolist() == truth["image"].tolist()
    assert shared["run_image_id"].tolist() == drawn_table(14)["image_id"].tolist()


def test_other_photos_are_not_taken_for_copies(run_lesions):
    others = run_lesions.subset(np.arange(35, 70))
    half = run_lesions.subset(np.arange(35))
    split = lesion_split(half.table, half.classes, NO_PAIRS, 0)
    assert shared_photos(others, half, split).empty and repeated_photos(run_lesions).empty


def test_a_copy_turned_by_its_tag_is_a_repeated_photo(tmp_path):
    folder = write_drawn_set(tmp_path, 14)
    file = folder / "HAM10000_images_part_1/ISIC_0024305"
    save_turned(6)(draw_lesion(0)[0], file)
    pairs = repeated_photos(read_ham10000(folder, 64, progress=False).lesions)
    assert pairs.values.tolist() == [["ISIC_0024300", "ISIC_0024305"]]


MASKS = {
    "upright": lambda tag, mask, path: Image.fromarray(mask).save(path),
    "with a tag of its own": lambda tag, mask, path: save_turned(tag, ".png")(
        (mask * 255).astype(np.uint8), path
    ),
    "on the stored pixels": lambda tag, mask, path: (
        Image.fromarray(mask).transpose(STORED[tag]).save(path)
    ),
}


@pytest.mark.parametrize("way", MASKS)
@pytest.mark.parametrize("tag", STORED)
def test_masks_lie_on_photos_that_a_tag_turns(tag, way, tmp_path):
    folder = write_drawn_set(
        tmp_path,
        7,
        save=save_turned(tag),
        save_mask=lambda mask, path: MASKS[way](tag, mask, path),
    )
    ids = drawn_table(7)["image_id"].tolist()
    if tag < 5 and way != "with a tag of its own":
        with pytest.raises(InputError, match=rf"{ids[0]}_seg.* EXIF orientation {tag}.*upright"):
            read_masks(folder, ids, 64)
        return
    images = read_ham10000(folder, 64, progress=False).lesions.images.numpy().astype(int)
    masks = read_masks(folder, ids, 64)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        upright = Image.fromarray(draw_lesion(number)[1]).crop((20, 0, 140, 120)).resize((64, 64))
        assert (np.asarray(upright) != mask).mean() < 0.03
        assert image[:, mask].mean() + 50 < image[:, ~mask].mean()
