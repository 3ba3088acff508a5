"""What the nearest neighbours in training say of a synthetic set: is it made of copies?

Every measure is also taken of held-out real images, which are nobody's copies: theirs is what a generator
that copies nothing has. Images that are near one and the same training lesion are not independent, so
intervals draw them together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans

from hamsynth_utils.metrics import ranking
from hamsynth_utils.metrics.bootstrap import (
    ClusterBootstrap,
    Ids,
    Interval,
    WeightedStatistic,
    factorize_lesions,
)
from hamsynth_utils.metrics.privacy.nearest_neighbours import nearest_distances

COPYING_TABLE = [
    "generator",
    "measure",
    "value",
    "low",
    "high",
    "n",
    "lesions",
    "extractor",
    "seed",
]
"""Columns of a run's `metrics/privacy.csv`: a row a generator and measure, with its 95 % interval.

The measures, and what a generator has that copies and remembers nothing:

near_duplicate_rate           0.01
authenticity         that of the generator `held-out`, unseen real images in its place; not 1
neighbour_ratio      that of `held-out`
c_t                  0; NaN where it was not measured
membership_auroc_*   0.5; by the `nearest` synthetic image, or by the generator's `loss`
membership_tpr_*     0.01
patient_auroc, _tpr  0.5 and 0.01, of unseen siblings; patient_member_* of their photos that were trained on

The first four are in features; those that end in `_pixels` are in aligned pixels. `one-in-ten-copied` is a
control that must be caught: held-out images, a tenth of them replaced by copies. The patients' rows are of
`vae-siblings-withheld`, which was trained on few photos for them: they judge none of the run's generators."""


RATIO_SHARE = 0.05
"""The neighbour ratio of a set is this quantile of its images': copies are few, and lie in the tail."""


CELLS = 5
"""Parts into which C_T cuts the space."""


LEAST_IN_CELL = 20
"""A part with fewer images of either kind has no say in C_T, as Meehan et al. (2020) advise."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest training images of N images.

    distance, index: [N], to the nearest one, and its row. lesion: [N], the code of that one's lesion.
    other: [N], to the nearest one of any other lesion, since a second photo of the same lesion is no second
    opinion. around: [N], from the nearest one to the nearest training image of another lesion than its own.
    """

    distance: np.ndarray
    index: np.ndarray
    lesion: np.ndarray
    other: np.ndarray
    around: np.ndarray

    def __add__(self, more: Neighbours) -> Neighbours:
        """Those of both sets, one after the other."""
        return Neighbours(
            *(np.concatenate(pair) for pair in zip(self._all(), more._all(), strict=True))
        )

    def at(self, rows: np.ndarray) -> Neighbours:
        """Those of the images at `rows` (integers or a mask), in that order."""
        return Neighbours(*(each[rows] for each in self._all()))

    def _all(self) -> tuple[np.ndarray, ...]:
        return self.distance, self.index, self.lesion, self.other, self.around


def neighbours(
    queries: np.ndarray,
    train: np.ndarray,
    train_lesions: Ids,
    nearest: Callable[..., tuple[np.ndarray, np.ndarray]] = nearest_distances,
) -> Neighbours:
    """Neighbours of `queries` in `train`, by `nearest_distances` (features) or `nearest_aligned` (images).

    Raises InputError as these do, for a missing lesion id, or if all of training is one lesion.
    """
    codes, _ = factorize_lesions(train_lesions, len(train))
    distance, index = nearest(queries, train)
    other, _ = nearest(queries, train, apart=(codes[index], codes))
    found, place = np.unique(index, return_inverse=True)
    around, _ = nearest(train[found], train, apart=(codes[found], codes))
    return Neighbours(distance, index, codes[index], other, around[place])


def authenticity(
    near: Neighbours, n_resamples: int, seed: int, lesions: Ids | None = None
) -> dict[str, float]:
    """The share of images farther from their nearest training image than that one is from other lesions.

    (Alaa et al. 2022, with the training image's own lesion left out.) 0 for a set of copies;
    for one that copies nothing about that of held-out images, which depends on the data and is not 1.
    Returns value, low, high, n and lesions (see `_with_interval`).
    """
    authentic = (near.distance > near.around).astype(float)
    return _with_interval(
        near, lambda weights: weights @ authentic / weights.sum(1), n_resamples, seed, lesions
    )


