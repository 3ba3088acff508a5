"""Fidelity and diversity: how near synthetic images are to real ones, and what they cover.

Every measure takes features [N, D] of two sets from one extractor. A distance has a meaning only
beside the number of images and the real-versus-real baseline, the distance between real images and
other real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import linalg, stats
from sklearn.metrics.pairwise import euclidean_distances

from hamsynth_utils.core.errors import InputError, NotMeasured
from hamsynth_utils.metrics.bootstrap import Ids, factorize_lesions

Measure = Callable[[np.ndarray, np.ndarray], float]
"""Maps features [N, D] of real and [M, D] of synthetic images to one number."""


Pairs = Iterator[tuple[np.ndarray, np.ndarray]]
"""Random subsets of two sets of features, equally large: pairs of [n_images, D]."""


MEASURES = {
    "frechet": (0.0, np.inf),
    "kernel": (-np.inf, np.inf),
    "precision": (0.0, 1.0),
    "recall": (0.0, 1.0),
    "density": (0.0, np.inf),
    "coverage": (0.0, 1.0),
}
"""The measures of `all_measures`, and the range of each."""


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

        |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2))

    (Dowson & Landau 1982; on Inception features it is the FID, Heusel et al. 2017, equation 6.)
    With the centred features A = (a - mu_a) / sqrt(N - 1), and B likewise, S_a = A'A and S_b = B'B.
    The trace of the root is then the sum of the singular values of AB'. This needs no matrix root,
    and also holds for fewer images than dimensions.

    Args:
        a: Features [N, D].
        b: Features [M, D] of the same extractor.

    Returns:
        The distance, at least 0, in squares of the features' unit.

    Raises:
        NotMeasured: If a set has fewer than two rows.
        InputError: If the dimensions differ, or a value is not finite.
    """
    a, b = _same_space(a, b)
    difference = a.mean(0) - b.mean(0)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = linalg.svdvals(root_a @ root_b.T).sum()
    total = difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(max(total, 0.0))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two sets of features, an unbiased estimate.

    The kernel is k(x, y) = (x . y / D + 1)^3 (Binkowski et al. 2018; on Inception features it is
    the KID). For sets of one distribution the expectation is 0 whatever N is, so that single values
    may be negative.

    Args:
        a: Features [N, D].
        b: Features [M, D] of the same extractor.

    Returns:
        The distance, without a unit.

    Raises:
        InputError: As `frechet_distance` does.
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
    real: np.ndarray, synthetic: np.ndarray, n_neighbours: int = 5
) -> dict[str, float]:
    """Precision, recall, density and coverage of synthetic images, by nearest neighbours.

    The ball around an image reaches to its `n_neighbours`-th nearest image of its own set. All four
    depend on N and M: compare them only at equal numbers, beside the values of real images against
    other real ones.

    Args:
        real: Features [N, D].
        synthetic: Features [M, D] of the same extractor.
        n_neighbours: Neighbours that define a ball.

    Returns:
        These values by name.

        - precision: The fraction of synthetic images in some real ball (Kynkaanniemi et al. 2019).
        - recall: The fraction of real images in some synthetic ball (the same).
        - density: The mean number of real balls that hold a synthetic image, over `n_neighbours`;
          it may exceed 1 (Naeem et al. 2020).
        - coverage: The fraction of real balls that hold a synthetic image (the same).

    Raises:
        NotMeasured: If a set has no more than `n_neighbours` images.
        InputError: As `frechet_distance` does.
    """
    real, synthetic = _same_space(real, synthetic)
    if min(len(real), len(synthetic)) <= n_neighbours:
        raise NotMeasured(
            f"{n_neighbours} neighbours need more images than {len(real)} real and "
            f"{len(synthetic)} synthetic"
        )
    real_radius, synthetic_radius = (
        np.partition(euclidean_distances(points), n_neighbours, axis=1)[:, n_neighbours]
        for points in (real, synthetic)
    )
    distances = euclidean_distances(real, synthetic)  # [N, M]
    in_real_ball, in_synthetic_ball = (
        distances <= real_radius[:, None],
        distances <= synthetic_radius,
    )
    return {
        "precision": float(in_real_ball.any(0).mean()),
        "recall": float(in_synthetic_ball.any(1).mean()),
        "density": float(in_real_ball.sum(0).mean() / n_neighbours),
        "coverage": float(in_real_ball.any(1).mean()),
    }


