"""The phantom's pictures: each lesion a recipe, each photo of it another view of the same recipe.

A recipe is made of smooth random fields, discs and lines in the lesion's own coordinates (centre 0, one
unit = half the image's width at zoom 1). So a photo can be drawn at any size, photos of a lesion agree, and
lesion k is the same however many are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

Array = np.ndarray
Colour = tuple[float, float, float]
COMMON: Colour = (0.60, 0.42, 0.36)
"""A reddish brown that every diagnosis can have: textbook lesions are far from it, ambiguous ones near."""


@dataclass(frozen=True)
class View:
    """One photo's geometry: pixel grid -> lesion coordinates, by rotation, zoom and shift."""

    size: int
    angle: float
    zoom: float
    shift: Array

    @property
    def pixel(self) -> float:
        """Width of a pixel in lesion units."""
        return 2 / (self.size * self.zoom)

    @cached_property
    def grid(self) -> Array:
        """Pixel centres along one side, -1 to 1, float32 [size]."""
        return (np.arange(self.size, dtype=np.float32) + 0.5) * np.float32(2 / self.size) - 1

    @cached_property
    def matrix(self) -> Array:
        c, s = np.cos(self.angle) / self.zoom, np.sin(self.angle) / self.zoom
        return np.array([[c, -s], [s, c]], dtype=np.float32)

    @cached_property
    def sides(self) -> tuple[Array, Array]:
        """Pixel centres along a row and along a column, relative to the lesion's centre, [size] each."""
        column, row = self.shift.astype(np.float32)
        return self.grid - column, self.grid - row

    def points(self) -> tuple[Array, Array]:
        """Lesion coordinates x, y of every pixel, float32 [size, size] each."""
        (a, b), (c, d) = self.matrix
        across, down = self.sides[0][None, :], self.sides[1][:, None]
        return a * across + b * down, c * across + d * down

    def waves(self, k: Array, phase: Array) -> Array:
        """Sum over j of cos(k_j . (x, y) + phase_j), float32 [size, size]; k [J, 2], phase [J].

        cos(a + b) = cos a cos b - sin a sin b turns the sum over waves into two small matrix products.
        """
        k = k.astype(np.float32) @ self.matrix
        a = k[:, :1] * self.sides[0]
        b = k[:, 1:] * self.sides[1] + phase.astype(np.float32)[:, None]
        return np.cos(b).T @ np.cos(a) - np.sin(b).T @ np.sin(a)


