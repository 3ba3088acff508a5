"""How the phantom's seven classes are drawn, after the dermoscopic features of each class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hamsynth_utils.data.phantom.painter import Array, Painter, ramp


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
    p.blend(
        p.mix((0.62, 0.30, 0.25), (0.70, 0.50, 0.35)), mask * ramp(p.field(1.1)) * 0.75 * severity
    )
    p.blend((0.11, 0.07, 0.07), mask * ramp(0.9 * p.field(0.9)) * (0.35 + 0.6 * severity))
    p.blend((0.17, 0.10, 0.09), mask * p.honeycomb(p.uniform(3.5, 5.5)) * 0.6 * (1 - depth))
    if p.rng.random() < severity:
        veil = p.discs(p.scatter(4, 0.28), p.rng.uniform(0.06, 0.18, 4), soft=0.2)
        p.blend(p.mix((0.42, 0.50, 0.62), (0.66, 0.71, 0.78)), mask * veil * p.uniform(0.45, 0.8))


def _bkl(p: Painter) -> None:
    """Waxy grey-brown with a sharp scalloped border, milia-like white dots and dark plugs."""
    radius = p.uniform(0.42, 0.7)
    mask, _ = p.blob(
        radius, p.uniform(0.65, 0.95), p.uniform(0.04, 0.09), p.uniform(2.2, 3.2), 0.05
    )
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
    nests = p.discs(
        p.scatter(count, 0.8 * radius, 0.2), p.rng.uniform(0.05, 0.13, count), soft=0.06
    )
    p.blend(
        p.mix((0.36, 0.38, 0.47), (0.47, 0.45, 0.52)), nests * ramp(1.2 + 0.4 * p.field(3.0)) * 0.85
    )
    p.blend((0.70, 0.16, 0.19), p.lines(*_vessels(p.rng, radius)) * 0.75)


def _vessels(rng: np.random.Generator, radius: float) -> tuple[Array, Array, Array]:
    """Two or three trunks that branch and thin inwards: starts and ends [M, 2], widths [M]."""
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
    p.blend(
        (0.50, 0.32, 0.26),
        mask * p.honeycomb(p.uniform(5, 6.5)) * p.uniform(0.3, 0.7) * (1 - depth),
    )
    scar, _ = p.blob(radius * p.uniform(0.35, 0.55), p.uniform(0.7, 1.0), 0.14, 2.0, 0.9)
    p.blend((0.93, 0.85, 0.80), scar * p.uniform(0.45, 0.95))


PAINT: dict[str, Callable[[Painter], None]] = {
    "akiec": _akiec,
    "bcc": _bcc,
    "bkl": _bkl,
    "df": _df,
    "mel": _mel,
    "nv": _nv,
    "vasc": _vasc,
}
"""Paints one lesion of a class, by the class."""
