"""Run folders and built reports that several tests of the report share.

Each is made once, by the worker that asks first; the others wait for it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from made_runs import finish_run, make_run

from hamsynth_utils.experiment.run import Run
from hamsynth_utils.report.build import build


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable], Path]:
    """Call `make(folder)` for a folder of this name, unless another worker has done it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name: str, make: Callable[[Path], object]) -> Path:
        done = root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                make(root / name)
                done.touch()
        return root / name

    return made


@pytest.fixture(scope="session")
def site(made_once: Callable[[str, Callable], Path]) -> Path:
    """The report of a run that looks finished."""
    return made_once("report/tiny", lambda folder: build(make_run(folder))) / "site"


@pytest.fixture(scope="session")
def finished_run(made_once: Callable[[str, Callable], Path]) -> Run:
    """A run on the phantom with small synthetic sets of untrained networks and an untrained classifier."""
    folder = made_once("finished/tiny", finish_run)
    return Run.open("tiny", str(folder / "tiny.yaml"), root=folder.parent)


@pytest.fixture(scope="session")
def finished_site(made_once: Callable[[str, Callable], Path], finished_run: Run) -> Path:
    """The report of `finished_run`."""
    made_once("finished-report", lambda _: build(finished_run.folder))
    return finished_run.paths.site
