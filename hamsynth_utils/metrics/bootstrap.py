"""95 % intervals by the cluster bootstrap: photos of one lesion are not independent.

A bootstrap sample draws as many lesions as there are, with replacement, each with all its images
(Efron & Tibshirani 1993, sections 6.2 and 13.3). Images are not copied. Each image gets a weight,
the number of times that its lesion was drawn, so that one matrix of weights serves all resamples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError, NotMeasured

Ids: TypeAlias = Sequence | np.ndarray | pd.Series
"""One id per image, in the order of the images."""


WeightedStatistic = Callable[[np.ndarray], np.ndarray]
"""Maps weights of N images, [B, N], to one value per row of weights: [B] or [B, ...]."""


@dataclass(frozen=True)
class Interval:
    """A statistic, its value in each resample, and the 95 % percentile interval of these values.

    Attributes:
        value: The statistic of the data themselves: a float, or an array [...].
        samples: The statistic in each of B resamples, [B] or [B, ...]; NaN where a resample does
            not define it.
    """

    value: Any
    samples: np.ndarray

    @cached_property
    def _ends(self) -> tuple[Any, Any]:
        return percentile_interval(self.samples)

    @property
    def low(self) -> Any:
        """The lower end: a float, or an array [...]."""
        return self._ends[0]

    @property
    def high(self) -> Any:
        """The upper end: a float, or an array [...]."""
        return self._ends[1]

    def __sub__(self, other: Interval) -> Interval:
        """The difference, resample by resample.

        It is paired if both come from one `ClusterBootstrap`. It is that of two independent sets if
        the two bootstraps have different seeds.
        """
        return Interval(self.value - other.value, self.samples - other.samples)

    def __truediv__(self, other: Interval) -> Interval:
        """The ratio, resample by resample, paired or independent as a difference is."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return Interval(np.divide(self.value, other.value), self.samples / other.samples)

    def reflected(self) -> Interval:
        """The same statistic with its samples reflected at its value.

        Percentiles of reflected samples are the basic interval (Davison & Hinkley 1997, section
        5.2), for a statistic that is biased upwards in every resample.
        """
        return Interval(self.value, 2 * self.value - self.samples)

    def as_dict(self) -> dict[str, float]:
        """`value`, `low` and `high`, as floats, of a statistic that is one number."""
        return {"value": float(self.value), "low": float(self.low), "high": float(self.high)}


