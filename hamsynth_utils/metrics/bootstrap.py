"""95 % intervals by the bootstrap over lesions: photos of one lesion are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError


def factorize_lesions(
    lesion_ids: Sequence | np.ndarray | pd.Series, images: int
) -> tuple[np.ndarray, int]:
    """Lesion ids, one an image, as codes int64 [images] from 0, and the number of lesions.

    Raises InputError where the number of ids is not `images` or an id is missing.
    """
    ids = pd.Series(np.asarray(lesion_ids, dtype=object))
    if len(ids) != images:
        raise InputError(
            f"{len(ids)} lesion ids for {images} images: give one for each image, in the same order"
        )
    missing = np.flatnonzero(ids.isna() | (ids == ""))
    if len(missing):
        raise InputError(
            f"{len(missing)} of {images} images have no lesion id, the first in row {missing[0]}: "
            "an interval over lesions needs one for every image"
        )
    codes, lesions = pd.factorize(ids)
    return codes.astype(np.int64), len(lesions)


def lesion_resample_counts(lesions: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """How often each lesion is drawn: int64 [draws, lesions], every row sums to `lesions`.

    Drawing lesions with replacement and counting is one multinomial draw (Efron & Tibshirani 1993,
    section 6.2), so that a statistic of counts needs no loop over images. Raises InputError for fewer
    than two draws, or no lesion.
    """
    if lesions < 1:
        raise InputError(
            "a bootstrap over lesions needs at least one lesion: there is no image at all"
        )
    if draws < 2:
        raise InputError(
            f"a bootstrap interval needs at least 2 draws, not {draws}; 1,000 are usual"
        )
    return generator.multinomial(lesions, np.full(lesions, 1 / lesions), size=draws)


def lesion_mean(
    values: np.ndarray, lesion_ids: Sequence | np.ndarray | pd.Series, draws: int, seed: int
) -> dict[str, float]:
    """The mean over images of `values` [N]: value, low and high (95 %, over lesions), n, lesions.

    Raises InputError for a missing lesion id, or a value that is not finite.
    """
    values = np.asarray(values, dtype=float)
    codes, lesions = factorize_lesions(lesion_ids, len(values))
    if not np.isfinite(values).all():
        raise InputError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite"
        )
    # The sum and the number of photos of a lesion are all that a draw needs of it.
    sums, photos = np.bincount(codes, values), np.bincount(codes)
    drawn = lesion_resample_counts(lesions, draws, np.random.default_rng(seed))
    low, high = percentile_interval(drawn @ sums / (drawn @ photos))
    return {
        "value": float(values.mean()),
        "low": low,
        "high": high,
        "n": len(values),
        "lesions": lesions,
    }


def percentile_interval(samples: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of bootstrap values [draws], leaving out undefined (NaN) ones.

    NaN, NaN if all are undefined.
    """
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def _seed_draws(draws: int, seeds: int, generator: np.random.Generator) -> np.ndarray:
    """Weight [draws, seeds] of each seed in each draw, one seed less than there are; every row sums to 1."""
    times = max(1, seeds - 1)
    return generator.multinomial(times, np.full(seeds, 1 / seeds), size=draws) / times
