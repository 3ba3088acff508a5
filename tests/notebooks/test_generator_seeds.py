"""The chapter on fidelity measures every training of a generator that is there, and says where there is one only."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from conftest import ROOT, TINY, merged
from scipy import stats

from hamsynth_utils.experiment.claims import ESTIMATES
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import make_further_seeds, make_synthetic, train_generator

pytestmark = pytest.mark.slow

GENERATORS = ("vae", "gan", "flow")
COLUMNS = ["generator", "generator_seed", "measure", "value", "n", "extractor", "baseline"]
MEASURES = ["FD-lite0", "coverage", "class consistency"]


def executed(run: Run, profile: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, str]:
    """Chapter 8 executed on the run: what it hands to its text, and its tables in HTML."""
    monkeypatch.setenv("HAMSYNTH_RUNS", str(run.folder.parent))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    target = run.folder / "08_fidelity.ipynb"
    papermill.execute_notebook(
        str(ROOT / "notebooks/08_fidelity.ipynb"),
        str(target),
        {"data": "phantom", "profile": str(profile), "run": run.folder.name},
        cwd=str(ROOT / "notebooks"),
        kernel_name="python3",
        progress_bar=False,
    )
    cells = json.loads(target.read_text(encoding="utf-8"))["cells"]
    outputs = [each for cell in cells for each in cell.get("outputs", [])]
    glued = {
        each["metadata"]["scrapbook"]["name"]: "".join(*each["data"].values())
        for each in outputs
        if "scrapbook" in each.get("metadata", {})
    }
    shown = ["".join(each.get("data", {}).get("text/html", "")) for each in outputs]
    return glued, "".join(shown)


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory) -> tuple[Run, Path]:
    """A run with two seeds of the VAE and the GAN, one of the flow, and no diffusion model."""
    folder = tmp_path_factory.mktemp("seeds")
    profile = folder / "tiny.yaml"
    change = {"generator_seeds": [0, 4], "data": {"phantom_images": 500}}
    profile.write_text(yaml.safe_dump(merged(TINY, change)), encoding="utf-8")
    run = Run.open("two", str(profile), root=folder)
    for name in GENERATORS:
        train_generator(run, name, progress_bar=False)
        make_synthetic(run, name, progress_bar=False)
        if name != "flow":
            make_further_seeds(run, name, progress_bar=False)
    return run, profile


def test_every_training_is_measured_and_pairs_have_intervals(two_seeds, monkeypatch):
    run, profile = two_seeds
    glued, html = executed(run, profile, monkeypatch)
    rows = pd.read_csv(run.paths.table("generator_seeds"))
    assert list(rows.columns) == COLUMNS and np.isfinite(rows["value"]).all()
    assert list(rows["measure"].unique()) == MEASURES
    trained = {(name, seed) for name in ("vae", "gan") for seed in (0, 4)} | {("flow", 0)}
    for _, part in rows.groupby("measure"):
        assert set(zip(part["generator"], part["generator_seed"], strict=True)) == trained
        assert len(part) == len(trained)
        assert part["n"].nunique() == part["baseline"].nunique() == part["extractor"].nunique() == 1

    # Seed 0 has the numbers of the sections before; the other seed has images, and numbers, of its own.
    value = rows.set_index(["measure", "generator", "generator_seed"])["value"]
    fidelity = pd.read_csv(run.paths.table("fidelity"))
    fidelity = fidelity[fidelity["reference"] == "heldout"].set_index(["distance", "generator"])
    for measure, name in ((m, name) for m in MEASURES[:2] for name in GENERATORS):
        assert value[measure, name, 0] == fidelity.loc[(measure, name), "mean"]
    consistency = pd.read_csv(run.paths.table("class_consistency")).set_index("generator")
    assert value["class consistency", "gan", 0] == consistency.loc["gan", "ratio"]
    assert all(value["FD-lite0", name, 0] != value["FD-lite0", name, 4] for name in ("vae", "gan"))

    estimates = pd.read_csv(run.paths.table("estimates/fidelity"))
    assert set(ESTIMATES) <= set(estimates.columns)
    found = estimates[estimates["statistic"] == "distance"].set_index(["arm", "reference"])
    by_seed = {name: [value["FD-lite0", name, s] for s in (0, 4)] for name in ("gan", "vae")}
    library = stats.ttest_rel(by_seed["gan"], by_seed["vae"]).confidence_interval(0.95)
    pair = found.loc[("gan", "vae")]
    assert pair["seeds"] == 2 and pair["value"] == pytest.approx(np.mean(library))
    assert pair["low"] < library.low < library.high < pair["high"], (
        "the images' chance comes on top"
    )
    assert found.loc[("gan", "flow"), "seeds"] == 1
    assert set(estimates["seeds"][estimates["statistic"] == "fine_detail"]) == {1}

    assert "generator diffusion; generator flow, seed 4" in glued["fidelity-missing"]
    assert "trained 1 to 2 times" in glued["fidelity-trainings"]
    assert "of 1 pairs" in glued["fidelity-order"]
    assert len(re.findall(r"\); [012] of 2<", html)) == len(MEASURES), "one pair has two seeds"
    assert html.count("- (needs two trainings of both)") == 2 * len(MEASURES)


def test_one_training_each_has_rows_and_no_interval(two_seeds, monkeypatch):
    run, profile = two_seeds
    one = profile.with_name("one.yaml")
    change = {"generator_seeds": [0], "data": {"phantom_images": 500}}
    one.write_text(yaml.safe_dump(merged(TINY, change)), encoding="utf-8")
    alone = Run.open("one", str(one), root=run.folder.parent)
    for name in GENERATORS:
        folder = alone.paths.generator(name)
        folder.parent.mkdir(parents=True)
        folder.symlink_to(run.paths.generator(name))
    glued, html = executed(alone, one, monkeypatch)
    rows = pd.read_csv(alone.paths.table("generator_seeds"))
    assert list(rows.columns) == COLUMNS
    assert set(rows["generator_seed"]) == {0} and len(rows) == len(GENERATORS) * len(MEASURES)
    estimates = pd.read_csv(alone.paths.table("estimates/fidelity"))
    assert set(estimates["seeds"]) == {1} and (estimates["low"] < estimates["high"]).all()
    assert "trained once" in glued["fidelity-trainings"]
    assert "no interval is shown" in glued["fidelity-order"]
    assert "needs two trainings of both" not in html, "one dash instead of a table of dashes"