def subset_pairs(
    real: np.ndarray, synthetic: np.ndarray, n_images: int, n_subsets: int, seed: int
) -> Pairs:
    """Random subsets of real and of synthetic features.

    Args:
        real: Features [N, D].
        synthetic: Features [M, D].
        n_images: Images per subset.
        n_subsets: Pairs of subsets.
        seed: Of the subsets.

    Returns:
        Pairs of [n_images, D].

    Raises:
        NotMeasured: If a set has fewer than `n_images` rows.
        InputError: If `n_subsets` is below 2.
    """
    real, synthetic = _checked(real, "the real set"), _checked(synthetic, "the synthetic set")
    for name, features in (("real", real), ("synthetic", synthetic)):
        if len(features) < n_images:
            raise NotMeasured(
                f"{n_images} images per subset, but there are only {len(features)} {name} ones: "
                "lower n_images"
            )
    for rng in _subset_rngs(n_subsets, seed):
        yield _sample(real, n_images, rng), _sample(synthetic, n_images, rng)


def real_subset_pairs(
    real: np.ndarray,
    lesion_ids: Ids,
    n_images: int,
    n_subsets: int,
    seed: int,
) -> Pairs:
    """Random subsets of real and other real features: what a perfect generator would give.

    Every pair splits the lesions at random into halves and takes `n_images` images of each half, so
    that no lesion is on both sides.

    Args:
        real: Features [N, D].
        lesion_ids: Lesion ids, [N].
        n_images: Images per subset.
        n_subsets: Pairs of subsets.
        seed: Of the halves and the subsets.

    Returns:
        Pairs of [n_images, D].

    Raises:
        NotMeasured: If a half has fewer than `n_images` images.
        InputError: If a lesion id is missing, or `n_subsets` is below 2.
    """
    real = _checked(real, "the real set")
    codes, lesions = factorize_lesions(lesion_ids, len(real))
    images = np.bincount(codes)
    for rng in _subset_rngs(n_subsets, seed):
        order = rng.permutation(lesions)
        first = order[np.cumsum(images[order]) <= len(real) / 2]
        side = np.isin(codes, first)
        smaller = min(side.sum(), (~side).sum())
        if smaller < n_images:
            raise NotMeasured(
                f"a real baseline of {n_images} images needs as many in each half, but "
                f"{len(real)} images of {lesions} lesions give a half of {smaller}: lower n_images"
            )
        yield _sample(real[side], n_images, rng), _sample(real[~side], n_images, rng)


