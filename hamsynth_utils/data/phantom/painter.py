"""What the phantom's pictures are painted with: each lesion a recipe, each photo another view of it.

A recipe is made of smooth random fields, discs and lines in the lesion's own coordinates (centre 0, one
unit = half the image's width at zoom 1). So a photo can be drawn at any size, photos of a lesion agree, and
lesion k is the same however many are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
        k, phase = (
            lengths * directions(self.rng.random(waves)),
            self.rng.uniform(0, 2 * np.pi, waves),
        )
        return self.view.waves(k, phase) * np.float32(np.sqrt(2 / waves))

    def honeycomb(self, frequency: float) -> Array:
        """A slightly irregular pigment network: 1 on the lines, 0 in the holes."""
        turns = self.rng.random() + np.arange(3) / 6 + self.rng.normal(0, 0.006, 3)
        first, third = self.rng.uniform(0, 2 * np.pi, 2)
        # with this middle phase the three waves peak together: holes on a hexagonal lattice, not lines on it
        phase = np.array([first, first + third, third])
        bumps = self.view.waves(2 * np.pi * frequency * directions(turns), phase)
        return ramp(0.55 - 0.55 * bumps - 0.25 * self.field(0.6 * frequency))

    def blob(
        self, radius: float, aspect: float, rough: float, frequency: float, soft: float
    ) -> tuple:
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
        return ramp(
            0.5 + ((radii[:, None, None].astype(np.float32) - far) / np.float32(edge)).max(axis=0)
        )

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


class Tracer(Painter):
    """Paints nothing, but notes how much of the skin the brushes cover: `covered` [size, size] in 0 to 1."""

    def __init__(self, view: View, rng: np.random.Generator) -> None:
        super().__init__(view, rng)
        self.covered = np.zeros((view.size, view.size), dtype=np.float32)

    def blend(self, colour: Array | Colour, mask: Array) -> None:
        self.covered = 1 - (1 - self.covered) * (1 - mask)


def directions(turns: Array) -> Array:
    """Unit vectors [N, 2] at angles given in full turns [N]."""
    return np.exp(2j * np.pi * turns)[:, None].view(np.float64)


def ramp(t: Array) -> Array:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
