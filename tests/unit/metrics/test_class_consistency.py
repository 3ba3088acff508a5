import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.metrics.class_consistency import class_consistency, fit_probe, probe_predictions
from hamsynth_utils.metrics.features import extract, load_extractor

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns

COUNTS = [40, 60, 120, 30, 120, 600, 30]


def lesions(seed: int, spread: float = 1.0) -> tuple[np.ndarray, torch.Tensor, pd.DataFrame]:
    """Seven overlapping classes as unlike in number as the real ones: features, labels, table."""
    labels = np.repeat(np.arange(7), COUNTS)
    features = np.random.default_rng(seed).normal(1.5 * np.eye(7, 12)[labels], spread)
    names = [f"{seed}-{row}" for row in range(len(labels))]
    dx = [CLASSES[label] for label in labels]
    return (
        features,
        torch.from_numpy(labels),
        pd.DataFrame({"image_id": names, "lesion_id": names, "dx": dx}),
    )


@pytest.fixture(scope="module")
def probe():
    return fit_probe(*lesions(0)[:2], *lesions(1)[:2])


def consistency(
    probe, features: np.ndarray, table: pd.DataFrame, seed: int = 0
) -> dict[str, float]:
    test, _, test_table = lesions(2)
    real = probe_predictions(probe, test, test_table, HAM10000.classes)
    return class_consistency(
        probe_predictions(probe, features, table, HAM10000.classes),
        real,
        test_table["lesion_id"],
        400,
        seed,
    )


def test_images_of_the_requested_classes_reach_the_probes_own_accuracy(probe):
    features, labels, table = lesions(3)
    result = consistency(probe, features, table)
    assert result["synthetic"] == pytest.approx(
        balanced_accuracy_score(labels, probe.predict(features))
    )
    assert result["ratio"] == pytest.approx(result["synthetic"] / result["real"])
    assert (
        result["ratio_low"] < 1 < result["ratio_high"]
        and result["ratio_high"] - result["ratio_low"] < 0.5
    )
    assert result["real"] > 0.5 and (result["n_synthetic"], result["n_real"]) == (1000, 1000)
    assert consistency(probe, features, table) == result


def test_wrong_labels_lower_it_to_chance(probe):
    features, _, table = lesions(3)
    found = [
        consistency(
            probe,
            features,
            table.assign(dx=table["dx"].sample(frac=1, random_state=seed).to_numpy()),
        )
        for seed in range(8)
    ]
    assert np.mean([result["synthetic"] for result in found]) == pytest.approx(1 / 7, abs=0.02)
    assert max(result["ratio_high"] for result in found) < 0.5


def test_a_class_drawn_as_another_is_seen(probe):
    """Images asked for as df that show the largest class cost that class its recall."""
    features, labels, table = lesions(3)
    spoilt = features.copy()
    spoilt[labels == 3] = lesions(4)[0][labels == 5][:30]
    good, bad = (consistency(probe, x, table)["synthetic"] for x in (features, spoilt))
    assert bad < good - 0.05
    named = probe_predictions(probe, spoilt, table, HAM10000.classes)
    of_df = named.loc[named["dx"] == "df", list(PROBABILITIES)].to_numpy().argmax(1)
    assert np.mean(of_df == 3) < 0.3


def test_a_ratio_above_one_means_more_typical_than_real(probe):
    assert consistency(probe, *lesions(3, spread=0.3)[::2])["ratio_low"] > 1


def test_the_probe_does_not_overlook_rare_classes(probe):
    """Unweighted, it would answer the largest class far more often."""
    features, labels, _ = lesions(5)
    recall = [np.mean(probe.predict(features)[labels == label] == label) for label in range(7)]
    assert min(recall) > 0.35


def test_regularisation_is_chosen_on_validation():
    """Where validation labels are of the features, weak is best; where training labels are noise, strong is."""
    features, labels, _ = lesions(0)
    wide = np.concatenate([features, np.random.default_rng(9).normal(size=(1000, 400))], axis=1)
    wide_validation = np.concatenate(
        [lesions(1)[0], np.random.default_rng(8).normal(size=(1000, 400))], axis=1
    )
    strengths = [
        fit_probe(*pair).named_steps["logisticregression"].C
        for pair in ((features, labels, *lesions(1)[:2]), (wide, labels, wide_validation, labels))
    ]
    assert strengths[1] < strengths[0]


@pytest.mark.slow
def test_on_the_phantom_other_lesions_pass_and_swapped_classes_do_not():
    extractor = load_extractor("efficientnet_lite0")
    sets = [make_phantom(n, seed=seed) for seed, n in enumerate((700, 250, 350))]
    found = [extract(one.images, extractor) for one in sets]
    probe = fit_probe(found[0], sets[0].labels, found[1], sets[1].labels)
    real = probe_predictions(probe, found[1], sets[1].table, HAM10000.classes)
    other = probe_predictions(probe, found[2], sets[2].table, HAM10000.classes)
    swapped = other.assign(
        dx=other["dx"].map(dict(zip(CLASSES, CLASSES[1:] + CLASSES[:1], strict=True)))
    )
    good, bad = (
        class_consistency(x, real, sets[1].table["lesion_id"], 200, 0) for x in (other, swapped)
    )
    assert good["ratio_high"] > 0.9 and good["ratio"] > 0.7
    assert bad["synthetic_high"] < 0.3


def test_a_class_without_training_images_has_probability_zero():
    features, labels, table = lesions(0)
    kept = (labels != 3).numpy()
    probe = fit_probe(features[kept], labels[kept], features, labels)
    named = probe_predictions(probe, features, table, HAM10000.classes)
    assert (named["p_df"] == 0).all() and np.allclose(named[list(PROBABILITIES)].sum(axis=1), 1)


def test_bad_input_is_refused(probe):
    features, labels, table = lesions(0)
    with pytest.raises(InputError, match="999 rows of features for 1000 labels"):
        fit_probe(features[1:], labels, features, labels)
    with pytest.raises(InputError, match="at least two"):
        fit_probe(features[:40], labels[:40], features, labels)
    with pytest.raises(InputError, match="999 rows of features for 1000 rows"):
        probe_predictions(probe, features[1:], table, HAM10000.classes)
