"""The Snakefile: what is executed, with which parameters, and what a failed or killed run n_subsets.

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

from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.registry import REGISTRY

ROOT = project_root()
STAND_IN = """
import json, os, sys, time
from pathlib import Path

source, target, *options = sys.argv[1:]
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
while Path(os.environ["CALLS"] + ".slow").exists() and "08" in target:
    time.sleep(0.1)
"""
LAST = ("09_evaluation", "08_fidelity", "12_fairness", "10_privacy", "14_release", "15_claims")
CHAPTERS = (
    "01_dataset",
    "02_vae",
    "03_gan",
    "04_diffusion",
    "06_vit",
    "07_controls",
    "11_guarantee",
    *LAST,
)


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
        (self.checkout / "book").mkdir()
        self.claims = self.checkout / "book/claims.yaml"
        self.claims.write_text("as they were")
        (self.checkout / "book/release.yaml").write_text("as they were")
        for name in CHAPTERS:
            self.write(name, "as it was")
        profile = yaml.safe_load((ROOT / "profiles/smoke.yaml").read_text())
        profile |= {
            "arms": ["real", "gan"],
            "seeds": [0, 7],
            "threads": 1,
            "other_split_arms": ["augment"],
        }
        (folder / "my profile.yaml").write_text(yaml.safe_dump(profile))
        config = {
            "data": "/skin: pictures",
            "profile": f"{folder}/my profile.yaml",
            "run": "007",
            "seed": "3",
        }
        (folder / "road.json").write_text(json.dumps(config))
        self.run = folder / "runs/007"
        self.run.mkdir(parents=True)
        record = {"profile": load_profile(config["profile"]).model_dump(mode="json")}
        (self.run / "run.yaml").write_text(yaml.safe_dump(record))
        self.process: subprocess.Popen[str] | None = None
        self.target = "notebooks/15_claims.ipynb"

    def write(self, name: str, text: str) -> None:
        (self.checkout / f"notebooks/{name}.ipynb").write_text(text)

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
        command += ["--scheduler", "greedy", "--configfile", str(self.folder / "road.json")]
        command += place or ("--cores", "2", "--quiet", "all")
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
        )
        return self.process

    def finish(self) -> tuple[int, str]:
        process = self.process or self.start()
        said, _ = process.communicate(timeout=1500)
        self.process = None
        return process.returncode, said

    def calls(self) -> list[list]:
        """The calls since the last look: name, parameters, threads, process id, job id of SLURM if any."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + 1500
        while not self.calls_file.exists() or self.calls_file.read_text().count(text) < times:
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
    first = {name: (values, threads) for name, values, threads, *_ in road.calls()}
    shared = {
        "data": "/skin: pictures",
        "profile": f"{road.folder}/my profile.yaml",
        "run": "007",
        "seed": "3",
    }
    assert first["01_dataset"] == ({**shared, "skip_broken": "False"}, "1")
    assert first["03_gan"] == (shared, "1")
    assert not {"06_vit-gan-0", *LAST} & set(first)

    road.write("03_gan", "mended")
    slow = Path(f"{road.calls_file}.slow")
    slow.touch()
    process = road.start()
    road.wait_for("15_claims")
    process.kill()
    process.wait()
    second = road.calls()
    assert sorted([*first, *(name for name, *_ in second)]) == sorted(
        ["01_dataset", "02_vae", "03_gan", "03_gan", "04_diffusion", "07_controls", *LAST]
        + [f"06_vit-{name}-{seed}" for name in ("real", "gan") for seed in (0, 7)]
        + ["06_vit-augment-0-image", "06_vit-augment-7-image"]
    )
    calls = {name: values for name, (values, *_) in first.items()} | {
        name: v for name, v, *_ in second
    }
    assert (
        calls["06_vit-augment-7-image"].items() >= {"arm": "augment", "split_by": "image"}.items()
    )
    assert ["gan", "7"] in [
        [values.get("arm"), values.get("classifier_seed")] for _, values, *_ in second
    ]
    assert second[-1][0] == "15_claims", "the claims are judged after the chapters that measure"
    wait_until_gone(second[-1][3])
    slow.unlink()

    road.process = None
    assert road.finish()[0] == 0
    assert [name for name, *_ in road.calls()] == ["15_claims"]
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
        "07_controls",
        "06_vit-gan-0",
        "06_vit-gan-7",
        *LAST,
    ]

    road.claims.write_text("changed")
    assert road.finish()[0] == 0
    assert [name for name, *_ in road.calls()] == ["15_claims"]


