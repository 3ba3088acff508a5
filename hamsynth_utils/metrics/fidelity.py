"""How far synthetic images are from real ones: the Fréchet distance, and the floor that gives it meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import linalg, stats

from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics.intervals import lesion_codes


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to features a [N, D] and b [M, D]; >= 0, no unit.

        |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2))

    (Dowson & Landau 1982; on Inception features it is the FID, Heusel et al. 2017, equation 6). With the
    centred features A = (a - mu_a) / sqrt(N - 1) and B alike, S_a = A'A, S_b = B'B and the trace of the root
    is the sum of the singular values of AB': no matrix root, and right for fewer images than dimensions too.

    Raises InputError for fewer than two rows, other dimensions or values that are not finite.
    """
    a, b = _checked(a, "the first set"), _checked(b, "the second set")
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"features of {a.shape[1]} and {b.shape[1]} dimensions: use one extractor for both sets"
        )
    difference = a.mean(0) - b.mean(0)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = linalg.svdvals(root_a @ root_b.T).sum()
    total = difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(max(total, 0.0))


def distance_with_interval(
    real: np.ndarray, synthetic: np.ndarray, n: int, repeats: int, seed: int
) -> dict[str, float]:
    """Fréchet distance between `n` real and `n` synthetic feature vectors, over `repeats` random draws.

    Returns mean, low, high, n and repeats. A distance depends on n: compare only at equal n. `low` to
    `high` is the 95 % prediction interval (Student) of one more draw of n and n images. It holds the chance
    of the draw, not that of training; draws of more than half of a set overlap, and the interval is then
    too narrow.

    Raises InputError if a set holds fewer than `n` rows, or for repeats < 2.
    """
    real, synthetic = _checked(real, "the real set"), _checked(synthetic, "the synthetic set")
    for name, features in (("real", real), ("synthetic", synthetic)):
        if len(features) < n:
            raise InputError(f"{n} images a draw, but there are only {len(features)} {name} ones: lower n")

    def draw(generator: np.random.Generator) -> float:
        return frechet_distance(_sample(real, n, generator), _sample(synthetic, n, generator))

    return _repeated(draw, n, repeats, seed)


def floor(
    real: np.ndarray, lesion_ids: Sequence | np.ndarray | pd.Series, n: int, repeats: int, seed: int
) -> dict[str, float]:
    """Fréchet distance between real images and other real images: what a perfect generator would get.

    real: features [N, D]; lesion_ids: [N]. Every repeat halves the lesions at random and draws `n` images
    from each half, so that no lesion is on both sides. Returns what `distance_with_interval` returns.

    Raises InputError for a missing lesion id, or if a half holds fewer than `n` images.
    """
    real = _checked(real, "the real set")
    codes, lesions = lesion_codes(lesion_ids, len(real))
    images = np.bincount(codes)

    def draw(generator: np.random.Generator) -> float:
        order = generator.permutation(lesions)
        first = order[np.cumsum(images[order]) <= len(real) / 2]
        side = np.isin(codes, first)
        smaller = min(side.sum(), (~side).sum())
        if smaller < n:
            raise InputError(
                f"a floor at n = {n} needs {n} images in each half, but {len(real)} images of {lesions} "
                f"lesions give a half of {smaller}: lower n"
            )
        return frechet_distance(_sample(real[side], n, generator), _sample(real[~side], n, generator))

    return _repeated(draw, n, repeats, seed)


def _repeated(
    draw: Callable[[np.random.Generator], float], n: int, repeats: int, seed: int
) -> dict[str, float]:
    if repeats < 2:
        raise InputError(f"an interval needs at least 2 repeats, not {repeats}")
    values = [draw(generator) for generator in np.random.default_rng(seed).spawn(repeats)]
    mean = float(np.mean(values))
    spread = float(stats.t.ppf(0.975, repeats - 1) * np.std(values, ddof=1) * np.sqrt(1 + 1 / repeats))
    # A distance is never negative, so its interval ends at 0.
    low, high = max(mean - spread, 0.0), mean + spread
    return {"mean": mean, "low": low, "high": high, "n": n, "repeats": repeats}


def _sample(features: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    return features[generator.choice(len(features), n, replace=False)]


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """R [min(N, D), D] with R'R the covariance of features [N, D]."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return linalg.qr(centred, mode="r")[0][: centred.shape[1]] if len(centred) > centred.shape[1] else centred


def _checked(features: np.ndarray, name: str) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise InputError(f"{name} must be features [N, D] of at least two images, not {features.shape}")
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise InputError(
            f"{name} has values that are not finite in {len(bad)} rows, the first is row {bad[0]}"
        )
    return features
