"""What is checked before the first minute of computing: every problem, in one list, with exit code 2."""

import os
import socket
from collections import namedtuple

import pandas as pd
import pytest
from conftest import TINY, merged

from hamsynth_utils.cli import main
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.experiment import preflight
from hamsynth_utils.experiment.pipeline import Request
from hamsynth_utils.experiment.preflight import executions, prepare_run

CORES = os.cpu_count()


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("HAMSYNTH_WEIGHTS", raising=False)
    return tmp_path / "runs"


ONE_PROBLEM = [
    (["--cores", "0"], f"CORES (--cores) must be a whole number from 1 to {CORES}, but it is '0'"),
    (["--cores", "-2"], "CORES"),
    (["--cores", str(CORES + 1)], "CORES"),
    (["--cores", "two"], "CORES"),
    (["--memory", "0"], "MEMORY (--memory), in MB, must be a whole number from 1 to"),
    (["--memory", "-1"], "MEMORY"),
    (["--memory", "9" * 40], "MEMORY"),
    (["--memory", "4G"], "MEMORY"),
    (["--seed", "-1"], "SEED (--seed) must be a whole number from 0 to 2147483647, but it is '-1'"),
    (["--seed", "4294967296"], "SEED"),
    (["--seed", "one"], "SEED"),
    (["--seeds", "0,-1"], "each of the seeds '0,-1'"),
    (["--seeds", "0,4294967296"], "it is '4294967296'"),
    (["--seeds", "0,1,"], "it is ''"),
    (["--arms", "real,dream"], "no arm is called 'dream'; there are real, "),
    (["--until", "05_flo"], "UNTIL (--until) is '05_flo', but this run has 01_dataset, 02_vae, "),
    (["--until", "16_external"], "UNTIL"),
    (["--run", "r" * 300], "at most 200 bytes, not 'rrrr"),
    (["--run", "ü" * 101], "at most 200 bytes"),
    (["--run", "a/b"], "the run's name must be a plain folder name"),
    (["--run", ".."], "the run's name must be a plain folder name"),
    (["--run", "a\nb"], "the run's name must be a plain folder name"),
    (["--data", "no such folder"], "data is neither 'phantom' nor a folder"),
    (["--external", "no such folder"], "no such folder"),
]


