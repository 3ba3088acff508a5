"""The package as a wheel, installed where there is no checkout: its commands work, its runs go to the current folder."""

import re
import subprocess
import sys
import tomllib
import zipfile
from datetime import date
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, TINY, merged
from machine import Machine
from released import GENERATOR, finished_run

from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.weights import write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.generators.loading import build_generator, checkpoint_metadata
from hamsynth_utils.release.export import export

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--wheel-dir",
        str(folder),
    ]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    (path,) = folder.glob("hamsynth-*.whl")
    return path


@pytest.fixture(scope="module")
def machine(wheel, tmp_path_factory) -> Machine:
    """A Python that has the wheel, and an empty folder to work in."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    done = machine.run(str(machine.python), "-m", "pip", "install", "--quiet", str(wheel))
    assert done.returncode == 0, done.stderr
    where = machine.run(
        str(machine.python), "-c", "import hamsynth_utils; print(hamsynth_utils.__file__)"
    )
    assert where.stdout.startswith(str(machine.folder.parent / "env")), (
        "the checkout is on the path"
    )
    return machine


def hamsynth(machine: Machine, *arguments: str) -> str:
    """What the command prints; its script is that of the environment, not that of the tests."""
    done = machine.run(str(machine.python.parent / "hamsynth"), *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def test_the_wheel_holds_the_project_but_no_weights_and_no_hidden_file(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    project = "hamsynth_utils/project/"
    for name in (
        "Snakefile",
        "_config.yml",
        "_toc.yml",
        "profiles/smoke.yaml",
        "profiles/slurm/config.yaml",
        "book/claims.yaml",
        "book/release.yaml",
        "book/generator_targets.yaml",
        "book/_static/hamsynth.css",
        "notebooks/01_dataset.ipynb",
        "results/cpu-ham10000/predictions/real/seed-0.csv",
    ):
        assert project + name in names
    notebooks = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")
    )
    read_by_chapters = re.findall(r'project_root\(\) / \\"([^"\\]+)\\"', notebooks)
    assert read_by_chapters and {project + name for name in read_by_chapters} <= set(names)
    assert not [name for name in names if name.endswith(".safetensors") or "/." in name]


def test_its_version_is_that_of_the_checkout(machine):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]

    assert hamsynth(machine, "--version") == f"hamsynth {version}\n"


def test_it_samples_from_a_checkpoint(machine, tiny_profile, tmp_path):
    torch.manual_seed(0)
    vae = build_generator("vae", load_profile(tiny_profile), n_classes=7)
    path = tmp_path / "vae.safetensors"
    write_weights(path, vae.state_dict(), checkpoint_metadata(vae, HAM10000))
    printed = hamsynth(machine, "sample", "--checkpoint", str(path), "--per-class", "1")
    assert printed.startswith("synthetic: 7 images of 64 pixels")
    assert len(list((machine.folder / "synthetic/images").glob("*.png"))) == 7


def test_it_verifies_an_exported_set(machine, tiny_profile, tmp_path):
    run = finished_run(tmp_path / "run", tiny_profile)
    fingerprint = export(run, GENERATOR, tmp_path / "sent.zip", date(2026, 11, 24), [])
    printed = hamsynth(machine, "verify", str(tmp_path / "sent.zip"), "--fingerprint", fingerprint)
    assert "unaltered" in printed and fingerprint in printed


def test_it_makes_a_report_in_the_current_folder(machine):
    profile = machine.folder / "my tiny.yaml"
    few_arms = {"arms": ["real", "gan"], "other_split_arms": ["real"]}
    settings = merged(TINY, {**few_arms, "data": {"validation_fraction": 0.2}})
    profile.write_text(yaml.safe_dump(settings), encoding="utf-8")
    printed = hamsynth(machine, "report", "--profile", profile.name, "--run", "trial")
    index = machine.folder / "runs/trial/site/index.html"
    assert printed.splitlines()[-1] == str(index) and index.is_file()
    record = yaml.safe_load((machine.folder / "runs/trial/run.yaml").read_text(encoding="utf-8"))
    assert record["git_commit"] == "unknown (not a git checkout)"