class Painter:
    """A photo in the making: `canvas` [3, size, size] in 0 to 1, and brushes that use the lesion's rng.

    Every photo of a lesion replays the same draws, so no draw may depend on the view.
    """

    def __init__(self, view: View, rng: np.random.Generator) -> None:
        self.view, self.rng = view, rng
        self.x, self.y = view.points()
        self.ambiguity = 0.0
        self.canvas = np.zeros((3, view.size, view.size), dtype=np.float32)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def mix(self, a: Colour, b: Colour) -> Array:
        """A colour between `a` and `b`, drawn towards `COMMON` as far as the lesion is ambiguous."""
        t = self.rng.random()
        colour = np.array(a) * (1 - t) + np.array(b) * t + self.rng.normal(0, 0.02, 3)
        return colour + self.ambiguity * (np.array(COMMON) - colour)

    def blend(self, colour: Array | Colour, mask: Array) -> None:
        """Move the canvas towards `colour` where `mask` (0 to 1) says so."""
        self.canvas += mask * (np.asarray(colour, dtype=np.float32)[:, None, None] - self.canvas)

    def field(self, frequency: float, waves: int = 16) -> Array:
        """A smooth random field, mean 0 and variance 1, of about `frequency` waves a unit."""
        lengths = 2 * np.pi * frequency * self.rng.uniform(0.5, 1.5, (waves, 1))
        k, phase = lengths * _directions(self.rng.random(waves)), self.rng.uniform(0, 2 * np.pi, waves)
        return self.view.waves(k, phase) * np.float32(np.sqrt(2 / waves))

    def honeycomb(self, frequency: float) -> Array:
        """A slightly irregular pigment network: 1 on the lines, 0 in the holes."""
        turns = self.rng.random() + np.arange(3) / 6 + self.rng.normal(0, 0.006, 3)
        first, third = self.rng.uniform(0, 2 * np.pi, 2)
        # with this middle phase the three waves peak together: holes on a hexagonal lattice, not lines on it
        phase = np.array([first, first + third, third])
        bumps = self.view.waves(2 * np.pi * frequency * _directions(turns), phase)
        return ramp(0.55 - 0.55 * bumps - 0.25 * self.field(0.6 * frequency))

    def blob(self, radius: float, aspect: float, rough: float, frequency: float, soft: float) -> tuple:
        """An irregular ellipse around 0: its mask, and its depth (0 on the border, towards 1 inside)."""
        turn = self.rng.uniform(0, np.pi)
        u = (np.cos(turn) * self.x + np.sin(turn) * self.y) * np.float32(np.sqrt(aspect))
        v = (np.cos(turn) * self.y - np.sin(turn) * self.x) / np.float32(np.sqrt(aspect))
        depth = 1 - np.sqrt(u * u + v * v) / np.float32(radius)
        depth += np.float32(rough) * self.field(frequency)
        return ramp(0.5 + depth / max(soft, 1.5 * self.view.pixel / radius)), np.clip(depth, 0, 1)

    def discs(self, centres: Array, radii: Array, soft: float = 0.0) -> Array:
        """The union of discs, edges at least a pixel soft: mask [size, size]; centres [M, 2], radii [M]."""
        far = np.hypot(
            self.x - centres[:, 0, None, None].astype(np.float32),
            self.y - centres[:, 1, None, None].astype(np.float32),
        )
        edge = max(soft, 1.2 * self.view.pixel)
        return ramp(0.5 + ((radii[:, None, None].astype(np.float32) - far) / np.float32(edge)).max(axis=0))

    def scatter(self, count: int, spread: float, apart: float = 0.0) -> Array:
        """`count` points [count, 2] within `spread` of 0, nudged to lie `apart` from each other."""
        points = np.zeros((0, 2))
        for _ in range(count):
            radius, angle = spread * np.sqrt(self.rng.random(6)), self.rng.uniform(0, 2 * np.pi, 6)
            tries = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
            gaps = np.hypot(*(tries[:, None] - points[None]).T).min(axis=0, initial=9.0)
            points = np.vstack([points, tries[int(np.argmax(gaps >= apart)) if apart else 0]])
        return points

    def lines(self, starts: Array, ends: Array, widths: Array) -> Array:
        """Line segments: mask [size, size]; starts and ends [M, 2], widths [M]."""
        d = (ends - starts).astype(np.float32)
        px = self.x - starts[:, 0, None, None].astype(np.float32)
        py = self.y - starts[:, 1, None, None].astype(np.float32)
        dx, dy = d[:, 0, None, None], d[:, 1, None, None]
        t = np.clip((px * dx + py * dy) / np.maximum(dx * dx + dy * dy, 1e-6), 0, 1)
        far = np.hypot(px - t * dx, py - t * dy)
        edge = np.float32(1.2 * self.view.pixel)
        return ramp(0.5 + ((widths[:, None, None].astype(np.float32) / 2 - far) / edge).max(axis=0))


def _directions(turns: Array) -> Array:
    """Unit vectors [N, 2] at angles given in full turns [N]."""
    return np.exp(2j * np.pi * turns)[:, None].view(np.float64)


def ramp(t: Array) -> Array:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _nv(p: Painter) -> None:
    """Round, brown, regular network; about one in seven atypical, towards melanoma."""
    atypical = p.rng.random() < 0.15
    rough = 0.13 if atypical else p.uniform(0.03, 0.08)
    mask, depth = p.blob(p.uniform(0.38, 0.62), p.uniform(0.8, 1.0), rough, 1.3, 0.3)
    p.blend(p.mix((0.68, 0.48, 0.35), (0.42, 0.27, 0.19)), mask * 0.9)
    dark = p.mix((0.44, 0.28, 0.19), (0.24, 0.15, 0.11))
    p.blend(dark, mask * depth * p.uniform(0.1, 0.8))
    p.blend(dark, mask * p.honeycomb(p.uniform(4.5, 6.5)) * p.uniform(0.3, 0.75))
    if atypical:
        p.blend((0.17, 0.10, 0.09), mask * ramp(p.field(1.2)) * 0.7)


