"""Checks an archived run: every table that follows from its archived predictions is computed again.

The data set gives the lesion of each image, its metadata and the split; the archive gives
predictions with five digits. What needs more (weights, predictions on validation images, synthetic
images) is not recomputed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hamsynth_utils.core.arm_names import ARMS, generator_of, other_split
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import read_csv, read_yaml
from hamsynth_utils.core.paths import RunPaths, predictions_file
from hamsynth_utils.core.profile import Profile, load_profile, parse_profile
from hamsynth_utils.data.split import leaked
from hamsynth_utils.experiment.arms import top_up_counts
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.metrics import comparison, fairness
from hamsynth_utils.metrics.classification import (
    METRICS,
    bootstrap_scores,
    confident_mistakes,
)
from hamsynth_utils.metrics.comparison.arm_estimates import Estimate

SAME_VALUE = 2e-5
"""Values within this distance agree: archived probabilities are rounded to five digits."""

RANKED = ("auroc", "average_precision")
"""Beginnings of the names of statistics that depend on the order of the probabilities."""

SAME_RANKED_VALUE = 3e-4
"""Values of `RANKED` statistics within this distance agree.

Rounding makes probabilities equal that differed, and so leaves their order open. On HAM10000,
values of the reference run lie up to 2.7e-4 away, between those with all equals ranked for the
class and all ranked against it."""

SAME_END = 0.003
"""Interval ends within this distance agree: 0.3 points."""

TESTED_METRICS = 3
"""Metrics of the evaluation chapter's comparisons; the number of resamples follows from them."""

GAP_MEASURES = ["balanced_accuracy", "recall"]
"""Of the chapter on fairness: the gaps whose change is tested."""

RESAMPLES_PER_TEST = 50
"""So many resamples per test keep the smallest p-value, times the number of tests, below 0.05."""

SECTIONS = ("threads", "data", "synthesis", "evaluation")
"""Of a profile: what decides the split, the minority classes and the intervals."""

BySeed = dict[int, pd.DataFrame]


@dataclass(frozen=True)
class Layout:
    """The columns of a table: row names, values, interval ends, and columns that must be equal."""

    keys: tuple[str, ...]
    values: tuple[str, ...] = ("value",)
    ends: tuple[str, ...] = ("low", "high")
    equal: tuple[str, ...] = ("n", "lesions", "seeds")


LAYOUTS = {
    "classification": Layout(("arm", "seed", "metric"), equal=("n_images", "n_lesions")),
    "differences": Layout(
        ("arm", "reference", "metric", "seed"), ("difference",), equal=("n_images", "n_lesions")
    ),
    "estimates/evaluation": Layout(("statistic", "arm", "reference", "split_by")),
    "calibration": Layout(("arm", "measure", "at")),
    "splits": Layout(("arm", "metric", "split", "part")),
    "fairness_groups": Layout(("attribute", "group", "dx", "measure")),
    "fairness": Layout(("arm", "attribute", "measure")),
    "fairness_changes": Layout(("arm", "attribute", "measure")),
    "mistakes": Layout(("image_id",), ("probability", "of_truth"), (), ("truth", "predicted")),
}