class ClusterBootstrap:
    """Resamples of whole clusters of images, and of training seeds.

    Attributes:
        codes: The cluster of each image as an integer from 0, int64 [N].
        n_images, n_clusters: N and C.
        counts: How often each resample draws each cluster, int64 [B, C]; every row sums to C.
        seed_weights: Weight of each training seed in each resample, [B, K]; every row sums to 1.
    """

    def __init__(
        self,
        ids: Ids,
        n_resamples: int,
        seed: int | Sequence[int] | np.random.Generator,
        n_seeds: int = 1,
        n_images: int | None = None,
    ) -> None:
        """Draw the resamples.

        Args:
            ids: The cluster of each image, [N], here usually its lesion id.
            n_resamples: B, at least 2; 1,000 are usual.
            seed: An integer, several integers, or an `rng` whose next draws are used.
            n_seeds: K, the number of trainings over which `average_over_seeds` takes the mean.
            n_images: The number of images that the ids belong to, if it is known from elsewhere.

        Raises:
            NotMeasured: If there is no image.
            InputError: If an id is missing, there are not `n_images` ids, or `n_resamples` is below
                2.
        """
        self.codes, self.n_clusters = factorize_lesions(
            ids, len(ids) if n_images is None else n_images
        )
        self.n_images = len(self.codes)
        if self.n_clusters < 1:
            raise NotMeasured(
                "a bootstrap over lesions needs at least one lesion: there is no image at all"
            )
        if n_resamples < 2:
            raise InputError(
                f"a bootstrap interval needs at least 2 resamples, not {n_resamples}; "
                "1,000 are usual"
            )
        rng = np.random.default_rng(seed)
        # Drawing C clusters with replacement and counting them is one multinomial draw.
        even = np.full(self.n_clusters, 1 / self.n_clusters)
        self.counts = rng.multinomial(self.n_clusters, even, size=n_resamples)
        self.seed_weights = resample_training_seeds(n_seeds, n_resamples, rng)

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each resample holds each image, float64 [B, N]."""
        # Floats, since numpy would convert integers again for each product.
        return self.counts[:, self.codes].astype(float)

    @property
    def unit_weights(self) -> np.ndarray:
        """Weights of the data themselves, every image once: ones [1, N]."""
        return np.ones((1, self.n_images))

    def interval(self, statistic: WeightedStatistic) -> Interval:
        """The statistic of the images and in each resample of them.

        Args:
            statistic: Maps weights [B, N] of the images to values [B] or [B, ...].
        """
        return Interval(statistic(self.unit_weights)[0], statistic(self.weights))

    def mean(self, values: np.ndarray | pd.Series) -> Interval:
        """The mean over images of `values`, [N] or [N, F].

        It is what `interval` gives for a weighted mean, from the sums per cluster: memory does not
        grow with N.

        Raises:
            InputError: If `values` has not N rows, or a value is not finite.
        """
        values = np.asarray(values, dtype=float)
        if len(values) != self.n_images:
            raise InputError(f"{len(values)} values for {self.n_images} images: give one for each")
        if not np.isfinite(values).all():
            raise InputError(
                f"{int((~np.isfinite(values)).sum())} of {values.size} values are not finite"
            )
        columns = values.reshape(len(values), -1)
        sums = np.stack([np.bincount(self.codes, column) for column in columns.T], axis=1)
        sizes = self.counts @ np.bincount(self.codes)  # images in each resample, [B]
        means = self.counts @ sums / sizes[:, None]  # [B, F]
        return Interval(values.mean(0), means.reshape(len(means), *values.shape[1:]))

    def average_over_seeds(self, intervals: Sequence[Interval]) -> Interval:
        """The mean of a statistic over K trainings, with the chance of lesions and of training.

        Args:
            intervals: The statistic of each training, from `interval` of this bootstrap; K of them.
        """
        samples = np.stack([each.samples for each in intervals], axis=1)  # [B, K, ...]
        if samples.shape[1] != self.seed_weights.shape[1]:
            raise InputError(
                f"{samples.shape[1]} trainings, but the bootstrap has weights for "
                f"{self.seed_weights.shape[1]}: pass their number as n_seeds"
            )
        weights = self.seed_weights.reshape(*samples.shape[:2], *[1] * (samples.ndim - 2))
        return Interval(
            np.mean([each.value for each in intervals], axis=0), (weights * samples).sum(1)
        )

    def summary(self, interval: Interval) -> dict[str, float]:
        """Value, low, high, n (images) and lesions (clusters) of a statistic that is one number."""
        return {**interval.as_dict(), "n": self.n_images, "lesions": self.n_clusters}


def factorize_lesions(lesion_ids: Ids, n_images: int) -> tuple[np.ndarray, int]:
    """Lesion ids as integers.

    Args:
        lesion_ids: One id per image, [N].
        n_images: N, the number of images that the ids belong to.

    Returns:
        Codes from 0 in the order of first occurrence, int64 [N], and the number of lesions.

    Raises:
        InputError: If the number of ids is not `n_images`, or an id is missing.
    """
    ids = pd.Series(np.asarray(lesion_ids, dtype=object))
    if len(ids) != n_images:
        raise InputError(
            f"{len(ids)} lesion ids for {n_images} images: give one for each image, in the same "
            "order"
        )
    missing = np.flatnonzero(ids.isna() | (ids == ""))
    if len(missing):
        raise InputError(
            f"{len(missing)} of {n_images} images have no lesion id, the first in row "
            f"{missing[0]}: an interval over lesions needs one for every image"
        )
    codes, lesions = pd.factorize(ids)
    return codes.astype(np.int64), len(lesions)


def resample_training_seeds(n_seeds: int, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of K training seeds in each resample, for a mean over trainings.

    Each resample draws one seed less than there are. Of K draws from K seeds the mean would vary by
    only (K - 1) / K of what it should; of K - 1 draws it varies as it should (Rao & Wu 1988).

    Args:
        n_seeds: K.
        n_resamples: B.
        rng: Its next draws are used.

    Returns:
        float64 [B, K]; every row sums to 1.
    """
    times = max(1, n_seeds - 1)
    return rng.multinomial(times, np.full(n_seeds, 1 / n_seeds), size=n_resamples) / times


def lesion_mean(
    values: np.ndarray | pd.Series, lesion_ids: Ids, n_resamples: int, seed: int
) -> dict[str, float]:
    """The mean of `values` over images, with its 95 % interval over lesions.

    Args:
        values: One finite number per image, [N].
        lesion_ids: One id per image, [N].
        n_resamples: Resamples of the lesions.
        seed: Of the resamples.

    Returns:
        value, low, high, n (images) and lesions.

    Raises:
        InputError: If a lesion id is missing or a value is not finite.
    """
    bootstrap = ClusterBootstrap(lesion_ids, n_resamples, seed, n_images=len(values))
    return bootstrap.summary(bootstrap.mean(values))


def percentile_interval(samples: np.ndarray) -> tuple[Any, Any]:
    """The 2.5th and 97.5th percentile of bootstrap samples, without those that are undefined (NaN).

    Args:
        samples: [B], or [B, ...] for several statistics.

    Returns:
        The two percentiles: floats for [B], arrays [...] otherwise; NaN where all samples are
        undefined.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        low, high = np.nanpercentile(np.asarray(samples, dtype=float), [2.5, 97.5], axis=0)
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)
