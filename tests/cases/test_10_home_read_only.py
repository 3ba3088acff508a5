"""A home that cannot be written, or none at all: caches and settings go to the run's folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from hamsynth_utils.cli import main
from hamsynth_utils.core.machine import stand_in_for_home

NAMES = {
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "IPYTHONDIR",
    "MPLCONFIGDIR",
}


def as_if_read_only(monkeypatch, folder: Path) -> None:
    """Let this process believe that nothing in a folder can be written, even as root."""
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: folder not in (Path(path), *Path(path).parents) and access(path, mode),
    )


def test_a_home_that_can_be_written_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache").mkdir()
    assert stand_in_for_home(tmp_path / "run") == {}


@pytest.mark.parametrize("name", ["", ".cache", ".ipython", ".local/share/jupyter"])
def test_of_a_home_that_cannot_be_written_nothing_is_used(tmp_path, monkeypatch, name):
    (tmp_path / "home/.cache").mkdir(parents=True)
    (tmp_path / "home" / name).mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    as_if_read_only(monkeypatch, tmp_path / "home" / name)
    found = stand_in_for_home(tmp_path / "run")
    assert set(found) == NAMES
    assert all(path.startswith(str(tmp_path / "run/")) for path in found.values())


def test_weights_that_are_in_such_a_home_are_still_found(tmp_path, monkeypatch):
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    as_if_read_only(monkeypatch, tmp_path)
    found = stand_in_for_home(tmp_path / "run")
    assert found["HF_HOME"] == str(tmp_path / ".cache/huggingface")
    assert "TORCH_HOME" not in found


def test_a_user_without_a_name_gets_one(tmp_path, monkeypatch):
    """Snakemake prints the name of its user, and a user id of a container has none."""

    def nobody(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 54321")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert stand_in_for_home(tmp_path / "run") == {"USER": f"user{os.getuid()}"}


def test_a_user_without_a_home_gets_one_in_the_run(tmp_path, monkeypatch):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    assert stand_in_for_home(tmp_path)["HOME"] == str(tmp_path)


def test_jupyterlab_starts_without_a_home(tmp_path, monkeypatch):
    started = []
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # which is not there
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "execv", lambda _, command: started.append(dict(os.environ)))
    assert main(["lab"]) == 0
    assert started[0]["JUPYTER_RUNTIME_DIR"] == str(tmp_path / ".home/jupyter/runtime")


READS = "-all,+dac_read_search"
NOBODY = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", f"--inh-caps={READS}"]
NOBODY += [f"--ambient-caps={READS}", f"--bounding-set={READS}"]
"""Runs a command as a user without a name, who may read everything, since Python itself may lie in root's home."""


def report(environment: dict[str, str], *wrapper: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hamsynth_utils.cli", "report", "--until", "01_dataset"]
    return subprocess.run(
        [*wrapper, *command, "--run", "r", "--profile", environment["PROFILE"]],
        cwd=ROOT,
        env=environment,
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
def test_a_chapter_is_executed_with_a_home_on_a_read_only_disk(tmp_path, tiny_profile):
    if os.getuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("a read-only file system needs root and the right to mount")
    home = tmp_path / "home"
    home.mkdir()
    outer = {key: value for key, value in os.environ.items() if not key.startswith("XDG")}
    runs = {"HAMSYNTH_RUNS": str(tmp_path / "runs"), "HOME": str(home), "PROFILE": tiny_profile}
    mount = 'mount -t tmpfs -o ro tmpfs "$HOME" && exec "$@"'
    done = report({**outer, **runs}, "unshare", "--mount", "sh", "-c", mount, "sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs/r/notebooks/01_dataset.ipynb").is_file()
    assert (tmp_path / "runs/r/.home/cache/snakemake").is_dir()


@pytest.mark.slow
def test_a_chapter_is_executed_by_a_user_without_a_name_and_a_home(tmp_path, tiny_profile):
    if os.getuid() or subprocess.run([*NOBODY, "true"], check=False).returncode:
        pytest.skip("becoming another user needs root")
    (tmp_path / "runs").mkdir()
    os.chown(tmp_path / "runs", 54321, 54321)
    outer = {key: value for key, value in os.environ.items() if key not in {"HOME", "USER"}}
    environment = {**outer, "HAMSYNTH_RUNS": str(tmp_path / "runs"), "PROFILE": tiny_profile}
    done = report(environment, *NOBODY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs/r/notebooks/01_dataset.ipynb").stat().st_uid == 54321
