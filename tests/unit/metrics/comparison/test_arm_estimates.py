import numpy as np
import pandas as pd
import pytest
from conftest import make_predictions
from scipy import stats
from sklearn import metrics

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.metrics.classification import bootstrap_scores, scores
from hamsynth_utils.metrics.comparison import (
    difference,
    estimate,
    holm,
    mcnemar_test,
    statistics,
    unpaired_difference,
)

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns

STATISTICS = statistics(HAM10000.classes)
LESIONS = np.repeat(np.arange(150), 2)


def of_same_images(seed: int, skill: float = 1.5):
    """Predictions of the images of `make_predictions(300)` by another training."""
    truth = make_predictions(300)
    labels = truth["dx"].map(CLASSES.index).to_numpy()
    logits = np.random.default_rng([seed, 1]).normal(size=(300, 7))
    logits[np.arange(300), labels] += skill
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth.assign(**dict(zip(PROBABILITIES, p.T, strict=True)))


def arm(skill: float = 1.5, seeds=(0, 1, 2)):
    return {seed: of_same_images(seed, skill) for seed in seeds}


def test_every_statistic_of_the_test_images_is_the_librarys():
    predictions = of_same_images(0)
    found = {name: float(s(predictions, np.ones((1, 300)))[0]) for name, s in STATISTICS.items()}
    expected = scores(predictions)
    predicted = np.array(CLASSES)[predictions[list(PROBABILITIES)].to_numpy().argmax(1)]
    for dx in CLASSES:
        truth, p = predictions["dx"] == dx, predictions[f"p_{dx}"]
        expected[f"recall_{dx}"] = (predicted[truth] == dx).mean()
        expected[f"auroc_{dx}"] = metrics.roc_auc_score(truth, p)
        expected[f"average_precision_{dx}"] = metrics.average_precision_score(truth, p)
    expected["auroc_macro"] = np.mean([expected[f"auroc_{dx}"] for dx in CLASSES])
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert set(found) - set(expected) == {
        "mel_sensitivity_at_80",
        "mel_sensitivity_at_90",
        "brier",
        "calibration_error",
    }


def test_with_one_seed_the_interval_is_that_of_the_bootstrap_over_lesions():
    predictions = of_same_images(0)
    ours = estimate(STATISTICS["accuracy"], {0: predictions}, LESIONS, 4000, 3)
    theirs = bootstrap_scores(predictions, LESIONS, 4000, 3).set_index("metric").loc["accuracy"]
    assert ours.value == theirs["value"]
    assert [ours.low, ours.high] == pytest.approx([theirs["low"], theirs["high"]], abs=0.005)
    assert (ours.images, ours.lesions, ours.seeds) == (300, 150, 1)


def test_the_interval_holds_the_chance_of_training_too():
    """Seeds that differ widely, on a test set so large that lesions hardly matter."""
    sharp, blunt = of_same_images(0, 6.0), of_same_images(0, 0.0)
    even = estimate(STATISTICS["accuracy"], {k: sharp for k in range(4)}, LESIONS, 2000, 0)
    uneven = estimate(
        STATISTICS["accuracy"], {0: sharp, 1: sharp, 2: blunt, 3: blunt}, LESIONS, 2000, 0
    )
    assert uneven.high - uneven.low > 5 * (even.high - even.low)
    apart = even.value - np.mean([even.value, scores(blunt)["accuracy"]])
    of_seeds = apart * np.sqrt(4 / 3) / np.sqrt(4)  # the standard error of the mean, unbiased
    assert np.std(uneven.samples) == pytest.approx(of_seeds, rel=0.1)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    truth = np.mean([scores(of_same_images(seed))["accuracy"] for seed in range(1000, 1100)])
    for seed in range(60):
        found = estimate(
            STATISTICS["accuracy"], {0: of_same_images(seed)}, np.arange(300), 400, seed
        )
        held += found.low <= truth <= found.high
    assert stats.binom.cdf(held, 60, 0.95) > 0.001


