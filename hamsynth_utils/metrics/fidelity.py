"""How far synthetic images are from real ones, how many look real, how much of the real they cover.

Every measure takes features [N, D] of two sets from one extractor. A distance means nothing without the
number of images and the floor, the distance between real images and other real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import linalg, stats
from sklearn.metrics.pairwise import euclidean_distances
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids, Interval, factorize_lesions

Measure = Callable[[np.ndarray, np.ndarray], float]
"""A number for two sets of features."""


Pairs = Iterator[tuple[np.ndarray, np.ndarray]]
"""Repeated random draws of n and n rows from two sets."""


MEASURES = {
    "frechet": (0.0, np.inf),
    "kernel": (-np.inf, np.inf),
    "precision": (0.0, 1.0),
    "recall": (0.0, 1.0),
    "density": (0.0, np.inf),
    "coverage": (0.0, 1.0),
}
"""What `all_measures` measures, and the range of each."""


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to features a [N, D] and b [M, D]; >= 0, no unit.

        |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2))

    (Dowson & Landau 1982; on Inception features it is the FID, Heusel et al. 2017, equation 6). With the
    centred features A = (a - mu_a) / sqrt(N - 1) and B alike, S_a = A'A, S_b = B'B and the trace of the root
    is the sum of the singular values of AB': no matrix root, and right for fewer images than dimensions too.

    Raises InputError for fewer than two rows, other dimensions or values that are not finite.
    """
    a, b = _same_space(a, b)
    difference = a.mean(0) - b.mean(0)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = linalg.svdvals(root_a @ root_b.T).sum()
    total = difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(max(total, 0.0))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy of features a [N, D] and b [M, D], an unbiased estimate; no unit.

    With the kernel k(x, y) = (x . y / D + 1)^3 (Binkowski et al. 2018; on Inception features it is the KID).
    Its expectation is 0 for sets of one distribution whatever N is, so that single values may be negative.
    Raises InputError as `frechet_distance` does.
    """
    a, b = _same_space(a, b)
    within_a, within_b, between = (
        (x @ y.T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))
    )
    own = sum(
        (within.sum() - np.trace(within)) / (len(within) * (len(within) - 1))
        for within in (within_a, within_b)
    )
    return float(own - 2 * between.mean())


def precision_recall(
    real: np.ndarray, synthetic: np.ndarray, neighbours: int = 5
) -> dict[str, float]:
    """`precision`, `recall`, `density` and `coverage` of synthetic features [M, D] against real ones [N, D].

    The ball around a point reaches to its `neighbours`-th nearest in its own set. precision: the share of
    synthetic points in some real ball; recall: of real points in some synthetic ball (Kynkaanniemi et al.
    2019). density: in how many real balls a synthetic point lies, over `neighbours`, at times above 1;
    coverage: the share of real balls that hold a synthetic point (Naeem et al. 2020). All depend on N and M:
    compare only at equal numbers, beside the values of real images against other real ones.

    Raises InputError as `frechet_distance` does, and for sets of no more than `neighbours` images.
    """
    real, synthetic = _same_space(real, synthetic)
    if min(len(real), len(synthetic)) <= neighbours:
        raise InputError(
            f"{neighbours} neighbours need more images than {len(real)} real and {len(synthetic)} synthetic"
        )
    real_reach, synthetic_reach = (
        np.partition(euclidean_distances(points), neighbours, axis=1)[:, neighbours]
        for points in (real, synthetic)
    )
    apart = euclidean_distances(real, synthetic)
    in_real_ball, in_synthetic_ball = apart <= real_reach[:, None], apart <= synthetic_reach
    return {
        "precision": float(in_real_ball.any(0).mean()),
        "recall": float(in_synthetic_ball.any(1).mean()),
        "density": float(in_real_ball.sum(0).mean() / neighbours),
        "coverage": float(in_real_ball.any(1).mean()),
    }


def subset_pairs(
    real: np.ndarray, synthetic: np.ndarray, n: int, n_subsets: int, seed: int
) -> Pairs:
    """`n_subsets` random draws of `n` real and `n` synthetic feature vectors, from [N, D] and [M, D].

    Raises InputError if a set holds fewer than `n` rows, or for n_subsets < 2.
    """
    real, synthetic = _checked(real, "the real set"), _checked(synthetic, "the synthetic set")
    for name, features in (("real", real), ("synthetic", synthetic)):
        if len(features) < n:
            raise InputError(
                f"{n} images a draw, but there are only {len(features)} {name} ones: lower n"
            )
    for rng in _generators(n_subsets, seed):
        yield _sample(real, n, rng), _sample(synthetic, n, rng)


def real_subset_pairs(
    real: np.ndarray,
    lesion_ids: Ids,
    n: int,
    n_subsets: int,
    seed: int,
) -> Pairs:
    """`n_subsets` random draws of `n` real feature vectors and `n` other ones: what a perfect generator gives.

    real: features [N, D]; lesion_ids: [N]. Every repeat halves the lesions at random and draws `n` images
    from each half, so that no lesion is on both sides.

    Raises InputError for a missing lesion id, n_subsets < 2, or if a half holds fewer than `n` images.
    """
    real = _checked(real, "the real set")
    codes, lesions = factorize_lesions(lesion_ids, len(real))
    images = np.bincount(codes)
    for rng in _generators(n_subsets, seed):
        order = rng.permutation(lesions)
        first = order[np.cumsum(images[order]) <= len(real) / 2]
        side = np.isin(codes, first)
        smaller = min(side.sum(), (~side).sum())
        if smaller < n:
            raise InputError(
                f"a floor at n = {n} needs {n} images in each half, but {len(real)} images of {lesions} "
                f"lesions give a half of {smaller}: lower n"
            )
        yield _sample(real[side], n, rng), _sample(real[~side], n, rng)


def all_measures(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Each of `MEASURES` over the pairs of `subset_pairs` or `real_subset_pairs`: measure, mean, low, high, n, n_subsets.

    One row a measure; the interval is that of `distance_with_interval`, within the measure's range.
    """
    drawn, n = [], 0
    for real, synthetic in pairs:
        n = len(real)
        distances = {
            "frechet": frechet_distance(real, synthetic),
            "kernel": kernel_distance(real, synthetic),
        }
        drawn.append(distances | precision_recall(real, synthetic))
    return pd.DataFrame(
        [
            {
                "measure": name,
                **_interval([row[name] for row in drawn], *limits),
                "n": n,
                "n_subsets": len(drawn),
            }
            for name, limits in MEASURES.items()
        ]
    )


