"""Snapshots by distance: what is measured at each, and that the chosen one becomes the generator."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from hamsynth_utils.core.weights import read_weights
from hamsynth_utils.experiment.learning_curves import (
    HeldoutDistance,
    choose_snapshot,
    chosen_guidance,
    reconstruction_distances,
    snapshot_distances,
    snapshot_files,
)
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import train_generator
from hamsynth_utils.generators.loading import load_generator
from hamsynth_utils.metrics.features import extract, load_extractor
from hamsynth_utils.metrics.fidelity import distance_of_all

SMALL = {
    "data": {"phantom_images": 300, "image_size": 32},
    "synthesis": {"n_curve_images": 12},
    "gan": {"autoencoder": None},
}


@pytest.fixture
def run(edited_tiny, tmp_path) -> Run:
    return Run.open("a", edited_tiny(SMALL), root=tmp_path / "runs")


def same(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    state = module.state_dict()
    return all(torch.equal(state[key].cpu(), value) for key, value in tensors.items())


def test_a_chosen_snapshot_is_the_generator_and_the_last_weights_stay_among_the_snapshots(run):
    training = train_generator(run, "gan", progress_bar=False)
    folder, (*_, middle, last) = run.paths.generator("gan"), training.snapshots
    weights = folder / "weights.safetensors"
    end, about = read_weights(weights)
    half, _ = read_weights(training.snapshots[middle])
    assert not same(training.module, half)

    choose_snapshot(run, "gan", training, last)
    assert same(training.module, end) and snapshot_files(run, "gan", training) == training.snapshots
    assert not (folder / f"snapshots/{last}.safetensors").exists()

    for _ in range(2):  # once more changes nothing
        choose_snapshot(run, "gan", training, middle)
        found, described = read_weights(weights)
        assert described == {**about, "steps": str(middle)}
        assert all(torch.equal(found[key], half[key]) for key in half)
        assert same(training.module, half)
        assert same(load_generator(weights, "gan"), half)
        files = snapshot_files(run, "gan", training)
        assert list(files) == list(training.snapshots)
        kept, described = read_weights(files[last])
        assert described == about and all(torch.equal(kept[key], end[key]) for key in end)

    again = train_generator(run, "gan", progress_bar=False)
    assert again.loaded and same(again.module, half)
    assert snapshot_files(run, "gan", again) == files

    choose_snapshot(run, "gan", again, last)  # and back
    assert same(again.module, end) and read_weights(weights)[1] == about
    choose_snapshot(run, "gan", again, middle)
    assert same(again.module, half)
    assert all(torch.equal(read_weights(files[last])[0][key], end[key]) for key in end)


@pytest.mark.slow
@pytest.mark.parametrize("split_by", ["lesion", "image"])
def test_the_snapshot_of_the_least_distance_is_chosen_once(edited_tiny, tmp_path, split_by):
    change = {**SMALL, "data": {**SMALL["data"], "split_by": split_by}}
    run = Run.open("a", edited_tiny(change), root=tmp_path / "runs")
    training, evaluator = train_generator(run, "gan", progress_bar=False), HeldoutDistance(run)
    table = snapshot_distances(run, "gan", training, evaluator)
    assert list(table["step"]) == list(training.snapshots) == [1, 2, 3, 6]
    assert table["chosen"].sum() == 1 and table["mean"].idxmin() == table["chosen"].idxmax()
    chosen = int(table.loc[table["chosen"], "step"].iloc[0])
    for step, path in snapshot_files(run, "gan", training).items():
        made = evaluator.samples(load_generator(path, "gan"))
        features = extract(made, evaluator.extractor)
        found = distance_of_all(evaluator.features, features, 2, run.seed)
        (row,) = table[table["step"] == step].to_dict("records")
        assert row["mean"] == pytest.approx(found["mean"], rel=1e-3) and row["n"] == len(made) == 12
    assert (table["low"] <= table["mean"]).all() and (table["nearest"] > 0).all()
    assert table["coverage"].between(0, 1).all() and table["recall"].between(0, 1).all()
    # Under a split by image a lesion may be on both sides: its held-out images are left out.
    assert table["membership"].dropna().between(0, 1).all()
    assert set(table["measure"]) == {"FD-lite0"} and table["minutes"].is_monotonic_increasing
    assert read_weights(run.paths.generator_weights("gan"))[1]["steps"] == str(chosen)
    # Asked again, nothing is measured.
    again = train_generator(run, "gan", progress_bar=False)
    pd.testing.assert_frame_equal(snapshot_distances(run, "gan", again, None), table)


def test_the_baseline_is_that_of_other_real_images_and_noise_is_farther(edited_tiny, tmp_path):
    change = {**SMALL, "synthesis": {"n_curve_images": 80}}
    run = Run.open("a", edited_tiny(change), root=tmp_path / "runs")
    evaluator = HeldoutDistance(run)
    held, train = run.images("validation"), run.images("train")
    assert evaluator.extractor_name == "efficientnet_lite0" and evaluator.title == "FD-lite0"
    # Of as many images as are sampled, in the same proportions of the classes.
    assert evaluator.real_baseline["n"] == len(evaluator.labels) == 80
    noise = torch.randint(0, 256, (80, 3, 32, 32), dtype=torch.uint8)
    far = evaluator.distance(noise)
    # Few images are apart even from their like, and noise is farther still.
    assert 0 < evaluator.real_baseline["mean"] < 0.7 * far["mean"]
    copies = evaluator.distance(train.images[:80])
    assert copies["nearest"] == pytest.approx(0, abs=1e-3) and far["nearest"] > 1
    theirs = extract(held.images, load_extractor("efficientnet_lite0"))
    np.testing.assert_allclose(evaluator.features, theirs, rtol=1e-2, atol=1e-2)


def test_an_attack_without_unseen_lesions_is_not_measured(run, monkeypatch):
    evaluator = HeldoutDistance(run)
    training = train_generator(run, "gan", progress_bar=False)
    assert 0 <= evaluator.membership(training.module) <= 1
    evaluator.held_out = run.images("train").subset(np.arange(8))
    assert np.isnan(evaluator.membership(training.module))


@pytest.mark.slow
def test_the_decoders_part_of_a_distance_is_that_of_decoded_images(edited_tiny, tmp_path):
    change = {**SMALL, "gan": {}, "synthesis": {"n_curve_images": 24}}
    run = Run.open("a", edited_tiny(change), root=tmp_path / "runs")
    gan, evaluator = train_generator(run, "gan", progress_bar=False).module, HeldoutDistance(run)
    table = reconstruction_distances(run, gan, evaluator, run.images("test")).set_index("images")
    assert list(table.index) == ["images as they are", "encoded and decoded", "samples"]
    assert table.loc["images as they are", "fine"] == 1
    assert table.loc["encoded and decoded", "fine"] < 1  # an autoencoder of six steps blurs
    assert table.loc["images as they are", "mean"] < table.loc["encoded and decoded", "mean"]


def curve(means: tuple[float, ...], coverage: tuple[float, ...] | None = None) -> pd.DataFrame:
    """Four scales, each measured on five pairs of halves with a standard error of 10, on 100 images."""
    frame = pd.DataFrame({"guidance": [1.0, 2.0, 3.0, 4.0], "mean": means})
    high = frame["mean"] + 10 * stats.t.ppf(0.975, 4) * 2**0.5
    return frame.assign(high=high, n_subsets=5, n=100, coverage=coverage or (np.nan,) * 4)


@pytest.mark.parametrize(
    ("means", "chosen"),
    [((100, 101, 105, 111), 3.0), ((105, 100, 111, 111), 2.0), ((111, 111, 111, 100), 4.0)],
)
def test_the_strongest_guidance_within_one_standard_error_is_chosen(means, chosen):
    assert chosen_guidance(curve(means)) == chosen
    assert chosen_guidance(curve(means, (0.5,) * 4)) == chosen  # a variety that does not change


@pytest.mark.parametrize(
    ("coverage", "chosen"),
    [
        ((0.5, 0.5, 0.4, 0.4), 2.0),  # one standard error of 0.5 with n = 100 is 0.05
        ((0.5, 0.5, 0.455, 0.44), 3.0),
        ((0.5, 0.46, 0.44, 0.5), 4.0),
        ((0.2, 0.3, 0.3, 0.5), 4.0),
        ((1.0, 1.0, 1.0, 0.99), 3.0),  # where all are covered, every image that is lost counts
        ((0.0, 0.0, 0.0, 0.0), 4.0),
        ((np.nan,) * 4, 4.0),
    ],
)
def test_guidance_that_costs_variety_is_not_chosen(coverage, chosen):
    assert chosen_guidance(curve((100, 101, 102, 103), coverage)) == chosen


def test_the_scale_of_the_least_distance_may_always_be_chosen():
    """Where no scale is near in both, the distance counts."""
    assert chosen_guidance(curve((130, 130, 130, 100), (0.9, 0.9, 0.9, 0.3))) == 4.0