def test_the_interval_of_a_calibration_error_holds_the_truth_although_chance_raises_every_draw():
    """Confidence is even over 0.5 to 1, and the answer right 5 points less often than it says."""
    held, by_percentiles = 0, 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        sure = draw.uniform(0.5, 1, 600)
        p = np.zeros((600, 7))
        p[:, 0], p[:, 1] = sure, 1 - sure
        dx = np.where(draw.random(600) < sure - 0.05, CLASSES[0], CLASSES[1])
        names = [f"i{k}" for k in range(600)]
        predictions = pd.DataFrame(
            {"image_id": names, "dx": dx, **dict(zip(PROBABILITIES, p.T, strict=True))}
        )
        found = estimate(
            STATISTICS["calibration_error"], {0: predictions}, np.arange(600), 400, seed
        )
        held += found.low <= 0.05 <= found.high
        low, high = np.percentile(2 * found.value - found.samples, [2.5, 97.5])
        by_percentiles += low <= 0.05 <= high
    assert stats.binom.cdf(held, 60, 0.95) > 0.001
    assert by_percentiles < held


def test_a_paired_difference_cancels_what_is_hard_for_both():
    reference = of_same_images(0)
    better = reference.copy()
    wrong = reference[list(PROBABILITIES)].to_numpy().argmax(1) != reference["dx"].map(
        CLASSES.index
    )
    mended = np.flatnonzero(wrong)[:15]
    certain = np.eye(7)[reference["dx"].map(CLASSES.index).to_numpy()[mended]]
    better.loc[mended, list(PROBABILITIES)] = certain
    ours, theirs = (
        estimate(STATISTICS["accuracy"], {0: each}, LESIONS, 2000, 0)
        for each in (better, reference)
    )
    found = difference(ours, theirs)
    assert found["value"] == pytest.approx(15 / 300)
    assert 0 < found["low"] < 0.05 < found["high"] and found["p"] < 0.01
    assert found["high"] - found["low"] < 0.6 * (theirs.high - theirs.low)
    same = difference(theirs, theirs)
    assert (same["value"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_only_equal_draws_are_paired():
    whole = estimate(STATISTICS["accuracy"], arm(), LESIONS, 100, 0)
    for other in (
        estimate(STATISTICS["accuracy"], arm(seeds=(0, 1)), LESIONS, 100, 0),
        estimate(STATISTICS["accuracy"], arm(), LESIONS, 100, 1),
        estimate(STATISTICS["accuracy"], arm(), LESIONS, 101, 0),
        estimate(STATISTICS["accuracy"], arm(), np.roll(LESIONS, 1), 100, 0),
        estimate(
            STATISTICS["accuracy"], {k: p[:-2] for k, p in arm().items()}, LESIONS[:-2], 100, 0
        ),
        estimate(
            STATISTICS["accuracy"],
            {k: p.assign(dx="nv") for k, p in arm().items()},
            LESIONS,
            100,
            0,
        ),
    ):
        with pytest.raises(
            InputError, match="same images, diagnoses, lesions, seeds and resamples"
        ):
            difference(whole, other)


def test_seeds_of_other_images_and_no_seeds_are_refused():
    turned = of_same_images(1).iloc[::-1].reset_index(drop=True)
    with pytest.raises(InputError, match="seeds 0 and 1 do not predict the same images"):
        estimate(STATISTICS["accuracy"], {0: of_same_images(0), 1: turned}, LESIONS, 10, 0)
    with pytest.raises(InputError, match="at least one seed"):
        estimate(STATISTICS["accuracy"], {}, LESIONS, 10, 0)


def test_a_sample_without_a_class_leaves_its_recall_undefined_and_the_interval_to_the_others():
    predictions = of_same_images(0)
    rare = predictions["dx"].value_counts().idxmin()
    keep = (predictions["dx"] != rare) | (
        predictions.index == predictions.index[predictions["dx"] == rare][0]
    )
    few = predictions[keep].reset_index(drop=True)
    found = estimate(STATISTICS[f"recall_{rare}"], {0: few, 1: few}, np.arange(len(few)), 500, 0)
    assert 0.2 < np.isnan(found.samples).mean() < 0.5  # (1 - 1/n)^n = 1/e of the samples lack it
    assert not np.isnan([found.value, found.low, found.high]).any()


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_mcnemar_by_hand_and_one_image_a_lesion():
    reference = make_predictions(8, skill=30.0)
    ours = reference.copy()
    wrong = np.eye(7)[(reference["dx"].map(CLASSES.index) + 1) % 7]
    reference.loc[:5, list(PROBABILITIES)] = wrong[:6]  # we alone are right about images 0 to 5
    ours.loc[6:6, list(PROBABILITIES)] = wrong[6:7]  # and they about image 6
    found = mcnemar_test(ours, reference, np.arange(8))
    assert (found["only_arm"], found["only_reference"], found["lesions"]) == (6, 1, 8)
    assert found["p"] == pytest.approx(2 * sum(stats.binom.pmf(k, 7, 0.5) for k in (0, 1)))
    assert found["low"] < found["share"] == 6 / 7 < found["high"]
    twins = mcnemar_test(ours, reference, [0, 0, 1, 1, 2, 2, 3, 4])
    assert (twins["only_arm"], twins["lesions"]) == (3, 5)
    none = mcnemar_test(ours, ours, np.arange(8))
    assert none["p"] == 1 and np.isnan(none["share"])
    with pytest.raises(InputError, match="same images in the same order"):
        mcnemar_test(ours, reference.iloc[::-1].reset_index(drop=True), np.arange(8))


def answers(images: int, right: int, name: str):
    """Predictions of nevi, the first `right` of them right and the others called melanoma."""
    nv, mel = CLASSES.index("nv"), CLASSES.index("mel")
    p = np.zeros((images, 7))
    p[np.arange(images), np.where(np.arange(images) < right, nv, mel)] = 1
    frame = pd.DataFrame(p, columns=list(PROBABILITIES))
    return frame.assign(image_id=[f"{name}{i}" for i in range(images)], dx="nv")


def accuracy_of(by_seed, state: int, draws: int = 4000):
    lesions = np.arange(len(next(iter(by_seed.values()))))
    return estimate(STATISTICS["accuracy"], by_seed, lesions, draws, state)


def test_a_change_between_two_sets_has_the_chance_of_both():
    """The difference of two independent binomial shares, by the normal approximation."""
    elsewhere, here = (
        accuracy_of({0: answers(400, 240, "a")}, 1),
        accuracy_of({0: answers(900, 720, "b")}, 2),
    )
    found = unpaired_difference(elsewhere, here)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 400 + 0.8 * 0.2 / 900)
    assert found["value"] == pytest.approx(-0.2)
    assert [found["low"], found["high"]] == pytest.approx([-0.2 - half, -0.2 + half], abs=0.006)


def test_the_luck_of_a_training_is_the_same_on_both_sets():
    """One training is right everywhere and one nowhere: nothing changes, whichever is drawn."""
    by_seed = {
        name: {0: answers(n, n, name), 1: answers(n, 0, name)} for name, n in (("a", 50), ("b", 80))
    }
    elsewhere, here = accuracy_of(by_seed["a"], 1), accuracy_of(by_seed["b"], 2)
    assert (elsewhere.low, elsewhere.high) == (0, 1)
    assert unpaired_difference(elsewhere, here) == {"value": 0, "low": 0, "high": 0}


def test_a_change_needs_the_same_trainings_and_draws_of_its_own():
    one = accuracy_of({0: answers(50, 20, "a")}, 1, 100)
    for other in (
        accuracy_of({1: answers(60, 20, "b")}, 2, 100),
        accuracy_of({0: answers(60, 20, "b")}, 2, 200),
        accuracy_of({0: answers(60, 20, "b")}, 1, 100),
    ):
        with pytest.raises(InputError, match="same training seeds, with equally many resamples"):
            unpaired_difference(one, other)
