"""Pages, Binder and Colab: the workflow is valid, and both set-ups run in a clean folder, as far as that goes offline."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import ROOT
from machine import Machine
from packaging.specifiers import SpecifierSet

WORKFLOW = ROOT / ".github/workflows/pages.yml"
SET_UP = [
    "".join(cell["source"])
    for cell in json.loads((ROOT / ".colab/setup.ipynb").read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Machine:
    """On which Colab's cells were run one after the other, with this checkout as the repository."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    before = machine.run(
        str(machine.python), "-c", "import torch, papermill; import hamsynth_utils"
    )
    assert "No module named 'hamsynth_utils'" in before.stderr, before.stderr
    script = "\n".join(SET_UP).replace('ADDRESS = ""', f"ADDRESS = {str(ROOT)!r}")
    script += "\nassert len(shown.data) > 100_000 and 'What lies in front of us' in shown.data"
    script += "\nimport hamsynth_utils; print(hamsynth_utils.__file__)"
    done = machine.run(str(machine.python), "-c", script)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == str(
        machine.folder / "hamsynth/hamsynth_utils/__init__.py"
    )
    return machine


@pytest.mark.slow
def test_colab_installs_the_clone_and_runs_a_chapter(machine):
    runs = machine.folder / "hamsynth/runs/phantom-smoke"
    assert (runs / "data/split.csv").is_file()
    assert (machine.folder / "hamsynth/01_dataset.ipynb").is_file()


def test_colab_without_an_address_says_what_is_missing(tmp_path):
    done = Machine(tmp_path).run(
        sys.executable, "-c", re.sub(r'ADDRESS = "[^"]*"', 'ADDRESS = ""', SET_UP[0])
    )
    assert done.returncode != 0 and "write the repository's address" in done.stderr


@pytest.mark.slow
def test_binder_has_a_python_that_fits_and_its_last_step_runs(machine):
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "requires-python"
    ]
    version = (
        (ROOT / ".binder/runtime.txt").read_text(encoding="utf-8").strip().removeprefix("python-")
    )
    assert version in SpecifierSet(requires)
    step = ROOT / ".binder/postBuild"
    assert os.access(step, os.X_OK), "Binder runs it only if it may be executed"
    done = machine.run(str(step), where="hamsynth")
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_workflow_is_valid_and_publishes_what_make_report_builds():
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(WORKFLOW),
    ]
    checked = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert checked.returncode == 0, checked.stdout
    steps = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["report"]["steps"]
    assert {"run": "make report"} in steps
    defaults = dict(
        re.findall(
            r"^(DATA|PROFILE) = (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M
        )
    )
    (path,) = [step["with"]["path"] for step in steps if "pages-artifact" in step.get("uses", "")]
    assert path == f"runs/{defaults['DATA']}-{defaults['PROFILE']}/site"
