"""What an arm is worth and whether it differs from another: intervals over lesions and seeds together.

Two things are chance in a score: which lesions are in the test part, and how the training went. Both are
drawn again in every bootstrap sample: lesions with all their photos, seeds with all that hangs on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import ClassList
from hamsynth_utils.metrics import ranking
from hamsynth_utils.metrics.bootstrap import (
    ClusterBootstrap,
    Ids,
    Interval,
    factorize_lesions,
    resample_training_seeds,
)
from hamsynth_utils.metrics.calibration import brier_score, expected_calibration_error
from hamsynth_utils.metrics.classification import (
    METRICS,
    check_predictions,
    class_names,
    probabilities,
    scores_from_confusion,
    true_labels,
)

Name = TypeVar("Name")


Statistic = Callable[[pd.DataFrame, np.ndarray], np.ndarray]
"""A predictions table of N images and weights [B, N] to one value a weighting, [B]."""


SPECIFICITIES = (0.8, 0.9)
"""At which the sensitivity for the focus class is measured."""


UPWARD_BIASED = (expected_calibration_error,)
"""Statistics that sum up absolute values: to draw again adds chance to chance, and every draw is too high."""


@dataclass(frozen=True)
class Estimate:
    """A statistic of one arm, averaged over its seeds.

    value: on the test images themselves; low to high: its 95 % interval; samples: the bootstrap values [B]
    of which it is the middle; samples_by_seed: those of each seed alone, on the same lesions [B, seeds];
    images, lesions, seeds: how many. `resampled` says what was resampled and how, since only equal resamples can be paired.
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


def statistics(classes: ClassList) -> dict[str, Statistic]:
    """Every statistic that an arm gets.

    Args:
        classes: the classes of the predictions tables.

    Returns:
        The statistics by name: the `METRICS` of classification; `recall_<dx>`, `auroc_<dx>` and
        `average_precision_<dx>` of each class against the others, and the mean AUROC; the sensitivity
        for the focus class at each of `SPECIFICITIES`; Brier score and expected calibration error.
    """
    named: dict[str, Statistic] = {
        name: partial(classification_score, name=name) for name in METRICS
    }
    named |= {f"recall_{dx}": partial(_recall, label=label) for label, dx in enumerate(classes)}
    for name, function in (
        ("auroc", ranking.auroc),
        ("average_precision", ranking.average_precision),
    ):
        named |= {f"{name}_{dx}": partial(_ranked, dx=dx, function=function) for dx in classes}
    named["auroc_macro"] = _mean_auroc
    for share in SPECIFICITIES:
        sensitivity = partial(ranking.sensitivity_at, share)
        named[f"{classes.focus}_sensitivity_at_{100 * share:.0f}"] = partial(
            _ranked, dx=classes.focus, function=sensitivity
        )
    return {**named, "brier": brier_score, "calibration_error": expected_calibration_error}


def estimate(
    statistic: Statistic,
    by_seed: dict[int, pd.DataFrame],
    lesion_ids: Ids,
    n_resamples: int,
    seed: int,
) -> Estimate:
    """`statistic` averaged over the seeds of an arm, with its interval over lesions and seeds.

    by_seed: the arm's predictions of the same images in the same order, by the seed of its training;
    lesion_ids: [N], in that order. Every bootstrap sample draws, with replacement, as many lesions as there
    are, and one seed less than there are: of K draws from K seeds the mean would vary by only (K - 1) / K of
    what it should, of K - 1 draws it varies as it should (Rao & Wu 1988). Of a single seed's chance nothing
    is known, and the interval is too narrow. The interval is that of the percentiles; for what is
    `UPWARD_BIASED` each seed's draws are reflected at its value first, which makes it the basic one
    (Davison & Hinkley 1997, section 5.2), from 0 on.

    Raises InputError for no predictions, for seeds that predict other images, or a missing lesion id.
    """
    return estimates({"": statistic}, by_seed, lesion_ids, n_resamples, seed)[""]


def estimates(
    named: Mapping[Name, Statistic],
    by_seed: dict[int, pd.DataFrame],
    lesion_ids: Ids,
    n_resamples: int,
    seed: int,
) -> dict[Name, Estimate]:
    """The `estimate` of each of several statistics, by name, on one set of draws, which is made once."""
    if not by_seed:
        raise InputError("an estimate needs the predictions of at least one seed")
    (first, reference), *others = by_seed.items()
    check_predictions(reference)
    for other, predictions in others:
        if not predictions["image_id"].equals(reference["image_id"]):
            raise InputError(
                f"seeds {first} and {other} do not predict the same images in the same order"
            )
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
    """`arm` minus `reference` on the same draws: value, low, high and the two-sided p-value.

    The difference is the effect size, in the statistic's own unit. p is twice the smaller share of bootstrap
    differences on either side of 0, counted so that it is never 0 (Davison & Hinkley 1997, section 4.4): the
    smallest alpha whose interval leaves 0 out. Raises InputError if the two were not estimated on the same
    images, diagnoses, lesions, seeds and draws: what is not paired does not cancel.
    """
    if arm.resampled != reference.resampled:
        raise InputError(
            "a paired difference needs both estimates on the same images, diagnoses, lesions, seeds and resamples"
        )
    paired = Interval(arm.value - reference.value, arm.samples - reference.samples)
    defined = paired.samples[~np.isnan(paired.samples)]
    side = min((defined <= 0).sum(), (defined >= 0).sum())
    return {
        **paired.as_dict(),
        "p": min(1.0, 2 * (1 + float(side)) / (1 + len(defined))),
    }


