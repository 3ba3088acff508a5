"""The pipeline of one run: the request, the run folder, and Snakemake, which executes the chapters.

Nothing heavy is imported with this module, so that the process that waits for Snakemake needs
little memory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from hamsynth_utils.core.paths import RunPaths, absolute_path, project_root, runs_folder

if TYPE_CHECKING:
    from hamsynth_utils.experiment.run import Run

CONFIG = ".pipeline.json"
"""In a run's folder: what Snakemake is told of it."""


@dataclass(frozen=True)
class Request:
    """What is asked of a run; paths are absolute.

    Args:
        data: `phantom`, or a folder of HAM10000.
        profile: a name, or a .yaml file.
        name: of the run.
        seed: of the run.
        external: folder of an external test set, `phantom`, or "" for none.
        skip_broken: leave out images that cannot be read.
    """

    data: str
    profile: str
    name: str
    seed: int
    external: str
    skip_broken: bool

    @classmethod
    def of(
        cls,
        data: str = "phantom",
        profile: str = "smoke",
        name: str = "",
        seed: int = 0,
        external: str = "",
        skip_broken: bool = False,
    ) -> Request:
        """A request from the options of a user.

        Args:
            data: `phantom`, or a folder, which may be relative or begin with `~`.
            profile: the name of a profile, or the path of its file.
            name: the name of the run; DATA-PROFILE if it is empty.
            seed: the seed of the run.
            external: an external test set: empty, `phantom`, or a folder.
            skip_broken: leave out images that cannot be decoded.

        Returns:
            The request, with absolute paths.
        """
        if data != "phantom":
            data = absolute_path(data)
        if profile.endswith((".yaml", ".yml")):
            profile = absolute_path(profile)
        if external not in {"", "phantom"}:
            external = absolute_path(external)
        name = name or f"{Path(data).name}-{Path(profile).stem}"
        return cls(data, profile, name, seed, external, skip_broken)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return runs_folder().absolute() / self.name


def prepare_run(request: Request, seeds: str = "", arms: str = "") -> Run:
    """Create the run, or check that the existing one fits the request.

    Args:
        request: what is asked of the run.
        seeds: of its classifiers, as in `0,1,2`; those of the profile if empty.
        arms: as in `real,vae`; those of the profile if empty.

    Returns:
        The run. Nothing is computed.

    Raises:
        InputError: as `Run.open` does, and for an external test set that is no test set, or is
            another than the one that the run has opened.
    """
    from hamsynth_utils.core.profile import arms_from, load_profile, seeds_from
    from hamsynth_utils.data.external import check_external, read_external
    from hamsynth_utils.experiment.external_test import read_opening, require_same_external_set
    from hamsynth_utils.experiment.run import Run

    if request.external:
        check_external(request.external, request.data)
    profile = load_profile(request.profile)
    run = Run.open(
        request.name,
        request.profile,
        request.data,
        request.seed,
        seeds=seeds_from(seeds) if seeds else profile.seeds,
        arms=arms_from(arms) if arms else profile.arms,
    )
    if request.external and read_opening(run.folder):
        size = run.profile.data.image_size
        external = read_external(request.external, size, run.seed + 1, progress=False)
        require_same_external_set(run.folder, external)
    return run


