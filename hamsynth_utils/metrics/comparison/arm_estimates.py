"""Estimates of an arm and differences of arms: intervals over lesions and trainings together.

A score depends on chance in two ways: which lesions are in the test part, and how the training
went. Every bootstrap sample therefore draws both again, lesions with all their photos and
trainings with all their predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.bootstrap import (
    ClusterBootstrap,
    Ids,
    Interval,
    factorize_lesions,
    resample_training_seeds,
)
from hamsynth_utils.metrics.calibration import expected_calibration_error
from hamsynth_utils.metrics.classification import check_predictions, probabilities, true_labels
from hamsynth_utils.metrics.comparison.weighted_statistics import Statistic

Name = TypeVar("Name")


UPWARD_BIASED = (expected_calibration_error,)
"""Sums of absolute values: resampling adds chance to chance, so that every sample is too high."""


@dataclass(frozen=True)
class Estimate:
    """A statistic of one arm, averaged over its trainings.

    Attributes:
        value: Of the test images themselves.
        low, high: The 95 % interval.
        images, lesions, seeds: The number of each.
        samples: The bootstrap samples behind the interval, [B].
        samples_by_seed: Those of each training alone, on the same lesions, [B, K].
        resampled: What was resampled and how, since only equal resamples can be paired.
    """

    value: float
    low: float
    high: float
    images: int
    lesions: int
    seeds: int
    samples: np.ndarray = field(repr=False)
    samples_by_seed: np.ndarray = field(repr=False)
    resampled: tuple = field(repr=False)


def estimate(
    statistic: Statistic,
    by_seed: dict[int, pd.DataFrame],
    lesion_ids: Ids,
    n_resamples: int,
    seed: int,
) -> Estimate:
    """A statistic averaged over an arm's trainings, with its interval over lesions and trainings.

    The chance of a single training cannot be estimated, and its interval is too narrow. The
    interval is the percentile interval. For what is `UPWARD_BIASED` it is the basic interval
    (Davison & Hinkley 1997, section 5.2), cut at 0.

    Args:
        statistic: One of `statistics`, for example.
        by_seed: The arm's predictions of the same N images in the same order, by training seed.
        lesion_ids: Lesion ids in that order, [N].
        n_resamples: Resamples of lesions and trainings, see `ClusterBootstrap`.
        seed: Of the resamples.

    Returns:
        The estimate.

    Raises:
        InputError: If there are no predictions, seeds predict different images, or a lesion id is
            missing.
    """
    return estimates({"": statistic}, by_seed, lesion_ids, n_resamples, seed)[""]


def estimates(
    named: Mapping[Name, Statistic],
    by_seed: dict[int, pd.DataFrame],
    lesion_ids: Ids,
    n_resamples: int,
    seed: int,
) -> dict[Name, Estimate]:
    """The `estimate` of several statistics from one set of resamples.

    Args:
        named: The statistics by name.
        by_seed: As for `estimate`.
        lesion_ids: As for `estimate`.
        n_resamples: As for `estimate`.
        seed: As for `estimate`.

    Returns:
        The estimates by name.

    Raises:
        InputError: As for `estimate`.
    """
    reference = _checked_reference(by_seed)
    bootstrap = ClusterBootstrap(
        lesion_ids, n_resamples, seed, n_seeds=len(by_seed), n_images=len(reference)
    )
    resampled = (
        tuple(reference["image_id"]),
        tuple(reference["dx"]),
        tuple(bootstrap.codes),
        tuple(by_seed),
        n_resamples,
        seed,
    )
    result = {}
    for name, statistic in named.items():
        per_seed = [bootstrap.interval(partial(statistic, frame)) for frame in by_seed.values()]
        biased = statistic in UPWARD_BIASED
        if biased:
            per_seed = [each.reflected() for each in per_seed]
        mean = bootstrap.average_over_seeds(per_seed)
        result[name] = Estimate(
            value=float(mean.value),
            low=max(mean.low, 0.0) if biased else mean.low,
            high=mean.high,
            images=bootstrap.n_images,
            lesions=bootstrap.n_clusters,
            seeds=len(by_seed),
            samples=mean.samples,
            samples_by_seed=np.stack([each.samples for each in per_seed], axis=1),
            resampled=resampled,
        )
    return result


def difference(arm: Estimate, reference: Estimate) -> dict[str, float]:
    """The paired difference of two arms, on the same resamples.

    The difference is the effect size, in the statistic's own unit.

    Args:
        arm: The estimate of one arm.
        reference: The estimate of the arm that it is compared with.

    Returns:
        value (arm minus reference), low, high (95 %), and the two-sided p-value p. p is twice the
        smaller fraction of bootstrap differences on either side of 0, counted so that it is never 0
        (Davison & Hinkley 1997, section 4.4): the smallest alpha whose interval leaves 0 out.

    Raises:
        InputError: If images, diagnoses, lesions, seeds or resamples differ: only what is paired
            cancels.
    """
    if arm.resampled != reference.resampled:
        raise InputError(
            "a paired difference needs both estimates on the same images, diagnoses, lesions, "
            "seeds and resamples"
        )
    paired = Interval(arm.value - reference.value, arm.samples - reference.samples)
    defined = paired.samples[~np.isnan(paired.samples)]
    side = min((defined <= 0).sum(), (defined >= 0).sum())
    return {
        **paired.as_dict(),
        "p": min(1.0, 2 * (1 + float(side)) / (1 + len(defined))),
    }


def unpaired_difference(elsewhere: Estimate, here: Estimate) -> dict[str, float]:
    """The difference of one arm between two sets of images.

    Each set resamples its own lesions. Both resample the same trainings, since the same trainings
    are tested on both sets.

    Args:
        elsewhere: The arm's estimate on one set.
        here: The arm's estimate on the other set.

    Returns:
        value (`elsewhere` minus `here`), low and high (95 %).

    Raises:
        InputError: If the training seeds or the number of resamples differ, or both have one
            bootstrap seed, which would tie the lesions of one set to those of the other.
    """
    *_, trainings, n_resamples, seed = elsewhere.resampled
    *_, other_trainings, other_n_resamples, other_seed = here.resampled
    if (trainings, n_resamples) != (other_trainings, other_n_resamples) or seed == other_seed:
        raise InputError(
            "an unpaired difference needs two estimates of the same training seeds, with equally "
            "many resamples of another bootstrap seed"
        )
    rng = np.random.default_rng([seed, other_seed])
    seed_weights = resample_training_seeds(len(trainings), n_resamples, rng)
    samples = (seed_weights * (elsewhere.samples_by_seed - here.samples_by_seed)).sum(1)
    return Interval(elsewhere.value - here.value, samples).as_dict()


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values of a family of tests, raised for the chance of any false positive (Holm 1979).

    Args:
        p: The p-values of the tests, [T].

    Returns:
        The adjusted p-values, [T].
    """
    return multipletests(p, method="holm")[1]