def distance_with_interval(
    real: np.ndarray,
    synthetic: np.ndarray,
    n: int,
    n_subsets: int,
    seed: int,
    measure: Measure = frechet_distance,
) -> dict[str, float]:
    """`measure` over the `subset_pairs` of `n` real and `n` synthetic feature vectors.

    Returns mean, low, high, n and n_subsets. A distance depends on n: compare only at equal n. `low` to
    `high` is the 95 % prediction interval (Student) of one more draw of n and n images. It holds the chance
    of the draw, not that of training; draws of more than half of a set overlap, and the interval is then
    too narrow. Raises InputError as `subset_pairs` does.
    """
    return _measured(subset_pairs(real, synthetic, n, n_subsets, seed), measure, n, n_subsets)


def subset_std(high: float, mean: float, n_subsets: int) -> float:
    """The standard deviation of the draws behind what `distance_with_interval` returned."""
    return (high - mean) / _prediction_factor(n_subsets)


def real_baseline(
    real: np.ndarray,
    lesion_ids: Ids,
    n: int,
    n_subsets: int,
    seed: int,
    measure: Measure = frechet_distance,
) -> dict[str, float]:
    """`measure` over the `real_subset_pairs` of real images and other real images, no lesion on both sides.

    Returns what `distance_with_interval` returns; raises InputError as `real_subset_pairs` does.
    """
    return _measured(real_subset_pairs(real, lesion_ids, n, n_subsets, seed), measure, n, n_subsets)


def _generators(n_subsets: int, seed: int) -> list[np.random.Generator]:
    if n_subsets < 2:
        raise InputError(f"an interval needs at least 2 n_subsets, not {n_subsets}")
    return np.random.default_rng(seed).spawn(n_subsets)


