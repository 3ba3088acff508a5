import numpy as np
import pytest
from sklearn import metrics

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.ranking import auroc, average_precision, precision_at, sensitivity_at


def case(n: int = 200, draws: int = 6, levels: int | None = None, seed: int = 0):
    generator = np.random.default_rng(seed)
    truth = generator.random(n) < 0.3
    scores = generator.normal(size=n) + truth
    if levels:
        scores = np.round(scores * levels) / levels
    return scores, truth, generator.integers(0, 4, (draws, n))


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize(
    "ours, theirs",
    [(auroc, metrics.roc_auc_score), (average_precision, metrics.average_precision_score)],
)
def test_areas_equal_scikit_learn_for_every_weighting_and_with_ties(ours, theirs, levels):
    scores, truth, weights = case(levels=levels)
    expected = [theirs(truth, scores, sample_weight=row) for row in weights]
    assert ours(scores, truth, weights) == pytest.approx(expected)


def test_a_weight_is_the_same_as_a_repetition():
    scores, truth, weights = case()
    repeated = np.repeat(np.arange(len(scores)), weights[0])
    ones = np.ones((1, len(repeated)))
    for function in (auroc, average_precision, lambda *some: sensitivity_at(0.8, *some)):
        assert function(scores, truth, weights[:1]) == pytest.approx(
            function(scores[repeated], truth[repeated], ones)
        )


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.8, 0.9, 1.0])
def test_sensitivity_is_the_best_that_the_roc_curve_allows(specificity, levels):
    scores, truth, weights = case(levels=levels)
    for row, found in zip(
        weights, sensitivity_at(specificity, scores, truth, weights), strict=True
    ):
        false_alarms, hits, _ = metrics.roc_curve(
            truth, scores, sample_weight=row, drop_intermediate=False
        )
        assert found == pytest.approx(hits[false_alarms <= 1 - specificity + 1e-9].max())


@pytest.mark.parametrize("levels", [None, 1])
def test_precision_is_the_best_of_scikit_learns_curve_that_reaches_the_recall(levels):
    scores, truth, weights = case(levels=levels)
    grid = np.linspace(0, 1, 11)
    for row, found in zip(weights, precision_at(grid, scores, truth, weights), strict=True):
        precision, recall, _ = metrics.precision_recall_curve(truth, scores, sample_weight=row)
        real = slice(None, -1)  # its last point has no threshold
        expected = [precision[real][recall[real] >= each - 1e-9].max() for each in grid]
        assert found == pytest.approx(expected)


def test_a_recall_is_a_share():
    with pytest.raises(InputError, match="recall must be values in 0 to 1"):
        precision_at(np.array([0.5, 1.1]), *case())


def test_a_perfect_and_a_reversed_ranking():
    truth, weights = np.array([True, True, False, False, False]), np.ones((1, 5))
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert auroc(scores, truth, weights) == 1 and auroc(-scores, truth, weights) == 0
    assert sensitivity_at(0.9, scores, truth, weights) == 1
    assert sensitivity_at(0.9, -scores, truth, weights) == 0


def test_what_is_not_defined_is_nan():
    scores, truth, weights = np.arange(4.0), np.array([True, True, False, False]), np.ones((1, 4))
    without_positive, without_negative = weights * ~truth, weights * truth
    assert np.isnan(
        [auroc(scores, truth, w)[0] for w in (without_positive, without_negative)]
    ).all()
    assert np.isnan(average_precision(scores, truth, without_positive)[0])
    assert np.isnan(precision_at(np.array([0.0, 1.0]), scores, truth, without_positive)).all()
    for w in (without_positive, without_negative):
        assert np.isnan(sensitivity_at(0.8, scores, truth, w)[0])


@pytest.mark.parametrize(
    "scores, truth, weights, message",
    [
        ([0.1, np.nan], [True, False], [[1, 1]], "not finite"),
        ([0.1, 0.2], [True, False], [[1, 1, 1]], r"\[N\], \[N\] and \[B, N\]"),
    ],
)
def test_bad_input_is_refused(scores, truth, weights, message):
    with pytest.raises(InputError, match=message):
        auroc(np.array(scores), np.array(truth), np.array(weights))


def test_a_specificity_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"0 to 1, but it is 80"):
        sensitivity_at(80, *case())
