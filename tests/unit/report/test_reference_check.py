"""`hamsynth reference check`: archived tables follow from archived predictions, and an altered figure is found."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import CLASSES, PROBABILITIES, ROOT, make_predictions

from hamsynth_utils.cli import main
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import RunPaths
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.report import reference_check
from hamsynth_utils.report.reference_check import SAME_END, SAME_RANKED_VALUE, check_reference

ARMS = ("real", "gan")


def random_predictions(test: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Predictions of the test images by a classifier of some skill, rounded as an archive rounds them."""
    frame = make_predictions(len(test), seed)
    rows = frame[["image_id"]].assign(
        image_id=test["image_id"].to_numpy(), dx=test["dx"].to_numpy()
    )
    p = frame[list(PROBABILITIES)].to_numpy()
    order = frame["dx"].map(CLASSES.index).to_numpy(), test["dx"].map(CLASSES.index).to_numpy()
    for row, (a, b) in enumerate(zip(*order, strict=True)):
        p[row, [a, b]] = p[row, [b, a]]
    return rows.join(pd.DataFrame(p, columns=list(PROBABILITIES)).round(5))


@pytest.fixture(scope="module")
def archived(tmp_path_factory) -> Path:
    """An archive of two arms with two seeds each on a small phantom, and of one under the other split."""
    folder = tmp_path_factory.mktemp("archive")
    content = load_profile("smoke").model_dump(mode="json")
    content["data"] |= {"phantom_images": 600, "image_size": 32}
    content["evaluation"] |= {"n_resamples": 100}
    run = Run(folder / "run", reference_check.parse_profile(content), "phantom", 0)
    results = folder / "results"
    for arm in (*ARMS, "real-image-split"):
        test = run.images("test", "image" if arm.endswith("split") else None).table
        for seed in (0, 1):
            path = results / f"predictions/{arm}/seed-{seed}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            random_predictions(test, 10 * len(arm) + seed).to_csv(path, index=False)
            copy = run.paths.classifiers / arm / f"seed-{seed}/predictions.csv"
            copy.parent.mkdir(parents=True)
            shutil.copy(path, copy)
    record = {"profile": {**content, "flow": None}, "seed": 0, "data": "phantom"}
    (results / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    pairs = pd.DataFrame([{"arm": "gan", "reference": "real"}])
    tables = reference_check.evaluation_tables(run, pairs) | reference_check.fairness_tables(run)
    for name, table in tables.items():
        path = RunPaths(results).table(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
    return results


@pytest.fixture
def results(archived, tmp_path) -> Path:
    return Path(shutil.copytree(archived, tmp_path / "results"))


def differing(results: Path) -> dict[str, int]:
    table = check_reference(results, "phantom").set_index("table")["differing"]
    return table[table > 0].to_dict()


def test_tables_that_follow_from_the_predictions_agree(results, capsys):
    assert main(["reference", "check", str(results), "--data", "phantom"]) == 0
    assert "that follow from the predictions agree" in capsys.readouterr().out


def alter(results: Path, table: str, column: str, shift: float) -> None:
    """Add `shift` to the first value of a column of an archived table."""
    path = RunPaths(results).table(table)
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    row = frame[column].first_valid_index()
    frame[column] = frame[column].astype(float)
    frame.loc[row, column] += shift
    frame.to_csv(path, index=False)


def test_an_altered_figure_is_found_in_each_table(results, capsys):
    altered = {
        "classification": ("value", 0.001),
        "differences": ("difference", 0.0001),
        "estimates/evaluation": ("low", 1.5 * SAME_END),
        "splits": ("high", -1.5 * SAME_END),
        "fairness": ("lesions", 1),
        "mistakes": ("of_truth", 0.001),
    }
    for table, (column, shift) in altered.items():
        alter(results, table, column, shift)
    assert differing(results) == dict.fromkeys(altered, 1)
    assert main(["reference", "check", str(results), "--data", "phantom"]) == 1
    assert f"{len(altered)} row(s) differ" in capsys.readouterr().out


def test_what_rounding_can_change_agrees(results):
    alter(results, "estimates/evaluation", "low", 0.7 * SAME_END)
    path = RunPaths(results).table("estimates/evaluation")
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    rows = frame.index[frame["statistic"] == "auroc_mel"][:2]
    frame.loc[rows[0], "value"] += 0.8 * SAME_RANKED_VALUE
    frame.to_csv(path, index=False)
    assert differing(results) == {}
    frame.loc[rows[1], "value"] += 1.2 * SAME_RANKED_VALUE
    frame.to_csv(path, index=False)
    assert differing(results) == {"estimates/evaluation": 1}


def test_an_altered_prediction_changes_the_tables(results):
    path = results / "predictions/gan/seed-1.csv"
    frame = pd.read_csv(path)
    rows, columns = slice(0, 19), list(PROBABILITIES)
    frame.loc[rows, columns] = frame.loc[rows, columns].to_numpy()[:, ::-1]
    frame.to_csv(path, index=False)
    assert {"classification", "differences", "estimates/evaluation"} <= set(differing(results))


def test_another_data_set_or_an_incomplete_archive_is_refused(results, tmp_path):
    record = yaml.safe_load((results / "run.yaml").read_text(encoding="utf-8"))
    (results / "run.yaml").write_text(yaml.safe_dump({**record, "seed": 1}), encoding="utf-8")
    with pytest.raises(InputError, match="are not of the .* test images"):
        check_reference(results, "phantom")
    (results / "metrics/splits.csv").unlink()
    with pytest.raises(InputError, match=r"splits\.csv is not there"):
        check_reference(results, "phantom")
    with pytest.raises(InputError, match="has no predictions/"):
        check_reference(tmp_path, "phantom")


@pytest.mark.slow
def test_the_reference_run_follows_from_its_predictions(ham10000_folder):
    found = check_reference(ROOT / "results/cpu-ham10000", str(ham10000_folder))
    assert found["differing"].sum() == 0, found.to_string()
    assert found["recomputed"].sum() > 0.95 * found["rows"].sum()