def _measured(pairs: Pairs, measure: Measure, n: int, n_subsets: int) -> dict[str, float]:
    least = 0.0 if measure is frechet_distance else -np.inf
    return {
        **_interval([measure(a, b) for a, b in pairs], least, np.inf),
        "n": n,
        "n_subsets": n_subsets,
    }


def _interval(values: Sequence[float], least: float, most: float) -> dict[str, float]:
    """Mean and 95 % prediction interval (Student) of one more value, within `least` to `most`."""
    mean, n_subsets = float(np.mean(values)), len(values)
    spread = _prediction_factor(n_subsets) * float(np.std(values, ddof=1))
    return {"mean": mean, "low": max(mean - spread, least), "high": min(mean + spread, most)}


def _prediction_factor(n_subsets: int) -> float:
    """How many standard deviations of so many draws the prediction interval reaches to either side."""
    return float(stats.t.ppf(0.975, n_subsets - 1) * np.sqrt(1 + 1 / n_subsets))


def _sample(features: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return features[rng.choice(len(features), n, replace=False)]


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """R [min(N, D), D] with R'R the covariance of features [N, D]."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return (
        linalg.qr(centred, mode="r")[0][: centred.shape[1]]
        if len(centred) > centred.shape[1]
        else centred
    )


def _same_space(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _checked(a, "the first set"), _checked(b, "the second set")
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"features of {a.shape[1]} and {b.shape[1]} dimensions: use one extractor for both sets"
        )
    return a, b


def _checked(features: np.ndarray, name: str) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise InputError(
            f"{name} must be features [N, D] of at least two images, not {features.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise InputError(
            f"{name} has values that are not finite in {len(bad)} rows, the first is row {bad[0]}"
        )
    return features


def radial_power(images: Tensor) -> np.ndarray:
    """Power of each image's grey values at 1, 2, ... S/2 cycles an image, the mean over all directions.

    images: [N, 3, S, S], of any range and type -> float64 [N, S // 2], in squares of their units. A Hann
    window fades the border, whose jump from one side to the other would look like detail. Azimuthal
    averaging as in Durall et al. 2020. Raises InputError for another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise InputError(f"images must be [N, 3, S, S], not {list(images.shape)}")
    size = images.shape[-1]
    window = torch.hann_window(size, periodic=False, dtype=torch.float64)
    window = window[:, None] * window
    grey = images.double().mean(1)
    grey = grey - (grey * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2(grey * window).abs().square() / (size**2 * window.square().sum())
    cycles = torch.fft.fftfreq(size, 1 / size)
    radius = torch.hypot(cycles[:, None], cycles).round().long().flatten()
    total = torch.zeros(len(images), int(radius.max()) + 1, dtype=torch.float64)
    total.index_add_(1, radius, power.flatten(1))
    return (total / radius.bincount())[:, 1 : size // 2 + 1].numpy()


def power_ratio(images: LesionSet, real: LesionSet, n_resamples: int, seed: int) -> pd.DataFrame:
    """Mean power of `images` over that of `real`, a row a frequency: cycles, value, low, high, n, n_real.

    One at every frequency is as much detail as real images have at that scale; less is blur, a peak a
    pattern. The 95 % interval is over the lesions of both sets; an image without siblings is a lesion.
    The last row, of cycles "fine", is that of the upper half of the frequencies together.
    """
    rng = np.random.default_rng(seed)
    power, real_power = (_mean_power(each, n_resamples, rng) for each in (images, real))
    ratio = power / real_power
    return pd.DataFrame(
        {
            "cycles": [*range(1, len(ratio.value)), "fine"],
            "value": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "n": len(images),
            "n_real": len(real),
        }
    )


def _mean_power(lesions: LesionSet, n_resamples: int, rng: np.random.Generator) -> Interval:
    """Mean power at each of F frequencies, then in their upper half together: [F + 1]."""
    power = radial_power(lesions.images)
    power = np.hstack([power, power[:, power.shape[1] // 2 :].sum(1, keepdims=True)])
    return ClusterBootstrap(lesions.table["lesion_id"], n_resamples, rng).mean(power)
