import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from hamsynth_utils.classifier.model import Probe
from hamsynth_utils.classifier.predict import predict
from hamsynth_utils.classifier.token_cache import CachedTokenData, CachedTokens
from hamsynth_utils.core.arm_names import ARMS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.data.split import leaked
from hamsynth_utils.experiment import classifiers as module
from hamsynth_utils.experiment.classifiers import ProbeJob, fine_tune, jobs_of, run_probes
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import make_synthetic, train_generator
from hamsynth_utils.training.loop import train

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns


@pytest.fixture
def run(edited_tiny, tmp_path, monkeypatch) -> Run:
    """A tiny run on the phantom whose GAN has made its set, with a 'pretrained' ViT of one block."""
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path / "runs"))
    torch.manual_seed(7)
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", depth=1).state_dict(), weights)
    profile = edited_tiny({"classifier": {"weights": str(weights)}})
    run = Run.open("probed", profile, "phantom", 0)
    train_generator(run, "gan", progress_bar=False)
    make_synthetic(run, "gan", progress_bar=False)
    return run


def test_probes_of_every_kind_predict_their_test_part_and_are_made_once(run, monkeypatch):
    jobs = [
        ProbeJob("real", 0),
        ProbeJob("real", 1),
        ProbeJob("augment", 0),
        ProbeJob("gan", 0),
        ProbeJob("gan", 0, ratio=1.0),
        ProbeJob("gan_only", 0),
        ProbeJob("oversample", 0, split_by="image"),
    ]
    assert set(jobs) <= set(jobs_of(run))
    sizes = {}

    def counted(probe, views, settings, folder, **how):
        sizes[folder.parent.name] = len(views.lesions)
        assert settings.total_steps(1) == 6  # whatever the arm has
        return train(probe, views, settings, folder, **how)

    monkeypatch.setattr(module, "train", counted)
    found = run_probes(run, jobs, progress=False)
    real, made = run.images("train"), make_synthetic(run, "gan")
    minority = [n for n in real.counts.values() if n < round(0.1 * max(real.counts.values()))]
    assert sizes["real"] == len(real) and sizes["gan_only"] == len(made)
    assert sizes["gan-ratio-1"] == len(real) + sum(minority)
    for job, frame in found.items():
        tested = run.images("test", job.split_by).table["image_id"]
        assert frame["image_id"].tolist() == tested.tolist()
        assert np.allclose(frame[PROBABILITIES].sum(axis=1), 1)
    assert not found[jobs[0]].equals(found[jobs[1]])

    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("made again"))
    again = run_probes(run, jobs, progress=False)
    assert all(again[job].equals(found[job]) for job in jobs)


def test_a_run_has_a_probe_of_each_arm_ratio_and_seed_once(run):
    jobs = jobs_of(run)
    assert len(set(jobs)) == len(jobs) == len({job.folder(run) for job in jobs})
    assert {job.arm for job in jobs} == set(ARMS)
    assert {job.seed for job in jobs} == {0, 1}


def test_the_other_split_leaks_and_has_real_arms_only(run):
    table = run.lesions().table
    own, other = run.split(), run.split("image")
    assert not leaked(table, own).any()
    assert leaked(table, other).any() and len(leaked(table, other)) == len(other.test)
    assert run.split("lesion").test.tolist() == own.test.tolist()
    with pytest.raises(InputError, match="has seen images of the other split"):
        run_probes(run, [ProbeJob("gan", 0, split_by="image")], progress=False)
    with pytest.raises(
        InputError, match="the arm gan under the split by image: its generator has seen"
    ):
        fine_tune(run, "gan", 0, split_by="image")
    tuned = fine_tune(run, "real", 0, progress_bar=False, split_by="image")
    assert tuned.predictions["image_id"].tolist() == table["image_id"].iloc[other.test].tolist()
    assert (run.folder / "classifiers/real-image-split/seed-0/predictions.csv").is_file()
    assert not (run.folder / "classifiers/real/seed-0").exists()


def test_a_probe_separates_what_is_linearly_separable(tiny_profile, tmp_path):
    lesions = make_phantom(350, seed=0)
    draw = np.random.default_rng(0)
    features = np.eye(len(CLASSES))[lesions.labels.numpy()] + 0.05 * draw.normal(size=(350, 7))
    tokens = CachedTokens(
        pd.Index(lesions.table["image_id"]), [features[:, None, None].astype(np.float16)]
    )
    classifier = load_profile(tiny_profile).classifier.model_copy(update={"tta_views": 1})
    settings = TrainingSettings(
        steps=200, batch_size=64, learning_rate=3e-2, class_balance_power=1.0
    )
    probe = Probe(7, classifier, n_classes=7)
    train(probe, CachedTokenData(lesions, tokens), settings, tmp_path, seed=0, progress_bar=False)
    frame = predict(probe, lesions, tokens=tokens)
    assert (frame[PROBABILITIES].to_numpy().argmax(1) == lesions.labels.numpy()).all()
