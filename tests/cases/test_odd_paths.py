"""Folders with spaces, braces, quotes, wildcards and letters of every script: the pipeline works there, or says why not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from stand_in import Pipeline

from hamsynth_utils.cli import main

ODD = "it's {arm} [b] * ü日本 {{x}} $HOME"


@pytest.mark.parametrize("name", [ODD, "{}", '-x a"b`c#d%s?\\e'])
def test_chapters_are_executed_in_a_folder_with_such_a_name(tmp_path, name):
    (tmp_path / name).mkdir()
    pipeline = Pipeline(tmp_path / name)
    config = json.loads((pipeline.folder / "pipeline.json").read_text(encoding="utf-8"))
    config |= {"data": f"/skin/{name}"}
    (pipeline.folder / "pipeline.json").write_text(json.dumps(config), encoding="utf-8")
    pipeline.target = "notebooks/02_vae.ipynb"
    code, said = pipeline.finish()
    assert code == 0, said
    calls = pipeline.calls()
    assert [(each, values["data"]) for each, values, *_ in calls] == [
        ("01_dataset", f"/skin/{name}"),
        ("training-autoencoder-0", f"/skin/{name}"),
        ("02_vae", f"/skin/{name}"),
    ]
    pipeline.write("02_vae", "changed")
    assert pipeline.finish()[0] == 0
    assert [each for each, *_ in pipeline.calls()] == ["02_vae"]


def test_papermill_reads_braces_as_the_snakefile_writes_them(tmp_path):
    """What the stand-in does with the path of a notebook, papermill does; a folder it takes as it is."""
    folder = tmp_path / ODD
    folder.mkdir()
    code = "from pathlib import Path; Path('here').touch()"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, folder / "a.ipynb")
    escaped = str(folder).replace("{", "{{").replace("}", "}}")
    command = [sys.executable, "-m", "papermill", f"{escaped}/a.ipynb", "out.ipynb"]
    command += ["--cwd", str(folder)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "out.ipynb").is_file() and (folder / "here").is_file()


def test_a_way_with_a_brace_that_snakemake_cannot_read_is_refused(tmp_path, monkeypatch, capsys):
    checkout = tmp_path / "a {b}"
    checkout.mkdir()
    monkeypatch.setattr("hamsynth_utils.experiment.preflight.project_root", lambda: checkout)
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path / "runs"))
    assert main(["run", "--run", "r"]) == 2
    assert f"to {checkout} has a brace, which Snakemake cannot read" in capsys.readouterr().err
    monkeypatch.setenv("HAMSYNTH_RUNS", str(checkout / "runs"))
    main(["run", "--run", "r"])
    assert "brace" not in capsys.readouterr().err


def test_a_run_folder_with_a_square_bracket_is_refused(tmp_path, monkeypatch, capsys):
    """Sphinx takes it for a pattern, reads the pages of figures twice and fails at the very end."""
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path / "a [b]"))
    assert main(["run", "--run", "r"]) == 2
    assert "r has a square bracket, and Jupyter Book cannot" in capsys.readouterr().err


@pytest.mark.parametrize("data", ["a\nb", "\x1b[31m", "~nobody-is-called-so/skin", "\udcff"])
def test_a_path_that_is_no_text_is_refused_in_one_line(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path / "runs"))
    assert main(["report", "--data", data]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1


def test_make_works_in_a_checkout_with_such_a_name(tmp_path):
    """make itself, which splits a path at its spaces; an environment is linked, so that none is made."""
    checkout = tmp_path / ODD
    checkout.mkdir()
    for path in ROOT.iterdir():
        if path.name in {"Makefile", "pyproject.toml", "hamsynth_utils", "profiles", "notebooks"}:
            (checkout / path.name).symlink_to(path)
    (checkout / ".venv").mkdir()
    (checkout / ".venv/bin").mkdir()
    (checkout / ".venv/bin/python").symlink_to(sys.executable)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", checkout / ".venv")
    (checkout / ".venv/lib").symlink_to(Path(sys.prefix) / "lib")
    (checkout / ".venv/ready").touch()
    outer = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "report", "CORES=0"],
        cwd=checkout,
        env={**outer, "HAMSYNTH_RUNS": str(tmp_path / "runs"), "CONDA_DEFAULT_ENV": ""},
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: CORES (--cores) must be a whole number from 1 to ")
