"""The pipeline of one run: the request, the run folder, and Snakemake, which executes the chapters.

Nothing heavy is imported with this module, so that the process that waits for Snakemake needs
little memory.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hamsynth_utils.core.arm_names import other_split
from hamsynth_utils.core.files import atomic_path, set_future_times_to_now
from hamsynth_utils.core.machine import free_memory_mb, stand_in_for_home
from hamsynth_utils.core.paths import RunPaths, absolute_path, project_root, runs_folder

QUIET = ["--quiet", "rules", "progress", "host", "reason"]
"""Snakemake prints nothing but errors and warnings; with `all` it would hide these, too."""


HOME = ".home"
"""In a run's folder: what programs write into a home, where no home can be written."""


CONFIG = ".pipeline.json"
"""In a run's folder: what Snakemake is told of it."""


@dataclass(frozen=True)
class Request:
    """What is asked of a run; paths are absolute.

    Args:
        data: `phantom`, or a folder of HAM10000.
        profile: a name, or a .yaml file.
        name: of the run.
        seed: of the run, as the user wrote it.
        external: folder of an external test set, `phantom`, or "" for none.
        skip_broken: leave out images that cannot be read.
    """

    data: str
    profile: str
    name: str
    seed: str
    external: str
    skip_broken: bool

    @classmethod
    def of(
        cls,
        data: str = "phantom",
        profile: str = "smoke",
        name: str = "",
        seed: str = "0",
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


@dataclass(frozen=True)
class Resources:
    """What the jobs of a run may use, and where the run stops, as the user wrote it.

    Args:
        cores: how many CPU cores jobs share, or `all`.
        memory: how much memory jobs share, in MB; "" for what is free.
        until: the execution to stop after, such as `06_vit-real-0`; "" for the whole report.
    """

    cores: str = "all"
    memory: str = ""
    until: str = ""


def classifier_executions(profile: dict[str, Any]) -> list[str]:
    """The names of the executions of 06_vit, one per classifier.

    Args:
        profile: a run's profile as plain values.
    """
    seeds, other = profile["seeds"], other_split(profile["data"]["split_by"])
    names = [f"06_vit-{arm}-{seed}" for arm in profile["arms"] for seed in seeds]
    return names + [
        f"06_vit-{arm}-{seed}-{other}" for arm in profile["other_split_arms"] for seed in seeds
    ]


def run_pipeline(
    request: Request,
    seeds: str,
    arms: str,
    weights: str,
    resources: Resources,
    slurm: bool = False,
) -> int:
    """Create or check the run, and let Snakemake execute what is missing of it, up to the report.

    Args:
        request, seeds, arms, resources: as in `preflight.prepare_run`.
        weights: a folder of pretrained weights, "" for none.
        slurm: submit the jobs to SLURM, by `profiles/slurm`, instead of running them here.

    Returns:
        The exit code: 0, 2 for a run that cannot be made as it was asked for, or Snakemake's.
    """
    folder = request.folder
    package = str(Path(__file__).resolve().parents[2])
    environment = {
        **stand_in_for_home(folder / HOME),
        **{key: value for key, value in os.environ.items() if key != "JUPYTER_PATH"},
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "PYTHONUTF8": "1",  # the same bytes under any locale, whoever writes them
        "HAMSYNTH_RUNS": str(folder.parent),
        # Kernels are those of this environment, whatever else the user has installed.
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    if weights:
        environment["HAMSYNTH_WEIGHTS"] = absolute_path(weights)
    # In a process of its own: this one waits for hours, without torch in memory.
    prepared = subprocess.run(_prepare_command(request, seeds, arms, resources), env=environment)
    if prepared.returncode:
        return prepared.returncode
    set_future_times_to_now(_dated_files(folder))
    config = {
        "data": request.data,
        "profile": request.profile,
        "run": request.name,
        "seed": request.seed,
        "skip_broken": "1" if request.skip_broken else "",
        "external": request.external,
    }
    with atomic_path(folder / CONFIG) as path:
        path.write_text(json.dumps(config), encoding="utf-8")
    notebooks = RunPaths(Path()).notebooks
    target = [str(notebooks / f"{resources.until}.ipynb")] if resources.until else []
    executor = _slurm_flags() if slurm else _local_flags(resources)
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


def is_snakemakes_error(record: logging.LogRecord) -> bool:
    """Whether a message of Snakemake is an error or a warning that no job has explained itself."""
    text = record.getMessage()
    return record.levelno >= logging.WARNING and "CalledProcessError" not in text


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


def _prepare_command(request: Request, seeds: str, arms: str, resources: Resources) -> list[str]:
    """The command line of `prepare_run`."""
    options = {
        "data": request.data,
        "profile": request.profile,
        "run": request.name,
        "seed": request.seed,
        "external": request.external,
        "seeds": seeds,
        "arms": arms,
        **asdict(resources),
    }
    named = [f"--{key}={value}" for key, value in options.items()]
    return [sys.executable, "-m", "hamsynth_utils.cli", "run", *named]


def _dated_files(folder: Path) -> list[Path]:
    """The files whose times tell Snakemake what is to be executed."""
    root = project_root()
    paths = RunPaths(folder)
    made = [*paths.notebooks.glob("*.ipynb"), *paths.logs.glob("*.done"), paths.site_index]
    pages = [root / "_config.yml", root / "_toc.yml", *(root / "book").rglob("*")]
    files = [*made, *(root / "notebooks").glob("*.ipynb"), *pages]
    return [path for path in files if path.is_file()]


def _snakemake_command(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(project_root() / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / CONFIG), "--nolock"]
    command += ["--rerun-incomplete", "--rerun-triggers", "mtime", "params", "input"]
    return [*command, "--scheduler", "greedy"]


def _local_flags(resources: Resources) -> list[str]:
    """Jobs share what this machine, or the container around it, has."""
    memory = resources.memory or free_memory_mb()
    return ["--cores", resources.cores, "--resources", f"mem_mb={memory}", *QUIET]


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