def check_reference(results: Path, data: str) -> pd.DataFrame:
    """Recompute the tables of an archived run that follow from its predictions, and compare.

    Args:
        results: the folder that `reference.archive_run` wrote.
        data: the data set of the run: a folder of HAM10000, or `phantom`.

    Returns:
        One row per table: table, rows (archived), recomputed (how many of them follow from the
        predictions), value and ends (the largest difference of a value and of an interval end),
        differing (rows outside `SAME_VALUE`, `SAME_RANKED_VALUE` or `SAME_END`, with another number
        of images, or missing).

    Raises:
        InputError: if the folder holds no archived run, or predictions of other images than the
            test images that the data set and the run's settings give.
    """
    if not (results / "predictions").is_dir():
        raise InputError(
            f"{results} has no predictions/: archive a run with hamsynth reference archive"
        )
    kept = {name: _read(RunPaths(results).table(name)) for name in LAYOUTS}
    with tempfile.TemporaryDirectory(prefix="hamsynth-") as folder:
        record = read_yaml(RunPaths(results).record)
        run = Run(Path(folder), _profile(record["profile"]), data, record["seed"])
        for path in sorted((results / "predictions").glob("*/seed-*.csv")):
            copy = run.paths.classifiers / path.parent.name / path.stem / predictions_file("test")
            copy.parent.mkdir(parents=True)
            shutil.copyfile(path, copy)
        pairs = kept["differences"][["arm", "reference"]].drop_duplicates()
        tables = evaluation_tables(run, pairs) | fairness_tables(run)
    return pd.DataFrame([_compare(name, kept[name], tables[name]) for name in LAYOUTS])


def _profile(archived: Mapping[str, Any]) -> Profile:
    """The settings of an archived run that affect these tables, whatever generators it had."""
    content = load_profile("smoke").model_dump(mode="json")
    return parse_profile({**content, **{name: archived[name] for name in SECTIONS}})


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path} is not there: the archived run is not complete")
    return read_csv(path, keep_default_na=False, na_values=[""])


def predictions_on_test(run: Run, arm: str, split_by: str | None = None) -> BySeed:
    """The predictions of an arm on the test images.

    Args:
        run: the archived run, on the present data.
        arm: the arm.
        split_by: the split; the run's own by default.

    Returns:
        By training seed, one row per test image, in the order of the test images.

    Raises:
        InputError: if the predictions are of other test images.
    """
    test = run.images("test", split_by).table
    frames = {}
    for seed in run.paths.classifier_seeds(arm, split_by):
        frame = run.predictions(arm, "test", seed, split_by)
        if set(frame["image_id"]) != set(test["image_id"]):
            raise InputError(
                f"the archived predictions of {arm}, seed {seed}, are not of the {len(test):,} "
                "test images that this data set gives: name the folder of the data set that the "
                "run was made with"
            )
        frames[seed] = test[["image_id"]].merge(frame, validate="one_to_one")
    return frames


class Evaluation:
    """The estimates of a run's arms on its test images, on one set of resamples."""

    def __init__(self, run: Run, n_resamples: int) -> None:
        """Read the predictions.

        Args:
            run: a run with the predictions of its classifiers.
            n_resamples: of each interval.
        """
        self.run, self.n_resamples = run, n_resamples
        self.test = run.images("test").table
        found = {arm: predictions_on_test(run, arm) for arm in ARMS}
        self.by_arm = {arm: by_seed for arm, by_seed in found.items() if by_seed}
        train, classes = run.images("train"), run.lesions().classes
        added = top_up_counts(train.counts, run.profile.synthesis.minority_fraction)
        minority = np.array([added[dx] > 0 for dx in classes.names])
        self.statistics = comparison.statistics(classes)
        self.statistics |= comparison.minority_statistics(minority)
        self.estimates = cache(self._estimates)

    def _estimates(self, arm: str, seeds: tuple[int, ...], is_metric: bool) -> dict[str, Estimate]:
        """Of the `METRICS`, which are also compared seed by seed, or of the other statistics."""
        return comparison.estimates(
            {
                name: each
                for name, each in self.statistics.items()
                if (name in METRICS) == is_metric
            },
            {seed: self.by_arm[arm][seed] for seed in seeds},
            self.test["lesion_id"],
            self.n_resamples,
            self.run.seed,
        )

    def row(self, name: str, arm: str, reference: str | None, seeds: tuple[int, ...]) -> dict:
        """The columns of a table for one statistic of an arm, minus that of a reference arm.

        Args:
            name: the statistic, a key of the estimates.
            arm: the arm.
            reference: the arm whose statistic is subtracted; None subtracts nothing.
            seeds: the seeds of the classifiers.

        Returns:
            One row of the table, by column.
        """
        is_metric = name in METRICS
        own = self.estimates(arm, seeds, is_metric)[name]
        sizes = {"n": own.images, "lesions": own.lesions, "seeds": own.seeds}
        if reference is None:
            return {"value": own.value, "low": own.low, "high": own.high, **sizes}
        return {
            **comparison.difference(own, self.estimates(reference, seeds, is_metric)[name]),
            **sizes,
        }

    def common(self, arm: str, reference: str | None = None) -> tuple[int, ...]:
        """The seeds that an arm and a reference arm both have.

        Args:
            arm: the arm.
            reference: the reference arm; None for the arm alone.

        Returns:
            The seeds, in the order of the arm.
        """
        others = self.by_arm[arm if reference is None else reference]
        return tuple(seed for seed in self.by_arm[arm] if seed in others)