def test_a_run_that_gains_a_seed_and_an_arm_repeats_only_what_compares_them(road: Road) -> None:
    assert road.finish()[0] == 0
    road.calls()
    record = yaml.safe_load((road.run / "run.yaml").read_text())
    record["profile"] |= {"seeds": [0, 7, 1], "arms": ["real", "gan", "vae"]}
    (road.run / "run.yaml").write_text(yaml.safe_dump(record))
    assert road.finish()[0] == 0
    new = [
        f"06_vit-{name}"
        for name in ("real-1", "gan-1", "vae-0", "vae-7", "vae-1", "augment-1-image")
    ]
    again = set(LAST) - {"08_fidelity", "10_privacy"}  # which look at the generators alone
    assert sorted(name for name, *_ in road.calls()) == sorted([*new, *again])


def test_the_chapter_of_a_generator_is_executed_where_the_profile_has_it(road: Road) -> None:
    """And all that compares the generators waits for it."""
    road.write("05_flow", "as it was")
    record = yaml.safe_load((road.run / "run.yaml").read_text())
    record["profile"] |= {"flow": {"autoencoder": None}, "arms": ["real", "flow"]}
    (road.run / "run.yaml").write_text(yaml.safe_dump(record))
    assert road.finish()[0] == 0
    names = [name for name, *_ in road.calls()]
    waiting = (
        "06_vit-flow-0",
        "06_vit-flow-7",
        "07_controls",
        "08_fidelity",
        "09_evaluation",
        "10_privacy",
    )
    assert all(names.index("05_flow") < names.index(name) for name in waiting)


@pytest.mark.parametrize("name", ["cpu", "paper"])
def test_every_job_of_a_profile_too_long_for_tests_is_planned(road: Road, name: str) -> None:
    profile = load_profile(name)
    (road.run / "run.yaml").write_text(yaml.safe_dump({"profile": profile.model_dump(mode="json")}))
    command = road.command("--cores", "2", "--dry-run", "--quiet", "progress")
    dry = subprocess.run(
        command, env=road.environment(), text=True, capture_output=True, check=False
    )
    assert dry.returncode == 0, dry.stderr
    planned = set(re.findall(r"output: notebooks/(\S+)\.ipynb", dry.stdout + dry.stderr))
    arms = [*profile.arms, *(f"{arm}-split" for arm in profile.other_split_arms)]
    classifiers = {
        f"06_vit-{arm.removesuffix('-split')}-{seed}" + ("-image" if arm.endswith("-split") else "")
        for arm in arms
        for seed in profile.seeds
    }
    generators = {REGISTRY[each].chapter for each in profile.generators}
    assert planned == {"01_dataset", "07_controls", *LAST, *generators, *classifiers}


def test_jobs_do_not_share_cores_with_memory_for_one(road: Road) -> None:
    Path(f"{road.calls_file}.alone").touch()
    generators = tuple(f"notebooks/{name}.ipynb" for name in ("02_vae", "03_gan", "04_diffusion"))
    road.start("--cores", "4", "--resources", "mem_mb=5000", "--quiet", "all", target=generators)
    code, said = road.finish()
    assert code == 0, said
    assert len(road.calls()) == 4


def test_an_external_set_is_opened_last_and_only_where_one_is_given(road: Road) -> None:
    road.write("16_external", "as it was")
    for name in ("_config.yml", "_toc.yml"):
        (road.checkout / name).touch()
    config = json.loads((road.folder / "road.json").read_text())
    for source, jobs in (("", 0), ("/clinic: photos", 1)):
        (road.folder / "road.json").write_text(json.dumps({**config, "external": source}))
        command = road.command("--cores", "2", "--dry-run", target=("report",))
        dry = subprocess.run(
            command, env=road.environment(), text=True, capture_output=True, check=False
        )
        assert (
            dry.returncode == 0
            and len(re.findall(r"^rule external:", dry.stdout + dry.stderr, re.MULTILINE)) == jobs
        )

    road.target = "notebooks/16_external.ipynb"
    assert road.finish()[0] == 0
    calls = road.calls()
    names = [name for name, *_ in calls]
    assert names[-2:] == ["15_claims", "16_external"] and len(names) == 18
    assert calls[-1][1] == {
        "data": config["data"],
        "profile": config["profile"],
        "run": "007",
        "seed": "3",
        "external": "/clinic: photos",
    }


def wait_until_gone(process_id: int) -> None:
    """Nothing goes on training after its road was killed."""
    for _ in range(100):
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {process_id} outlived its road")
