"""One photo under two lesions: found however it was stored, and never where photos differ."""

import io

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from hamsynth_utils.data.duplicates import repeated_photos
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.data.split import lesion_groups

LESIONS = make_phantom(600, seed=0)


def stored_again(image):
    buffer = io.BytesIO()
    picture(image).save(buffer, "JPEG", quality=75)
    return torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1)


CHANGES = {
    "as it was": lambda image: image,
    "flipped": lambda image: image.flip(2),
    "turned": lambda image: image.rot90(1, (1, 2)),
    "turned and flipped": lambda image: image.rot90(3, (1, 2)).flip(1),
    "stored again": stored_again,
    "a grey level darker": lambda image: image.clamp(min=1) - 1,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_photo_that_goes_by_two_lesions_is_found_and_not_torn_apart(change):
    rows = np.array([3, 7, 3, 599])
    names = [f"COPY_{i}" for i in range(len(rows))]
    copied = LESIONS.subset(rows)
    images = torch.stack([change(image) for image in copied.images])
    both = LESIONS + LesionSet(
        images, copied.labels, copied.table.assign(image_id=names, lesion_id=names), LESIONS.classes
    )
    pairs = repeated_photos(both)
    found = {frozenset(pair) for pair in pairs.itertuples(index=False)}
    original = LESIONS.table["image_id"]
    assert found == {
        *(frozenset((original[row], name)) for row, name in zip(rows, names, strict=True)),
        frozenset(("COPY_0", "COPY_2")),
    }
    group = lesion_groups(both.table, pairs)
    assert (
        group[3] == group[600] == group[602] != group[7] == group[601] != group[599] == group[603]
    )


def test_photos_of_other_lesions_and_others_of_one_lesion_are_no_pairs():
    assert LESIONS.table["lesion_id"].duplicated().any() and repeated_photos(LESIONS).empty
    one = LESIONS.subset(np.array([0, 0, 5]))
    assert repeated_photos(one).empty, "twice the same photo of one lesion: nothing to unite"
    darker = LesionSet(
        one.images.clamp(min=9) - 9,
        one.labels,
        one.table.assign(lesion_id=["a", "b", "c"]),
        one.classes,
    )
    assert set(repeated_photos(LESIONS + darker).to_numpy().ravel()) == {one.table["image_id"][0]}


def test_not_one_pair_of_real_photos_is_taken_for_one(ham10000_slice):
    from hamsynth_utils.data.ham10000 import read_ham10000

    assert repeated_photos(read_ham10000(ham10000_slice, progress=False).lesions).empty
