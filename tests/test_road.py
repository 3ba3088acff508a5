"""The Snakefile: what is executed, with which parameters, and what a failed or killed run repeats.

Papermill is played by a stand-in that notes each call, so that these tests see the road and not the work.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from hamsynth_utils.profile import project_root

ROOT = project_root()
STAND_IN = """
import json, os, sys, time
from pathlib import Path

source, target, *options = sys.argv[1:]
values = {key: value for flag, key, value in zip(options, options[1:], options[2:]) if flag in ("-r", "-p")}
with open(os.environ["CALLS"], "a") as calls:
    call = [Path(target).name.split(".")[0], values, os.environ["HAMSYNTH_THREADS"], os.getpid()]
    print(json.dumps(call), file=calls)
Path(target).write_text(Path(source).read_text())
if "faulty" in Path(source).read_text():
    print("Traceback: of papermill")
    sys.exit("papermill.exceptions.PapermillExecutionError:\\nValueError: in the cell")
while Path(os.environ["CALLS"] + ".slow").exists() and "06" in target:
    time.sleep(0.1)
"""
CHAPTERS = ("01_dataset", "02_vae", "03_gan", "04_diffusion", "05_vit", "06_evaluation", "07_ethics")


class Road:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        (folder / "stand in/papermill").mkdir(parents=True)
        (folder / "stand in/papermill/__init__.py").touch()
        (folder / "stand in/papermill/__main__.py").write_text(STAND_IN)
        self.checkout = folder / "check out"
        (self.checkout / "notebooks").mkdir(parents=True)
        (self.checkout / "Snakefile").write_text((ROOT / "Snakefile").read_text())
        (self.checkout / "hamsynth_utils").symlink_to(ROOT / "hamsynth_utils")
        for name in CHAPTERS:
            self.write(name, "as it was")
        profile = yaml.safe_load((ROOT / "profiles/smoke.yaml").read_text())
        profile |= {"arms": ["real", "gan"], "seeds": [0, 7], "threads": 1}
        (folder / "my profile.yaml").write_text(yaml.safe_dump(profile))
        config = {
            "data": "/skin: pictures",
            "profile": f"{folder}/my profile.yaml",
            "run": "007",
            "seed": "3",
        }
        (folder / "road.json").write_text(json.dumps(config))
        self.run = folder / "runs/007"
        self.process: subprocess.Popen[str] | None = None
        self.target = "notebooks/06_evaluation.ipynb"

    def write(self, name: str, text: str) -> None:
        (self.checkout / f"notebooks/{name}.ipynb").write_text(text)

    def command(self, quiet: bool = True) -> list[str]:
        command = [sys.executable, "-m", "snakemake", "-s", str(self.checkout / "Snakefile"), "--cores", "2"]
        command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "params", "input"]
        command += ["--scheduler", "greedy", "--configfile", str(self.folder / "road.json")]
        return [*command, *(["--quiet", "all"] if quiet else []), "--", self.target]

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "HAMSYNTH_RUNS": str(self.folder / "runs"),
            "PYTHONPATH": str(self.folder / "stand in"),
            "CALLS": str(self.calls_file),
        }

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            self.command(),
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return self.process

    def finish(self) -> tuple[int, str]:
        process = self.process or self.start()
        said, _ = process.communicate(timeout=120)
        self.process = None
        return process.returncode, said

    def calls(self) -> list[list]:
        """The calls since the last look: name, parameters, threads, process id."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 120
        while not self.calls_file.exists() or text not in self.calls_file.read_text():
            assert time.monotonic() < deadline, f"{text} was not reached"
            time.sleep(0.05)


@pytest.fixture
def road(tmp_path: Path) -> Iterator[Road]:
    road = Road(tmp_path)
    yield road
    if road.process:
        road.process.kill()


def test_a_run_fails_is_killed_and_goes_on(road: Road) -> None:
    road.write("03_gan", "faulty")
    code, said = road.finish()
    assert code != 0
    assert "ValueError: in the cell" in said and "of papermill" not in said
    assert f"03_gan failed; what it got to: {road.run}/notebooks/03_gan.partial.ipynb" in said
    assert (road.run / "notebooks/03_gan.partial.ipynb").exists()
    assert not (road.run / "notebooks/03_gan.ipynb").exists()
    first = {name: (values, threads) for name, values, threads, _ in road.calls()}
    shared = {
        "data": "/skin: pictures",
        "profile": f"{road.folder}/my profile.yaml",
        "run": "007",
        "seed": "3",
    }
    assert first["01_dataset"] == ({**shared, "skip_broken": "False"}, "1")
    assert first["03_gan"] == (shared, "1")
    assert not {"05_vit-gan-0", "06_evaluation"} & set(first)

    road.write("03_gan", "mended")
    slow = Path(f"{road.calls_file}.slow")
    slow.touch()
    process = road.start()
    road.wait_for("06_evaluation")
    process.kill()
    process.wait()
    second = road.calls()
    assert sorted([*first, *(name for name, *_ in second)]) == sorted(
        ["01_dataset", "02_vae", "03_gan", "03_gan", "04_diffusion", "06_evaluation"]
        + [f"05_vit-{arm}-{seed}" for arm in ("real", "gan") for seed in (0, 7)]
    )
    assert ["gan", "7"] in [[values.get("arm"), values.get("classifier_seed")] for _, values, _, _ in second]
    wait_until_gone(second[-1][3])
    slow.unlink()

    road.process = None
    assert road.finish()[0] == 0
    assert [name for name, *_ in road.calls()] == ["06_evaluation"]
    assert not list(road.run.glob("notebooks/*.partial.ipynb"))

    road.write("03_gan", "changed")
    with FileLock(road.run / ".road.lock"):
        waiting = road.start()
        assert waiting.stdout is not None
        assert "waiting for it to end" in waiting.stdout.readline()
        assert not road.calls()
    assert road.finish()[0] == 0
    assert sorted(name for name, *_ in road.calls()) == [
        "03_gan",
        "05_vit-gan-0",
        "05_vit-gan-7",
        "06_evaluation",
    ]


def test_an_external_set_is_opened_last_and_only_where_one_is_given(road: Road) -> None:
    road.write("09_external", "as it was")
    for name in ("_config.yml", "_toc.yml"):
        (road.checkout / name).touch()
    config = json.loads((road.folder / "road.json").read_text())
    for source, jobs in (("", 0), ("/clinic: photos", 1)):
        (road.folder / "road.json").write_text(json.dumps({**config, "external": source}))
        command = [*road.command(quiet=False)[:-2], "--dry-run", "--", "report"]
        dry = subprocess.run(command, env=road.environment(), text=True, capture_output=True, check=False)
        assert (
            dry.returncode == 0
            and len(re.findall(r"^rule external:", dry.stdout + dry.stderr, re.MULTILINE)) == jobs
        )

    road.target = "notebooks/09_external.ipynb"
    assert road.finish()[0] == 0
    calls = road.calls()
    names = [name for name, *_ in calls]
    assert names[-2:] == ["06_evaluation", "09_external"] and len(names) == 10
    assert calls[-1][1] == {"data": config["data"], "profile": config["profile"], "run": "007", "seed": "3",
                            "external": "/clinic: photos"}  # fmt: skip


def wait_until_gone(process_id: int) -> None:
    """Nothing goes on training after its road was killed."""
    for _ in range(100):
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {process_id} outlived its road")
