"""The pipeline through SLURM, by profiles/slurm, on a cluster of this one machine: see slurm/cluster.sh."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from chapters import CHAPTERS
from conftest import ROOT, TINY, merged
from stand_in import Pipeline, wait_until_gone

from hamsynth_utils.core.weights import read_weights
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import train_generator

CLUSTER = Path(__file__).parent.parent / "support/slurm/cluster.sh"
# As make report SLURM=1 does, but for jobs that last seconds.
PLACE = (
    "--workflow-profile",
    str(ROOT / "profiles/slurm"),
    "--slurm-init-seconds-before-status-checks",
    "1",
)


@pytest.fixture
def slurm(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    missing = [
        name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)
    ]
    if missing:
        pytest.skip(
            f"no SLURM here, {', '.join(missing)} missing: on Debian, apt install slurm-wlm munge"
        )
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([CLUSTER, "start", folder], check=True)
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
        yield
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=True)


@pytest.fixture
def pipeline(tmp_path: Path, slurm: None) -> Iterator[Pipeline]:
    pipeline = Pipeline(tmp_path)
    yield pipeline
    if pipeline.process:
        pipeline.process.kill()


@pytest.mark.slow
def test_two_seeds_go_through_slurm_and_a_killed_job_is_queued_again(pipeline: Pipeline) -> None:
    slow = Path(f"{pipeline.calls_file}.slow")
    slow.touch()
    pipeline.start(*PLACE)
    pipeline.wait_for("15_claims")
    before = pipeline.calls()
    *finished, (last, _, _, process_id, killed) = before
    assert last == "15_claims"
    scontrol("requeue", killed)
    wait_until_gone(process_id)
    pipeline.wait_for("15_claims")
    slow.unlink()
    code, said = pipeline.finish()
    assert code == 0, said
    (again,) = pipeline.calls()
    assert (again[0], again[4]) == ("15_claims", killed)

    classifiers = [f"06_vit-{arm}-{seed}" for arm in ("real", "gan") for seed in (0, 7)]
    classifiers += [f"06_vit-augment-{seed}-image" for seed in (0, 7)]
    # The guarantee is no part of this target, and the claims were interrupted.
    chapters = [name for name in CHAPTERS if name not in ("11_guarantee", "15_claims")]
    once = [*chapters, *classifiers, "training-autoencoder-0"]
    assert sorted(name for name, *_ in finished) == sorted(once)
    assert len({job for *_, job in before} - {None}) == len(before)
    for name, _, _, _, job in before:
        said = scontrol("show", "job", job)
        facts = dict(re.findall(r"(\S+?)=(\S*)", said))
        assert facts["JobState"] == "COMPLETED", said
        assert facts["Restarts"] == ("1" if name == "15_claims" else "0")
        if name in classifiers:
            asked = facts["NumCPUs"], facts["MinMemoryNode"], facts["TimeLimit"]
            assert asked == ("1", "4G", "12:00:00"), said


TRAINS = """
import json, os, time
from hamsynth_utils.training import loop as training
from hamsynth_utils.experiment.stages import train_generator
from hamsynth_utils.experiment.run import Run

batches = training.batch_indices


def noted(lesions, settings, seed, start, total):
    with open(os.environ["CALLS"], "a") as calls:
        print(json.dumps([os.environ["SLURM_JOB_ID"], os.getpid(), start]), file=calls)
    for step, index in batches(lesions, settings, seed, start, total):
        while start == 0 and step == 20:  # whoever began at the beginning comes no further
            time.sleep(0.1)
        yield step, index


training.batch_indices = noted
train_generator(Run.open("007", profile, "phantom", 3), "gan", progress_bar=False)
"""


@pytest.mark.slow
def test_a_training_whose_job_is_killed_and_queued_again_goes_on_from_its_checkpoint(
    pipeline: Pipeline,
) -> None:
    """By papermill itself, to the weights of a training that nobody killed, bit for bit."""
    shutil.rmtree(pipeline.folder / "stand in")
    (pipeline.run / "run.yaml").unlink()
    profile = pipeline.folder / "my profile.yaml"
    config = json.loads((pipeline.folder / "pipeline.json").read_text(encoding="utf-8"))
    (pipeline.folder / "pipeline.json").write_text(
        json.dumps({**config, "data": "phantom"}), encoding="utf-8"
    )
    training = {"steps": 30, "checkpoint_seconds": 1.0e-9}
    profile.write_text(
        yaml.safe_dump(
            merged(TINY, {"data": {"phantom_images": 300}, "gan": {"training": training}})
        ),
        encoding="utf-8",
    )
    run = Run.open("007", str(profile), "phantom", 3, root=pipeline.run.parent)
    for name, source in (("01_dataset", "pass"), ("03_gan", TRAINS)):
        language = {"language_info": {"name": "python"}}
        notebook = nbformat.v4.new_notebook(
            metadata=language, cells=[nbformat.v4.new_code_cell(source)]
        )
        nbformat.write(notebook, pipeline.checkout / f"notebooks/{name}.ipynb")
    snakemake = pipeline.start(*PLACE, target=("notebooks/03_gan.ipynb",))
    checkpoint = run.folder / "generators/gan/seed-0/checkpoint.safetensors"
    while not checkpoint.is_file() or int(read_weights(checkpoint)[1]["step"]) < 20:
        assert snakemake.poll() is None, "the pipeline ended before its GAN"
        time.sleep(0.1)
    ((job, process_id, start),) = pipeline.calls()
    scontrol("requeue", job)
    wait_until_gone(process_id)
    code, said = pipeline.finish()
    assert code == 0, said
    assert start == 0 and [(again, at) for again, _, at in pipeline.calls()] == [(job, 20)]
    unbroken = Run.open("unbroken", str(profile), "phantom", 3, root=pipeline.run.parent)
    train_generator(unbroken, "gan", progress_bar=False)
    killed, whole = (
        read_weights(each.folder / "generators/gan/seed-0/weights.safetensors")[0]
        for each in (run, unbroken)
    )
    assert killed.keys() == whole.keys() and all(
        torch.equal(value, whole[key]) for key, value in killed.items()
    )


def scontrol(*arguments: str) -> str:
    return subprocess.run(
        ["scontrol", *arguments], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout
