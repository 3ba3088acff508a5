"""A data set of three other classes goes through the whole pipeline: no step knows HAM10000's classes."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY

from hamsynth_utils.classifier.predict import predict
from hamsynth_utils.classifier.pretrained import build_classifier
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.generator_settings import VAESettings
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.weights import write_weights
from hamsynth_utils.data.dataset_info import HAM10000, ClassList
from hamsynth_utils.data.ham10000 import NO_PAIRS
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet, labels_of, to_unit_range
from hamsynth_utils.data.split import lesion_split
from hamsynth_utils.experiment.arms import top_up_counts, training_set
from hamsynth_utils.generators.loading import checkpoint_metadata, load_generator
from hamsynth_utils.generators.synthetic_sets import synthesize
from hamsynth_utils.generators.vae import VAE
from hamsynth_utils.metrics import comparison
from hamsynth_utils.metrics.classification import confident_mistakes, confusion, per_class, scores
from hamsynth_utils.metrics.fairness import group_scores, largest_gaps
from hamsynth_utils.notebook import plots

CLASSES = ClassList(("a", "b", "c"), {"a": "alpha", "b": "beta", "c": "gamma"}, "b")
DATASET = replace(HAM10000, name="ABC", classes=CLASSES, licence="CC0 1.0")


def made_set(lesions: int = 240, size: int = 32) -> LesionSet:
    """Grey noise, brighter from class to class; two photos per lesion, b less often than a and c."""
    rng = np.random.default_rng(0)
    dx = np.repeat(rng.choice(list(CLASSES), lesions, p=[0.5, 0.2, 0.3]), 2)
    number = np.arange(len(dx))
    table = pd.DataFrame({"dx": dx, "age": rng.uniform(20, 80, len(dx)), "synthetic": False})
    table = table.assign(
        image_id=[f"i{n}" for n in number], lesion_id=[f"l{n // 2}" for n in number]
    )
    table = table.assign(sex=np.where(number // 2 % 2, "male", "female"))
    table = table.assign(localization="back", dataset="abc")[list(COLUMNS)]
    labels = torch.from_numpy(labels_of(table["dx"], CLASSES))
    noise = torch.from_numpy(rng.integers(0, 60, (len(dx), 3, size, size)))
    images = (noise + 80 * labels[:, None, None, None]).to(torch.uint8)
    return LesionSet(images, labels, table, CLASSES)


@pytest.fixture(scope="module")
def parts() -> dict[str, LesionSet]:
    lesions = made_set()
    split = lesion_split(lesions.table, CLASSES, NO_PAIRS, seed=0)
    return {name: lesions.subset(rows) for name, rows in split.parts().items()}


def test_a_split_has_every_class_in_every_part_or_says_which_is_missing(parts):
    assert all(list(part.counts) == ["a", "b", "c"] for part in parts.values())
    assert all(min(part.counts.values()) > 0 for part in parts.values())
    table = made_set().table
    one_of_c = (table["dx"] != "c") | (
        table["lesion_id"] == table["lesion_id"][table["dx"] == "c"].iloc[0]
    )
    with pytest.raises(InputError, match="the class c has no image in the .* part"):
        lesion_split(table[one_of_c].reset_index(drop=True), CLASSES, NO_PAIRS, seed=0)


def test_a_generator_learns_three_classes_and_its_checkpoint_knows_them(parts, tmp_path):
    vae = VAE(32, VAESettings(**TINY["vae"], autoencoder=TINY["autoencoder"]), n_classes=3).train()
    images, labels = to_unit_range(parts["train"].images[:8]), parts["train"].labels[:8]
    vae(vae.representation.encode(images), labels)["loss"].backward()
    (classes,) = {layer.classes.in_features for layer in vae.prior.in_order[0].in_order}
    assert classes == 3
    gradients = [p.grad for p in vae.prior.parameters()]
    assert all(torch.isfinite(each).all() for each in gradients)
    with pytest.raises(InputError, match="labels must lie in 0 to 2"):
        vae.sample(torch.tensor([3]), 0)
    path = tmp_path / "vae.safetensors"
    about = {"counts": json.dumps(parts["train"].counts)}
    write_weights(path, vae.state_dict(), {**checkpoint_metadata(vae, DATASET), **about})
    with pytest.raises(InputError, match="trained on the classes a, b, c, not akiec, bcc"):
        load_generator(path, classes=HAM10000.classes)
    synthetic = synthesize(path, {"b": 3, "c": 1}, 0, tmp_path / "set", progress=False)
    assert synthetic.counts == {"a": 0, "b": 3, "c": 1} and synthetic.classes == CLASSES
    with pytest.raises(InputError, match="unknown class 'mel'; known are a, b, c"):
        synthesize(path, {"mel": 1}, 0, tmp_path / "no", progress=False)


def test_an_arm_tops_up_the_rare_classes(parts):
    train = parts["train"]
    lacking = top_up_counts(train.counts, 0.9)
    assert list(lacking) == ["a", "b", "c"] and lacking["a"] == 0 < lacking["b"]
    table = train.table.assign(synthetic=True, image_id="s" + train.table["image_id"])
    copies = LesionSet(train.images, train.labels, table, CLASSES)
    both = training_set("vae", train, copies + copies, 0.9)
    assert both.counts["b"] == train.counts["b"] + lacking["b"]


def test_predictions_scores_and_plots_have_the_three_classes(parts, tiny_profile):
    settings = load_profile(tiny_profile).classifier
    classifier, _ = build_classifier(settings, seed=0, n_classes=3)
    test = parts["test"]
    predictions = predict(classifier, test)
    assert list(predictions.columns) == ["image_id", "dx", "p_a", "p_b", "p_c"]
    with pytest.raises(InputError, match="tells 7 classes apart, but the images have 3: a, b, c"):
        predict(build_classifier(settings, seed=0, n_classes=7)[0], test)

    counts = confusion(predictions)
    assert counts.shape == (3, 3) and counts.sum(1).tolist() == list(test.counts.values())
    assert scores(predictions)["accuracy"] == np.trace(counts) / counts.sum()
    assert per_class(predictions)["class"].tolist() == ["a", "b", "c"]
    mistakes = confident_mistakes(predictions, CLASSES.focus)
    assert len(mistakes) == counts.sum() - np.trace(counts)

    named = comparison.statistics(CLASSES)
    assert {"recall_c", "auroc_a", "b_sensitivity_at_80"} <= set(named)
    found = comparison.estimates(named, {0: predictions}, test.table["lesion_id"], 20, 0)
    assert found["recall_b"].value == counts[1, 1] / counts[1].sum()

    assert plots.confusion_matrix(counts, CLASSES).axes
    assert list(plots.class_colours(CLASSES)) == ["a", "b", "c"]
    names = [
        text.get_text() for text in plots.class_counts({"test": test}).axes[0].get_yticklabels()
    ]
    assert names == ["alpha", "beta", "gamma"]


def test_fairness_compares_the_recall_of_the_focus_class():
    lesions = made_set(600)
    table, dx = lesions.table, lesions.table["dx"]
    missed = (dx == "b") & (table["sex"] == "male") & (np.arange(len(dx)) % 4 < 3)
    called = dx.mask(missed, "a")
    p = pd.get_dummies(called)[["a", "b", "c"]].astype(float).add_prefix("p_")
    predictions = {0: pd.concat([table[["image_id", "dx"]], p], axis=1)}
    recall = {
        sex: (called == dx)[(dx == "b") & (table["sex"] == sex)].mean()
        for sex in ("male", "female")
    }
    gap = next(
        gap
        for gap in largest_gaps(predictions, table, CLASSES.focus, 50, 0)
        if (gap.attribute, gap.measure) == ("sex", "recall")
    )
    assert (gap.lowest, gap.highest) == ("male", "female") and recall["male"] < 0.8
    assert gap.estimate.value == pytest.approx(1 - recall["male"]) and recall["female"] == 1
    table_of_scores = group_scores(predictions, table, 50, 0).set_index(["group", "dx", "measure"])
    assert table_of_scores.loc[("male", "b", "recall"), "value"] == pytest.approx(recall["male"])
    with pytest.raises(InputError, match="focus class 'mel' is none of the predicted a, b, c"):
        largest_gaps(predictions, table, "mel", 50, 0)