def all_measures(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Each of `MEASURES` over pairs of subsets.

    Args:
        pairs: From `subset_pairs` or `real_subset_pairs`.

    Returns:
        One row per measure: measure, mean, low, high, n (images per subset) and n_subsets. The
            interval is that of `distance_with_interval`, within the measure's range.
    """
    values, n_images = [], 0
    for real, synthetic in pairs:
        n_images = len(real)
        distances = {
            "frechet": frechet_distance(real, synthetic),
            "kernel": kernel_distance(real, synthetic),
        }
        values.append(distances | precision_recall(real, synthetic))
    return pd.DataFrame(
        [
            {
                "measure": name,
                **_interval([row[name] for row in values], *limits),
                "n": n_images,
                "n_subsets": len(values),
            }
            for name, limits in MEASURES.items()
        ]
    )


def distance_with_interval(
    real: np.ndarray,
    synthetic: np.ndarray,
    n_images: int,
    n_subsets: int,
    seed: int,
    measure: Measure = frechet_distance,
) -> dict[str, float]:
    """A measure over random subsets of real and of synthetic images.

    A distance depends on the number of images: compare it only at equal `n_images`. The interval
        holds the chance of the subset, not that of training. Subsets of more than half of a set
        overlap, and the interval is then too narrow.

    Args:
        real: Features [N, D].
        synthetic: Features [M, D] of the same extractor.
        n_images: Images per subset.
        n_subsets: Subsets of each set.
        seed: Of the subsets.
        measure: The measure.

    Returns:
        mean, low, high, n (images per subset) and n_subsets. `low` to `high` is the 95 % prediction
        interval (Student) of the measure on one more pair of subsets.

    Raises:
        InputError: As `subset_pairs` does.
    """
    return _measured(subset_pairs(real, synthetic, n_images, n_subsets, seed), measure, n_images)


def distance_of_all(
    real: np.ndarray,
    synthetic: np.ndarray,
    n_subsets: int,
    seed: int,
    measure: Measure = frechet_distance,
) -> dict[str, float]:
    """A measure of all images of two sets, which may differ in size.

    Its standard error is the standard deviation over pairs of random halves of both sets (the
    delete-half jackknife, Shao & Wu 1989).

    Args:
        real: Features [N, D].
        synthetic: Features [M, D] of the same extractor.
        n_subsets: Pairs of halves.
        seed: Of the halves.
        measure: The measure.

    Returns:
        mean (the measure itself), low, high, n (M) and n_subsets. `low` to `high` is the 95 %
        prediction interval (Student) of the measure of other images, as many of each kind: both
        measures have the standard error.

    Raises:
        NotMeasured: If a set has fewer than four rows.
        InputError: As `frechet_distance` does.
    """
    if min(len(real), len(synthetic)) < 4:
        raise NotMeasured("an interval from halves needs at least four images of each kind")
    value = measure(real, synthetic)
    halves = [
        measure(_sample(real, len(real) // 2, rng), _sample(synthetic, len(synthetic) // 2, rng))
        for rng in _subset_rngs(n_subsets, seed)
    ]
    spread = _factor_of_two_draws(n_subsets) * float(np.std(halves, ddof=1))
    least = 0.0 if measure is frechet_distance else -np.inf
    return {
        "mean": value,
        "low": max(value - spread, least),
        "high": value + spread,
        "n": len(synthetic),
        "n_subsets": n_subsets,
    }


def standard_error(high: float, mean: float, n_subsets: int) -> float:
    """The standard error of a measure, from the interval of `distance_of_all`.

    Args:
        high: The interval's upper end.
        mean: The measure.
        n_subsets: Pairs of halves behind the interval.
    """
    return (high - mean) / _factor_of_two_draws(n_subsets)


def real_baseline(
    real: np.ndarray,
    lesion_ids: Ids,
    n_images: int,
    n_subsets: int,
    seed: int,
    measure: Measure = frechet_distance,
) -> dict[str, float]:
    """A measure over subsets of real images and other real images, without a lesion on both sides.

    Args:
        real: Features [N, D].
        lesion_ids: Lesion ids, [N].
        n_images: Images per subset.
        n_subsets: Subsets of each half.
        seed: Of the halves and the subsets.
        measure: The measure.

    Returns:
        The result of `distance_with_interval`.

    Raises:
        InputError: As `real_subset_pairs` does.
    """
    return _measured(
        real_subset_pairs(real, lesion_ids, n_images, n_subsets, seed), measure, n_images
    )


def _subset_rngs(n_subsets: int, seed: int) -> list[np.random.Generator]:
    if n_subsets < 2:
        raise InputError(f"an interval needs at least 2 subsets, but n_subsets is {n_subsets}")
    return np.random.default_rng(seed).spawn(n_subsets)


def _measured(pairs: Pairs, measure: Measure, n_images: int) -> dict[str, float]:
    least = 0.0 if measure is frechet_distance else -np.inf
    values = [measure(real, synthetic) for real, synthetic in pairs]
    return {**_interval(values, least, np.inf), "n": n_images, "n_subsets": len(values)}


def _interval(values: Sequence[float], least: float, most: float) -> dict[str, float]:
    """Mean and 95 % prediction interval (Student) of one more value, within `least` to `most`."""
    mean, n_subsets = float(np.mean(values)), len(values)
    spread = _prediction_factor(n_subsets) * float(np.std(values, ddof=1))
    return {"mean": mean, "low": max(mean - spread, least), "high": min(mean + spread, most)}


def _prediction_factor(n_subsets: int) -> float:
    """Half the width of the prediction interval, in standard deviations over the subsets."""
    return float(stats.t.ppf(0.975, n_subsets - 1) * np.sqrt(1 + 1 / n_subsets))


def _factor_of_two_draws(n_subsets: int) -> float:
    """Half the width of the interval of a second draw around the first, in standard errors."""
    return float(stats.t.ppf(0.975, n_subsets - 1) * np.sqrt(2))


def _sample(features: np.ndarray, n_images: int, rng: np.random.Generator) -> np.ndarray:
    return features[rng.choice(len(features), n_images, replace=False)]


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
    if features.ndim != 2:
        raise InputError(f"{name} must be features [N, D], not {features.shape}")
    if len(features) < 2:
        raise NotMeasured(f"{name} must have at least two images, but it has {len(features)}")
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise InputError(
            f"{name} has values that are not finite in {len(bad)} rows, the first is row {bad[0]}"
        )
    return features
