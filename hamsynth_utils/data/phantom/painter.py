"""Draws the phantom's images: each lesion is a recipe, each photo another view of the lesion.

A recipe consists of smooth random fields, discs and lines in the coordinates of the lesion: centre
0, one unit = half the width of the image at zoom 1. So a photo can be drawn at any size, the photos
of a lesion agree, and lesion k does not depend on the number of lesions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray


Colour = tuple[float, float, float]


COMMON: Colour = (0.60, 0.42, 0.36)
"""A reddish brown of every diagnosis: typical lesions are far from it, ambiguous lesions near."""


@dataclass(frozen=True)
class View:
    """The geometry of one photo: pixel grid -> lesion coordinates.

    Attributes:
        size: height and width in pixels.
        angle: rotation in radians.
        zoom: enlargement; 1 shows lesion coordinates from -1 to 1.
        shift: the centre of the lesion in the image, [2], where the image reaches from -1 to 1.
    """

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
        """Image -> lesion coordinates: rotation and zoom, float32 [2, 2]."""
        c, s = np.cos(self.angle) / self.zoom, np.sin(self.angle) / self.zoom
        return np.array([[c, -s], [s, c]], dtype=np.float32)

    @cached_property
    def sides(self) -> tuple[Array, Array]:
        """Pixel centres along a row and a column, relative to the lesion's centre, [size] each."""
        column, row = self.shift.astype(np.float32)
        return self.grid - column, self.grid - row

    def points(self) -> tuple[Array, Array]:
        """Lesion coordinates x and y of every pixel, float32 [size, size] each."""
        (a, b), (c, d) = self.matrix
        across, down = self.sides[0][None, :], self.sides[1][:, None]
        return a * across + b * down, c * across + d * down

    def waves(self, k: Array, phase: Array) -> Array:
        """Sum over j of cos(k_j . (x, y) + phase_j) at every pixel.

        cos(a + b) = cos a cos b - sin a sin b turns the sum over waves into two small matrix
        products.

        Args:
            k: wave vectors [J, 2], in radians per lesion unit.
            phase: [J], in radians.

        Returns:
            float32 [size, size].
        """
        k = k.astype(np.float32) @ self.matrix
        a = k[:, :1] * self.sides[0]
        b = k[:, 1:] * self.sides[1] + phase.astype(np.float32)[:, None]
        return np.cos(b).T @ np.cos(a) - np.sin(b).T @ np.sin(a)


