"""Skin tone: the individual typology angle of skin beside a lesion, and how uncertain it is.

ITA = arctan((L* - 50) / b*) in degrees (Chardon et al. 1991), from CIELAB under D65. The angle was
made for a spectrophotometer on clean skin. In photographs it depends on which pixels count as skin
and on what counts as white, and published methods disagree (Kalb et al. 2023,
doi:10.1007/978-3-031-45249-9_3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import cohen_kappa_score

from hamsynth_utils.core.errors import InputError, NotMeasured
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
"""In image widths: skin nearer to a lesion is left out; how far the ring of skin reaches."""


MIN_PIXELS = 30
"""Pixels of skin that an estimate needs."""


_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


_WHITE = _TO_XYZ.sum(1)


def lab(pixels: np.ndarray) -> np.ndarray:
    """CIELAB (D65, 2 degrees) of sRGB colours (IEC 61966-2-1).

    Args:
        pixels: [..., 3] in 0 to 255.

    Returns:
        L* in 0 to 100, a* and b*, float64 [..., 3].
    """
    scaled = np.asarray(pixels, dtype=float) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    relative = linear @ _TO_XYZ.T / _WHITE
    f = np.where(
        relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29
    )
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def typology_angle(colours: np.ndarray) -> np.ndarray:
    """ITA of CIELAB colours.

    Args:
        colours: [..., 3].

    Returns:
        Degrees, -180 to 180, [...].
    """
    # arctan2 as skin has b* > 0; bluish pixels get an angle beyond 90, not one of the other side.
    return np.degrees(np.arctan2(colours[..., 0] - 50, colours[..., 2]))


def category(angles: np.ndarray | pd.Series) -> np.ndarray:
    """The skin-tone category of each angle.

    Args:
        angles: ITA in degrees, [N]; NaN where there is none.

    Returns:
        A name of `CATEGORIES`, or "none" for NaN, [N]. Beyond 90 degrees: very light.
    """
    angles = np.asarray(angles, dtype=float)
    place = np.searchsorted(list(CATEGORIES.values())[:-1], np.nan_to_num(angles), side="left")
    return np.where(np.isnan(angles), "none", np.array(list(CATEGORIES), dtype=object)[place])


def skin_angles(images: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """ITA of each photo by each of `SKIN_TONE_METHODS`.

    Args:
        images: uint8 [N, 3, H, W].
        masks: bool [N, H, W], True on the lesion.

    Returns:
        Degrees: N rows, one column per method. NaN where fewer than `MIN_PIXELS` pixels count as
        skin, for example where the lesion fills the image.

    Raises:
        InputError: If the shapes do not fit.
    """
    if images.ndim != 4 or masks.shape != (len(images), *images.shape[2:]):
        raise InputError(
            f"images {images.shape} and masks {masks.shape} must be [N, 3, H, W] and [N, H, W]"
        )
    rows = [
        {name: method(photo) for name, method in SKIN_TONE_METHODS.items()}
        for photo in map(_Photo, images.transpose(0, 2, 3, 1), masks)
    ]
    return pd.DataFrame(rows, columns=list(SKIN_TONE_METHODS))


def agreement(
    first: pd.Series, second: pd.Series, lesion_ids: pd.Series, n_resamples: int, seed: int
) -> dict[str, float]:
    """How far two methods agree on the photos that both can measure (Bland & Altman 1986).

    Args:
        first: ITA by one method in degrees, [N]; NaN where there is none.
        second: ITA by another method, [N].
        lesion_ids: Lesion ids, [N].
        n_resamples: Resamples of the lesions.
        seed: Of the resamples.

    Returns:
        These values by name.

        - bias: The mean of second - first, in degrees.
        - low, high: The 95 % interval of the bias, over lesions.
        - from, to: The limits between which 95 % of the differences lie, bias -/+ 1.96 standard
          deviations, in degrees.
        - same: The fraction of photos of the same category.
        - kappa: Cohen's kappa of the categories, with linear weights: 1 is full agreement, 0 is
          chance, NaN if all photos are of one category.
        - n, lesions: Photos and lesions measured by both.

    Raises:
        NotMeasured: If both methods measure fewer than two photos.
        InputError: If a lesion id is missing.
    """
    both = (first.notna() & second.notna()).to_numpy()
    if both.sum() < 2:
        raise NotMeasured(
            f"agreement needs at least two photos that both methods measure, not {both.sum()}"
        )
    a, b = first[both].to_numpy(), second[both].to_numpy()
    bootstrap = ClusterBootstrap(lesion_ids[both], n_resamples, seed)
    bias = bootstrap.mean(b - a)
    order = list(CATEGORIES)
    rank_a, rank_b = (np.array([order.index(c) for c in category(angles)]) for angles in (a, b))
    several = len({*rank_a, *rank_b}) > 1
    kappa = cohen_kappa_score(rank_a, rank_b, weights="linear") if several else np.nan
    spread = 1.96 * float(np.std(b - a, ddof=1))
    return {
        "bias": float(bias.value),
        "low": bias.low,
        "high": bias.high,
        "from": float(bias.value) - spread,
        "to": float(bias.value) + spread,
        "same": float(np.mean(rank_a == rank_b)),
        "kappa": float(kappa),
        "n": bootstrap.n_images,
        "lesions": bootstrap.n_clusters,
    }


class _Photo:
    """Pixels [H, W, 3], their CIELAB, and their distance to the lesion in image widths, [H, W]."""

    def __init__(self, pixels: np.ndarray, mask: np.ndarray) -> None:
        self.pixels, self.lab = pixels, lab(pixels)
        size = mask.shape[0]
        self.lesion_distance = (
            distance_transform_edt(~mask) / size if mask.any() else np.full(mask.shape, np.inf)
        )
        side = (np.arange(size) + 0.5) / size * 2 - 1
        # The corners are left out: a lens may leave them dark.
        self.skin = (self.lesion_distance > MARGIN) & (np.hypot(side[:, None], side[None, :]) < 1.1)
        self.ring = (self.lesion_distance > MARGIN) & (self.lesion_distance <= RING)


def _median_angle(skin: np.ndarray) -> float:
    """ITA of the median colour of pixels in CIELAB [M, 3]."""
    return np.nan if len(skin) < MIN_PIXELS else float(typology_angle(np.median(skin, axis=0)))


def _median(photo: _Photo) -> float:
    """All skin."""
    return _median_angle(photo.lab[photo.skin])


def _mode(photo: _Photo) -> float:
    """The most frequent angle among the pixels of all skin, in bins of 5 degrees."""
    skin = photo.lab[photo.skin]
    if len(skin) < MIN_PIXELS:
        return np.nan
    counts, edges = np.histogram(typology_angle(skin), bins=np.arange(-180, 181, 5))
    return float(edges[counts.argmax()] + 2.5)


def _lightest_patch(photo: _Photo) -> float:
    """The largest of eight patches along the border (after Bevan & Atapour-Abarghouei 2022)."""
    size = len(photo.lesion_distance)
    patch = size // 5
    middle = (size - patch) // 2
    angles = [
        _median_angle(photo.lab[window][photo.lesion_distance[window] > MARGIN])
        for row in (0, middle, size - patch)
        for column in (0, middle, size - patch)
        if (row, column) != (middle, middle)
        for window in [(slice(row, row + patch), slice(column, column + patch))]
    ]
    return float(np.nanmax(angles)) if np.isfinite(angles).any() else np.nan


def _ring(photo: _Photo) -> float:
    """A ring of skin around the lesion."""
    return _median_angle(photo.lab[photo.ring])


def _ring_shades_of_grey(photo: _Photo) -> float:
    """The ring, with the image's Minkowski mean (p = 6) as white (Finlayson & Trezzi 2004)."""
    light = (photo.pixels.reshape(-1, 3).astype(float) ** 6).mean(0) ** (1 / 6)
    corrected = photo.pixels[photo.ring] * (light.mean() / np.maximum(light, 1))
    return _median_angle(lab(np.clip(corrected, 0, 255)))


SKIN_TONE_METHODS: dict[str, Callable[[_Photo], float]] = {
    "median": _median,
    "mode": _mode,
    "lightest patch": _lightest_patch,
    "ring": _ring,
    "ring, shades of grey": _ring_shades_of_grey,
}
"""The methods for one photo. All but the last use the file's colours as they are (white: D65)."""
