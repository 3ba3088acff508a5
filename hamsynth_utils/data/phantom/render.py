"""Photos of the phantom's lesions: skin, lesion, artifacts, light and camera noise."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from hamsynth_utils.data.phantom.classes import PAINT
from hamsynth_utils.data.phantom.painter import (
    Array,
    Colour,
    Painter,
    Tracer,
    View,
    directions,
    ramp,
)

P = TypeVar("P", bound=Painter)


def lesion_mask(dx: str, size: int, seed: int, lesion: int, photo: int) -> Array:
    """The mask of the lesion in one photo.

    Args:
        dx: the class of the lesion.
        size: height and width in pixels.
        seed: the seed of the phantom.
        lesion: the number of the lesion, from 0.
        photo: the number of the photo of the lesion, from 0.

    Returns:
        bool [size, size], True where the lesion covers at least half of the skin's colour.
    """
    p, _, _ = _skin(Tracer, (1.0, 1.0, 1.0), size, seed, lesion, photo)
    PAINT[dx](p)
    return p.covered >= 0.5


def _skin(
    painter: type[P], light_colour: Colour, size: int, seed: int, lesion: int, photo: int
) -> tuple[P, Array, np.random.Generator]:
    """A painter before bare skin, the light's tint [3], and the photo's own random source."""
    rng = np.random.default_rng([seed, lesion, photo + 1])
    view = View(size, rng.uniform(0, 2 * np.pi), rng.uniform(0.82, 1.22), rng.normal(0, 0.08, 2))
    p = painter(view, np.random.default_rng([seed, lesion]))
    p.canvas += p.mix((0.93, 0.76, 0.69), (0.80, 0.61, 0.50)).astype(np.float32)[:, None, None]
    p.canvas += 0.022 * p.field(0.6) + 0.012 * p.field(7.0)
    # one visit, one lamp: photos of a lesion differ less in their light than those of two lesions
    tint = 255 * np.array(light_colour) * p.rng.normal(1, 0.022, 3) * p.uniform(0.9, 1.05)
    p.ambiguity = p.rng.beta(2.2, 1.8)
    return p, tint, rng


def photograph(
    dx: str, light_colour: Colour, size: int, seed: int, lesion: int, photo: int
) -> Array:
    """Draw one photo of a lesion.

    Args:
        dx: the class of the lesion.
        light_colour: the colour of the lamp, factors of RGB.
        size: height and width in pixels.
        seed: the seed of the phantom.
        lesion: the number of the lesion, from 0.
        photo: the number of the photo of the lesion, from 0.

    Returns:
        uint8 [3, size, size], RGB, 0 to 255.
    """
    p, tint, rng = _skin(Painter, light_colour, size, seed, lesion, photo)
    view = p.view
    PAINT[dx](p)
    _cover(p, rng)
    x, y = view.grid - np.float32(rng.normal(0, 0.12)), view.grid - np.float32(rng.normal(0, 0.12))
    from_light = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2)
    light = rng.uniform(0.96, 1.03) * (
        1 - rng.uniform(0.05, 0.22) * np.maximum(from_light - 0.5, 0) ** 2
    )
    if rng.random() < 0.05:
        light *= ramp((rng.uniform(1.12, 1.25) - from_light) / 0.06)
    tint *= rng.normal(1, 0.008, 3)
    p.canvas *= light * tint.astype(np.float32)[:, None, None]
    p.canvas += 2.3 * rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(p.canvas + 0.5, 0, 255).astype(np.uint8)


def _cover(p: Painter, rng: np.random.Generator) -> None:
    """Draw the artifacts of some photos, in image coordinates: hairs, a ruler, gel bubbles."""
    hairs, ruler, bubbles = rng.random(3) < (0.18, 0.06, 0.08)
    p.x, p.y = np.broadcast_arrays(p.view.grid[None, :], p.view.grid[:, None])
    if hairs:
        for _ in range(int(rng.integers(2, 7))):
            (c, s), bend, off = (
                directions(rng.random(1))[0].astype(np.float32),
                *rng.normal(0, (0.25, 0.45)),
            )
            across = np.abs(
                c * p.y - s * p.x - np.float32(off) - np.float32(bend) * (c * p.x + s * p.y) ** 2
            )
            p.blend(
                (0.16, 0.11, 0.09), ramp(1.1 - across / np.float32(0.027)) * rng.uniform(0.4, 0.8)
            )
    if ruler:
        nearest = np.abs((p.x + 1) / 0.1 - np.rint((p.x + 1) / 0.1))
        long = np.rint((p.x + 1) / 0.1) % 5 == 0
        p.blend(
            (0.12, 0.12, 0.14),
            ramp((0.3 - nearest) / 0.15) * (p.y > np.where(long, 0.78, 0.88)) * 0.75,
        )
    if bubbles:
        count = int(rng.integers(2, 6))
        centres, radii = rng.uniform(-0.95, 0.95, (count, 2)), rng.uniform(0.05, 0.12, count)
        rings = np.maximum(p.discs(centres, radii) - p.discs(centres, radii - 0.035), 0)
        p.blend((0.98, 0.96, 0.94), rings * 0.6)