class Painter:
    """A photo that is being drawn: a canvas, and brushes that use the random source of the lesion.

    Every photo of a lesion repeats the same draws, so no draw may depend on the view.

    Attributes:
        canvas: float32 [3, size, size], RGB in [0, 1].
        ambiguity: how far colours move towards `COMMON`, in [0, 1].

    Args:
        view: the geometry of the photo.
        rng: the random source of the lesion.
    """

    def __init__(self, view: View, rng: np.random.Generator) -> None:
        self.view, self.rng = view, rng
        self.x, self.y = view.points()
        self.ambiguity = 0.0
        self.canvas = np.zeros((3, view.size, view.size), dtype=np.float32)

    def uniform(self, low: float, high: float) -> float:
        """A random number between `low` and `high`.

        Args:
            low: the lower bound.
            high: the upper bound.

        Returns:
            The number.
        """
        return float(self.rng.uniform(low, high))

    def mix(self, a: Colour, b: Colour) -> Array:
        """A random colour between two colours, moved towards `COMMON` by `ambiguity`.

        Args:
            a: RGB in [0, 1].
            b: RGB in [0, 1].

        Returns:
            RGB [3].
        """
        t = self.rng.random()
        colour = np.array(a) * (1 - t) + np.array(b) * t + self.rng.normal(0, 0.02, 3)
        return colour + self.ambiguity * (np.array(COMMON) - colour)

    def blend(self, colour: Array | Colour, mask: Array) -> None:
        """Move the canvas towards a colour.

        Args:
            colour: RGB in [0, 1].
            mask: [size, size]; 0 leaves the canvas, 1 replaces its colour.
        """
        self.canvas += mask * (np.asarray(colour, dtype=np.float32)[:, None, None] - self.canvas)

    def field(self, frequency: float, waves: int = 16) -> Array:
        """A smooth random field of mean 0 and variance 1.

        Args:
            frequency: mean number of waves per lesion unit.
            waves: number of waves in the sum.

        Returns:
            float32 [size, size].
        """
        lengths = 2 * np.pi * frequency * self.rng.uniform(0.5, 1.5, (waves, 1))
        k, phase = (
            lengths * directions(self.rng.random(waves)),
            self.rng.uniform(0, 2 * np.pi, waves),
        )
        return self.view.waves(k, phase) * np.float32(np.sqrt(2 / waves))

    def honeycomb(self, frequency: float) -> Array:
        """A slightly irregular pigment network.

        Args:
            frequency: mean number of waves per lesion unit.

        Returns:
            [size, size], 1 on the lines, 0 in the holes.
        """
        turns = self.rng.random() + np.arange(3) / 6 + self.rng.normal(0, 0.006, 3)
        first, third = self.rng.uniform(0, 2 * np.pi, 2)
        # with this middle phase the three waves peak together: holes on a hexagonal lattice, not
        # lines on it
        phase = np.array([first, first + third, third])
        bumps = self.view.waves(2 * np.pi * frequency * directions(turns), phase)
        return ramp(0.55 - 0.55 * bumps - 0.25 * self.field(0.6 * frequency))

    def blob(
        self, radius: float, aspect: float, rough: float, frequency: float, soft: float
    ) -> tuple:
        """An irregular ellipse around 0.

        Args:
            radius: geometric mean of the two half-axes, in lesion units.
            aspect: the shorter axis as a fraction of the longer axis, in (0, 1].
            rough: standard deviation of the border, as a fraction of the radius.
            frequency: of the border's irregularity, in waves per lesion unit.
            soft: width of the border, as a fraction of the radius; at least 1.5 pixels are used.

        Returns:
            Two arrays [size, size]: the mask in [0, 1], and the depth, 0 on the border and up to 1
            inside.
        """
        turn = self.rng.uniform(0, np.pi)
        u = (np.cos(turn) * self.x + np.sin(turn) * self.y) * np.float32(np.sqrt(aspect))
        v = (np.cos(turn) * self.y - np.sin(turn) * self.x) / np.float32(np.sqrt(aspect))
        depth = 1 - np.sqrt(u * u + v * v) / np.float32(radius)
        depth += np.float32(rough) * self.field(frequency)
        return ramp(0.5 + depth / max(soft, 1.5 * self.view.pixel / radius)), np.clip(depth, 0, 1)

    def discs(self, centres: Array, radii: Array, soft: float = 0.0) -> Array:
        """The union of discs.

        Args:
            centres: [M, 2], in lesion units.
            radii: [M], in lesion units.
            soft: width of the edges in lesion units; at least 1.2 pixels are used.

        Returns:
            The mask [size, size], in [0, 1].
        """
        far = np.hypot(
            self.x - centres[:, 0, None, None].astype(np.float32),
            self.y - centres[:, 1, None, None].astype(np.float32),
        )
        edge = max(soft, 1.2 * self.view.pixel)
        return ramp(
            0.5 + ((radii[:, None, None].astype(np.float32) - far) / np.float32(edge)).max(axis=0)
        )

    def scatter(self, count: int, spread: float, apart: float = 0.0) -> Array:
        """Random points in a disc around 0.

        Args:
            count: number of points.
            spread: radius of the disc, in lesion units.
            apart: the distance between points that is aimed at, in lesion units; six tries per
                point.

        Returns:
            [count, 2], in lesion units.
        """
        points = np.zeros((0, 2))
        for _ in range(count):
            radius, angle = spread * np.sqrt(self.rng.random(6)), self.rng.uniform(0, 2 * np.pi, 6)
            tries = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
            gaps = np.hypot(*(tries[:, None] - points[None]).T).min(axis=0, initial=9.0)
            points = np.vstack([points, tries[int(np.argmax(gaps >= apart)) if apart else 0]])
        return points

    def lines(self, starts: Array, ends: Array, widths: Array) -> Array:
        """Line segments.

        Args:
            starts: [M, 2], in lesion units.
            ends: [M, 2], in lesion units.
            widths: [M], in lesion units.

        Returns:
            The mask [size, size], in [0, 1].
        """
        d = (ends - starts).astype(np.float32)
        px = self.x - starts[:, 0, None, None].astype(np.float32)
        py = self.y - starts[:, 1, None, None].astype(np.float32)
        dx, dy = d[:, 0, None, None], d[:, 1, None, None]
        t = np.clip((px * dx + py * dy) / np.maximum(dx * dx + dy * dy, 1e-6), 0, 1)
        far = np.hypot(px - t * dx, py - t * dy)
        edge = np.float32(1.2 * self.view.pixel)
        return ramp(0.5 + ((widths[:, None, None].astype(np.float32) / 2 - far) / edge).max(axis=0))


class Tracer(Painter):
    """A painter that draws no colour, but records how far the brushes cover the skin.

    Attributes:
        covered: float32 [size, size], in [0, 1].

    Args:
        view: the geometry of the photo.
        rng: the random source of the lesion.
    """

    def __init__(self, view: View, rng: np.random.Generator) -> None:
        super().__init__(view, rng)
        self.covered = np.zeros((view.size, view.size), dtype=np.float32)

    def blend(self, colour: Array | Colour, mask: Array) -> None:
        """As `Painter.blend`, but the mask changes `covered`, and the colour does not count."""
        self.covered = 1 - (1 - self.covered) * (1 - mask)


def directions(turns: Array) -> Array:
    """Unit vectors.

    Args:
        turns: angles [N], in full turns.

    Returns:
        [N, 2].
    """
    return np.exp(2j * np.pi * turns)[:, None].view(np.float64)


def ramp(t: Array) -> Array:
    """A smooth step: 3 t^2 - 2 t^3 between 0 and 1.

    Args:
        t: any shape.

    Returns:
        Of the same shape: 0 where t is below 0, 1 where t is above 1.
    """
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