@pytest.mark.parametrize(("arguments", "message"), ONE_PROBLEM, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_one_line(arguments, message, runs, capsys):
    assert main(["run", *arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1 and message in shown
    assert not runs.exists(), "a run was begun"


def test_all_problems_are_in_one_list(runs, capsys):
    arguments = ["--cores", "0", "--memory", "x", "--seed", "-1", "--seeds", "0,z", "--run", "a/b"]
    arguments += ["--arms", "real,dream", "--data", "nowhere", "--external", "nowhere either"]
    assert main(["run", *arguments]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "error: 8 problems, and nothing was computed:"
    words = ("name", "SEED", "seeds", "dream", "nowhere", "CORES", "MEMORY", "nowhere either")
    assert len(lines) == 8
    assert all(line.startswith("- ") and word in line for line, word in zip(lines, words, strict=True))  # fmt: skip


def test_an_existing_run_with_other_settings_is_in_the_list_and_stays_as_it_is(
    tiny_profile, runs, capsys
):
    assert main(["run", "--run", "r", "--profile", tiny_profile]) == 0
    before = (runs / "r/run.yaml").read_bytes()
    options = ["--run", "r", "--profile", tiny_profile, "--seed", "5", "--cores", "0"]
    assert main(["run", *options, "--seeds", "0,1"]) == 2
    shown = capsys.readouterr().err
    assert "2 problems" in shown and "seed: this run has 0, you ask for 5" in shown
    assert (runs / "r/run.yaml").read_bytes() == before


def test_the_run_is_made_if_there_is_no_problem(tiny_profile):
    run = prepare_run(Request.of(profile=tiny_profile, name="r", seed="3"), "0,1", "real,vae")
    assert (run.seed, run.profile.seeds, run.profile.arms) == (3, (0, 1), ("real", "vae"))


def test_executions_are_those_of_the_profile():
    profile = load_profile("smoke").with_classifiers((0, 7), ("real", "vae"))
    found = executions(profile, external=False)
    classifiers = [f"06_vit-{arm}-{seed}" for arm in ("real", "vae") for seed in (0, 7)]
    assert [name for name in found if name.startswith("06")] == classifiers
    assert {"01_dataset", "05_flow", "15_claims"} <= set(found) and "16_external" not in found
    assert "16_external" in executions(profile, external=True)


@pytest.mark.parametrize("frozen", [0, 1])
def test_weights_that_were_asked_for_and_are_not_there(frozen, edited_tiny, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    profile = edited_tiny({"classifier": {"weights": "hub", "frozen_blocks": frozen}})
    assert main(["run", "--run", "r", "--profile", profile]) == 2
    assert "the model hub was not asked" in capsys.readouterr().err
    random = edited_tiny({"classifier": {"weights": "auto", "frozen_blocks": frozen}})
    assert main(["run", "--run", "r", "--profile", random]) == (2 if frozen else 0)


def test_weights_that_the_profile_does_not_use_are_a_warning(
    tiny_profile, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HAMSYNTH_WEIGHTS", str(tmp_path))
    assert main(["run", "--run", "r", "--profile", tiny_profile]) == 0
    shown = capsys.readouterr().err
    assert shown.startswith(f"warning: the weights in {tmp_path} are not used: the profile tiny")


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_small_is_named_with_the_estimate(tiny_profile, monkeypatch, capsys):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Usage(10**9, 0, 300 * 10**6))
    assert main(["run", "--run", "r", "--profile", tiny_profile]) == 2
    shown = capsys.readouterr().err
    assert "the run needs about 5" in shown and "but " in shown and "has 300 MB: free" in shown
    assert f"estimated from {len(TINY.get('arms', '12345'))} classifiers and 1,000 images" in shown


def test_the_estimate_grows_with_the_classifiers_and_the_images(tiny_profile, edited_tiny):
    small = load_profile(tiny_profile)
    weights, tokens = preflight._classifier_mb(small, 1000)
    # A ViT-Tiny of one block has 0.5 M parameters besides its two embeddings, 4 bytes each.
    assert 1.5 < weights < 3 and tokens == 0
    frozen = load_profile(edited_tiny(merged(TINY, {"classifier": {"frozen_blocks": 1}})))
    views = frozen.classifier.tta_views
    grid = (frozen.classifier.input_size // 16) ** 2 // frozen.classifier.token_pool**2
    expected = 1000 * views * (grid + 1) * 192 * 2 / 1e6
    assert preflight._classifier_mb(frozen, 1000)[1] == pytest.approx(expected)


def test_memory_that_is_not_there_is_an_error_and_memory_in_use_a_warning(
    tiny_profile, monkeypatch, capsys
):
    monkeypatch.setattr(preflight, "memory_limit_mb", lambda: 2000)
    monkeypatch.setattr(preflight, "free_memory_mb", lambda: 900)
    assert main(["run", "--run", "r", "--profile", tiny_profile]) == 0
    shown = capsys.readouterr().err
    assert shown.startswith("warning: a chapter needs about 1,5") and "900 MB are free" in shown
    monkeypatch.setattr(preflight, "memory_limit_mb", lambda: 1000)
    assert main(["run", "--run", "other", "--profile", tiny_profile]) == 2
    assert "or its container, has 1,000 MB" in capsys.readouterr().err


def test_a_class_without_images_is_a_warning(ham10000_copy, tiny_profile, capsys):
    path = ham10000_copy / "HAM10000_metadata.csv"
    table = pd.read_csv(path)
    table[table["dx"] != "df"].to_csv(path, index=False)
    main(["run", "--run", "r", "--profile", tiny_profile, "--data", str(ham10000_copy)])
    assert f"warning: {ham10000_copy} has no image of the class df" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999", "0", "-1", "http", ""])
def test_a_port_that_is_none_is_one_line(port, capsys):
    assert main(["serve", "--run", "none", "--port", port]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: PORT (--port) must be a whole number from 1 to 65535")
    assert shown.count("\n") == 1


def test_a_busy_port_is_one_line(runs, capsys):
    (runs / "r/site").mkdir(parents=True)
    (runs / "r/site/index.html").touch()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        assert main(["serve", "--run", "r", "--port", port]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: port {port} cannot be used") and shown.count("\n") == 1


def test_a_machine_without_a_temporary_folder_is_named(runs, monkeypatch, capsys):
    def gettempdir() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(preflight.tempfile, "gettempdir", gettempdir)
    assert main(["run", "--run", "r"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: No usable temporary directory found in ['/tmp']: free space")


def test_a_profile_that_windows_saved_is_read(tiny_profile, tmp_path):
    """With a byte order mark and CRLF, and in UTF-16."""
    text = (tmp_path / "tiny.yaml").read_text(encoding="utf-8")
    for name, encoding in {"bom": "utf-8-sig", "utf16": "utf-16"}.items():
        (tmp_path / f"{name}.yaml").write_bytes(text.replace("\n", "\r\n").encode(encoding))
        assert load_profile(str(tmp_path / f"{name}.yaml")).threads == 1