def run_pipeline(
    request: Request,
    seeds: str = "",
    arms: str = "",
    weights: str = "",
    cores: str = "all",
    memory_mb: int | None = None,
    slurm: bool = False,
    until: str = "",
) -> int:
    """Create or check the run, and let Snakemake execute what is missing of it, up to the report.

    Args:
        request, seeds, arms: as in `prepare_run`.
        weights: a folder of pretrained weights, "" for none.
        cores: how many CPU cores jobs share, or `all`.
        memory_mb: how much memory jobs share, in MB; what is free now if None.
        slurm: submit the jobs to SLURM, by `profiles/slurm`, instead.
        until: the execution to stop after, such as `06_vit-real-0`; "" for the whole report.

    Returns:
        The exit code: 0, 2 for a run that does not fit the request, or Snakemake's.
    """
    folder = request.folder
    package = str(Path(__file__).resolve().parents[2])
    environment = {
        **{key: value for key, value in os.environ.items() if key != "JUPYTER_PATH"},
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "HAMSYNTH_RUNS": str(folder.parent),
        # Kernels are those of this environment, whatever else the user has installed.
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    if weights:
        environment["HAMSYNTH_WEIGHTS"] = absolute_path(weights)
    # In a process of its own: this one waits for hours, without torch in memory.
    prepared = subprocess.run(_prepare_command(request, seeds, arms), env=environment)
    if prepared.returncode:
        return prepared.returncode
    config = {
        "data": request.data,
        "profile": request.profile,
        "run": request.name,
        "seed": str(request.seed),
        "skip_broken": "1" if request.skip_broken else "",
        "external": request.external,
    }
    (folder / CONFIG).write_text(json.dumps(config))
    target = [str(RunPaths(Path()).notebooks / f"{until}.ipynb")] if until else []
    executor = _slurm_flags() if slurm else _local_flags(cores, memory_mb)
    return _wait_for([*_snakemake_command(folder), *target, *executor], environment)


def job_environment(root: Path, runs: Path) -> dict[str, str]:
    """Environment variables with which notebooks find the package and their runs on any machine.

    Args:
        root: the checkout, or the project's files in an installed package.
        runs: the folder of all runs.
    """
    python_path = filter(None, [str(root), os.environ.get("PYTHONPATH")])
    return {
        "PYTHONPATH": os.pathsep.join(python_path),
        "HAMSYNTH_RUNS": str(runs),
        "HAMSYNTH_PIPELINE": str(os.getpid()),  # a job ends with this process
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def lock_run(folder: Path) -> FileLock:
    """Wait until no other pipeline works on the run, and lock the run while this process lives.

    The system releases this lock when the process dies, unlike Snakemake's own.
    """
    lock = FileLock(folder / ".pipeline.lock")
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        print(
            f"run {folder.name} is being made by another command: waiting for it to end",
            file=sys.stderr,
        )
        lock.acquire()
    return lock


def print_failures(folder: Path) -> None:
    """Print which chapters of the run failed, and where their output until then is."""
    for path in sorted(RunPaths(folder).notebooks.glob("*.partial.ipynb")):
        print(f"{path.name.split('.')[0]} failed; what it got to: {path}", file=sys.stderr)
    print("what is finished is kept: the same command goes on from here", file=sys.stderr)


def _prepare_command(request: Request, seeds: str, arms: str) -> list[str]:
    """The command line of `prepare_run`."""
    command = [sys.executable, "-m", "hamsynth_utils.cli", "run", "--data", request.data]
    command += ["--profile", request.profile, "--run", request.name, "--seed", str(request.seed)]
    return [*command, "--external", request.external, "--seeds", seeds, "--arms", arms]


def _snakemake_command(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(project_root() / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / CONFIG), "--nolock"]
    command += ["--rerun-incomplete", "--rerun-triggers", "mtime", "params", "input"]
    return [*command, "--scheduler", "greedy"]


def _local_flags(cores: str, memory_mb: int | None) -> list[str]:
    """Jobs share what this machine has."""
    import psutil

    memory_mb = memory_mb or psutil.virtual_memory().available >> 20
    return ["--cores", cores, "--resources", f"mem_mb={memory_mb}", "--quiet", "all"]


def _slurm_flags() -> list[str]:
    """The cluster's scheduler places the jobs; its profile says the rest."""
    return ["--workflow-profile", str(project_root() / "profiles/slurm")]


def _wait_for(command: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end; a Ctrl-C reaches it from the terminal, and SIGTERM is passed on."""
    with subprocess.Popen(command, env=environment) as process:
        handlers = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
        }
        try:
            return process.wait()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