def neighbour_ratio(
    near: Neighbours, n_resamples: int, seed: int, lesions: Ids | None = None
) -> dict[str, float]:
    """The 5th percentile of the ratio of the nearest training lesion's distance to the second nearest's.

    In [0, 1]; near 0 if one image in twenty stands out as near to one patient and to no other (the ratio is
    Lowe's 2004, section 7.1). For a set that copies nothing about that of held-out images.
    Returns value, low, high, n and lesions (see `_with_interval`).
    """
    ratio = near.distance / np.maximum(near.other, np.finfo(float).tiny)
    order = np.argsort(ratio)

    def quantile(weights: np.ndarray) -> np.ndarray:
        cumulated = weights[:, order].cumsum(1)
        return ratio[order][(cumulated >= RATIO_SHARE * cumulated[:, -1:]).argmax(1)]

    return _with_interval(near, quantile, n_resamples, seed, lesions)


def cells_of(train: np.ndarray, *sets: np.ndarray, seed: int) -> list[np.ndarray]:
    """Which of `CELLS` parts of the space each image of `sets` [., D] lies in, by k-means on `train`."""
    found = KMeans(min(CELLS, len(train)), n_init=3, random_state=seed).fit(
        train.astype(np.float32)
    )
    return [found.predict(features.astype(np.float32)) for features in sets]


def data_copying(
    heldout: Neighbours,
    synthetic: Neighbours,
    heldout_cells: np.ndarray,
    synthetic_cells: np.ndarray,
    heldout_lesions: Ids,
    n_resamples: int,
    seed: int,
) -> dict[str, float]:
    """C_T of Meehan et al. (2020): are synthetic images nearer to training than held-out ones?

    In each part of the space the two sets' distances are compared by Mann and Whitney's test; C_T is the
    mean of its z over the parts, weighted by their held-out images. About 0 for a generator that copies
    nothing, below about -3 for one that copies, above 3 for one that stays away from the data. It grows
    with the root of n.

    Returns value, low and high (95 %, bootstrap over held-out lesions and over synthetic images, those near
    one training lesion together), n of the synthetic images and lesions of the held-out ones. The first three
    are NaN, not measured, if no part holds `LEAST_IN_CELL` images of each kind: sets that small, or that far
    apart, cannot be compared so. Raises InputError for a missing lesion id.
    """
    rng = np.random.default_rng(seed)
    real = ClusterBootstrap(heldout_lesions, n_resamples, rng, n_images=len(heldout.distance))
    made = ClusterBootstrap(synthetic.lesion, n_resamples, rng, n_images=len(synthetic.distance))

    def c_t(real_weights: np.ndarray, synthetic_weights: np.ndarray) -> np.ndarray:
        """C_T [B] for weights [B, N] of held-out and [B, M] of synthetic images."""
        total, weight = np.zeros((2, len(real_weights)))
        for cell in np.unique(heldout_cells):
            here, there = heldout_cells == cell, synthetic_cells == cell
            n, m = int(here.sum()), int(there.sum())
            if min(n, m) < LEAST_IN_CELL:
                continue
            farther = ranking.auroc(
                np.concatenate([heldout.distance[here], synthetic.distance[there]]),
                np.arange(n + m) >= n,
                np.hstack([real_weights[:, here], synthetic_weights[:, there]]),
            )
            z = (farther - 0.5) / np.sqrt((n + m + 1) / (12 * n * m))
            total += n * np.nan_to_num(z)
            weight += n * np.isfinite(z)
        return total / np.where(weight > 0, weight, np.nan)

    (value,) = c_t(real.unit_weights, made.unit_weights)
    result = Interval(value, c_t(real.weights, made.weights))
    return {**result.as_dict(), "n": made.n_images, "lesions": real.n_clusters}


def _with_interval(
    near: Neighbours,
    statistic: WeightedStatistic,
    n_resamples: int,
    seed: int,
    lesions: Ids | None,
) -> dict[str, float]:
    """A statistic of weights [B, N] of the images, and its 95 % interval over lesions.

    lesions: of the images, for real ones; synthetic ones, which have none, are drawn with all others that
    have the same nearest training lesion.
    """
    ids = near.lesion if lesions is None else lesions
    bootstrap = ClusterBootstrap(ids, n_resamples, seed, n_images=len(near.distance))
    return bootstrap.summary(bootstrap.interval(statistic))
