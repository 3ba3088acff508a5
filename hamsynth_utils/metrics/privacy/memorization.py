"""Memorization: does a synthetic set consist of copies of training images?

Every measure is also taken of held-out real images, which are copies of nothing. Their value is
what a generator without copies has. Images near one training lesion are not independent, so that
the bootstrap draws them together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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

PRIVACY_COLUMNS = [
    "generator",
    "measure",
    "value",
    "low",
    "high",
    "n",
    "lesions",
    "extractor",
    "generator_seed",
]
"""Columns of a run's `privacy` table: one row per generator and measure, with its 95 % interval.

The measures, and the value of a generator that copies and remembers nothing:

near_duplicate_rate  0.01
authenticity         that of the generator `held-out`, unseen real images in its place; not 1
neighbour_ratio      that of `held-out`
c_t                  0
membership_auroc_*   0.5; by the `nearest` synthetic image, or by the generator's `loss`
membership_tpr_*     0.01
patient_auroc, _tpr  0.5 and 0.01, of withheld photos; patient_member_* of photos trained on

The first four are measured in features; those that end in `_pixels` in aligned pixels.
`one-in-ten-copied` is a control that must be detected: held-out images, a tenth of them replaced by
copies. The patient rows are of `vae-siblings-withheld`, a textbook's VAE that was trained on few
photos for them, and judge no generator of the run. The value of a row that was not measured is NaN,
and the table then has a column `reason`."""


RATIO_QUANTILE = 0.05
"""The quantile of the images' ratios that is a set's neighbour ratio: copies lie in the tail."""


N_CELLS = 5
"""Cells into which C_T divides the space."""


MIN_IMAGES_PER_CELL = 20
"""C_T leaves out a cell with fewer images of either kind, as Meehan et al. (2020) advise."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest training images of N images.

    Attributes:
        distance: To the nearest training image, [N].
        index: The row of that training image, int64 [N].
        lesion: The code of its lesion, int64 [N].
        second_lesion_distance: To the nearest training image of any other lesion, [N]. Another
            photo of the same lesion would be no second opinion.
        train_neighbour_distance: From the nearest training image to its own nearest training image
            of another lesion, [N].
    """

    distance: np.ndarray
    index: np.ndarray
    lesion: np.ndarray
    second_lesion_distance: np.ndarray
    train_neighbour_distance: np.ndarray

    def __add__(self, more: Neighbours) -> Neighbours:
        """Those of both sets, one after the other."""
        pairs = zip(self._columns(), more._columns(), strict=True)
        return Neighbours(*(np.concatenate(pair) for pair in pairs))

    def at(self, rows: np.ndarray) -> Neighbours:
        """Those of the images at `rows` (integers or a mask), in that order."""
        return Neighbours(*(column[rows] for column in self._columns()))

    def _columns(self) -> tuple[np.ndarray, ...]:
        return (
            self.distance,
            self.index,
            self.lesion,
            self.second_lesion_distance,
            self.train_neighbour_distance,
        )


def neighbours(
    queries: np.ndarray,
    train: np.ndarray,
    train_lesions: Ids,
    nearest: Callable[..., tuple[np.ndarray, np.ndarray]] = nearest_distances,
) -> Neighbours:
    """The nearest training images of `queries`.

    Args:
        queries: Features [N, D] or images [N, 3, S, S].
        train: Features [T, D] or images [T, 3, S, S].
        train_lesions: Lesion ids of the training images, [T].
        nearest: `nearest_distances` for features, `nearest_aligned` for images.

    Raises:
        InputError: If a lesion id is missing, all of training is one lesion, or as `nearest` does.
    """
    codes, _ = factorize_lesions(train_lesions, len(train))
    distance, index = nearest(queries, train)
    second, _ = nearest(queries, train, lesion_codes=(codes[index], codes))
    used, place = np.unique(index, return_inverse=True)
    around, _ = nearest(train[used], train, lesion_codes=(codes[used], codes))
    return Neighbours(distance, index, codes[index], second, around[place])


def authenticity(
    near: Neighbours, n_resamples: int, seed: int, lesions: Ids | None = None
) -> dict[str, float]:
    """The fraction of images that are farther from training than training lesions are from others.

    An image is authentic if it is farther from its nearest training image than that training image
    is from the nearest image of another lesion (after Alaa et al. 2022, who keep the own
    lesion). The fraction is 0 for a set of copies. A set without copies has about the value of
    held-out images, which depends on the data and is not 1.

    Args:
        near: The neighbours of the N images.
        n_resamples: Resamples.
        seed: Of the resamples.
        lesions: Lesion ids of real images, [N]. None for synthetic images, which have none: those
            with the same nearest training lesion are resampled together.

    Returns:
        value, low, high (95 %), n and lesions.
    """
    authentic = (near.distance > near.train_neighbour_distance).astype(float)
    return _with_interval(
        near, lambda weights: weights @ authentic / weights.sum(1), n_resamples, seed, lesions
    )


def neighbour_ratio(
    near: Neighbours, n_resamples: int, seed: int, lesions: Ids | None = None
) -> dict[str, float]:
    """The 5th percentile of nearest over second-nearest distance to training lesions.

    The ratio (Lowe 2004, section 7.1) lies in [0, 1]. The percentile is near 0 if one image in
    twenty is near one lesion and far from all others. A set without copies has about the value of
    held-out images.

    Args:
        near: The neighbours of the N images.
        n_resamples: Resamples.
        seed: Of the resamples.
        lesions: As for `authenticity`.

    Returns:
        value, low, high (95 %), n and lesions.
    """
    ratio = near.distance / np.maximum(near.second_lesion_distance, np.finfo(float).tiny)
    order = np.argsort(ratio)

    def quantile(weights: np.ndarray) -> np.ndarray:
        """The weighted percentile [B] of the ratio, for weights [B, N]."""
        cumulated = weights[:, order].cumsum(1)
        return ratio[order][(cumulated >= RATIO_QUANTILE * cumulated[:, -1:]).argmax(1)]

    return _with_interval(near, quantile, n_resamples, seed, lesions)


def assign_cells(train: np.ndarray, *sets: np.ndarray, seed: int) -> list[np.ndarray]:
    """The cell of each image, by k-means on the training images.

    Args:
        train: Features [T, D]; at most `N_CELLS` clusters are fitted to them.
        sets: Features [., D] of one extractor.
        seed: Of the clustering.

    Returns:
        For each set the cell of each image, integers from 0, [.].
    """
    clusters = KMeans(min(N_CELLS, len(train)), n_init=3, random_state=seed)
    clusters.fit(train.astype(np.float32))
    return [clusters.predict(features.astype(np.float32)) for features in sets]


def data_copying(
    heldout: Neighbours,
    synthetic: Neighbours,
    heldout_cells: np.ndarray,
    synthetic_cells: np.ndarray,
    heldout_lesions: Ids,
    n_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """C_T of Meehan et al. (2020): are synthetic images nearer to training than held-out ones?

    Mann and Whitney's test compares the distances of the two sets in each cell of the space. C_T is
    the mean of its z over the cells, weighted by their held-out images. It is about 0 for a
    generator that copies nothing, below about -3 for one that copies, and above 3 for one that
    avoids the data. It grows with the root of n.

    Args:
        heldout: The neighbours of the N held-out images.
        synthetic: The neighbours of the M synthetic images.
        heldout_cells: The cell of each held-out image, [N], see `assign_cells`.
        synthetic_cells: The cell of each synthetic image, [M].
        heldout_lesions: Lesion ids of the held-out images, [N].
        n_resamples: Resamples of the held-out lesions, and of the synthetic images: those with the
            same nearest training lesion are resampled together.
        seed: Of the resamples.

    Returns:
        value, low, high (95 %), n of the synthetic images and lesions of the held-out ones. The
        first three are NaN if no cell holds `MIN_IMAGES_PER_CELL` images of each kind; `reason`
        then says so.

    Raises:
        InputError: If a lesion id is missing.
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
            if min(n, m) < MIN_IMAGES_PER_CELL:
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
    row: dict[str, Any] = {**result.as_dict(), "n": made.n_images, "lesions": real.n_clusters}
    if np.isnan(value):
        row["reason"] = f"no cell of the space holds {MIN_IMAGES_PER_CELL} images of each kind"
    return row


def _with_interval(
    near: Neighbours,
    statistic: WeightedStatistic,
    n_resamples: int,
    seed: int,
    lesions: Ids | None,
) -> dict[str, float]:
    """A statistic of image weights, with its 95 % interval over lesions; see `authenticity`."""
    ids = near.lesion if lesions is None else lesions
    bootstrap = ClusterBootstrap(ids, n_resamples, seed, n_images=len(near.distance))
    return bootstrap.summary(bootstrap.interval(statistic))
