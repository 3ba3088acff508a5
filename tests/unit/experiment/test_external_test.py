"""The external set of a run is opened once, after the training, and nothing learns from it.

The classifiers here are networks with first weights, put where finished ones lie: what is tested is the
opening, not the training.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import isic_ids, picture, write_isic_test_set

from hamsynth_utils.classifier import pretrained
from hamsynth_utils.classifier.predict import predict
from hamsynth_utils.classifier.pretrained import build_classifier, load_classifier
from hamsynth_utils.cli import main
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.weights import write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import to_unit_range
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.experiment import external_test as module
from hamsynth_utils.experiment.external_test import read_opening, run_external_test
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.report.pages.run_summary import run_page

PROBABILITIES = HAM10000.classes.probability_columns

PHANTOM = make_phantom(42, 64, seed=5)
IDS = isic_ids(PHANTOM)


@pytest.fixture
def run(tmp_path, edited_tiny) -> Run:
    return Run.open("a", edited_tiny({"data": {"phantom_images": 300}}), root=tmp_path / "runs")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_isic_test_set(tmp_path / "clinic", PHANTOM)


def finish(run: Run, arm: str, seed: int) -> Path:
    classifier, _ = build_classifier(run.profile.classifier, seed, n_classes=7)
    torch.nn.init.normal_(classifier.vit.head.weight, generator=torch.Generator().manual_seed(seed))
    path = run.folder / f"classifiers/{arm}/seed-{seed}/weights.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, classifier.state_dict(), {"arm": arm})
    return path


def files_of(run: Run) -> dict[str, str]:
    return {
        path.relative_to(run.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_set_is_opened_once_and_its_predictions_are_kept(run, folder, monkeypatch):
    for arm, seed in (("gan", 0), ("real", 1), ("real", 0)):
        finish(run, arm, seed)
    run.lesions(), run.split()
    assert read_opening(run.folder) is None
    before = files_of(run)
    opened = run_external_test(run, str(folder), progress_bar=False)
    after = files_of(run)
    # What was there is untouched: no part of the run is trained, split or chosen anew.
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {
        "external.json",
        "external/shared.csv",
        "classifiers/gan/seed-0/external_predictions.csv",
        "classifiers/real/seed-0/external_predictions.csv",
        "classifiers/real/seed-1/external_predictions.csv",
    }
    assert [(arm, list(by_seed)) for arm, by_seed in opened.predictions.items()] == [
        ("real", [0, 1]),
        ("gan", [0]),
    ]

    record = json.loads((run.folder / "external.json").read_text(encoding="utf-8"))
    assert record == opened.record == read_opening(run.folder)
    assert (record["folder"], record["images"]) == ("clinic", len(IDS)) and len(
        record["sha256"]
    ) == 64
    assert record["classes"] == PHANTOM.counts and record["opened"].endswith("+00:00")
    assert (
        record["classifiers"]["real/seed-1"]
        == before["classifiers/real/seed-1/weights.safetensors"]
    )

    # The kept numbers are the network's own answers to these very images.
    vit = load_classifier(
        run.profile.classifier, run.folder / "classifiers/real/seed-1/weights.safetensors"
    ).vit
    frame = opened.predictions["real"][1]
    assert (
        frame["image_id"].tolist() == IDS and frame["dx"].tolist() == PHANTOM.table["dx"].tolist()
    )
    assert opened.lesions.table["lesion_id"].tolist() == IDS
    x = to_unit_range(opened.lesions.images)
    x = torch.nn.functional.interpolate(x, 32, mode="bicubic", antialias=True)
    with torch.no_grad():
        both = torch.stack([vit(view).softmax(1) for view in (x, x.flip(-1))]).mean(0)
    mean, std = (torch.tensor(vit.pretrained_cfg[key]) for key in ("mean", "std"))
    assert torch.allclose(mean, torch.tensor(0.5)) and torch.allclose(std, torch.tensor(0.5))
    assert np.allclose(frame[PROBABILITIES].to_numpy(), both.numpy(), atol=1e-4)

    def refuse(*_, **__):
        raise AssertionError("predicted a second time")

    monkeypatch.setattr(module, "predict", refuse)
    moved = folder.with_name("moved")
    shutil.move(folder, moved)
    again = run_external_test(run, str(moved), progress_bar=False)
    assert files_of(run) == after
    pd.testing.assert_frame_equal(again.predictions["gan"][0], opened.predictions["gan"][0])


def test_another_set_is_refused_in_one_line(run, folder, edited_tiny, monkeypatch, capsys):
    finish(run, "real", 0)
    run_external_test(run, str(folder), progress_bar=False)
    kept = files_of(run)
    monkeypatch.setenv("HAMSYNTH_RUNS", str(run.folder.parent))
    profile = edited_tiny({"data": {"phantom_images": 300}})
    again = ["run", "--run", "a", "--profile", profile, "--external", str(folder)]
    assert main(again) == 0
    picture(make_phantom(3, 64, seed=9).images[0]).save(
        folder / f"ISIC2018_Task3_Test_Input/{IDS[0]}.jpg"
    )
    with pytest.raises(
        InputError, match=r"has opened the external set clinic \(42 images\) on .*RUN="
    ) as caught:
        run_external_test(run, str(folder), progress_bar=False)
    assert "\n" not in str(caught.value) and files_of(run) == kept
    # Already before anything is executed again.
    capsys.readouterr()
    assert main(again) == 2 and capsys.readouterr().err == f"error: {caught.value}\n"
    assert main([*again[:-1], "phantom"]) == 2


def test_it_stays_closed_before_the_real_arm_is_finished(run, folder, monkeypatch):
    finish(run, "gan", 0)
    (run.folder / "classifiers/real/seed-0").mkdir(parents=True)
    (run.folder / "classifiers/real/seed-0/checkpoint.safetensors").write_bytes(b"half way")
    with pytest.raises(
        InputError,
        match=r"seed-0/weights\.safetensors is not there yet: run 06_vit with arm 'real'",
    ):
        run_external_test(run, str(folder), progress_bar=False)
    assert read_opening(run.folder) is None and not list(
        run.folder.rglob("external_predictions.csv")
    )


def test_shared_photos_keep_it_closed_and_are_listed(run, folder):
    finish(run, "real", 0)
    train = run.split().train
    picture(run.lesions().images[train[5]]).resize((128, 128)).save(
        folder / f"ISIC2018_Task3_Test_Input/{IDS[8]}.jpg", quality=75
    )
    name = run.lesions().table["image_id"][train[5]]
    with pytest.raises(
        InputError, match=rf"1 of the 42 .*\(1 of its train part\): {IDS[8]} is {name} \(train\)"
    ):
        run_external_test(run, str(folder), progress_bar=False)
    listed = pd.read_csv(run.folder / "external/shared.csv")
    assert listed[["image_id", "run_image_id"]].values.tolist() == [[IDS[8], name]]
    assert read_opening(run.folder) is None and not list(
        run.folder.rglob("external_predictions.csv")
    )


def test_what_is_trained_after_the_opening_is_not_tested(run, folder):
    weights = finish(run, "real", 0)
    run_external_test(run, str(folder), progress_bar=False)
    finish(run, "vae", 0)
    again = run_external_test(run, str(folder), progress_bar=False)
    assert again.late == ["vae/seed-0"] and list(again.predictions) == ["real"]
    assert not (run.folder / "classifiers/vae/seed-0/external_predictions.csv").exists()

    (weights.parent / "external_predictions.csv").unlink()
    shutil.copy(finish(run, "real", 3), weights)
    with pytest.raises(InputError, match="trained anew after the external set had been opened"):
        run_external_test(run, str(folder), progress_bar=False)


def test_an_opening_that_was_killed_goes_on_with_the_same_classifiers(run, folder):
    finish(run, "real", 0), finish(run, "gan", 0)
    first = run_external_test(run, str(folder), progress_bar=False)
    kept = run.folder / "classifiers/gan/seed-0/external_predictions.csv"
    kept.unlink()
    again = run_external_test(run, str(folder), progress_bar=False)
    assert again.record == first.record
    pd.testing.assert_frame_equal(again.predictions["gan"][0], first.predictions["gan"][0])


def test_the_phantom_tests_only_runs_on_the_phantom(run, tmp_path, edited_tiny):
    finish(run, "real", 0)
    opened = run_external_test(run, "phantom")
    assert opened.record["folder"] == "phantom" and opened.lesions.table[
        "lesion_id"
    ].nunique() < len(opened.lesions)
    other = Run(run.folder, run.profile, str(tmp_path), 0)
    with pytest.raises(InputError, match="only a run on the phantom"):
        run_external_test(other, "phantom")


def test_the_page_of_the_run_says_whether_it_was_opened(run, folder):
    record = {
        "profile": run.profile.model_dump(mode="json"),
        "data": "phantom",
        "seed": 0,
        "device": "CPU",
        "threads": 1,
        "python": "3",
        "git_commit": "abc",
        "versions": {"torch": "9.8.7"},
    }
    assert "| external test set | none was tested |" in run_page(run.folder, record, {})
    finish(run, "real", 0)
    opened = run_external_test(run, str(folder), progress_bar=False).record
    said = f"| external test set | clinic, tested on {opened['opened']} for 1 finished classifiers: 42 images"
    assert said in run_page(run.folder, record, {})
    assert str(folder.parent) not in run_page(run.folder, record, {})


def test_a_finished_classifier_is_loaded_without_pretrained_weights(run, tmp_path, monkeypatch):
    lesions = make_phantom(20, 64, seed=3)
    settings = run.profile.classifier
    classifier, _ = build_classifier(settings, 4, n_classes=7)
    torch.nn.init.normal_(classifier.vit.head.weight)
    path = tmp_path / "weights.safetensors"
    write_weights(path, classifier.state_dict(), {})

    def refuse(*_):
        raise AssertionError("asked for pretrained weights")

    for source in ("_from_hub", "_from_folder", "_from_file"):
        monkeypatch.setattr(pretrained, source, refuse)
    loaded = load_classifier(
        settings.model_copy(update={"weights": "auto", "frozen_blocks": 1}), path
    )
    assert not loaded.training
    pd.testing.assert_frame_equal(predict(loaded, lesions), predict(classifier, lesions))
    with pytest.raises(InputError, match="does not fit"):
        load_classifier(settings.model_copy(update={"input_size": 64}), path)
    with pytest.raises(InputError, match="no weights at"):
        load_classifier(settings, tmp_path / "none.safetensors")
