"""The pipeline with stand-ins for papermill and trainings that note each call: tests see what is executed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.experiment.pipeline import QUIET

ROOT = project_root()


STAND_IN = """
import json, os, sys, time
from pathlib import Path

source, target, *options = sys.argv[1:]
source = source.format()  # as papermill reads a path with braces
assert Path(options[options.index("--cwd") + 1]).is_dir()
values = {key: value for flag, key, value in zip(options, options[1:], options[2:]) if flag in ("-r", "-p")}
with open(os.environ["CALLS"], "a") as calls:
    name, threads = Path(target).name.split(".")[0], os.environ["HAMSYNTH_THREADS"]
    print(json.dumps([name, values, threads, os.getpid(), os.environ.get("SLURM_JOB_ID")]), file=calls)
Path(target).write_text(Path(source).read_text())
if "faulty" in Path(source).read_text():
    print("Traceback: of papermill")
    sys.exit("papermill.exceptions.PapermillExecutionError:\\nValueError: in the cell")
if Path(os.environ["CALLS"] + ".alone").exists():
    open(os.environ["CALLS"] + ".busy", "x")
    time.sleep(1)
    os.remove(os.environ["CALLS"] + ".busy")
while Path(os.environ["CALLS"] + ".slow").exists() and "15_claims" in target:
    time.sleep(0.1)
"""


# Python imports this before anything else: a training is noted instead of done.
NO_TRAINING = """
import json, os, sys, time

if sys.orig_argv[1:4] == ["-m", "hamsynth_utils.cli", "train"]:
    network, *options = sys.orig_argv[4:]
    if network == "generator":
        network, *options = options
    values = dict(zip((flag.removeprefix("--") for flag in options[::2]), options[1::2]))
    name = f"training-{network}-{values['generator-seed']}"
    with open(os.environ["CALLS"], "a") as calls:
        threads, job = os.environ["HAMSYNTH_THREADS"], os.environ.get("SLURM_JOB_ID")
        print(json.dumps([name, values, threads, os.getpid(), job]), file=calls)
    if os.path.exists(os.environ["CALLS"] + ".alone"):
        open(os.environ["CALLS"] + ".busy", "x")
        time.sleep(1)
        os.remove(os.environ["CALLS"] + ".busy")
    os._exit(0)
"""


LAST = (
    "09_evaluation",
    "08_fidelity",
    "12_fairness",
    "13_explanation",
    "10_privacy",
    "14_release",
    "15_claims",
)


CHAPTERS = (
    "01_dataset",
    "02_vae",
    "03_gan",
    "04_diffusion",
    "05_flow",
    "06_vit",
    "07_controls",
    "11_guarantee",
    *LAST,
)


class Pipeline:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        (folder / "stand in/papermill").mkdir(parents=True)
        (folder / "stand in/papermill/__init__.py").touch()
        (folder / "stand in/papermill/__main__.py").write_text(STAND_IN, encoding="utf-8")
        (folder / "stand in/sitecustomize.py").write_text(NO_TRAINING, encoding="utf-8")
        self.checkout = folder / "check out"
        (self.checkout / "notebooks").mkdir(parents=True)
        (self.checkout / "Snakefile").write_text(
            (ROOT / "Snakefile").read_text(encoding="utf-8"), encoding="utf-8"
        )
        (self.checkout / "hamsynth_utils").symlink_to(ROOT / "hamsynth_utils")
        (self.checkout / "book").mkdir()
        self.claims = self.checkout / "book/claims.yaml"
        self.claims.write_text("as they were", encoding="utf-8")
        (self.checkout / "book/release.yaml").write_text("as they were", encoding="utf-8")
        for name in CHAPTERS:
            self.write(name, "as it was")
        profile = yaml.safe_load((ROOT / "profiles/smoke.yaml").read_text(encoding="utf-8"))
        profile |= {
            "arms": ["real", "gan"],
            "seeds": [0, 7],
            "threads": 1,
            "other_split_arms": ["augment"],
        }
        (folder / "my profile.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
        config = {
            "data": "/skin: pictures",
            "profile": f"{folder}/my profile.yaml",
            "run": "007",
            "seed": "3",
        }
        (folder / "pipeline.json").write_text(json.dumps(config), encoding="utf-8")
        self.run = folder / "runs/007"
        self.run.mkdir(parents=True)
        record = {"profile": load_profile(config["profile"]).model_dump(mode="json")}
        (self.run / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
        self.process: subprocess.Popen[str] | None = None
        self.target = "notebooks/15_claims.ipynb"

    def write(self, name: str, text: str) -> None:
        (self.checkout / f"notebooks/{name}.ipynb").write_text(text, encoding="utf-8")

    def command(self, *place: str, target: tuple[str, ...] = ()) -> list[str]:
        """Snakemake on its way to `target`; place: where it runs its jobs, by default on two cores."""
        command = [sys.executable, "-m", "snakemake", "-s", str(self.checkout / "Snakefile")]
        command += [
            "--nolock",
            "--rerun-incomplete",
            "--rerun-triggers",
            "mtime",
            "params",
            "input",
        ]
        command += ["--scheduler", "greedy", "--configfile", str(self.folder / "pipeline.json")]
        command += place or ("--cores", "2", *QUIET)
        return [*command, "--", *(target or (self.target,))]

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "HAMSYNTH_RUNS": str(self.folder / "runs"),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(self.folder / "stand in"), os.environ.get("PYTHONPATH")])
            ),
            "CALLS": str(self.calls_file),
        }

    def start(self, *place: str, target: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            self.command(*place, target=target),
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        return self.process

    def finish(self) -> tuple[int, str]:
        process = self.process or self.start()
        said, _ = process.communicate(timeout=1500)
        self.process = None
        return process.returncode, said

    def dry_run(
        self, *flags: str, target: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """What Snakemake would execute, in its output."""
        command = self.command("--cores", "2", "--dry-run", *flags, target=target)
        environment = self.environment()
        return subprocess.run(
            command, env=environment, text=True, capture_output=True, check=False, encoding="utf-8"
        )

    def calls(self) -> list[list]:
        """The calls since the last look: name, parameters, threads, process id, job id of SLURM if any."""
        lines = (
            self.calls_file.read_text(encoding="utf-8").splitlines()
            if self.calls_file.exists()
            else []
        )
        self.calls_file.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + 1500
        while (
            not self.calls_file.exists()
            or self.calls_file.read_text(encoding="utf-8").count(text) < times
        ):
            assert time.monotonic() < deadline, f"{text} was not reached"
            time.sleep(0.05)


def wait_until_gone(process_id: int) -> None:
    """Nothing goes on training after its pipeline was killed."""
    for _ in range(100):
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {process_id} outlived its pipeline")