def evaluation_tables(run: Run, pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables of the chapter on evaluation.

    Args:
        run: a run with the predictions of its classifiers.
        pairs: columns arm and reference: the arms that are compared.
    """
    n_tests = TESTED_METRICS * len(pairs)
    n_resamples = max(run.profile.evaluation.n_resamples, RESAMPLES_PER_TEST * n_tests)
    evaluation = Evaluation(run, n_resamples)
    lesion_ids = evaluation.test["lesion_id"]
    classification = [
        bootstrap_scores(frame, lesion_ids, n_resamples, run.seed).assign(arm=arm, seed=seed)
        for arm, by_seed in evaluation.by_arm.items()
        for seed, frame in by_seed.items()
    ]
    differences = [
        {"arm": arm, "reference": reference, "metric": name, "seed": label}
        | evaluation.row(name, arm, reference, seeds)
        for arm, reference in pairs[["arm", "reference"]].itertuples(index=False)
        for name in METRICS
        for label, seeds in [
            *((str(seed), (seed,)) for seed in evaluation.common(arm, reference)),
            ("all", evaluation.common(arm, reference)),
        ]
    ]
    renamed = {"value": "difference", "n": "n_images", "lesions": "n_lesions"}
    return {
        "classification": pd.concat(classification, ignore_index=True),
        "differences": pd.DataFrame(differences).rename(columns=renamed),
        "estimates/evaluation": _estimates_table(evaluation),
        "calibration": pd.DataFrame(
            {"arm": arm, "measure": name, "at": "before"}
            | evaluation.row(name, arm, None, evaluation.common(arm))
            for arm in evaluation.by_arm
            for name in ("brier", "calibration_error")
        ),
        "splits": _splits_table(evaluation),
    }


def _estimates_table(evaluation: Evaluation) -> pd.DataFrame:
    """Every statistic of every arm, against every other, and under the other split."""
    run, by_arm = evaluation.run, evaluation.by_arm
    own, other = run.profile.data.split_by, other_split(run.profile.data.split_by)
    rows = [
        {"statistic": name, "arm": arm, "reference": reference, "split_by": own}
        | evaluation.row(name, arm, reference, evaluation.common(arm, reference))
        for arm in by_arm
        for reference in [None, *(name for name in by_arm if name != arm)]
        for name in evaluation.statistics
    ]
    lesion_ids = run.images("test", other).table["lesion_id"]
    for arm in ARMS:
        if by_seed := predictions_on_test(run, arm, other):
            found = comparison.estimates(
                evaluation.statistics, by_seed, lesion_ids, evaluation.n_resamples, run.seed
            )
            rows += [
                {"statistic": name, "arm": arm, "reference": None, "split_by": other}
                | {"value": each.value, "low": each.low, "high": each.high}
                | {"n": each.images, "lesions": each.lesions, "seeds": each.seeds}
                for name, each in found.items()
            ]
    return pd.DataFrame(rows)


def _splits_table(evaluation: Evaluation) -> pd.DataFrame:
    """How much the split by image leaks, for the arms that were trained under both splits."""
    run = evaluation.run
    names = (
        "accuracy",
        "balanced_accuracy",
        *(f"recall_{dx}" for dx in run.lesions().classes.names),
    )
    chosen = {name: evaluation.statistics[name] for name in names}
    images, pairs = run.lesions().table, run.near_duplicates()
    parts = []
    for arm in (arm for arm in ARMS if generator_of(arm) is None):
        sides = {}
        for split_by in ("lesion", "image"):
            split = run.split(split_by)
            sides[split_by] = comparison.SplitPredictions(
                predictions_on_test(run, arm, split_by),
                images.iloc[split.test]["lesion_id"].reset_index(drop=True),
                leaked(images, split, pairs),
            )
        both = sorted(sides["lesion"].by_seed.keys() & sides["image"].by_seed.keys())
        if both:
            lesion, image = (
                replace(side, by_seed={seed: side.by_seed[seed] for seed in both})
                for side in sides.values()
            )
            found = comparison.compare_splits(
                lesion, image, chosen, evaluation.n_resamples, run.seed
            )
            parts.append(found.assign(arm=arm))
    return pd.concat(parts, ignore_index=True)


def fairness_tables(run: Run) -> dict[str, pd.DataFrame]:
    """The tables of the chapter on fairness."""
    table, n_resamples = run.images("test").table, run.profile.evaluation.n_resamples
    focus = run.lesions().classes.focus
    found = {arm: predictions_on_test(run, arm) for arm in ARMS}
    by_arm = {arm: by_seed for arm, by_seed in found.items() if by_seed}
    n_tests = (len(by_arm) - 1) * len(fairness.ATTRIBUTES) * len(GAP_MEASURES)
    gap_resamples = max(n_resamples, RESAMPLES_PER_TEST * n_tests)
    gaps = {
        arm: fairness.largest_gaps(by_seed, table, focus, gap_resamples, run.seed)
        for arm, by_seed in by_arm.items()
    }
    gap_tables = [fairness.gap_table(arm, of_arm) for arm, of_arm in gaps.items()]
    return {
        "fairness_groups": fairness.group_scores(by_arm["real"], table, n_resamples, run.seed),
        "fairness": pd.concat(gap_tables, ignore_index=True),
        "fairness_changes": fairness.gap_changes(gaps, GAP_MEASURES),
        "mistakes": confident_mistakes(next(iter(by_arm["real"].values())), focus),
    }


def _compare(name: str, kept: pd.DataFrame, recomputed: pd.DataFrame) -> dict[str, object]:
    """One row of the answer of `check_reference`."""
    layout = LAYOUTS[name]
    keys = list(layout.keys)
    left, right = (
        table.assign(**{key: table[key].fillna("").astype(str) for key in keys})
        for table in (kept, recomputed)
    )
    both = left.merge(right, on=keys, suffixes=("", "_now"), validate="one_to_one")

    def distance(column: str) -> np.ndarray:
        """Of both tables, row by row; 0 where neither has a value, infinite where one has none."""
        a, b = (both[each].to_numpy(dtype=float) for each in (column, f"{column}_now"))
        return np.where(np.isnan(a) & np.isnan(b), 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))

    values = np.max([distance(column) for column in layout.values], axis=0, initial=0.0)
    ends = np.max([np.zeros(len(both)), *(distance(column) for column in layout.ends)], axis=0)
    is_ranked = both[keys].apply(lambda column: column.str.startswith(RANKED)).any(axis=1)
    same_value = np.where(is_ranked, SAME_RANKED_VALUE, SAME_VALUE)
    differing = (values > same_value) | (ends > SAME_END)
    for column in layout.equal:
        a, b = both[column], both[f"{column}_now"]
        differing |= ((a != b) & ~(a.isna() & b.isna())).to_numpy()
    return {
        "table": name,
        "rows": len(kept),
        "recomputed": len(both),
        "value": values.max(initial=0.0),
        "ends": ends.max(initial=0.0),
        "differing": int(differing.sum()) + len(recomputed) - len(both),
    }
