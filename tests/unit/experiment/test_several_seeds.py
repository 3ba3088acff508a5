"""The chapters that compare arms, on a run whose predictions are made up, so that the truth is known.

Two seeds an arm, two cheap alternatives, of which validation prefers the one that the test part does not, and
arms of real images under the other split. Nothing is trained.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, TINY, merged

from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.external import read_external
from hamsynth_utils.data.lesion_set import labels_of
from hamsynth_utils.data.split import leaked
from hamsynth_utils.experiment.claims import ESTIMATES
from hamsynth_utils.experiment.run import Run

pytestmark = pytest.mark.slow

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns

SEEDS = (0, 5)
RIGHT = {  # the share of right answers on the parts
    "real": {"validation": 0.6, "test": 0.6, "external": 0.5},
    "weighted": {"validation": 0.95, "test": 0.6, "external": 0.6},
    "oversample": {"validation": 0.6, "test": 0.95, "external": 0.9},
    "gan": {"validation": 0.8, "test": 0.8, "external": 0.8},
}


def answers(
    table: pd.DataFrame, right: float | np.ndarray, draw: np.random.Generator
) -> pd.DataFrame:
    """Predictions of the images of a table, right with a probability of `right`."""
    truth, size = labels_of(table["dx"], HAM10000.classes), len(CLASSES)
    wrong = (truth + draw.integers(1, size, len(table))) % size
    named = np.where(draw.random(len(table)) < right, truth, wrong)
    frame = table[["image_id", "dx"]].reset_index(drop=True)
    sure = np.eye(size)[named] * 0.65 + 0.05
    return pd.concat([frame, pd.DataFrame(sure, columns=PROBABILITIES)], axis=1)


def accuracy(frame: pd.DataFrame) -> float:
    return float((frame[list(PROBABILITIES)].idxmax(axis=1).str[2:] == frame["dx"]).mean())


def execute(run: Run, chapter: str, profile: Path, **more: str) -> str:
    """The executed chapter, as it is stored."""
    target = run.folder / f"notebooks/{chapter}.ipynb"
    target.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "papermill", f"{chapter}.ipynb", str(target), "-k", "python3"]
    given = {"data": "phantom", "profile": str(profile), "run": run.folder.name, **more}
    command += [word for name, value in given.items() for word in ("-r", name, value)]
    environment = os.environ | {"HAMSYNTH_RUNS": str(run.folder.parent), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=ROOT / "notebooks",
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return target.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The run, its predictions by arm, seed and part, and the text of the chapter on claims."""
    folder = tmp_path_factory.mktemp("several")
    profile, draw = folder / "several.yaml", np.random.default_rng(0)
    change = {"seeds": list(SEEDS), "arms": list(RIGHT), "other_split_arms": ["real", "oversample"]}
    profile.write_text(
        json.dumps(merged(TINY, {**change, "data": {"phantom_images": 500}})), encoding="utf-8"
    )
    run = Run.open("several", str(profile), root=folder)
    table, split, other = run.lesions().table, run.split(), run.split("image")
    tables = {part: table.iloc[getattr(split, part)] for part in ("validation", "test")}
    tables["external"] = read_external("phantom", 64, run.seed + 1, progress=False).lesions.table
    files = {
        "validation": "validation_predictions.csv",
        "test": "predictions.csv",
        "external": "external_predictions.csv",
    }
    made = {}
    for arm in RIGHT:
        for seed in SEEDS:
            room = run.paths.classifier(arm, seed)
            room.mkdir(parents=True)
            (room / "weights.safetensors").write_text(f"{arm} {seed}", encoding="utf-8")
            pd.DataFrame({"step": [3, 6], "seconds": [1.0, 2.0], "loss": [2.0, 1.9]}).to_csv(
                room / "history.csv", index=False
            )
            for part, of_part in tables.items():
                made[arm, seed, part] = answers(of_part, RIGHT[arm][part], draw)
                made[arm, seed, part].to_csv(room / files[part], index=False)
    for arm in ("real", "oversample"):
        for seed in SEEDS:
            room = run.paths.classifier(arm, seed, "image")
            room.mkdir(parents=True)
            share = np.where(leaked(table, other), 1.0, 0.5)
            made[arm, seed, "image"] = answers(table.iloc[other.test], share, draw)
            made[arm, seed, "image"].to_csv(room / "predictions.csv", index=False)
    (run.folder / "metrics/estimates").mkdir(parents=True)
    for name, key in (("gains", ["against", "metric"]), ("sweep", ["ratio"])):
        columns = ["arm", *key, "value", "low", "high"]
        pd.DataFrame(columns=columns).to_csv(run.folder / f"metrics/probe_{name}.csv", index=False)
    for name in ("privacy", "explanation"):
        pd.DataFrame(columns=ESTIMATES).to_csv(
            run.folder / f"metrics/estimates/{name}.csv", index=False
        )
    execute(run, "08_fidelity", profile)
    execute(run, "09_evaluation", profile)
    claims = execute(run, "15_claims", profile)
    execute(run, "16_external", profile, external="phantom")
    return run, made, claims


