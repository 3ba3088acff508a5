import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import TINY, merged
from huggingface_hub import ModelCard

from hamsynth_utils.cli import main
from hamsynth_utils.core import paths
from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.weights import read_weights, sha256_of
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.synthetic import read_synthetic
from hamsynth_utils.experiment.arms import in_proportion
from hamsynth_utils.experiment.learning_curves import (
    HeldoutDistance,
    chosen_guidance,
    sampling_curves,
    snapshot_distances,
    snapshot_samples,
)
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import make_synthetic, train_autoencoder, train_generator
from hamsynth_utils.generators.loading import load_generator
from hamsynth_utils.metrics.features import extract, load_extractor
from hamsynth_utils.metrics.fidelity import distance_with_interval
from hamsynth_utils.release.checkpoints import release

pytestmark = pytest.mark.slow

CLASSES = HAM10000.classes.names

CHANGE = {
    "synthesis": {"n_curve_images": 16},
    "diffusion": {"guidance_scales": [1.0, 2.0], "curve_steps": [2, 4]},
}


def write_profile(folder: Path, change: dict) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(merged(merged(TINY, CHANGE), change)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with all that its generators' chapters leave."""
    folder = tmp_path_factory.mktemp("finished")
    run = Run.open("long", write_profile(folder, {}), root=folder)
    evaluator = HeldoutDistance(run)
    for name in GENERATORS:
        training = train_generator(run, name, progress_bar=False)
        snapshot_distances(run, name, training, evaluator)
        if name == "diffusion":
            sampling_curves(run, training.module, evaluator)
    return run


def test_a_released_checkpoint_is_taken_over_by_a_run_on_the_same_images(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    for name in GENERATORS:
        path = release(finished, name, tmp_path / "checkpoints")
        assert (
            path.stat().st_size
            < 0.75
            * (finished.folder / f"generators/{name}/seed-0/weights.safetensors").stat().st_size
        )
    # Other settings, same images: those of the checkpoint count.
    other = write_profile(
        tmp_path,
        {"use_released_checkpoints": True, "gan": {"latent_size": 24}, "vae": {"layers": 2}},
    )
    run = Run.open("short", other, root=tmp_path)
    labels = torch.arange(len(CLASSES))
    for name in GENERATORS:
        training = train_generator(run, name, progress_bar=False)
        assert training.origin == "loaded from the released checkpoint"
        own = load_generator(finished.folder / f"generators/{name}/seed-0/weights.safetensors")
        assert (
            training.module.sample(labels, 3) - own.sample(labels, 3)
        ).abs().mean() < 0.02  # half precision
        for table in ("history", "snapshot_distances"):
            frames = [
                pd.read_csv(r.folder / f"generators/{name}/seed-0/{table}.csv")
                for r in (run, finished)
            ]
            pd.testing.assert_frame_equal(*frames)
        assert len(make_synthetic(run, name, progress_bar=False)) > 0
    assert train_autoencoder(run).origin == "loaded from the released checkpoint"


def test_a_run_on_other_images_or_one_that_does_not_want_it_trains_its_own(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    release(finished, "gan", tmp_path / "checkpoints")
    unwanted = Run.open("unwanted", write_profile(tmp_path, {}), root=tmp_path)
    assert train_generator(unwanted, "gan", progress_bar=False).origin == "trained now"
    profile = write_profile(tmp_path / "b", {"use_released_checkpoints": True})
    n_other_images = Run.open("other", profile, seed=1, root=tmp_path)
    assert train_generator(n_other_images, "gan", progress_bar=False).origin == "trained now"


def test_the_command_writes_checkpoint_card_and_pictures(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HAMSYNTH_RUNS", str(finished.folder.parent))
    profile = str(finished.folder.parent / "tiny.yaml")
    make_synthetic(finished, "diffusion", progress_bar=False)
    out = tmp_path / "out"
    arguments = ["--run", "long", "--profile", profile, "--data", "phantom", "--out", str(out)]
    assert main(["checkpoint", *arguments, "--generators", "diffusion"]) == 0
    names = {
        "diffusion.safetensors",
        "diffusion.md",
        "diffusion-snapshots.png",
        "diffusion-classes.png",
    }
    assert {path.name for path in out.iterdir()} == names
    text = (out / "diffusion.md").read_text(encoding="utf-8")
    assert sha256_of(out / "diffusion.safetensors") in text and "CC BY-NC-SA 4.0" in text
    header = ModelCard(text).data
    assert header.license == "cc-by-nc-sa-4.0" and "synthetic" in header.tags
    assert "trained on the phantom" in text and "HAM10000" not in text
    spent = pd.read_csv(finished.folder / "generators/diffusion/seed-0/snapshot_distances.csv")
    assert all(f"| {round(distance, 1)} |" in text for distance in spent["mean"])
    assert_measured_again(finished, text)
    assert f"{finished.lesions().subset(finished.split().train).counts['nv']} nv" in text
    assert main(["checkpoint", *arguments[:-1], str(out), "--seed", "1"]) == 2
    assert "error:" in capsys.readouterr().err


def assert_measured_again(run: Run, text: str) -> None:
    """The card's FD-lite0 is that of the distance measured here, its floor is lower, and n stands with both."""
    real, made = (
        run.images("train"),
        read_synthetic(run.folder / "generators/diffusion/seed-0/synthetic", HAM10000.classes),
    )
    shown = in_proportion(made, real.counts, run.profile.synthesis.evaluation_images)
    n, n_subsets = min(len(shown), int(0.45 * len(real))), run.profile.evaluation.n_subsets
    extractor = load_extractor("efficientnet_lite0")
    features = [extract(each.images, extractor) for each in (real, shown)]
    own = distance_with_interval(*features, n, n_subsets, run.seed)
    line = next(line for line in text.splitlines() if line.startswith("| FD-lite0"))
    mean, low, high, floor, images = (float(cell) for cell in line.strip("| ").split("|")[1:])
    assert (
        mean == pytest.approx(own["mean"], rel=1e-3)
        and low < mean < high
        and floor < mean
        and images == n
    )
    named = re.search(
        r"requested class of\n([\d.]+) % \(([\d.]+) to ([\d.]+)\) of (\d+) synthetic", text
    )
    assert (
        named
        and float(named[2]) <= float(named[1]) <= float(named[3])
        and int(named[4]) == len(made)
    )


def test_only_finished_generators_are_released(tmp_path):
    run = Run.open("young", write_profile(tmp_path, {}), root=tmp_path)
    train_generator(run, "vae", progress_bar=False)
    with pytest.raises(
        InputError, match=r"snapshot_distances\.csv is not there yet: run the notebook of the vae"
    ):
        release(run, "vae", tmp_path / "checkpoints")


def test_the_budget_follows_the_training_and_the_moments_are_drawn_from_the_same_latents(finished):
    training = train_generator(finished, "vae", progress_bar=False)
    table = pd.read_csv(finished.folder / "generators/vae/seed-0/snapshot_distances.csv")
    assert (
        table["step"].tolist() == list(training.snapshots)
        and table["minutes"].is_monotonic_increasing
    )
    assert (table["mean"] > 0).all() and (table["n"] == 16).all()
    pictures = snapshot_samples(finished, "vae", training)
    own = training.module.sample(torch.arange(len(CLASSES)), finished.seed)
    chosen = table.loc[table["chosen"], "step"].iloc[0]
    assert {step for step, drawn in pictures.items() if torch.equal(drawn, own)} == {chosen}


def test_the_chosen_guidance_samples_the_synthetic_set(finished):
    curves = pd.read_csv(finished.folder / "generators/diffusion/seed-0/sampling.csv")
    best = chosen_guidance(curves[curves["curve"] == "guidance"])
    weights = finished.folder / "generators/diffusion/seed-0/weights.safetensors"
    assert load_generator(weights).settings.guidance == best
    assert set(curves.loc[curves["curve"] == "steps", "solver"]) == {"ddim", "dpm++"}
    assert (curves["passes"] == curves["steps"] * (1 + (curves["guidance"] > 1))).all()
    # Asked again, nothing is measured twice and the same is chosen.
    training = train_generator(finished, "diffusion", progress_bar=False)
    assert training.module.settings.guidance == finished.profile.diffusion.guidance
    sampling_curves(finished, training.module, None)
    assert training.module.settings.guidance == best
    make_synthetic(finished, "diffusion", progress_bar=False)
    made = read_synthetic(
        finished.folder / "generators/diffusion/seed-0/synthetic", HAM10000.classes
    )
    table = pd.read_csv(finished.folder / "generators/diffusion/seed-0/snapshot_distances.csv")
    chosen = table.loc[table["chosen"], "step"].iloc[0]
    assert len(made) and read_weights(weights)[1]["steps"] == str(chosen)
