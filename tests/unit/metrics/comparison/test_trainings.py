"""Trainings are compared seed by seed: known answers, another library, seeds that one generator lacks."""

import numpy as np
import pytest
from scipy import stats

from hamsynth_utils.core.errors import InputError, NotMeasured, measured
from hamsynth_utils.metrics.comparison import distance_difference, paired_difference


def rows(means: dict[int, float], half: float) -> dict[int, dict[str, float]]:
    """Distances by seed whose intervals reach `half` to either side."""
    return {s: {"mean": m, "low": m - half, "high": m + half} for s, m in means.items()}


def test_two_trainings_have_a_known_interval():
    """The differences are 1 and 3: the mean is 2, its standard error 1, and t of one degree 12.706."""
    found = paired_difference({0: 11.0, 1: 33.0}, {0: 10.0, 1: 30.0})
    assert found["value"] == 2 and found["seeds"] == found["same_order"] == 2
    assert (found["low"], found["high"]) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


def test_equals_scipys_paired_t_test():
    generator, reference = np.random.default_rng(0).normal([[30], [29]], size=(2, 5))
    found = paired_difference(dict(enumerate(generator)), dict(enumerate(reference)))
    library = stats.ttest_rel(generator, reference).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(library))


def test_the_seed_that_both_share_cancels():
    """An autoencoder that adds ten to both distances of its seed does not widen the interval."""
    generator, reference = {0: 1.0, 1: 2.0, 2: 4.0}, {0: 3.0, 1: 3.5, 2: 5.0}
    shift = {0: 0.0, 1: 10.0, 2: 5.0}
    shifted = ({s: v + shift[s] for s, v in each.items()} for each in (generator, reference))
    assert paired_difference(*shifted) == pytest.approx(paired_difference(generator, reference))


def test_the_order_is_counted_by_the_sign_of_the_mean():
    found = paired_difference({0: 1.0, 1: 1.0, 2: 5.0, 3: 4.0}, {0: 4.0, 1: 5.0, 2: 4.0, 3: 4.0})
    assert found["value"] < 0 and found["seeds"] == 4
    assert found["same_order"] == 2, "one seed has the other order, and one has none"


def test_only_seeds_of_both_are_paired_whatever_their_order():
    generator, reference = {2: 7.0, 0: 1.0, 1: 100.0}, {0: 3.0, 2: 5.0, 5: -100.0}
    assert paired_difference(generator, reference) == paired_difference(
        {0: 1.0, 2: 7.0}, {0: 3.0, 2: 5.0}
    )
    distances = distance_difference(rows(generator, 1.0), rows(reference, 1.0))
    assert (distances["value"], distances["seeds"]) == (0, 2)


@pytest.mark.parametrize("reference", [{0: 1.0}, {0: 1.0, 7: 2.0}, {}])
def test_one_training_of_both_has_no_interval_over_trainings(reference):
    row = measured(paired_difference, {0: 2.0, 1: 3.0}, reference)
    assert np.isnan(row["value"]) and row["reason"] == "needs two trainings of both"


def test_one_training_has_the_chance_of_images_alone():
    found = distance_difference(rows({0: 30.0}, 3.0), rows({0: 20.0}, 4.0))
    assert found == {"value": 10.0, "low": 5.0, "high": 15.0, "seeds": 1}


def test_the_chance_of_training_is_added_in_squares():
    generator, reference = {0: 31.0, 1: 33.0, 2: 32.0}, {0: 20.0, 1: 20.0, 2: 20.0}
    found = distance_difference(rows(generator, 3.0), rows(reference, 4.0))
    alone = paired_difference(generator, reference)
    half = np.hypot(5.0, alone["high"] - alone["value"])
    assert (found["value"], found["seeds"]) == (12.0, 3)
    assert (found["low"], found["high"]) == pytest.approx((12 - half, 12 + half))
    without = distance_difference(rows(generator, 0.0), rows(reference, 0.0))
    assert (without["low"], without["high"]) == pytest.approx((alone["low"], alone["high"]))


def test_the_interval_over_trainings_holds_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(2000):
        shared, own = rng.normal(0, 5, 3), rng.normal(0, 1, (2, 3))
        generator, reference = shared + 2 + own[0], shared + own[1]
        found = paired_difference(dict(enumerate(generator)), dict(enumerate(reference)))
        hits += found["low"] <= 2 <= found["high"]
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_what_cannot_be_compared_is_refused():
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match=r"seed\(s\) \[3\] are not finite"):
            paired_difference({0: 1.0, 3: value}, {0: 1.0, 3: 2.0})
    with pytest.raises(NotMeasured, match="with one seed"):
        distance_difference(rows({0: 1.0}, 1.0), rows({1: 1.0}, 1.0))