def _mel(p: Painter) -> None:
    """Dark, asymmetric, jagged, several colours, often a blue-white veil."""
    severity = p.uniform(0.0, 1.0)
    rough, frequency = 0.05 + 0.16 * severity, p.uniform(1.2, 2.2)
    mask, depth = p.blob(p.uniform(0.45, 0.72), p.uniform(0.6, 0.95), rough, frequency, 0.2)
    p.blend(p.mix((0.50, 0.34, 0.24), (0.32, 0.20, 0.14)), mask * 0.95)
    p.blend(p.mix((0.62, 0.30, 0.25), (0.70, 0.50, 0.35)), mask * ramp(p.field(1.1)) * 0.75 * severity)
    p.blend((0.11, 0.07, 0.07), mask * ramp(0.9 * p.field(0.9)) * (0.35 + 0.6 * severity))
    p.blend((0.17, 0.10, 0.09), mask * p.honeycomb(p.uniform(3.5, 5.5)) * 0.6 * (1 - depth))
    if p.rng.random() < severity:
        veil = p.discs(p.scatter(4, 0.28), p.rng.uniform(0.06, 0.18, 4), soft=0.2)
        p.blend(p.mix((0.42, 0.50, 0.62), (0.66, 0.71, 0.78)), mask * veil * p.uniform(0.45, 0.8))


def _bkl(p: Painter) -> None:
    """Waxy grey-brown with a sharp scalloped border, milia-like white dots and dark plugs."""
    radius = p.uniform(0.42, 0.7)
    mask, _ = p.blob(radius, p.uniform(0.65, 0.95), p.uniform(0.04, 0.09), p.uniform(2.2, 3.2), 0.05)
    p.blend(p.mix((0.64, 0.53, 0.42), (0.46, 0.37, 0.31)), mask * 0.93)
    p.blend(p.mix((0.46, 0.34, 0.26), (0.37, 0.29, 0.25)), mask * ramp(p.field(3.0) * 0.8) * 0.6)
    for colour, least, most in (((0.90, 0.86, 0.72), 4, 15), ((0.22, 0.16, 0.13), 2, 8)):
        count = int(p.rng.integers(least, most))
        dots = p.discs(p.scatter(count, 0.75 * radius, 0.12), p.rng.uniform(0.022, 0.045, count))
        p.blend(colour, mask * dots * 0.85)


def _bcc(p: Painter) -> None:
    """Pink and pearly, blue-grey ovoid nests, fine arborising vessels."""
    radius = p.uniform(0.42, 0.68)
    mask, _ = p.blob(radius, p.uniform(0.7, 1.0), 0.1, 1.3, 0.35)
    p.blend(p.mix((0.90, 0.66, 0.64), (0.80, 0.57, 0.55)), mask * 0.85)
    p.blend((0.97, 0.89, 0.87), mask * ramp(p.field(1.6) - 0.2) * 0.6)
    count = int(p.rng.integers(2, 7))
    nests = p.discs(p.scatter(count, 0.8 * radius, 0.2), p.rng.uniform(0.05, 0.13, count), soft=0.06)
    p.blend(p.mix((0.36, 0.38, 0.47), (0.47, 0.45, 0.52)), nests * ramp(1.2 + 0.4 * p.field(3.0)) * 0.85)
    p.blend((0.70, 0.16, 0.19), p.lines(*_vessels(p.rng, radius)) * 0.75)


