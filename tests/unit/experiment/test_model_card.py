"""Model cards and the datasheet: their numbers are the run's, and what was not measured is said to be so."""

import json

import pandas as pd
import pytest
import torch
import yaml
from released import GENERATOR, finished_run

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.weights import read_weights, sha256_of, write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import LesionSet, labels_of
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.experiment.model_card import generator_card, model_cards
from hamsynth_utils.report.pages.datasheet import datasheet_values, groups, share_alone


@pytest.fixture
def run(tmp_path, tiny_profile):
    folder = finished_run(tmp_path / "run", tiny_profile)
    for seed in (0, 1):
        room = folder / f"classifiers/{GENERATOR}/seed-{seed}"
        room.mkdir(parents=True)
        (room / "predictions.csv").write_text("image_id,dx\n", encoding="utf-8")
        (room / "provenance.json").write_text(
            json.dumps({"source": "file", "file": "/secret place/vit"}), encoding="utf-8"
        )
    columns = ["arm", "seed", "metric", "value", "low", "high", "n_images", "n_lesions"]
    rows = [
        (GENERATOR, 0, "accuracy", 0.7123, 0.68, 0.74, 400, 300),
        ("real", 0, "accuracy", 0.99, 0.9, 1.0, 400, 300),
    ]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metrics/classification.csv", index=False)
    return folder


def align_table(page):
    return {
        tuple(part.strip() for part in line.strip("|").split("|"))
        for line in page.splitlines()
        if line[:1] == "|"
    }


def section(page, title):
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_each_model_has_one_card_with_the_runs_numbers(run):
    page = model_cards(run)
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Generator: GAN",
        "## Classifier: GAN",
    ]
    generator, classifier = section(page, "Generator: GAN"), section(page, "Classifier: GAN")
    weights = run / f"generators/{GENERATOR}/seed-0/weights.safetensors"
    assert (
        sha256_of(weights) in generator
        and "10 mel" in generator
        and "6 steps of 8 images" in generator
    )
    assert ("coverage", "vit", "0.7", "0.68", "0.72", "200") in align_table(generator)
    assert (
        "patient_auroc",
        "efficientnet_lite0",
        "0.52",
        "0.48",
        "0.56",
        "300",
        "200",
    ) in align_table(generator)
    assert ("vit", "0.8", "0.7", "0.9", "400", "300") in align_table(generator)
    assert ("accuracy", "0", "0.712", "0.68", "0.74", "400", "300") in align_table(classifier)
    assert (
        "| 0.99 |" not in classifier and "Seeds 0, 1" in classifier and "secret place" not in page
    )
    assert ("sex", "largest_gap_recall", "0.2", "0.1", "0.35", "400", "300", "2") in align_table(
        classifier
    )
    for text in (generator, classifier):
        for heading in (
            "Model details",
            "Intended use",
            "Factors",
            "Metrics",
            "Evaluation data",
            "Training data",
            "Quantitative analyses",
            "Ethical considerations",
            "Caveats and recommendations",
        ):
            assert f"\n### {heading}\n" in text


def test_a_snapshot_that_was_chosen_is_said_with_its_own_losses(run):
    assert "The weights are those after" not in generator_card(run, GENERATOR)
    path = run / f"generators/{GENERATOR}/seed-0/weights.safetensors"
    tensors, metadata = read_weights(path)
    write_weights(path, tensors, {**metadata, "steps": "4"})
    rows = [(2, 30.0, 2.5), (4, 60.0, 1.75), (6, 90.0, 1.25)]
    pd.DataFrame(rows, columns=["step", "seconds", "loss"]).to_csv(
        path.parent / "history.csv", index=False
    )
    text = " ".join(generator_card(run, GENERATOR).split())
    assert "Training: 6 steps of 8 images" in text
    assert "The weights are those after 4 steps, whose images were nearest" in text
    assert "Losses of these weights: loss 1.75." in text


