import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.files.masks import lesion_masks, read_masks
from hamsynth_utils.data.ham10000 import read_ham10000
from hamsynth_utils.data.phantom.generate import make_phantom, phantom_masks


def write(folder, masks: dict[str, np.ndarray], size=(200, 150)):
    """Photos that are white where their mask is and dark elsewhere, and the masks, 1-bit, in the archive's layout."""
    (folder / "HAM10000_images_part_1").mkdir(parents=True)
    (folder / "HAM10000_segmentations_lesion_tschandl").mkdir()
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"]
    for name, mask in masks.items():
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        dark = np.broadcast_to(np.linspace(0, 60, mask.shape[1]), mask.shape)
        photo = Image.fromarray(np.where(mask, 255, dark).astype(np.uint8)).resize(size)
        photo.convert("RGB").save(folder / f"HAM10000_images_part_1/{name}.jpg", quality=95)
        file = folder / f"HAM10000_segmentations_lesion_tschandl/{name}_segmentation.png"
        picture.convert("1").save(file)
        lines.append(f"L_{name},{name},nv,histo,50,male,back,rosendahl")
    (folder / "HAM10000_metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def disc(row: float, column: float, radius: float) -> np.ndarray:
    r, c = np.mgrid[:150, :200]
    return np.hypot(r - row, c - column) < radius


def test_masks_are_cut_and_resized_as_their_photos(tmp_path):
    """The photos are their own masks, so the two must agree pixel by pixel, but at the borders."""
    folder = write(
        tmp_path / "d", {"A": disc(60, 90, 30), "B": disc(75, 130, 20), "C": disc(30, 60, 25)}
    )
    lesions = read_ham10000(folder, 64, progress=False).lesions
    masks, known = lesion_masks(lesions, str(folder), 0)
    assert known.all() and masks.shape == (3, 64, 64) and masks.dtype == bool
    bright = lesions.images.numpy().mean(1) > 127
    assert (bright == masks).mean() > 0.99
    assert masks[0].mean() == pytest.approx(np.pi * 30**2 / 150**2, rel=0.03)


def test_a_missing_mask_is_no_error_and_one_outside_the_cut_is_empty(tmp_path):
    folder = write(
        tmp_path / "d", {"A": disc(60, 90, 30), "B": disc(75, 8, 6), "C": disc(75, 100, 20)}
    )
    (folder / "HAM10000_segmentations_lesion_tschandl/C_segmentation.png").unlink()
    lesions = read_ham10000(folder, 64, progress=False).lesions
    known = lesion_masks(lesions, str(folder), 0)[1]
    assert dict(zip(lesions.table["image_id"], known, strict=True)) == {
        "A": True,
        "B": False,
        "C": False,
    }
    for path in folder.glob("HAM10000_segmentations_lesion_tschandl/*"):
        path.unlink()
    assert not lesion_masks(lesions, str(folder), 0)[1].any()


def test_a_broken_mask_and_one_of_another_picture_are_named(tmp_path):
    folder = write(tmp_path / "d", {"A": disc(60, 90, 30)})
    file = folder / "HAM10000_segmentations_lesion_tschandl/A_segmentation.png"
    Image.new("1", (150, 200)).save(file)
    with pytest.raises(
        InputError, match=r"A_segmentation.png is 150 x 200 pixels, its photo 200 x 150"
    ):
        read_masks(folder, ["A"], 64)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match=r"A_segmentation.png is not an image that can be read"):
        read_masks(folder, ["A"], 64)


def test_the_phantoms_masks_hold_its_lesions():
    phantom = make_phantom(150, seed=4)
    masks, known = lesion_masks(phantom, "phantom", 4)
    assert known.all() and masks.mean((1, 2)).min() > 0.02 and masks.mean((1, 2)).max() < 0.7
    for mask in masks:
        regions, _ = label(mask)
        assert np.bincount(regions[mask]).max() > 0.85 * mask.sum(), "a lesion is one piece"
    nevi = (phantom.table["dx"] == "nv").to_numpy()
    for image, mask in zip(phantom.images.numpy()[nevi].astype(float), masks[nevi], strict=True):
        assert image[:, mask].mean() < image[:, ~mask].mean(), "a nevus is darker than skin"


def test_masks_of_a_part_are_those_of_the_whole():
    phantom = make_phantom(60, image_size=32, seed=1)
    rows = np.array([50, 3, 17])
    part = phantom.subset(rows)
    whole = phantom_masks(phantom.table, 32, 1)
    assert np.array_equal(phantom_masks(part.table, 32, 1), whole[rows])
    assert not np.array_equal(phantom_masks(part.table, 32, 2), whole[rows])


def test_real_masks_are_there_for_every_photo(ham10000_folder):
    ids = [f"ISIC_{number:07}" for number in range(24306, 24326)]
    masks = read_masks(ham10000_folder, ids, 64)
    assert masks.any((1, 2)).all() and 0.05 < masks.mean() < 0.8