def _vessels(rng: np.random.Generator, radius: float) -> tuple[Array, Array, Array]:
    """Two or three trunks from the rim inwards, forking and thinning: starts, ends [M, 2], widths [M]."""
    segments = []
    for trunk in rng.uniform(0, 2 * np.pi, int(rng.integers(2, 4))):
        tips = [(radius * np.array([np.cos(trunk), np.sin(trunk)]), trunk + np.pi, 0.034)]
        for _ in range(4):
            grown = []
            for point, heading, width in tips:
                for turn in (-0.5, 0.5) if rng.random() < 0.45 else (0.0,):
                    way = heading + turn + rng.normal(0, 0.3)
                    end = point + rng.uniform(0.1, 0.2) * np.array([np.cos(way), np.sin(way)])
                    segments.append((point, end, width))
                    grown.append((end, way, 0.75 * width))
            tips = grown
    starts, ends, widths = zip(*segments, strict=True)
    return np.array(starts), np.array(ends), np.array(widths)


def _akiec(p: Painter) -> None:
    """Ill-defined pink-red, red network around pale follicles, white-yellow scales."""
    mask, _ = p.blob(p.uniform(0.48, 0.78), p.uniform(0.65, 0.95), 0.17, 1.6, 0.6)
    p.blend(p.mix((0.82, 0.49, 0.44), (0.72, 0.43, 0.38)), mask * 0.85)
    p.blend((0.66, 0.29, 0.27), mask * p.honeycomb(p.uniform(4, 5.5)) * p.uniform(0.25, 0.6))
    scale = ramp(1.2 * p.field(2.6) - p.uniform(0.4, 0.9)) * ramp(0.6 + p.field(6.0))
    p.blend(p.mix((0.96, 0.92, 0.82), (0.93, 0.84, 0.60)), mask * scale * 0.9)


def _vasc(p: Painter) -> None:
    """Crowded red to purple lagoons, some clotted nearly black, in a red halo."""
    radius = p.uniform(0.32, 0.58)
    halo, _ = p.blob(radius * 1.1, p.uniform(0.75, 1.0), 0.06, 1.5, 0.3)
    p.blend(p.mix((0.78, 0.40, 0.42), (0.66, 0.32, 0.40)), halo * 0.85)
    count = int(p.rng.integers(7, 15))
    sizes = p.rng.uniform(0.2, 0.36, count) * radius
    lagoons = p.discs(p.scatter(count, 0.85 * radius, 0.45 * radius), sizes, soft=0.05)
    p.blend(p.mix((0.66, 0.08, 0.14), (0.36, 0.08, 0.28)), lagoons * 0.92)
    p.blend((0.20, 0.05, 0.18), lagoons * ramp(p.field(1.4) - 0.4) * 0.7)


def _df(p: Painter) -> None:
    """Pinkish brown, faint network at the rim, a white scar-like centre."""
    radius = p.uniform(0.45, 0.68)
    mask, depth = p.blob(radius, p.uniform(0.8, 1.0), 0.07, 1.2, 0.5)
    p.blend(p.mix((0.76, 0.53, 0.45), (0.60, 0.41, 0.34)), mask * 0.85)
    p.blend((0.50, 0.32, 0.26), mask * p.honeycomb(p.uniform(5, 6.5)) * p.uniform(0.3, 0.7) * (1 - depth))
    scar, _ = p.blob(radius * p.uniform(0.35, 0.55), p.uniform(0.7, 1.0), 0.14, 2.0, 0.9)
    p.blend((0.93, 0.85, 0.80), scar * p.uniform(0.45, 0.95))


PAINT: dict[str, Callable[[Painter], None]] = {
    "akiec": _akiec, "bcc": _bcc, "bkl": _bkl, "df": _df, "mel": _mel, "nv": _nv, "vasc": _vasc,
}  # fmt: skip


class Tracer(Painter):
    """Paints nothing, but notes how much of the skin the brushes cover: `covered` [size, size] in 0 to 1."""

    def __init__(self, view: View, rng: np.random.Generator) -> None:
        super().__init__(view, rng)
        self.covered = np.zeros((view.size, view.size), dtype=np.float32)

    def blend(self, colour: Array | Colour, mask: Array) -> None:
        self.covered = 1 - (1 - self.covered) * (1 - mask)


P = TypeVar("P", bound=Painter)


