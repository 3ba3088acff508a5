"""How far apart groups are: the largest gap of each attribute, what chance alone gives, and who widens it.

Groups differ in their diagnoses too: a gap says where to look, not why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hamsynth_utils.metrics.classification import rows_of
from hamsynth_utils.metrics.comparison import Estimate, Statistic, difference, estimates, holm
from hamsynth_utils.metrics.fairness import (
    ATTRIBUTES,
    LEAST,
    MEASURES,
    MELANOMA,
    Predictions,
    counted,
    groups_of,
    within,
)
from hamsynth_utils.metrics.intervals import lesion_codes


@dataclass(frozen=True)
class Gap:
    """The largest difference of a measure between groups of an attribute.

    groups: those compared, of `LEAST` images or more; highest, lowest: the two that are farthest apart;
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
    by_seed: Predictions, table: pd.DataFrame, draws: int, seed: int, least: int = LEAST
) -> list[Gap]:
    """The `Gap` of each attribute and measure, in their order. Raises InputError as `group_scores` does."""
    first = next(iter(by_seed.values()))
    rows = rows_of(first, table)
    compared = _compared(first, rows, least)
    named = {
        key: _spread(MEASURES[key[1]], list(members.values()))
        for key, members in compared.items()
        if len(members) > 1
    }
    found = estimates(named, by_seed, rows["lesion_id"], draws, seed)
    gaps = []
    whole = np.ones((1, len(rows)))
    for key, members in compared.items():
        attribute, measure = key
        over = np.any([*members.values()], axis=0) if members else np.zeros(len(rows), dtype=bool)
        over &= counted(first, measure, MELANOMA.get(measure, ""))
        values = {
            name: np.mean([within(MEASURES[measure], inside)(p, whole)[0] for p in by_seed.values()])
            for name, inside in members.items()
        }
        highest = max(values, key=values.__getitem__, default="")
        lowest = min(values, key=values.__getitem__, default="")
        number = rows["lesion_id"][over].nunique()
        estimate = found.get(key)
        gaps.append(
            Gap(attribute, measure, tuple(members), highest, lowest, int(over.sum()), number, estimate)
        )
    return gaps


def chance_gaps(
    by_seed: Predictions, table: pd.DataFrame, times: int, seed: int, least: int = LEAST
) -> dict[tuple[str, str], np.ndarray]:
    """The largest gaps of groups that differ in nothing but chance and mix: [times] by (attribute, measure).

    The names of the groups are dealt out anew among the lesions of each diagnosis, so that every group keeps
    its mix of diagnoses and loses all else that might set it apart.
    """
    first = next(iter(by_seed.values()))
    rows = rows_of(first, table)
    codes, _ = lesion_codes(rows["lesion_id"], len(rows))
    one = np.unique(codes, return_index=True)[1]  # image of each lesion
    compared = _compared(first, rows, least)
    diagnoses = rows["dx"].to_numpy()[one]
    result = {}
    for attribute in ATTRIBUTES:
        groups = groups_of(rows, attribute)
        if not groups:
            continue
        rng, own_group = np.random.default_rng(seed), np.array([*groups.values()])[:, one].argmax(0)
        dealt = np.empty((times, len(one)), dtype=int)
        for dx in np.unique(diagnoses):
            own = np.flatnonzero(diagnoses == dx)
            dealt[:, own] = rng.permuted(np.tile(own_group[own], (times, 1)), axis=1)
        # Membership is a weighting of the images, one a deal, so that no loop over deals is needed.
        member = {name: (dealt == k)[:, codes].astype(float) for k, name in enumerate(groups)}
        for measure, statistic in MEASURES.items():
            names = compared[attribute, measure]
            if len(names) > 1:
                with np.errstate(invalid="ignore"):
                    spreads = [
                        _range([statistic(p, member[name]) for name in names]) for p in by_seed.values()
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
        numbers = (np.nan, np.nan, np.nan) if found is None else (found.value, found.low, found.high)
        seeds = 0 if found is None else found.seeds
        rows.append((arm, gap.attribute, f"largest_gap_{gap.measure}", *numbers, gap.n, gap.lesions, seeds))
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
            if arm == reference or gap.measure not in measures or not (gap.estimate and there.estimate):
                continue
            change = difference(gap.estimate, there.estimate)
            about = {"arm": arm, "attribute": gap.attribute, "measure": gap.measure}
            sizes = {"n": gap.n, "lesions": gap.lesions, "seeds": gap.estimate.seeds}
            rows.append({**about, **change, **sizes})
    columns = ["arm", "attribute", "measure", "value", "low", "high", "p", "holm", "n", "lesions", "seeds"]
    table = pd.DataFrame(rows, columns=[name for name in columns if name != "holm"])
    table["holm"] = holm(table["p"].to_list()) if len(table) else []
    return table[columns]


def _compared(
    predictions: pd.DataFrame, rows: pd.DataFrame, least: int
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """The groups of each attribute that are large enough for each measure."""
    result = {}
    for attribute in ATTRIBUTES:
        groups = groups_of(rows, attribute)
        for measure in MEASURES:
            over = counted(predictions, measure, MELANOMA.get(measure, ""))
            result[attribute, measure] = {
                name: inside for name, inside in groups.items() if (inside & over).sum() >= least
            }
    return result


def _spread(statistic: Statistic, members: Sequence[np.ndarray]) -> Statistic:
    """The statistic's range over groups."""

    def of_groups(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return _range([within(statistic, inside)(predictions, weights) for inside in members])

    return of_groups


def _range(values: Sequence[np.ndarray]) -> np.ndarray:
    """Highest less lowest of the defined ones among values [B] of groups; NaN where fewer than two are."""
    stacked = np.stack(values)
    defined = ~np.isnan(stacked)
    spread = np.where(defined, stacked, -np.inf).max(0) - np.where(defined, stacked, np.inf).min(0)
    return np.where(defined.sum(0) > 1, spread, np.nan)