def unpaired_difference(elsewhere: Estimate, here: Estimate) -> dict[str, float]:
    """One arm's `elsewhere` minus `here`, estimated on two sets of images: value, low, high.

    The lesions of the two are drawn apart, each set's own; the seeds are drawn together, since it is the same
    trainings that are tested here and there. Raises InputError if the seeds are not the same, or if both were
    drawn from one random state, which would tie the lesions of the one to those of the other.
    """
    *_, trainings, n_resamples, seed = elsewhere.resampled
    *_, other_trainings, other_n_resamples, other_seed = here.resampled
    if (trainings, n_resamples) != (other_trainings, other_n_resamples) or seed == other_seed:
        raise InputError(
            "an unpaired difference needs two estimates of the same training seeds, with equally many "
            "resamples of another bootstrap seed"
        )
    rng = np.random.default_rng([seed, other_seed])
    seed_weights = resample_training_seeds(len(trainings), n_resamples, rng)
    samples = (seed_weights * (elsewhere.samples_by_seed - here.samples_by_seed)).sum(1)
    return Interval(elsewhere.value - here.value, samples).as_dict()


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values of a family of tests, raised for the chance that any one of them is wrong (Holm 1979)."""
    return multipletests(p, method="holm")[1]


def mcnemar_test(arm: pd.DataFrame, reference: pd.DataFrame, lesion_ids: Ids) -> dict[str, float]:
    """McNemar's exact test of two classifiers of one seed: which of them is right where only one is.

    Photos of one lesion are not independent, so each lesion counts by its first image. Returns `only_arm` and
    `only_reference`, how many lesions only that one gets right; the effect size `share`, that of the arm
    among them (one half: no difference), with its exact 95 % interval `low` to `high` (Clopper & Pearson
    1934); and `p`. Without such a lesion, share, low and high are NaN and p is 1.

    Raises InputError if the two do not predict the same images in the same order.
    """
    for predictions in (arm, reference):
        check_predictions(predictions)
    if not arm["image_id"].equals(reference["image_id"]):
        raise InputError(
            "McNemar's test needs both predictions of the same images in the same order"
        )
    codes, _ = factorize_lesions(lesion_ids, len(arm))
    first = np.unique(codes, return_index=True)[1]
    right, rights = (
        (probabilities(p).argmax(1) == true_labels(p))[first] for p in (arm, reference)
    )
    table = np.array([[np.sum(a & b) for b in (rights, ~rights)] for a in (right, ~right)])
    only_arm, only_reference = int(table[0, 1]), int(table[1, 0])
    share, low, high = np.nan, np.nan, np.nan
    if only_arm + only_reference:
        found = stats.binomtest(only_arm, only_arm + only_reference)
        share, (low, high) = found.statistic, found.proportion_ci(0.95, "exact")
    return {
        "only_arm": only_arm,
        "only_reference": only_reference,
        "share": float(share),
        "low": float(low),
        "high": float(high),
        "p": float(mcnemar(table, exact=True).pvalue),
        "lesions": len(first),
    }


def _confusion(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Confusion matrices [B, K, K] of weighted images: rows are the true, columns the predicted classes."""
    size = len(class_names(predictions))
    cell = true_labels(predictions) * size + probabilities(predictions).argmax(1)
    return (np.atleast_2d(weights) @ np.eye(size**2)[cell]).reshape(-1, size, size)


def classification_score(predictions: pd.DataFrame, weights: np.ndarray, name: str) -> np.ndarray:
    """One of the `METRICS` of classification, as a `Statistic`.

    Args:
        predictions: a predictions table of N images.
        weights: [B, N], how often an image counts.
        name: the metric.

    Returns:
        The metric of each weighting, [B].
    """
    return scores_from_confusion(_confusion(predictions, weights))[name]


def _recall(predictions: pd.DataFrame, weights: np.ndarray, label: int) -> np.ndarray:
    row = _confusion(predictions, weights)[:, label]
    with np.errstate(invalid="ignore"):
        return row[:, label] / row.sum(1)


