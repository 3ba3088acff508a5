"""The individual typology angle, from skin beside a lesion: an estimate of skin tone, and how shaky it is.

ITA = arctan((L* - 50) / b*) in degrees (Chardon et al. 1991), from CIELAB under D65. It was made for a
spectrophotometer on clean skin. Read off photographs it depends on which pixels count as skin and on what
counts as white, and published ways to do it disagree (Kalb et al. 2023, doi:10.1007/978-3-031-45249-9_3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import cohen_kappa_score

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap

CATEGORIES = {
    "dark": -30.0,
    "brown": 10.0,
    "tan": 28.0,
    "intermediate": 41.0,
    "light": 55.0,
    "very light": 90.0,
}
"""Each category and the angle in degrees at which it ends, from Del Bino & Bernerd (2013)."""


MARGIN, RING = 0.05, 0.15
"""Skin this near to a lesion, in image widths, is left out; a ring of skin around it reaches this far."""


LEAST_PIXELS = 30
"""With fewer pixels of skin there is no estimate."""


_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


_WHITE = _TO_XYZ.sum(1)


def lab(pixels: np.ndarray) -> np.ndarray:
    """CIELAB (D65, 2 degrees) of sRGB [..., 3] in 0 to 255: L* in 0 to 100, a*, b* (IEC 61966-2-1)."""
    share = np.asarray(pixels, dtype=float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    relative = linear @ _TO_XYZ.T / _WHITE
    f = np.where(
        relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29
    )
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def typology_angle(colours: np.ndarray) -> np.ndarray:
    """ITA in degrees, -180 to 180, of CIELAB colours [..., 3]."""
    # arctan2 as skin has b* > 0; bluish pixels get an angle beyond 90, not one of the other side.
    return np.degrees(np.arctan2(colours[..., 0] - 50, colours[..., 2]))


def category(angles: np.ndarray | pd.Series) -> np.ndarray:
    """The name in `CATEGORIES` of each angle [N]; "none" where it is NaN. Beyond 90 degrees: very light."""
    angles = np.asarray(angles, dtype=float)
    place = np.searchsorted(list(CATEGORIES.values())[:-1], np.nan_to_num(angles), side="left")
    return np.where(np.isnan(angles), "none", np.array(list(CATEGORIES), dtype=object)[place])


def skin_angles(images: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """ITA in degrees of each photo, [N] rows, by several ways to measure it: one column for each of `SKIN_TONE_METHODS`.

    images: uint8 [N, 3, H, W]; masks: bool [N, H, W], True on the lesion. NaN where fewer than `LEAST_PIXELS`
    pixels count as skin, as where the lesion fills the picture. Raises InputError for shapes that do not fit.
    """
    if images.ndim != 4 or masks.shape != (len(images), *images.shape[2:]):
        raise InputError(
            f"images {images.shape} and masks {masks.shape} must be [N, 3, H, W] and [N, H, W]"
        )
    rows = [
        {name: way(photo) for name, way in SKIN_TONE_METHODS.items()}
        for photo in map(_Photo, images.transpose(0, 2, 3, 1), masks)
    ]
    return pd.DataFrame(rows, columns=list(SKIN_TONE_METHODS))


def agreement(
    first: pd.Series, second: pd.Series, lesion_ids: pd.Series, n_resamples: int, seed: int
) -> dict[str, float]:
    """How far two ways to measure the same photos [N] agree, over the photos of which both have an angle.

    Bland & Altman (1986): `bias`, the mean of second - first in degrees, with its interval `low` to `high`
    over lesions, and the limits `from` and `to` between which 95 % of the differences lie (bias +- 1.96
    standard deviations). Of the categories: `same`, the share that is equal, and `kappa` (Cohen's, linear
    weights: 1 is full agreement, 0 what chance would give; NaN if all photos are of one). n and lesions.
    """
    both = (first.notna() & second.notna()).to_numpy()
    if both.sum() < 2:
        raise InputError(
            f"agreement needs at least two photos that both ways measure, not {both.sum()}"
        )
    a, b = first[both].to_numpy(), second[both].to_numpy()
    bootstrap = ClusterBootstrap(lesion_ids[both], n_resamples, seed)
    bias = bootstrap.mean(b - a)
    order = list(CATEGORIES)
    one, other = (np.array([order.index(name) for name in category(angles)]) for angles in (a, b))
    kappa = np.nan if len({*one, *other}) < 2 else cohen_kappa_score(one, other, weights="linear")
    spread = 1.96 * float(np.std(b - a, ddof=1))
    return {
        "bias": float(bias.value),
        "low": bias.low,
        "high": bias.high,
        "from": float(bias.value) - spread,
        "to": float(bias.value) + spread,
        "same": float(np.mean(one == other)),
        "kappa": float(kappa),
        "n": bootstrap.n_images,
        "lesions": bootstrap.n_clusters,
    }


class _Photo:
    """Pixels [H, W, 3], their CIELAB, and how far each is from the lesion, in image widths [H, W]."""

    def __init__(self, pixels: np.ndarray, mask: np.ndarray) -> None:
        self.pixels, self.lab = pixels, lab(pixels)
        size = mask.shape[0]
        self.far = (
            distance_transform_edt(~mask) / size if mask.any() else np.full(mask.shape, np.inf)
        )
        side = (np.arange(size) + 0.5) / size * 2 - 1
        # The corners are left out: a lens may leave them dark.
        self.skin = (self.far > MARGIN) & (np.hypot(side[:, None], side[None, :]) < 1.1)
        self.ring = (self.far > MARGIN) & (self.far <= RING)


def _angle_of(skin: np.ndarray) -> float:
    """ITA of the median colour of pixels in CIELAB [M, 3]."""
    return np.nan if len(skin) < LEAST_PIXELS else float(typology_angle(np.median(skin, axis=0)))


def _median(photo: _Photo) -> float:
    """Of all skin."""
    return _angle_of(photo.lab[photo.skin])


def _mode(photo: _Photo) -> float:
    """The most frequent angle among the pixels of all skin, in bins of 5 degrees."""
    skin = photo.lab[photo.skin]
    if len(skin) < LEAST_PIXELS:
        return np.nan
    counts, edges = np.histogram(typology_angle(skin), bins=np.arange(-180, 181, 5))
    return float(edges[counts.argmax()] + 2.5)


def _lightest_patch(photo: _Photo) -> float:
    """The largest of eight patches along the border (after Bevan & Atapour-Abarghouei 2022)."""
    size = len(photo.far)
    patch = size // 5
    middle = (size - patch) // 2
    angles = [
        _angle_of(photo.lab[window][photo.far[window] > MARGIN])
        for row in (0, middle, size - patch)
        for column in (0, middle, size - patch)
        if (row, column) != (middle, middle)
        for window in [(slice(row, row + patch), slice(column, column + patch))]
    ]
    return float(np.nanmax(angles)) if np.isfinite(angles).any() else np.nan


def _ring(photo: _Photo) -> float:
    """Of a ring of skin around the lesion."""
    return _angle_of(photo.lab[photo.ring])


def _ring_shades_of_grey(photo: _Photo) -> float:
    """Of the ring, with the picture's Minkowski mean (p = 6) for white (Finlayson & Trezzi 2004)."""
    light = (photo.pixels.reshape(-1, 3).astype(float) ** 6).mean(0) ** (1 / 6)
    corrected = photo.pixels[photo.ring] * (light.mean() / np.maximum(light, 1))
    return _angle_of(lab(np.clip(corrected, 0, 255)))


SKIN_TONE_METHODS: dict[str, Callable[[_Photo], float]] = {
    "median": _median,
    "mode": _mode,
    "lightest patch": _lightest_patch,
    "ring": _ring,
    "ring, shades of grey": _ring_shades_of_grey,
}
"""Each way to measure one photo. All but the last take the file's colours as they are, white being D65."""