@pytest.mark.parametrize(
    ("table", "part"), [("differences", "test"), ("external_differences", "external")]
)
def test_generators_are_compared_with_the_cheap_arm_that_validation_prefers(compared, table, part):
    """On the test part and outside, over both seeds; the other alternative would have been the luckier choice."""
    run, made, _ = compared
    frame = pd.read_csv(run.folder / f"metrics/{table}.csv")
    if part == "test":
        assert set(frame["seed"].astype(str)) == {*map(str, SEEDS), "all"}
        frame = frame[frame["seed"] == "all"].rename(columns={"difference": "value"})
    else:
        assert set(frame["seeds"]) == {len(SEEDS)}
    pairs = {("weighted", "real"), ("oversample", "real"), ("gan", "real"), ("gan", "weighted")}
    assert set(zip(frame["arm"], frame["reference"], strict=True)) == pairs
    for arm, reference in pairs:
        interact = np.mean(
            [accuracy(made[arm, s, part]) - accuracy(made[reference, s, part]) for s in SEEDS]
        )
        here = (
            (frame["arm"] == arm)
            & (frame["reference"] == reference)
            & (frame["metric"] == "accuracy")
        )
        (row,) = frame[here].to_dict("records")
        assert row["value"] == pytest.approx(interact, abs=1e-9)
        assert row["low"] < row["value"] < row["high"]


def test_the_other_split_stands_beside_the_runs_own_and_shows_what_leaked(compared):
    run, made, _ = compared
    table = run.lesions().table
    met = leaked(table, run.split("image"))
    frame = pd.read_csv(run.folder / "metrics/splits.csv")
    assert set(frame["arm"]) == {"real", "oversample"} and set(frame["seeds"]) == {len(SEEDS)}
    row = frame[frame["metric"] == "accuracy"].set_index(["arm", "split", "part"]).loc["oversample"]
    assert row["n"]["image", "leaked"] == met.sum()
    shares = {}
    for part, mask in {
        "leaked": met,
        "not leaked": ~met,
        "all": np.ones(len(met), dtype=bool),
    }.items():
        shares[part] = np.mean([accuracy(made["oversample", s, "image"][mask]) for s in SEEDS])
        assert row["value"]["image", part] == pytest.approx(shares[part])
    gap = row.loc[("image", "leaked less not leaked"), :]
    assert gap["value"] == pytest.approx(shares["leaked"] - shares["not leaked"])
    assert gap["low"] > 0  # every leaked image was answered rightly, and half of the others


def test_claims_say_how_far_two_trainings_of_an_arm_lie_apart(compared):
    _, _, claims = compared
    assert f"Of {len(RIGHT)} pairs of seeds the naive judge" in claims