def _ranked(
    predictions: pd.DataFrame,
    weights: np.ndarray,
    dx: str,
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    return function(
        predictions[f"p_{dx}"].to_numpy(), (predictions["dx"] == dx).to_numpy(), weights
    )


def _mean_auroc(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Of the classes that a weighting has."""
    values = np.stack(
        [_ranked(predictions, weights, dx, ranking.auroc) for dx in class_names(predictions)]
    )
    return np.nansum(values, axis=0) / (~np.isnan(values)).sum(0)


def minority_statistics(minority: np.ndarray, classes: ClassList) -> dict[str, Statistic]:
    """The mean recall of the classes that `minority` (bool [K]) marks, and that mean less the others'.

    Neither where no class is marked, and no second one where all are. A class of which a weighting has no
    image is left out.
    """
    recalls = statistics(classes)

    def mean_recall(
        predictions: pd.DataFrame, weights: np.ndarray, these: np.ndarray
    ) -> np.ndarray:
        each = [
            recalls[f"recall_{classes[label]}"](predictions, weights)
            for label in np.flatnonzero(these)
        ]
        return np.nanmean(each, axis=0)

    def recall(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return mean_recall(predictions, weights, minority)

    def gap(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return recall(predictions, weights) - mean_recall(predictions, weights, ~minority)

    named: dict[str, Statistic] = {"minority_recall": recall} if minority.any() else {}
    return {**named, "minority_recall_gap": gap} if named and not minority.all() else named


LEAK_COLUMNS = ["metric", "split", "part", "value", "low", "high", "n", "lesions", "seeds"]


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions of the test images of one split, by the seed of the training; their lesions; which leak."""

    by_seed: dict[int, pd.DataFrame]
    lesion_ids: Ids
    leaked: np.ndarray


def compare_splits(
    lesion: SplitPredictions,
    image: SplitPredictions,
    named: Mapping[str, Statistic],
    n_resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Each statistic under both splits, on leaked and other images, and the differences, with intervals.

    One row a metric, split and part. Parts are `all`, `leaked` and `not leaked`, and the differences
    `all, less split by lesion` and `leaked less not leaked`, which have no n: each side draws its own
    lesions, both the same seeds. `all` is drawn as `comparison.estimates` with this seed draws it, so that
    one quantity has one interval.

    Raises InputError if the split by lesion leaks, or the seeds of the two are not the same.
    """
    if lesion.leaked.any():
        raise InputError(
            f"{int(lesion.leaked.sum())} test images leak, but a split by lesion has none"
        )
    if sorted(lesion.by_seed) != sorted(image.by_seed):
        raise InputError(
            f"the seeds differ: {sorted(lesion.by_seed)} by lesion, {sorted(image.by_seed)} by image"
        )
    everything = np.ones(len(image.leaked), dtype=bool)
    under_lesion = _of(lesion, ~lesion.leaked, named, n_resamples, seed)
    parts = {"all": _of(image, everything, named, n_resamples, seed)}
    # What is compared with another set of images needs draws of its own.
    apart = _of(image, everything, named, n_resamples, seed + 1)
    if image.leaked.any() and not image.leaked.all():
        for k, (part, mask) in enumerate(
            {"leaked": image.leaked, "not leaked": ~image.leaked}.items()
        ):
            parts[part] = _of(image, mask, named, n_resamples, seed + 2 + k)
    rows: list[dict] = []
    for metric in named:
        rows.append(
            {"metric": metric, "split": "lesion", "part": "all", **_row(under_lesion[metric])}
        )
        for part, found in parts.items():
            rows.append({"metric": metric, "split": "image", "part": part, **_row(found[metric])})
        differences = {
            "all, less split by lesion": unpaired_difference(apart[metric], under_lesion[metric])
        }
        if "leaked" in parts:
            leaked, others = parts["leaked"][metric], parts["not leaked"][metric]
            differences["leaked less not leaked"] = unpaired_difference(leaked, others)
        for part, each in differences.items():
            rows.append(
                {
                    "metric": metric,
                    "split": "image",
                    "part": part,
                    **each,
                    "seeds": len(image.by_seed),
                }
            )
    return pd.DataFrame(rows, columns=LEAK_COLUMNS).astype({"n": "Int64", "lesions": "Int64"})


def _of(
    of: SplitPredictions,
    mask: np.ndarray,
    named: Mapping[str, Statistic],
    n_resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    some = {s: of.by_seed[s][mask].reset_index(drop=True) for s in sorted(of.by_seed)}
    return estimates(named, some, np.asarray(of.lesion_ids)[mask], n_resamples, seed)


def _row(found: Estimate) -> dict[str, float]:
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.images,
        "lesions": found.lesions,
        "seeds": found.seeds,
    }
