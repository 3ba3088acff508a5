"""A folder of weights that was named and has no fitting file is an error before anything is computed."""

import os
import subprocess
import sys

import pytest
import timm
import torch
from conftest import ROOT
from safetensors.torch import save_file

from hamsynth_utils.classifier.pretrained import build_classifier
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile


@pytest.fixture
def settings(tiny_profile):
    return load_profile(tiny_profile).classifier.model_copy(update={"weights": "auto"})


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def fill(folder, name: str, depth: int = 2, model: str = "vit_tiny_patch16_224"):
    folder.mkdir()
    torch.manual_seed(0)
    save_file(timm.create_model(model, depth=depth).state_dict(), folder / name)
    return folder


def test_a_folder_that_is_not_there_is_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("HAMSYNTH_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"WEIGHTS names .*nowhere, but there is no such folder"):
        build_classifier(settings, 0, 7)


def test_a_folder_without_a_fitting_file_says_what_was_looked_for_and_what_is_there(
    settings, tmp_path, monkeypatch
):
    folder = fill(tmp_path / "weights", "resnet50.safetensors")
    monkeypatch.setenv("HAMSYNTH_WEIGHTS", str(folder))
    with pytest.raises(
        InputError,
        match=r"neither vit_tiny_patch16_224\*\.safetensors nor model\.safetensors: "
        r"it holds resnet50\.safetensors",
    ):
        build_classifier(settings, 0, 7)


def test_the_name_that_a_hub_gives_is_accepted_if_the_file_fits(settings, tmp_path, monkeypatch):
    folder = fill(tmp_path / "weights", "model.safetensors")
    monkeypatch.setenv("HAMSYNTH_WEIGHTS", str(folder))
    _, provenance = build_classifier(settings, 0, 7)
    assert provenance.source == "file" and provenance.detail.startswith("model.safetensors, sha256")
    (folder / "model.safetensors").write_bytes(b"weights under a hub's name")
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        build_classifier(settings, 0, 7)


def test_a_file_of_another_size_is_refused(settings, tmp_path, monkeypatch):
    model = "vit_small_patch16_224"
    folder = fill(tmp_path / "weights", "model.safetensors", model=model)
    monkeypatch.setenv("HAMSYNTH_WEIGHTS", str(folder))
    with pytest.raises(InputError, match=r"does not fit vit_tiny_patch16_224"):
        build_classifier(settings, 0, 7)


def test_without_a_folder_weights_are_random_as_before(settings, monkeypatch):
    monkeypatch.delenv("HAMSYNTH_WEIGHTS", raising=False)
    assert build_classifier(settings, 0, 7)[1].source == "random"


@pytest.mark.parametrize("frozen_blocks", [0, 1])
def test_make_report_refuses_it_before_anything_is_computed(edited_tiny, tmp_path, frozen_blocks):
    profile = edited_tiny({"classifier": {"weights": "auto", "frozen_blocks": frozen_blocks}})
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hamsynth_utils.cli",
            "report",
            "--profile",
            profile,
            "--weights",
            str(tmp_path / "nowhere"),
            "--run",
            "r",
        ],
        cwd=ROOT,
        env={**os.environ, "HAMSYNTH_RUNS": str(tmp_path / "runs")},
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "nowhere, but there is no such folder" in done.stderr
    assert not (tmp_path / "runs/r").exists(), "a run was begun"
