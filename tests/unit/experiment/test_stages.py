"""Rooms refuse what would spoil the experiment, and several processes leave in one what one process does."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.data import synthetic
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.synthetic import read_manifest
from hamsynth_utils.experiment import run as experiment_run
from hamsynth_utils.experiment import stages
from hamsynth_utils.experiment.classifiers import fine_tune
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import (
    effective_settings,
    make_further_seeds,
    make_synthetic,
    train_generator,
)
from hamsynth_utils.generators.loading import build_generator, checkpoint_metadata
from hamsynth_utils.generators.synthetic_sets import synthesize

CLASSES = HAM10000.classes.names


@pytest.fixture
def run(edited_tiny, tmp_path) -> Run:
    return Run.open("a", edited_tiny({"data": {"phantom_images": 300}}), root=tmp_path / "runs")


def put_synthetic_set(run: Run, rows: np.ndarray) -> None:
    """A set of the run's GAN, whose checkpoint says that it was trained on the images in these rows."""
    ids = sorted(run.lesions().table["image_id"].iloc[rows])
    about = {"trained_on": hashlib.sha256("\n".join(ids).encode()).hexdigest()}
    gan, room = (
        build_generator("gan", run.profile, n_classes=7),
        run.folder / "generators/gan/seed-0",
    )
    write_weights(
        room / "weights.safetensors",
        gan.state_dict(),
        {**checkpoint_metadata(gan, HAM10000), **about},
    )
    counts = dict.fromkeys(CLASSES, 40)
    synthesize(room / "weights.safetensors", counts, 0, room / "synthetic", progress=False)


def with_a_test_lesion(run: Run) -> np.ndarray:
    """The training part, and all photographs of one lesion of the test part."""
    lesions, split = run.lesions().table["lesion_id"].to_numpy(), run.split()
    return np.concatenate([split.train, np.flatnonzero(lesions == lesions[split.test[0]])])


def test_a_set_of_a_generator_trained_on_the_training_part_is_taken(run):
    put_synthetic_set(run, run.split().train)
    made = run.synthetic_set("gan")
    assert len(made) == 40 * len(CLASSES) and made.table["synthetic"].all()


def counted(monkeypatch, owner, name: str, calls: list) -> None:
    """Replaces a function by itself, with a list of its first arguments."""
    original = getattr(owner, name)

    def count(first, *others, **named):
        calls.append(first)
        return original(first, *others, **named)

    monkeypatch.setattr(owner, name, count)


def test_images_split_and_synthetic_images_are_read_once(run, monkeypatch):
    put_synthetic_set(run, run.split().train)
    lesion_sets, tables, pictures = [], [], []
    counted(monkeypatch, LesionSet, "load", lesion_sets)
    counted(monkeypatch, experiment_run, "read_csv", tables)
    counted(monkeypatch, synthetic, "verified_image", pictures)
    again = Run(run.folder, run.profile, run.data, run.seed)
    fine_tune(again, "gan", 0, progress_bar=False)
    assert len(again.synthetic_set("gan")) == len(pictures) == 40 * len(CLASSES)
    assert lesion_sets == [again.paths.lesions]
    assert tables.count(again.paths.split()) == 1


def test_settings_are_read_without_tensors(run, monkeypatch):
    gan = build_generator("gan", run.profile, n_classes=7)
    about = {**checkpoint_metadata(gan, HAM10000), "released": "true"}
    write_weights(run.paths.generator_weights("gan"), gan.state_dict(), about)
    for name in ("read_weights", "load_generator"):
        monkeypatch.setattr(stages, name, lambda *_: pytest.fail("tensors were read"))
    assert effective_settings(run, "gan") == run.profile.gan


def test_each_generator_seed_has_a_training_and_a_set_of_its_own(edited_tiny, tmp_path):
    change = {"data": {"phantom_images": 300}, "seeds": [4, 5], "generator_seeds": [0, 2]}
    run = Run.open("a", edited_tiny(change), root=tmp_path / "runs")
    sets = {}
    train_generator(run, "gan", progress_bar=False)
    make_synthetic(run, "gan", progress_bar=False)
    make_further_seeds(run, "gan", progress_bar=False)
    for seed in run.profile.generator_seeds:
        sets[seed] = run.synthetic_set("gan", seed)
        manifest = read_manifest(run.paths.synthetic("gan", seed))
        assert set(manifest["generator_seed"]) == {seed}
        assert run.paths.generator("gan", seed) == run.folder / f"generators/gan/seed-{seed}"
    assert not torch.equal(sets[0].images, sets[2].images)
    assert run.synthetic_set("gan") is sets[0]
    assert [run.generator_seed_for(seed) for seed in (4, 5, 6)] == [0, 2, 0]