def test_what_was_not_measured_is_said(run):
    (run / "metrics/privacy.csv").unlink()
    (run / "metrics/classification.csv").unlink()
    page = model_cards(run)
    assert "**Privacy**: not measured in this run." in section(page, "Generator: GAN")
    assert "**Scores**: not measured in this run." in section(page, "Classifier: GAN")
    assert "**Privacy**" not in section(page, "Classifier: GAN")


def test_a_run_without_a_model_and_a_generator_that_is_not_there(run, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/run.yaml").write_text(
        (run / "run.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    assert "This run has no trained model." in model_cards(tmp_path / "new")
    with pytest.raises(InputError, match="no weights at"):
        generator_card(run, "vae")


def test_a_taken_over_checkpoint_says_so(run):
    path = run / f"generators/{GENERATOR}/seed-0/weights.safetensors"
    assert "from a released checkpoint" not in generator_card(run, GENERATOR)
    tensors, metadata = read_weights(path)
    write_weights(path, tensors, {**metadata, "released": "true"})
    assert "come from a released checkpoint" in generator_card(run, GENERATOR)


def people(**columns):
    n = len(columns["age"])
    table = pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(n)],
            "dx": "nv",
            "dataset": None,
            "synthetic": False,
            **columns,
        }
    )
    images = torch.zeros(n, 3, 2, 2, dtype=torch.uint8)
    labels = torch.from_numpy(labels_of(table["dx"], HAM10000.classes))
    return LesionSet(images, labels, table, HAM10000.classes)


def test_the_datasheet_counts_lesions_and_what_is_missing(tmp_path):
    lesions = people(
        lesion_id=["a", "a", "b", "c", "d"],
        age=[30.0, 30.0, 30.0, None, 80.0],
        sex=["male", "male", "male", "unknown", "female"],
        localization=["back", "back", "back", None, "face"],
    )
    one = lesions.table.drop_duplicates("lesion_id")
    assert groups(one, "sex").to_numpy().tolist() == [
        ["male *", 2, "50.0"],
        ["female *", 1, "25.0"],
        ["missing *", 1, "25.0"],
    ]
    assert groups(one, "age_band")["group"].tolist() == ["30 to 44 *", "75 and over *", "missing *"]
    assert groups(one, "dataset").to_numpy().tolist() == [["missing *", 4, "100.0"]]
    assert share_alone(one) == 0.5  # c and d; a and b share theirs

    (tmp_path / "data/lesions").mkdir(parents=True)
    lesions.save(tmp_path / "data/lesions")
    values = datasheet_values(tmp_path, {"data": "/skin"})
    assert "50.0 % of the 4 lesions" in values["datasheet_alone"]
    assert "1 of 4 lesions have several photos, up to 2" in values["datasheet_photos"]
    assert ("nv, melanocytic nevus", "5", "4") in align_table(values["datasheet_classes"])
    assert (
        "not HAM10000" not in values["datasheet_about"] and "/skin" not in values["datasheet_about"]
    )
    assert "not HAM10000" in datasheet_values(tmp_path, {"data": "phantom"})["datasheet_about"]
    assert set(datasheet_values(tmp_path / "none", {"data": "phantom"})) == set(values)


def test_a_large_group_has_no_star():
    one = make_phantom(400, 32, seed=0).table.drop_duplicates("lesion_id")
    found = groups(one, "sex")
    assert int(found["lesions"].sum()) == len(one)
    assert all(
        name.endswith("*") == (n < 30)
        for name, n in zip(found["group"], found["lesions"], strict=True)
    )


def test_the_datasheets_page_uses_every_value(tmp_path):
    from hamsynth_utils.core.paths import project_root

    text = (project_root() / "book/datasheet.md").read_text(encoding="utf-8")
    for name in datasheet_values(tmp_path, yaml.safe_load("data: phantom")):
        assert f"{{{{ {name} }}}}" in text
