import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.phantom.generate import make_phantom, phantom_masks
from hamsynth_utils.metrics.skin_tone import (
    SKIN_TONE_METHODS,
    agreement,
    category,
    lab,
    skin_angles,
    typology_angle,
)


def srgb(angle: float, chroma: float = 18.0) -> np.ndarray:
    """An sRGB colour uint8 [3] whose typology angle is `angle`, found by trying all of a fine grid."""
    r, g, b = np.meshgrid(*[np.arange(20, 256, 3)] * 3, indexing="ij")
    colours = np.stack([r, g, b], -1).reshape(-1, 3)
    values = lab(colours)
    off = (
        np.abs(typology_angle(values) - angle)
        + 0.1 * np.abs(values[:, 2] - chroma)
        + 0.1 * np.abs(values[:, 1] - 10)
    )
    return colours[off.argmin()].astype(np.uint8)


def test_lab_has_the_published_values():
    """Of the sRGB primaries, white and middle grey under D65 (Lindbloom's calculator)."""
    colours = np.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [119, 119, 119], [3, 3, 3]]
    )
    expected = [
        [53.24, 80.09, 67.20],
        [87.73, -86.18, 83.18],
        [32.30, 79.19, -107.86],
        [100, 0, 0],
        [50.03, 0, 0],
        [0.82, 0, 0],
    ]
    np.testing.assert_allclose(lab(colours), expected, atol=0.015)


def test_lightness_is_littlecms():
    """Pillow's own conversion has another white (D50), which leaves the lightness of greys as it is."""
    greys = np.repeat(np.arange(5, 256, 25, dtype=np.uint8)[:, None], 3, 1)[None]
    change = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    converted = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(greys)), change)
    theirs = np.asarray(converted.getchannel(0), dtype=float)[0] * 100 / 255
    np.testing.assert_allclose(lab(greys[0])[:, 0], theirs, atol=0.6)


def test_the_angle_and_its_categories():
    colours = np.array([[60, 9, 10.0], [50, 9, 12.0], [40, 9, 10.0]])
    np.testing.assert_allclose(typology_angle(colours), [45, 0, -45])
    names = category(np.array([-45, 0, 20, 35, 45, 60, 120, np.nan]))
    assert list(names) == [
        "dark",
        "brown",
        "tan",
        "intermediate",
        "light",
        "very light",
        "very light",
        "none",
    ]


def test_every_way_but_a_corrected_white_reads_plain_skin_alike():
    """One colour of skin around a dark disc: the angle is that colour's, whichever pixels are taken."""
    side = np.arange(64) - 31.5
    mask = np.hypot(side[:, None], side[None, :]) < 14
    for angle in (-20.0, 20.0, 50.0):
        image = np.empty((64, 64, 3), dtype=np.uint8)
        image[:], image[mask] = srgb(angle), (40, 20, 20)
        found = skin_angles(image.transpose(2, 0, 1)[None], mask[None]).iloc[0]
        plain = found[["median", "lightest patch", "ring"]].to_numpy(dtype=float)
        np.testing.assert_allclose(plain, float(typology_angle(lab(srgb(angle)))), atol=1e-6)
        assert abs(found["mode"] - plain[0]) <= 2.5
        # Where skin fills the picture its own colour is taken for the light's, and is gone.
        assert abs(found["ring, shades of grey"] - plain[0]) > 20


def test_the_lesion_its_margin_and_dark_corners_are_left_out():
    image = np.empty((64, 64, 3), dtype=np.uint8)
    image[:] = srgb(40.0)
    image[:4, :4] = 0
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 20:40] = True
    image[17:43, 17:43] = (30, 20, 20)  # the margin of 0.05 * 64 = 3.2 pixels is still dark
    found = skin_angles(image.transpose(2, 0, 1)[None], mask[None]).iloc[0]
    expected = float(typology_angle(lab(srgb(40.0))))
    for way in ("median", "ring", "lightest patch"):
        assert found[way] == pytest.approx(expected), way


def test_a_picture_full_of_lesion_has_no_angle():
    full = np.ones((1, 64, 64), dtype=bool)
    full[0, 0, :5] = False
    found = skin_angles(np.full((1, 3, 64, 64), 128, dtype=np.uint8), full)
    assert list(found.columns) == list(SKIN_TONE_METHODS) and found.isna().all(axis=None)


def test_the_phantoms_skin_is_told_apart_in_two_photos_of_one_lesion():
    """Photos of one lesion show one skin: their angles differ less than those of two lesions."""
    phantom = make_phantom(200)
    angles = skin_angles(phantom.images.numpy(), phantom_masks(phantom.table))["median"]
    lesion = phantom.table["lesion_id"]
    within = angles.groupby(lesion).std().dropna().pow(2).mean() ** 0.5
    assert within < 0.5 * angles.groupby(lesion).mean().std()


def test_agreement_by_hand():
    first = pd.Series([20.0, 30.0, 50.0, 60.0, np.nan, 30.0])
    second = first + pd.Series([2.0, 4.0, 2.0, 4.0, 1.0, np.nan])
    found = agreement(first, second, pd.Series(list("abcdef")), 500, 0)
    spread = 1.96 * np.std([2, 4, 2, 4], ddof=1)
    assert (found["bias"], found["n"], found["lesions"]) == (3.0, 4, 4)
    assert found["from"] == pytest.approx(3 - spread) and found["to"] == pytest.approx(3 + spread)
    assert (
        found["same"] == 1.0
        and found["kappa"] == 1.0
        and 2 <= found["low"] <= 3 <= found["high"] <= 4
    )
    far = agreement(first, first + 15, pd.Series(list("abcdef")), 100, 0)
    assert far["same"] == pytest.approx(0.2) and far["kappa"] < 0.7


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="N, 3, H, W"):
        skin_angles(np.zeros((1, 3, 8, 8), dtype=np.uint8), np.zeros((1, 9, 9), dtype=bool))
    with pytest.raises(InputError, match="at least two photos"):
        agreement(pd.Series([1.0, np.nan]), pd.Series([1.0, 2.0]), pd.Series(["a", "b"]), 100, 0)
