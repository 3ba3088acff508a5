"""The table of released generators: verdicts on targets, and files that may not be judged."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.generators.loading import build_generator, checkpoint_metadata
from hamsynth_utils.metrics.features import extract
from hamsynth_utils.metrics.fidelity import frechet_distance
from hamsynth_utils.release import generator_quality
from hamsynth_utils.release.generator_quality import Quality, Target, quality_table, read_targets


@pytest.mark.parametrize(
    ("target", "good", "bad", "said"),
    [
        (Target("FD-ViT", 8, at_least=False), (7.9, 8.0, 0.0), (8.1, np.nan), "<= 8"),
        (Target("coverage", 0.65, at_least=True), (0.65, 0.9), (0.64, np.nan), ">= 0.65"),
    ],
)
def test_a_target_is_met_up_to_its_bound_and_never_by_what_was_not_measured(
    target, good, bad, said
):
    assert all(target.met(value) for value in good)
    assert not any(target.met(value) for value in bad)
    assert str(target) == said


def test_every_generator_has_targets_of_measures_that_the_table_has():
    assert set(read_targets()) == set(GENERATORS)
    for targets in read_targets().values():
        assert [each.measure for each in targets] == [
            "FD-ViT",
            "FD-lite0 / baseline",
            "coverage",
            "consistency / real",
        ]
        assert [each.at_least for each in targets] == [False, False, True, True]


@pytest.fixture
def run(edited_tiny, tmp_path) -> Run:
    """Of a phantom, with a ViT whose weights are in a file."""
    torch.manual_seed(7)
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", depth=1).state_dict(), weights)
    change = {
        "data": {"phantom_images": 300, "image_size": 32},
        "classifier": {"weights": str(weights)},
        "gan": {"autoencoder": None},
    }
    return Run.open("a", edited_tiny(change), root=tmp_path / "runs")


def checkpoint(run: Run, name: str, **about: str):
    """An untrained generator in a file that says what it was trained on."""
    torch.manual_seed(0)
    generator = build_generator(name, run.profile, n_classes=7)
    metadata = {
        **checkpoint_metadata(generator, run.dataset),
        "trained_on": run.training_fingerprint(),
        **about,
    }
    path = run.folder / f"{name}.safetensors"
    write_weights(path, generator.state_dict(), metadata)
    return path


def test_a_generator_that_may_have_seen_the_images_or_draws_others_is_refused(run, monkeypatch):
    """Before anything is measured, which takes long."""
    monkeypatch.setattr(generator_quality, "Quality", lambda *_: pytest.fail("measured"))
    with pytest.raises(
        InputError, match=r"gan\.safetensors was not trained on the training images"
    ):
        quality_table(run, {"gan": checkpoint(run, "gan", trained_on="abc")})
    path = checkpoint(run, "gan")
    tensors, metadata = read_weights(path)
    del metadata["trained_on"]
    write_weights(path, tensors, metadata)
    with pytest.raises(InputError, match="was not trained on the training images"):
        quality_table(run, {"gan": path})
    with pytest.raises(InputError, match="draws images of 128 pixels a side, not of 32"):
        quality_table(run, {"gan": checkpoint(run, "gan", image_size="128")})
    with pytest.raises(InputError, match="in format 2"):
        quality_table(run, {"gan": checkpoint(run, "gan", format="2")})
    with pytest.raises(InputError, match="holds a gan, not a vae"):
        quality_table(run, {"vae": checkpoint(run, "gan")})


def test_a_table_has_every_measure_with_its_baseline_and_verdict(run, monkeypatch):
    monkeypatch.setattr(generator_quality, "PER_CLASS", 4)
    monkeypatch.setattr(generator_quality, "N_IMAGES", 40)
    qualities = []
    monkeypatch.setattr(
        generator_quality, "Quality", lambda of: qualities.append(Quality(of)) or qualities[-1]
    )
    table = quality_table(run, {"gan": checkpoint(run, "gan")}).set_index("measure")
    assert set(table["generator"]) == {REGISTRY["gan"].title} and set(table["n"]) == {40}
    targets = {target.measure: target for target in read_targets()["gan"]}
    assert set(targets) | {"FD-lite0", "recall", "fine", "peak"} == set(table.index)
    for measure, row in table.iterrows():
        target = targets.get(measure)
        assert row["target"] == ("" if target is None else str(target))
        assert row["met"] == ("" if target is None else "yes" if target.met(row["value"]) else "no")
    ratio = table.loc["FD-lite0", "value"] / table.loc["FD-lite0", "baseline"]
    assert table.loc["FD-lite0 / baseline", "value"] == pytest.approx(ratio)
    assert ratio > 1 and table.loc["FD-ViT", "value"] > table.loc["FD-ViT", "baseline"] > 0
    (quality,) = qualities
    test, train = run.images("test"), run.images("train")
    features = [
        extract(images, quality.extractors["efficientnet_lite0"])
        for images in (train.images[torch.from_numpy(quality.rows)], test.images[:40])
    ]
    expected = frechet_distance(*features)
    assert table.loc["FD-lite0", "baseline"] == pytest.approx(expected, rel=1e-2)
    assert len(quality.rows) == len(set(quality.rows)) == 40


def test_what_is_drawn_is_the_generators_own_and_each_image_has_its_own_seed(run):
    class Flat:
        """Draws images of one grey: no power at any frequency, and no variety."""

        def __init__(self) -> None:
            self.seeds: list[int] = []

        def sample(self, labels, seed):
            self.seeds += range(seed, seed + len(labels))
            return torch.zeros(len(labels), 3, 32, 32)

    quality, flat = Quality(run), Flat()
    found = quality.measure(flat)
    assert len(flat.seeds) == len(set(flat.seeds)) == quality.n_images + 7 * 100
    assert found["fine"] == pytest.approx(0, abs=1e-9) and found["recall"] == 0
    baseline = quality.baseline()
    assert 0.5 < baseline["fine"] < 2 and baseline["consistency / real"] == 1
    assert found["FD-lite0"] > 2 * baseline["FD-lite0"]