def lesion_mask(dx: str, size: int, seed: int, lesion: int, photo: int) -> Array:
    """Where the lesion of that photo covers half of the skin's colour or more, bool [size, size]."""
    p, _, _ = _skin(Tracer, (1.0, 1.0, 1.0), size, seed, lesion, photo)
    PAINT[dx](p)
    return p.covered >= 0.5


def _skin(
    painter: type[P], light_colour: Colour, size: int, seed: int, lesion: int, photo: int
) -> tuple[P, Array, np.random.Generator]:
    """A painter before bare skin, the light's tint [3], and where the photo's own chance comes from."""
    rng = np.random.default_rng([seed, lesion, photo + 1])
    view = View(size, rng.uniform(0, 2 * np.pi), rng.uniform(0.82, 1.22), rng.normal(0, 0.08, 2))
    p = painter(view, np.random.default_rng([seed, lesion]))
    p.canvas += p.mix((0.93, 0.76, 0.69), (0.80, 0.61, 0.50)).astype(np.float32)[:, None, None]
    p.canvas += 0.022 * p.field(0.6) + 0.012 * p.field(7.0)
    # one visit, one lamp: photos of a lesion differ less in their light than those of two lesions
    tint = 255 * np.array(light_colour) * p.rng.normal(1, 0.022, 3) * p.uniform(0.9, 1.05)
    p.ambiguity = p.rng.beta(2.2, 1.8)
    return p, tint, rng


def photograph(dx: str, light_colour: Colour, size: int, seed: int, lesion: int, photo: int) -> Array:
    """Photo number `photo` of lesion number `lesion`, uint8 [3, size, size]."""
    p, tint, rng = _skin(Painter, light_colour, size, seed, lesion, photo)
    view = p.view
    PAINT[dx](p)
    _cover(p, rng)
    x, y = view.grid - np.float32(rng.normal(0, 0.12)), view.grid - np.float32(rng.normal(0, 0.12))
    from_light = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2)
    light = rng.uniform(0.96, 1.03) * (1 - rng.uniform(0.05, 0.22) * np.maximum(from_light - 0.5, 0) ** 2)
    if rng.random() < 0.05:
        light *= ramp((rng.uniform(1.12, 1.25) - from_light) / 0.06)
    tint *= rng.normal(1, 0.008, 3)
    p.canvas *= light * tint.astype(np.float32)[:, None, None]
    p.canvas += 2.3 * rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(p.canvas + 0.5, 0, 255).astype(np.uint8)


def _cover(p: Painter, rng: np.random.Generator) -> None:
    """What lies over the skin in some photos, in image coordinates: hairs, a ruler's marks, gel bubbles."""
    hairs, ruler, bubbles = rng.random(3) < (0.18, 0.06, 0.08)
    p.x, p.y = np.broadcast_arrays(p.view.grid[None, :], p.view.grid[:, None])
    if hairs:
        for _ in range(int(rng.integers(2, 7))):
            (c, s), bend, off = _directions(rng.random(1))[0].astype(np.float32), *rng.normal(0, (0.25, 0.45))
            across = np.abs(c * p.y - s * p.x - np.float32(off) - np.float32(bend) * (c * p.x + s * p.y) ** 2)
            p.blend((0.16, 0.11, 0.09), ramp(1.1 - across / np.float32(0.027)) * rng.uniform(0.4, 0.8))
    if ruler:
        nearest = np.abs((p.x + 1) / 0.1 - np.rint((p.x + 1) / 0.1))
        long = np.rint((p.x + 1) / 0.1) % 5 == 0
        p.blend((0.12, 0.12, 0.14), ramp((0.3 - nearest) / 0.15) * (p.y > np.where(long, 0.78, 0.88)) * 0.75)
    if bubbles:
        count = int(rng.integers(2, 6))
        centres, radii = rng.uniform(-0.95, 0.95, (count, 2)), rng.uniform(0.05, 0.12, count)
        rings = np.maximum(p.discs(centres, radii) - p.discs(centres, radii - 0.035), 0)
        p.blend((0.98, 0.96, 0.94), rings * 0.6)
