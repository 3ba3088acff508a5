"""A notebook or a finished chapter whose time lies in the future: its time is set, and said; nothing is lost."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_in import Pipeline

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import set_future_times_to_now
from hamsynth_utils.experiment.pipeline import _dated_files


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(tmp_path)
    pipeline.target = "notebooks/02_vae.ipynb"
    yield pipeline
    if pipeline.process:
        pipeline.process.kill()


def in_two_hours(path: Path) -> Path:
    os.utime(path, (time.time() + 7200,) * 2)
    return path


def test_the_file_its_time_and_the_mending_are_said_in_one_line(tmp_path, capsys):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.touch()
    before = paths[1].stat().st_mtime
    in_two_hours(paths[2])
    os.utime(paths[0], (time.time() + 9000,) * 2)
    set_future_times_to_now(paths)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        rf"{paths[2]} is dated \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d, but the clock says \d\d:\d\d:\d\d: "
        "its time was set to now. Set the clock if it is slow",
        lines[0],
    )
    times = [path.stat().st_mtime for path in paths]
    assert times[1] == before < times[2] < times[0] <= time.time(), "the order is kept"


def test_a_file_whose_time_cannot_be_set_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.ipynb"
    path.touch()
    in_two_hours(path)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    with pytest.raises(InputError, match=r"a\.ipynb is dated .* set the clock, or `touch`"):
        set_future_times_to_now([path])


def test_after_the_mending_a_changed_notebook_is_executed_once_and_kept(pipeline):
    assert pipeline.finish()[0] == 0
    pipeline.calls()
    pipeline.write("02_vae", "changed")
    notebook = in_two_hours(pipeline.checkout / "notebooks/02_vae.ipynb")
    made = in_two_hours(pipeline.run / "notebooks/01_dataset.ipynb")
    trained = in_two_hours(pipeline.run / "logs/training-autoencoder-0.done")
    assert trained in _dated_files(pipeline.run)
    set_future_times_to_now([notebook, made, trained])
    code, said = pipeline.finish()
    assert code == 0, said
    assert [name for name, *_ in pipeline.calls()] == ["02_vae"]
    assert (pipeline.run / "notebooks/02_vae.ipynb").read_text(encoding="utf-8") == "changed"
    assert pipeline.finish()[0] == 0 and not pipeline.calls()


def test_a_clock_that_goes_wrong_during_the_work_is_told_in_snakemakes_own_words(pipeline):
    in_two_hours(pipeline.checkout / "notebooks/01_dataset.ipynb")
    code, said = pipeline.finish()
    assert code != 0
    assert re.search(r"Output .*01_dataset.ipynb has older modification time .* clock skew", said)


def test_snakemake_says_why_it_cannot_begin_and_nothing_else(pipeline):
    pipeline.target = "notebooks/nothing.ipynb"
    code, said = pipeline.finish()
    assert code != 0 and "No rule to produce notebooks/nothing.ipynb" in said
    pipeline.target = "notebooks/01_dataset.ipynb"
    code, said = pipeline.finish()
    assert code == 0
    assert [line.split(":")[0] for line in said.splitlines()] == ["01_dataset"] * 2


def test_what_a_failed_job_has_said_is_not_said_again(pipeline):
    pipeline.write("01_dataset", "faulty")
    code, said = pipeline.finish()
    assert code != 0 and "ValueError: in the cell" in said
    assert "CalledProcessError" not in said and "set -euo" not in said
