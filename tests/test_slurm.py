"""The road through SLURM, by profiles/slurm, on a cluster of this one machine: see slurm/cluster.sh."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from test_road import Road, wait_until_gone

CLUSTER = Path(__file__).parent / "slurm/cluster.sh"
# As make report SLURM=1 does, but for jobs that last seconds.
PLACE = ("--workflow-profile", str(ROOT / "profiles/slurm"), "--slurm-init-seconds-before-status-checks", "1")


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no SLURM here, {', '.join(missing)} missing: on Debian, apt install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([CLUSTER, "start", folder], check=True)
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
        yield
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=True)


@pytest.fixture
def road(tmp_path: Path, slurm: None) -> Iterator[Road]:
    road = Road(tmp_path)
    yield road
    if road.process:
        road.process.kill()


def test_two_seeds_go_through_slurm_and_a_killed_job_is_queued_again(road: Road) -> None:
    slow = Path(f"{road.calls_file}.slow")
    slow.touch()
    road.start(*PLACE)
    road.wait_for("08_claims")
    before = road.calls()
    *finished, (last, _, _, process_id, killed) = before
    assert last == "08_claims"
    scontrol("requeue", killed)
    wait_until_gone(process_id)
    road.wait_for("08_claims")
    slow.unlink()
    code, said = road.finish()
    assert code == 0, said
    (again,) = road.calls()
    assert (again[0], again[4]) == ("08_claims", killed)

    classifiers = [f"05_vit-{arm}-{seed}" for arm in ("real", "gan") for seed in (0, 7)]
    classifiers += [f"05_vit-augment-{seed}-image" for seed in (0, 7)]
    chapters = [
        "01_dataset",
        "02_vae",
        "03_gan",
        "04_diffusion",
        "05_probes",
        "06_evaluation",
        "07_privacy",
        "07_fairness",
        "07_release",
    ]
    once = [*chapters, *classifiers]
    assert sorted(name for name, *_ in finished) == sorted(once)
    assert len({job for *_, job in before} - {None}) == len(before)
    for name, _, _, _, job in before:
        said = scontrol("show", "job", job)
        facts = dict(re.findall(r"(\S+?)=(\S*)", said))
        assert facts["JobState"] == "COMPLETED", said
        assert facts["Restarts"] == ("1" if name == "08_claims" else "0")
        if name in classifiers:
            asked = facts["NumCPUs"], facts["MinMemoryNode"], facts["TimeLimit"]
            assert asked == ("1", "4G", "12:00:00"), said


def scontrol(*arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], check=True, capture_output=True, text=True).stdout
