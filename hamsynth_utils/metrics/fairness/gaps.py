"""Gaps between patient groups: the largest difference of a measure, and that by chance alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError, not_measured
from hamsynth_utils.metrics.bootstrap import factorize_lesions
from hamsynth_utils.metrics.classification import align_table, class_names
from hamsynth_utils.metrics.comparison.arm_estimates import Estimate, difference, estimates, holm
from hamsynth_utils.metrics.comparison.weighted_statistics import Statistic
from hamsynth_utils.metrics.fairness.groups import (
    ATTRIBUTES,
    GENERAL_MEASURES,
    MEASURES,
    MIN_GROUP_SIZE,
    GroupMasks,
    Predictions,
    denominator_mask,
    false_positive_rate,
    group_masks,
    recall,
    restrict_to,
)
from hamsynth_utils.notebook.tables import measurement_table

SIZE_COLUMNS = ["n", "lesions", "seeds"]


@dataclass(frozen=True)
class Gap:
    """The largest difference of a measure between groups of an attribute.

    A difference of extremes is above 0 by chance alone, and so is its interval: compare it with
    `chance_gaps`.

    Attributes:
        attribute, measure: What is compared.
        groups: The groups compared, each of enough images.
        highest, lowest: The two groups that are farthest apart.
        n, lesions: Images and lesions that the measure is over, in the groups compared.
        estimate: The difference; None if fewer than two groups could be compared.
        reason: Why the data cannot give it; "" if they can, or if groups are only too small.
    """

    attribute: str
    measure: str
    groups: tuple[str, ...]
    highest: str
    lowest: str
    n: int
    lesions: int
    estimate: Estimate | None
    reason: str


def largest_gaps(
    by_seed: Predictions,
    table: pd.DataFrame,
    focus: str,
    n_resamples: int,
    seed: int,
    min_group_size: int = MIN_GROUP_SIZE,
) -> list[Gap]:
    """The largest gap of each attribute and measure.

    Args:
        by_seed: The arm's predictions, by training seed.
        table: The table of the `LesionSet` that holds the images.
        focus: The class whose recall and false-positive rate are compared.
        n_resamples: Resamples of lesions and trainings.
        seed: Of the resamples.
        min_group_size: The smallest number of images of a group that is compared.

    Returns:
        One `Gap` per attribute and measure, in the order of `ATTRIBUTES` and `MEASURES`.

    Raises:
        InputError: If predictions are not sound, the table lacks an image, or the focus class is
            none of the predicted classes.
    """
    first = next(iter(by_seed.values()))
    rows, measures = align_table(first, table), _measures(focus)
    compared = _compared_groups(first, rows, focus, min_group_size)
    named = {
        (attribute, measure): _range_over_groups(measures[measure], list(members.values()))
        for (attribute, measure), members in compared.items()
        if len(members) > 1
    }
    found = estimates(named, by_seed, rows["lesion_id"], n_resamples, seed)
    gaps = []
    for (attribute, measure), members in compared.items():
        over = np.any([*members.values()], axis=0) if members else np.zeros(len(rows), dtype=bool)
        over &= _focus_mask(first, measure, focus)
        values = _group_values(by_seed, measures[measure], members)
        gaps.append(
            Gap(
                attribute=attribute,
                measure=measure,
                groups=tuple(members),
                highest=max(values, key=values.__getitem__, default=""),
                lowest=min(values, key=values.__getitem__, default=""),
                n=int(over.sum()),
                lesions=rows["lesion_id"][over].nunique(),
                estimate=found.get((attribute, measure)),
                reason=_why_not(first, rows, attribute, measure, focus),
            )
        )
    return gaps


def chance_gaps(
    by_seed: Predictions,
    table: pd.DataFrame,
    focus: str,
    n_permutations: int,
    seed: int,
    min_group_size: int = MIN_GROUP_SIZE,
) -> dict[tuple[str, str], np.ndarray]:
    """The largest gaps of groups that differ only by chance and by their mix of diagnoses.

    The group names are permuted among the lesions of each diagnosis. Every group keeps its mix of
    diagnoses, and loses everything else that might set the group apart.

    Args:
        by_seed: The arm's predictions, by training seed.
        table: The table of the `LesionSet` that holds the images.
        focus: The class whose recall and false-positive rate are compared.
        n_permutations: Permutations.
        seed: Of the permutations.
        min_group_size: The smallest number of images of a group that is compared.

    Returns:
        The gaps, [n_permutations], by (attribute, measure), where two groups can be compared.

    Raises:
        InputError: As `largest_gaps` does.
    """
    first = next(iter(by_seed.values()))
    rows = align_table(first, table)
    codes, _ = factorize_lesions(rows["lesion_id"], len(rows))
    compared = _compared_groups(first, rows, focus, min_group_size)
    result = {}
    for attribute in ATTRIBUTES:
        groups = group_masks(rows, attribute)
        if not groups:
            continue
        permuted = _permuted_groups(rows, codes, groups, n_permutations, seed)
        # Membership is one weighting of the images per permutation, so that no loop is needed.
        weights = {name: (permuted == k)[:, codes].astype(float) for k, name in enumerate(groups)}
        for measure, statistic in _measures(focus).items():
            names = compared[attribute, measure]
            if len(names) > 1:
                with np.errstate(invalid="ignore"):
                    ranges = [
                        _range([statistic(p, weights[name]) for name in names])
                        for p in by_seed.values()
                    ]
                result[attribute, measure] = np.mean(ranges, axis=0)
    return result


def gap_table(arm: str, gaps: Sequence[Gap]) -> pd.DataFrame:
    """The gaps of an arm as a table.

    Args:
        arm: The name of the arm.
        gaps: From `largest_gaps`.

    Returns:
        One row per gap: arm, attribute, measure (`largest_gap_recall`, ...), value, low, high, n,
            lesions and seeds. Value, low and high are NaN, not measured, if fewer than two groups
            could be compared; `reason` is that of the gap.
    """
    rows = []
    for gap in gaps:
        about = {"arm": arm, "attribute": gap.attribute, "measure": f"largest_gap_{gap.measure}"}
        e = gap.estimate
        if e is None:
            rows.append({**not_measured(gap.reason), **about, "n": gap.n, "lesions": gap.lesions})
        else:
            interval = {"value": e.value, "low": e.low, "high": e.high, "seeds": e.seeds}
            rows.append({**about, **interval, "n": gap.n, "lesions": gap.lesions})
    columns = ["arm", "attribute", "measure", "value", "low", "high", *SIZE_COLUMNS]
    return measurement_table(rows, columns)


def gap_changes(
    gaps: Mapping[str, Sequence[Gap]], measures: Sequence[str], reference: str = "real"
) -> pd.DataFrame:
    """How much wider each arm's gaps are than those of a reference arm.

    Args:
        gaps: The gaps of each arm, on the same images and resamples.
        measures: The measures to compare.
        reference: The arm to compare with.

    Returns:
        One row per other arm, attribute and measure: arm, attribute, measure, value (negative:
            narrower), low, high, p, holm (the p-value, adjusted for the number of rows), n, lesions
            and seeds.

    Raises:
        InputError: If the gaps cannot be paired, see `comparison.difference`.
    """
    reference_gaps = {(gap.attribute, gap.measure): gap for gap in gaps[reference]}
    rows = []
    for arm in (name for name in gaps if name != reference):
        for gap in gaps[arm]:
            before = reference_gaps[gap.attribute, gap.measure].estimate
            if gap.measure not in measures or gap.estimate is None or before is None:
                continue
            about = {"arm": arm, "attribute": gap.attribute, "measure": gap.measure}
            sizes = {"n": gap.n, "lesions": gap.lesions, "seeds": gap.estimate.seeds}
            rows.append({**about, **difference(gap.estimate, before), **sizes})
    columns = ["arm", "attribute", "measure", "value", "low", "high", "p", *SIZE_COLUMNS]
    table = pd.DataFrame(rows, columns=columns)
    adjusted = holm(table["p"].to_list()) if len(table) else np.empty(0)
    table.insert(columns.index("p") + 1, "holm", adjusted)
    return table


def _measures(focus: str) -> dict[str, Statistic]:
    """The statistic of each of `MEASURES`, for a focus class."""
    of_focus = {
        "recall": partial(recall, dx=focus),
        "false_positive_rate": partial(false_positive_rate, dx=focus),
    }
    return {name: (GENERAL_MEASURES | of_focus)[name] for name in MEASURES}


def _focus_mask(predictions: pd.DataFrame, measure: str, focus: str) -> np.ndarray:
    return denominator_mask(predictions, measure, "" if measure in GENERAL_MEASURES else focus)


def _why_not(
    predictions: pd.DataFrame, rows: pd.DataFrame, attribute: str, measure: str, focus: str
) -> str:
    """The `reason` of a `Gap`."""
    if not group_masks(rows, attribute):
        return f"no test image has a value for {attribute.replace('_', ' ')}"
    if not _focus_mask(predictions, measure, focus).any():
        return f"no test image is one that the {measure.replace('_', ' ')} of {focus} is over"
    return ""


def _compared_groups(
    predictions: pd.DataFrame, rows: pd.DataFrame, focus: str, min_group_size: int
) -> dict[tuple[str, str], GroupMasks]:
    """The groups of each attribute that are large enough for each measure."""
    if focus not in class_names(predictions):
        raise InputError(
            f"the focus class {focus!r} is none of the predicted "
            f"{', '.join(class_names(predictions))}"
        )
    result = {}
    for attribute in ATTRIBUTES:
        groups = group_masks(rows, attribute)
        for measure in MEASURES:
            over = _focus_mask(predictions, measure, focus)
            result[attribute, measure] = {
                name: inside
                for name, inside in groups.items()
                if (inside & over).sum() >= min_group_size
            }
    return result


def _group_values(
    by_seed: Predictions, statistic: Statistic, members: GroupMasks
) -> dict[str, np.floating]:
    """The statistic of each group, averaged over the trainings."""
    result = {}
    for name, inside in members.items():
        in_group, whole = restrict_to(statistic, inside), np.ones((1, len(inside)))
        result[name] = np.mean([in_group(p, whole)[0] for p in by_seed.values()])
    return result


def _permuted_groups(
    rows: pd.DataFrame, codes: np.ndarray, groups: GroupMasks, n_permutations: int, seed: int
) -> np.ndarray:
    """The position of each lesion's group in `groups`, permuted within diagnoses: [B, lesions]."""
    image = np.unique(codes, return_index=True)[1]  # one of each lesion
    group = np.array([*groups.values()])[:, image].argmax(0)
    diagnoses = rows["dx"].to_numpy()[image]
    rng = np.random.default_rng(seed)
    permuted = np.empty((n_permutations, len(image)), dtype=int)
    for dx in np.unique(diagnoses):
        own = np.flatnonzero(diagnoses == dx)
        permuted[:, own] = rng.permuted(np.tile(group[own], (n_permutations, 1)), axis=1)
    return permuted


def _range_over_groups(statistic: Statistic, members: Sequence[np.ndarray]) -> Statistic:
    """The statistic's range over groups."""

    def of_groups(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        """The range [B] of the statistic over the groups."""
        return _range([restrict_to(statistic, inside)(predictions, weights) for inside in members])

    return of_groups


def _range(values: Sequence[np.ndarray]) -> np.ndarray:
    """Highest less lowest defined value of groups, [B] each; NaN if fewer than two are defined."""
    stacked = np.stack(values)
    defined = ~np.isnan(stacked)
    spread = np.where(defined, stacked, -np.inf).max(0) - np.where(defined, stacked, np.inf).min(0)
    return np.where(defined.sum(0) > 1, spread, np.nan)