def test_all_classifiers_learn_from_the_first_generator_seed_if_there_are_not_as_many(run):
    assert run.profile.generator_seeds == (0,)
    assert [run.generator_seed_for(seed) for seed in (0, 1, 7)] == [0, 0, 0]


@pytest.mark.parametrize(
    "rows",
    [with_a_test_lesion, lambda run: run.split("image").train, lambda run: run.split().train[1:]],
    ids=["a test lesion", "the other split's training part", "one image less"],
)
def test_a_set_of_a_generator_trained_on_other_images_is_refused(run, rows):
    """With a test lesion in it the generator could hand on what the classifier is tested with."""
    put_synthetic_set(run, rows(run))
    message = r"generators/gan/seed-0/synthetic comes from a generator trained on other images than this run's training part"
    with pytest.raises(InputError, match=message):
        run.synthetic_set("gan")
    with pytest.raises(InputError, match=message):
        fine_tune(run, "gan", 0, progress_bar=False)
    assert not (run.folder / "classifiers").exists()


def test_a_set_of_another_run_is_refused(run, edited_tiny, tmp_path):
    """Its file names are the same, and of its images none."""
    other = Run.open(
        "b", edited_tiny({"data": {"phantom_images": 300}}), seed=1, root=tmp_path / "runs"
    )
    put_synthetic_set(other, other.split().train)
    (run.folder / "generators").mkdir()
    (other.folder / "generators/gan").rename(run.folder / "generators/gan")
    with pytest.raises(InputError, match="trained on other images"):
        run.synthetic_set("gan")


@pytest.mark.parametrize(
    ("arm", "change"),
    [
        pytest.param(
            "weighted",
            {"frozen_blocks": 0},
            id="whole images, weighted classes",
            marks=pytest.mark.slow,
        ),
        pytest.param("augment", {"frozen_blocks": 1, "tta_views": 8}, id="kept tokens"),
    ],
)
def test_two_processes_fine_tune_a_classifier_as_one_does(arm, change, edited_tiny, tmp_path):
    """With paths that are dropped at random and a batch whose halves weigh differently."""
    torch.manual_seed(7)
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", depth=2).state_dict(), weights)
    classifier = {
        "depth": 2,
        "drop_path": 0.5,
        "weights": str(weights),
        "training": {"precision": "no"},
        **change,
    }
    profile = edited_tiny({"data": {"phantom_images": 300}, "classifier": classifier})
    fine_tune(Run.open("one", profile, root=tmp_path), arm, 3, progress_bar=False, split_by="image")
    # `accelerate launch --cpu` starts one process, whatever number it is given.
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    command = [
        "-m",
        "--",  # else the launcher takes --run for an abbreviation of its own --run-path
        "hamsynth_utils.cli",
        "train",
        "classifier",
        arm,
        "--classifier-seed",
        "3",
        "--split-by",
        "image",
    ]
    environment = {**os.environ, "HAMSYNTH_RUNS": str(tmp_path), "ACCELERATE_USE_CPU": "true"}
    command += ["--run", "two", "--profile", profile]
    said = subprocess.run(
        [*launch, *command],
        env=environment,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ).stdout
    assert said.count(f"classifiers/{arm}-image-split/seed-3: trained, 6 steps") == 1
    one, two = (
        tmp_path / name / f"classifiers/{arm}-image-split/seed-3" for name in ("one", "two")
    )
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    histories = [pd.read_csv(room / "history.csv").drop(columns="seconds") for room in (one, two)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-3)
    for name in ("predictions.csv", "validation_predictions.csv"):
        pd.testing.assert_frame_equal(*(pd.read_csv(room / name) for room in (one, two)), atol=2e-3)
    ours, theirs = (read_weights(room / "weights.safetensors")[0] for room in (one, two))
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=0.02, atol=2e-3, msg=key)
