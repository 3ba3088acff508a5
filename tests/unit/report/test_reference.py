"""The reference run: what is kept of it, and that the answer says what its numbers say."""

import base64
import json
import re

import pandas as pd
import pytest
import yaml
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.report.reference import (
    FIGURES,
    REFERENCE,
    answer_figure,
    archive_run,
    gains,
    headline_result,
)

CLASSES = HAM10000.classes.names


@pytest.fixture
def kept(tmp_path):
    """Writes a kept run: gains over real by arm as (points, low, high, Holm's p), and returns its folder."""

    def write(rows: dict[str, tuple[float, float, float, float]]):
        folder = tmp_path / "kept"
        (folder / "metrics/estimates").mkdir(parents=True, exist_ok=True)
        record = {
            "profile": {
                "name": "cpu",
                "seeds": [0, 1],
                "arms": ["real", *rows],
                "data": {"image_size": 64, "split_by": "lesion"},
            },
            "minutes": {"01_dataset": 30.0, "02_vae": 90.0},
            "device": "CPU, 2 cores",
            "images": "HAM10000",
        }
        (folder / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
        lines = [
            {
                "arm": arm,
                "reference": "real",
                "metric": metric,
                "seed": seed,
                "difference": value / 100,
                "low": low / 100,
                "high": high / 100,
                "holm": p,
                "n_images": 2000,
                "n_lesions": 1500,
            }
            for arm, (value, low, high, p) in rows.items()
            for metric, seed in (
                ("balanced_accuracy", "all"),
                ("balanced_accuracy", "0"),
                ("accuracy", "all"),
            )
        ]
        pd.DataFrame(lines).to_csv(folder / "metrics/differences.csv", index=False)
        estimates = [
            {
                "statistic": name,
                "arm": "real",
                "reference": None,
                "split_by": split_by,
                "value": v,
                "low": v - 0.03,
                "high": v + 0.02,
            }
            for name, own in (("balanced_accuracy", 0.6543), ("accuracy", 0.8321))
            for split_by, v in (("lesion", own), ("image", 0.9))
        ]
        pd.DataFrame(estimates).to_csv(folder / "metrics/estimates/evaluation.csv", index=False)
        return folder

    return write


def test_arms_that_see_no_real_image_are_told_apart(kept):
    folder = kept(
        {
            "vae_only": (-30.0, -34, -26, 0.01),
            "weighted": (1.1, 0.1, 2, 0.2),
            "vae": (0.3, -1, 1.5, 0.9),
        }
    )
    said = " ".join(headline_result(folder).split())
    assert (
        "No generator's images of rare lesions surely changed how well the classifier does." in said
    )
    assert "From synthetic images alone: -30.0 (-34.0 to -26.0) with VAE alone." in said
    assert "Without any synthetic image: +1.1 (+0.1 to +2.0) with class weights." in said
    labels = [label.get_text() for label in answer_figure(folder).axes[0].get_yticklabels()]
    assert labels == ["VAE", "class weights"]


def test_the_answer_follows_from_the_intervals(kept):
    said = headline_result(
        kept(
            {
                "vae": (0.3, -1.0, 1.5, 0.9),
                "gan": (2.0, 0.4, 3.5, 0.03),
                "weighted": (1.1, 0.1, 2, 0.2),
            }
        )
    )
    assert "those of GAN surely raised it, those of VAE made no sure difference." in said
    assert "65.4 % (62.4 to 67.4)" in said and "accuracy 83.2 %" in said.replace("\n", " ")
    assert "+0.3 (-1.0 to +1.5) with VAE, +2.0 (+0.4 to +3.5) with GAN." in said
    assert "Without any synthetic image: +1.1 (+0.1 to +2.0) with class weights." in said
    assert "about 2 hours" in said.replace("\n", " ")
    assert "PROFILE=cpu \\\n        ARMS=real,vae,gan,weighted\n" in said
    said = headline_result(kept({"vae": (-2.0, -3.0, -1.0, 0.01), "gan": (1.0, 0.1, 2.0, 0.06)}))
    assert "those of VAE surely lowered it, those of GAN made no sure difference." in said
    said = headline_result(kept({"vae": (0.3, -1.0, 1.5, 0.9)}))
    assert (
        "No generator's images of rare lesions surely changed" in said
        and "synthetic image:" not in said
    )


def test_a_run_without_comparisons_or_verdicts_is_refused(kept, tmp_path):
    folder = kept({"vae": (0.0, 0.0, 0.0, 1.0)})
    path = folder / "metrics/differences.csv"
    pd.read_csv(path).assign(reference="weighted").to_csv(path, index=False)
    with pytest.raises(InputError, match="compares no arm"):
        gains(folder)
    with pytest.raises(InputError, match=r"no metrics/verdicts.csv: finish it"):
        archive_run(tmp_path, tmp_path / "target", {})
    assert not (tmp_path / "target").exists()


def test_what_is_kept_holds_no_image_and_no_path(tmp_path):
    run = tmp_path / "secret place/run"
    for path in ("metrics/estimates", "classifiers/real/seed-0", "data/lesions"):
        (run / path).mkdir(parents=True)
    (run / "run.yaml").write_text(
        yaml.safe_dump({"data": "/secret place/ham10000", "profile": {"name": "cpu"}}),
        encoding="utf-8",
    )
    for name in ("verdicts.csv", "estimates/evaluation.csv"):
        (run / "metrics" / name).write_text("a,b\n1,2\n", encoding="utf-8")
    predictions = {
        "image_id": ["ISIC_1"],
        "dx": ["nv"],
        **{f"p_{name}": [1 / 7] for name in CLASSES},
    }
    pd.DataFrame(predictions).to_csv(run / "classifiers/real/seed-0/predictions.csv", index=False)
    (run / "classifiers/real/seed-0/weights.safetensors").write_bytes(b"0")
    (run / "data/lesions/images.npy").write_bytes(b"0")
    make_phantom(300, seed=0).table.to_csv(run / "data/lesions/table.csv", index=False)
    (run / "notebooks").mkdir()
    cells = [
        {
            "metadata": {"mystnb": {"figure": {"name": name}, "image": {"alt": f"alt of {name}"}}},
            "outputs": [
                {"text": "a line"},
                {"data": {"image/png": base64.b64encode(name.encode()).decode()}},
            ],
        }
        for name in ("fig-dataset-classes", "fig-dataset-leak")
    ]
    (run / "notebooks/01_dataset.ipynb").write_text(
        json.dumps({"cells": [{"metadata": {}}, *cells]}), encoding="utf-8"
    )
    archive_run(run, tmp_path / "kept", {"01_dataset": 1.234}, "Made twice.")
    files = sorted(
        str(path.relative_to(tmp_path / "kept"))
        for path in (tmp_path / "kept").rglob("*")
        if path.is_file()
    )
    assert files == [
        "README.md",
        "figures/fig-dataset-leak.png",
        "metrics/estimates/evaluation.csv",
        "metrics/verdicts.csv",
        "predictions/real/seed-0.csv",
        "run.yaml",
    ]
    assert (tmp_path / "kept/figures/fig-dataset-leak.png").read_bytes() == b"fig-dataset-leak"
    assert "![alt of fig-dataset-leak](figures/fig-dataset-leak.png)" in (
        tmp_path / "kept/README.md"
    ).read_text(encoding="utf-8")
    assert "\n\nMade twice.\n\n" in (tmp_path / "kept/README.md").read_text(encoding="utf-8")
    text = (tmp_path / "kept/run.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["note"] == "Made twice."
    assert "secret" not in text and yaml.safe_load(text)["minutes"] == {"01_dataset": 1.2}
    assert yaml.safe_load(text)["images"] == "the folder ham10000, which is not HAM10000", (
        "its name is no proof"
    )


def test_the_figures_to_keep_show_no_real_image():
    """Each is a chapter's, and draws no images, or says of all of them that they are synthetic."""
    cells = {
        cell["metadata"].get("mystnb", {}).get("figure", {}).get("name"): cell
        for path in sorted((project_root() / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    }
    assert set(FIGURES) <= set(cells)
    for name in FIGURES:
        draws = set(re.findall(r"figures\.(\w+)", "".join(cells[name]["source"])))
        if draws & {"image_grid", "image_rows", "class_grid", "overlay"}:
            assert name.endswith("-samples"), name
            assert (
                cells[name]["metadata"]["mystnb"]["figure"]["caption"]
                .lower()
                .startswith("synthetic images")
            ), name


def test_the_kept_reference_is_sound():
    """Its tables follow from its predictions, and its answer has every arm's numbers."""
    record = yaml.safe_load((REFERENCE / "run.yaml").read_text(encoding="utf-8"))
    arms, seeds = record["profile"]["arms"], record["profile"]["seeds"]
    assert (
        record["data"] == "ham10000"
        and len(seeds) >= 3
        and {"real", *(name for name in REGISTRY if record["profile"].get(name))} < set(arms)
    )
    estimates = pd.read_csv(REFERENCE / "metrics/estimates/evaluation.csv")
    estimates = estimates[estimates["split_by"] == record["profile"]["data"]["split_by"]]
    means = {}
    for arm in arms:
        frames = [pd.read_csv(REFERENCE / f"predictions/{arm}/seed-{seed}.csv") for seed in seeds]
        for name, score in (
            ("accuracy", accuracy_score),
            ("balanced_accuracy", balanced_accuracy_score),
        ):
            scores = [
                score(frame["dx"], frame[[f"p_{dx}" for dx in CLASSES]].idxmax(axis=1).str[2:])
                for frame in frames
            ]
            means[arm, name] = sum(scores) / len(scores)
            rows = estimates[(estimates["statistic"] == name) & (estimates["arm"] == arm)]
            (kept,) = rows.loc[rows["reference"].isna(), "value"]
            assert kept == pytest.approx(
                means[arm, name], abs=2e-4
            )  # kept probabilities are rounded
    said = " ".join(headline_result().split())
    for row in gains(REFERENCE).itertuples():
        gain = 100 * (means[row.arm, "balanced_accuracy"] - means["real", "balanced_accuracy"])
        assert row.value == pytest.approx(gain, abs=0.04)
        assert (
            f"{row.value:+.1f} ({row.low:+.1f} to {row.high:+.1f}) with {ARM_NAMES[row.arm]}"
            in said
        )
    assert (
        len(re.findall(r"[+-]\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\) with", said)) == len(arms) - 1
    )
