"""Does the classifier serve every group alike? Scores by class, sex, age band, site and source.

Predictions are tables as in `metrics.classification`, one a seed of training, of the same images in the same
order. Intervals are those of `metrics.comparison.estimate`: over lesions and seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.bootstrap import factorize_lesions
from hamsynth_utils.metrics.calibration import brier_score, expected_calibration_error
from hamsynth_utils.metrics.classification import align_table, class_names, probabilities
from hamsynth_utils.metrics.comparison import (
    Estimate,
    Statistic,
    classification_score,
    difference,
    estimates,
    holm,
)

ATTRIBUTES = ("sex", "age_band", "localization", "dataset")


AGE_BANDS = {"under 30": 30, "30 to 44": 45, "45 to 59": 60, "60 to 74": 75, "75 and over": 130}
"""Each band and the age in years at which it ends (that age itself belongs to the next)."""


MISSING, NOT_AVAILABLE, EVERYBODY = "missing", "not available", "all images"


MIN_GROUP_SIZE = 30
"""Groups of fewer images are shown, but no gap is measured with them."""


Predictions = dict[int, pd.DataFrame]


Members = dict[str, np.ndarray]


def recall(predictions: pd.DataFrame, weights: np.ndarray, dx: str) -> np.ndarray:
    """Share of the images of `dx` that are called so: [B] for weights [B, N]; NaN without one."""
    truth = (predictions["dx"] == dx).to_numpy()
    return _share(_predicted_as(predictions, dx), truth, weights)


def false_positive_rate(predictions: pd.DataFrame, weights: np.ndarray, dx: str) -> np.ndarray:
    """Share of the other images that are called `dx`: [B] for weights [B, N]; NaN without one."""
    truth = (predictions["dx"] == dx).to_numpy()
    return _share(_predicted_as(predictions, dx), ~truth, weights)


def balanced_accuracy_of(predictions: pd.DataFrame, weights: np.ndarray, dx: str) -> np.ndarray:
    """Mean of the recall of `dx` and of all others as one class: [B] for weights [B, N]."""
    return (
        recall(predictions, weights, dx) + 1 - false_positive_rate(predictions, weights, dx)
    ) / 2


def calibration_error_of(predictions: pd.DataFrame, weights: np.ndarray, dx: str) -> np.ndarray:
    """Expected calibration error over the images that are called `dx` (Gupta & Ramdas 2022): [B]."""
    return expected_calibration_error(
        predictions, np.atleast_2d(weights) * _predicted_as(predictions, dx)
    )


MEASURES = (
    "accuracy",
    "balanced_accuracy",
    "recall",
    "false_positive_rate",
    "brier",
    "calibration_error",
)
"""What a group gets. Recall and false positives are those of the focus class; balanced accuracy is the mean
recall of the classes that the group has; a calibration error is biased upwards where images are few."""


GENERAL_MEASURES: dict[str, Statistic] = {
    "accuracy": partial(classification_score, name="accuracy"),
    "balanced_accuracy": partial(classification_score, name="balanced_accuracy"),
    "brier": brier_score,
    "calibration_error": expected_calibration_error,
}
"""The measures of all classes together; the other `MEASURES` are those of one class."""


def _measures(focus: str) -> dict[str, Statistic]:
    """The statistic of each of `MEASURES`, where `focus` is the focus class."""
    of_focus = {
        "recall": partial(recall, dx=focus),
        "false_positive_rate": partial(false_positive_rate, dx=focus),
    }
    return {name: (GENERAL_MEASURES | of_focus)[name] for name in MEASURES}


def age_band(age: pd.Series) -> pd.Series:
    """The band of each age in years (`AGE_BANDS`), "missing" for NaN; raises InputError outside 0 to 130."""
    known = age.dropna()
    wrong = known[(known < 0) | (known >= 130)]
    if len(wrong):
        raise InputError(
            f"{len(wrong)} ages are not in 0 to 130 years, the first is {wrong.iloc[0]}"
        )
    bands = pd.cut(age, [0, *AGE_BANDS.values()], right=False, labels=list(AGE_BANDS))
    return bands.astype("object").fillna(MISSING).rename("age_band")


def groups_of(rows: pd.DataFrame, attribute: str) -> Members:
    """Which of the table's rows are in each group of `attribute` (one of `ATTRIBUTES`): bool [N] by name.

    Rows without a value are the group "missing", the last one. Empty if no row has a value.
    Raises InputError for an unknown attribute.
    """
    if attribute not in ATTRIBUTES:
        raise InputError(f"unknown attribute {attribute!r}; known are {', '.join(ATTRIBUTES)}")
    column = "age" if attribute == "age_band" else attribute
    values = rows[column] if column in rows else pd.Series(np.nan, index=rows.index)
    if attribute == "age_band":
        values = age_band(values)
    else:  # the archives write some unknown sexes and sites as this word
        values = values.astype("object").where(values.notna() & (values != "unknown"), MISSING)
    there = set(values)
    order = AGE_BANDS if attribute == "age_band" else sorted(there - {MISSING})
    named = [name for name in order if name in there]
    return (
        {name: (values == name).to_numpy() for name in [*named, *({MISSING} & there)]}
        if named
        else {}
    )


def group_scores(
    by_seed: Predictions,
    table: pd.DataFrame,
    n_resamples: int,
    seed: int,
    least: int = MIN_GROUP_SIZE,
) -> pd.DataFrame:
    """One row for each group and measure: attribute, group, dx, measure, value, low, high, n, lesions, seeds,
    enough.

    table: that of the `LesionSet`. The first group is "all images", with recall, false-positive rate,
    balanced accuracy and calibration error of each class as `dx`. Groups have the `MEASURES`, and recall and
    false-positive rate of each class; dx is "" where a row is about no class. n: the images that the measure
    is over (by the first seed, where predictions decide it); `enough` is False for fewer than `least`. NaN: a
    value without an image, an interval of one lesion. An attribute of which no image has a value gives one
    row, group "not available".

    Raises InputError for unsound predictions, or images that the table lacks.
    """
    first = next(iter(by_seed.values()))
    rows = align_table(first, table)
    keys, named, records = [], {}, []
    for attribute in (EVERYBODY, *ATTRIBUTES):
        members = {EVERYBODY: np.ones(len(rows), dtype=bool)}
        if attribute != EVERYBODY:
            members = groups_of(rows, attribute)
        if not members:
            empty = dict.fromkeys(("value", "low", "high"), np.nan)
            sizes = {"n": 0, "lesions": 0, "seeds": len(by_seed), "enough": False}
            keys.append((attribute, NOT_AVAILABLE, "", ""))
            records.append({**empty, **sizes})
        for group, inside in members.items():
            statistics = _statistics(class_names(first), attribute == EVERYBODY)
            for (measure, dx), statistic in statistics.items():
                keys.append((attribute, group, dx, measure))
                named[keys[-1]] = restrict_to(statistic, inside)
                over = inside & denominator_mask(first, measure, dx)
                records.append({"n": int(over.sum()), "lesions": rows["lesion_id"][over].nunique()})
    found = estimates(named, by_seed, rows["lesion_id"], n_resamples, seed)
    for key, record in zip(keys, records, strict=True):
        if key in found:
            value, several = found[key], record["lesions"] > 1
            record |= {"value": value.value, "seeds": value.seeds, "enough": record["n"] >= least}
            record |= {
                "low": value.low if several else np.nan,
                "high": value.high if several else np.nan,
            }
    about = pd.DataFrame(keys, columns=["attribute", "group", "dx", "measure"])
    columns = ["value", "low", "high", "n", "lesions", "seeds", "enough"]
    return pd.concat([about, pd.DataFrame(records, columns=columns)], axis=1)


def _statistics(classes: Sequence[str], of_all: bool) -> dict[tuple[str, str], Statistic]:
    """What `group_scores` measures, by measure and class."""
    named = {(name, ""): statistic for name, statistic in GENERAL_MEASURES.items()}
    by_class = {"recall": recall, "false_positive_rate": false_positive_rate}
    if of_all:
        by_class |= {
            "balanced_accuracy": balanced_accuracy_of,
            "calibration_error": calibration_error_of,
        }
    return named | {(name, dx): partial(f, dx=dx) for name, f in by_class.items() for dx in classes}


def denominator_mask(predictions: pd.DataFrame, measure: str, dx: str) -> np.ndarray:
    """Which images a measure of the class `dx`, or of all where dx is "", is over: bool [N]."""
    truth = (predictions["dx"] == dx).to_numpy()
    if measure == "recall":
        return truth
    if measure == "false_positive_rate":
        return ~truth
    return (
        _predicted_as(predictions, dx)
        if measure == "calibration_error" and dx
        else np.ones(len(truth), bool)
    )


def restrict_to(statistic: Statistic, inside: np.ndarray) -> Statistic:
    """The statistic of the images `inside`, bool [N], alone."""

    def of_group(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a draw may hold none of the group's lesions
            return statistic(predictions[inside], np.atleast_2d(weights)[:, inside])

    return of_group


def _predicted_as(predictions: pd.DataFrame, dx: str) -> np.ndarray:
    return probabilities(predictions).argmax(1) == class_names(predictions).index(dx)


def _share(hit: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    weights = np.atleast_2d(weights)
    with np.errstate(invalid="ignore"):
        return weights @ (hit & among) / (weights @ among.astype(float))


@dataclass(frozen=True)
class Gap:
    """The largest difference of a measure between groups of an attribute.

    groups: those compared, of `MIN_GROUP_SIZE` images or more; highest, lowest: the two that are farthest apart;
    n, lesions: the images that the measure is over in the groups compared. estimate: None where there are not
    two such groups. As a difference of extremes it is above 0 by chance alone, and so is its interval:
    compare it with `chance_gaps`.
    """

    attribute: str
    measure: str
    groups: tuple[str, ...]
    highest: str
    lowest: str
    n: int
    lesions: int
    estimate: Estimate | None


def largest_gaps(
    by_seed: Predictions,
    table: pd.DataFrame,
    focus: str,
    n_resamples: int,
    seed: int,
    least: int = MIN_GROUP_SIZE,
) -> list[Gap]:
    """The largest gap of each attribute and measure.

    Args:
        by_seed: predictions by the seed of the training, of the same images in the same order.
        table: the table of the `LesionSet`.
        focus: the class whose recall and false-positive rate are compared.
        n_resamples: number of bootstrap resamples.
        seed: seed of the resamples.
        least: smallest number of images of a group that is compared.

    Returns:
        One `Gap` per attribute and measure, in the order of `ATTRIBUTES` and `MEASURES`.

    Raises:
        InputError: as `group_scores`, or if the focus class is none of the predicted classes.
    """
    first = next(iter(by_seed.values()))
    rows, measures = align_table(first, table), _measures(focus)
    compared = _compared(first, rows, focus, least)
    named = {
        key: _spread(measures[key[1]], list(members.values()))
        for key, members in compared.items()
        if len(members) > 1
    }
    found = estimates(named, by_seed, rows["lesion_id"], n_resamples, seed)
    gaps = []
    whole = np.ones((1, len(rows)))
    for key, members in compared.items():
        attribute, measure = key
        over = np.any([*members.values()], axis=0) if members else np.zeros(len(rows), dtype=bool)
        over &= denominator_mask(first, measure, "" if measure in GENERAL_MEASURES else focus)
        values = {
            name: np.mean(
                [restrict_to(measures[measure], inside)(p, whole)[0] for p in by_seed.values()]
            )
            for name, inside in members.items()
        }
        highest = max(values, key=values.__getitem__, default="")
        lowest = min(values, key=values.__getitem__, default="")
        number = rows["lesion_id"][over].nunique()
        estimate = found.get(key)
        gaps.append(
            Gap(
                attribute,
                measure,
                tuple(members),
                highest,
                lowest,
                int(over.sum()),
                number,
                estimate,
            )
        )
    return gaps


def chance_gaps(
    by_seed: Predictions,
    table: pd.DataFrame,
    focus: str,
    n_permutations: int,
    seed: int,
    least: int = MIN_GROUP_SIZE,
) -> dict[tuple[str, str], np.ndarray]:
    """The largest gaps of groups that differ in nothing but chance and their mix of diagnoses.

    The group names are permuted among the lesions of each diagnosis. So every group keeps its mix of
    diagnoses and loses everything else that might set the group apart.

    Args:
        by_seed, table, focus, least: as for `largest_gaps`.
        n_permutations: number of permutations.
        seed: seed of the permutations.

    Returns:
        The gaps, [n_permutations], by (attribute, measure), where two groups can be compared.

    Raises:
        InputError: as `largest_gaps`.
    """
    first = next(iter(by_seed.values()))
    rows = align_table(first, table)
    codes, _ = factorize_lesions(rows["lesion_id"], len(rows))
    one = np.unique(codes, return_index=True)[1]  # image of each lesion
    compared = _compared(first, rows, focus, least)
    diagnoses = rows["dx"].to_numpy()[one]
    result = {}
    for attribute in ATTRIBUTES:
        groups = groups_of(rows, attribute)
        if not groups:
            continue
        rng, own_group = np.random.default_rng(seed), np.array([*groups.values()])[:, one].argmax(0)
        dealt = np.empty((n_permutations, len(one)), dtype=int)
        for dx in np.unique(diagnoses):
            own = np.flatnonzero(diagnoses == dx)
            dealt[:, own] = rng.permuted(np.tile(own_group[own], (n_permutations, 1)), axis=1)
        # Membership is a weighting of the images, one a deal, so that no loop over deals is needed.
        member = {name: (dealt == k)[:, codes].astype(float) for k, name in enumerate(groups)}
        for measure, statistic in _measures(focus).items():
            names = compared[attribute, measure]
            if len(names) > 1:
                with np.errstate(invalid="ignore"):
                    spreads = [
                        _range([statistic(p, member[name]) for name in names])
                        for p in by_seed.values()
                    ]
                result[attribute, measure] = np.mean(spreads, axis=0)
    return result


def gap_table(arm: str, gaps: Sequence[Gap]) -> pd.DataFrame:
    """Rows arm, attribute, measure (`largest_gap_recall`, ...), value, low, high, n, lesions, seeds.

    Value, low and high are NaN where fewer than two groups could be compared: it was not measured.
    """
    rows = []
    for gap in gaps:
        found = gap.estimate
        numbers = (
            (np.nan, np.nan, np.nan) if found is None else (found.value, found.low, found.high)
        )
        seeds = 0 if found is None else found.seeds
        rows.append(
            (arm, gap.attribute, f"largest_gap_{gap.measure}", *numbers, gap.n, gap.lesions, seeds)
        )
    columns = ["arm", "attribute", "measure", "value", "low", "high", "n", "lesions", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def gap_changes(
    gaps: Mapping[str, Sequence[Gap]], measures: Sequence[str], reference: str = "real"
) -> pd.DataFrame:
    """How much wider each arm's gaps are than the reference's: paired, over lesions and seeds.

    One row for each other arm, attribute and one of `measures`: arm, attribute, measure, value (negative:
    narrower), low, high, p, holm (the p-value, raised for the number of rows), n, lesions, seeds. Raises
    InputError as `metrics.comparison.difference` does.
    """
    before = {(gap.attribute, gap.measure): gap for gap in gaps[reference]}
    rows = []
    for arm, of_arm in gaps.items():
        for gap in of_arm:
            there = before[gap.attribute, gap.measure]
            if (
                arm == reference
                or gap.measure not in measures
                or not (gap.estimate and there.estimate)
            ):
                continue
            change = difference(gap.estimate, there.estimate)
            about = {"arm": arm, "attribute": gap.attribute, "measure": gap.measure}
            sizes = {"n": gap.n, "lesions": gap.lesions, "seeds": gap.estimate.seeds}
            rows.append({**about, **change, **sizes})
    columns = [
        "arm",
        "attribute",
        "measure",
        "value",
        "low",
        "high",
        "p",
        "holm",
        "n",
        "lesions",
        "seeds",
    ]
    table = pd.DataFrame(rows, columns=[name for name in columns if name != "holm"])
    table["holm"] = holm(table["p"].to_list()) if len(table) else []
    return table[columns]


def _compared(
    predictions: pd.DataFrame, rows: pd.DataFrame, focus: str, least: int
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """The groups of each attribute that are large enough for each measure."""
    if focus not in class_names(predictions):
        raise InputError(
            f"the focus class {focus!r} is none of the predicted {', '.join(class_names(predictions))}"
        )
    result = {}
    for attribute in ATTRIBUTES:
        groups = groups_of(rows, attribute)
        for measure in MEASURES:
            over = denominator_mask(
                predictions, measure, "" if measure in GENERAL_MEASURES else focus
            )
            result[attribute, measure] = {
                name: inside for name, inside in groups.items() if (inside & over).sum() >= least
            }
    return result


def _spread(statistic: Statistic, members: Sequence[np.ndarray]) -> Statistic:
    """The statistic's range over groups."""

    def of_groups(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return _range([restrict_to(statistic, inside)(predictions, weights) for inside in members])

    return of_groups


def _range(values: Sequence[np.ndarray]) -> np.ndarray:
    """Highest less lowest of the defined ones among values [B] of groups; NaN where fewer than two are."""
    stacked = np.stack(values)
    defined = ~np.isnan(stacked)
    spread = np.where(defined, stacked, -np.inf).max(0) - np.where(defined, stacked, np.inf).min(0)
    return np.where(defined.sum(0) > 1, spread, np.nan)