def mcnemar_test(arm: pd.DataFrame, reference: pd.DataFrame, lesion_ids: Ids) -> dict[str, float]:
    """McNemar's exact test of two trainings: which one is right where only one of them is.

    Photos of one lesion are not independent, so each lesion counts by its first image.

    Args:
        arm: A predictions table of N images.
        reference: Another one, of the same images in the same order.
        lesion_ids: Lesion ids in that order, [N].

    Returns:
        These values by name.

        - only_arm, only_reference: Lesions that only the one gets right.
        - share: The effect size, the fraction of these lesions that the arm gets right; 0.5 is no
          difference. NaN without such a lesion.
        - low, high: Its exact 95 % interval (Clopper & Pearson 1934).
        - p: The p-value, 1 without such a lesion.
        - lesions: Lesions tested.

    Raises:
        InputError: If the two do not predict the same images in the same order.
    """
    for predictions in (arm, reference):
        check_predictions(predictions)
    if not arm["image_id"].equals(reference["image_id"]):
        raise InputError(
            "McNemar's test needs both predictions of the same images in the same order"
        )
    codes, _ = factorize_lesions(lesion_ids, len(arm))
    first = np.unique(codes, return_index=True)[1]
    right, reference_right = (
        (probabilities(p).argmax(1) == true_labels(p))[first] for p in (arm, reference)
    )
    table = np.array(
        [[np.sum(a & b) for b in (reference_right, ~reference_right)] for a in (right, ~right)]
    )
    only_arm, only_reference = int(table[0, 1]), int(table[1, 0])
    share, low, high = np.nan, np.nan, np.nan
    if only_arm + only_reference:
        test = stats.binomtest(only_arm, only_arm + only_reference)
        share, (low, high) = test.statistic, test.proportion_ci(0.95, "exact")
    return {
        "only_arm": only_arm,
        "only_reference": only_reference,
        "share": float(share),
        "low": float(low),
        "high": float(high),
        "p": float(mcnemar(table, exact=True).pvalue),
        "lesions": len(first),
    }


def _checked_reference(by_seed: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """The predictions of the first seed, after a check that all seeds predict the same images."""
    if not by_seed:
        raise InputError("an estimate needs the predictions of at least one seed")
    (first, reference), *others = by_seed.items()
    check_predictions(reference)
    for other, predictions in others:
        if not predictions["image_id"].equals(reference["image_id"]):
            raise InputError(
                f"seeds {first} and {other} do not predict the same images in the same order"
            )
    return reference
