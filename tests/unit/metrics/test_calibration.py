import numpy as np
import pytest
import torch
from conftest import make_predictions
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.metrics.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    with_temperature,
)

PROBABILITIES = HAM10000.classes.probability_columns


def ones(predictions):
    return np.ones((1, len(predictions)))


def probabilities(predictions):
    return predictions[list(PROBABILITIES)].to_numpy()


def labels(predictions):
    return np.array([PROBABILITIES.index(f"p_{dx}") for dx in predictions["dx"]])


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_equals_torchmetrics(bins):
    predictions = make_predictions(500)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities(predictions)),
        torch.from_numpy(labels(predictions)),
        7,
        n_bins=bins,
    )
    assert expected_calibration_error(predictions, ones(predictions), bins) == pytest.approx(
        float(theirs), abs=1e-6
    )


def test_the_brier_score_is_the_mean_squared_distance_to_the_truth():
    predictions = make_predictions(50)
    error = [
        sum((p - (k == label)) ** 2 for k, p in enumerate(row))
        for row, label in zip(probabilities(predictions), labels(predictions), strict=True)
    ]
    assert brier_score(predictions, ones(predictions)) == pytest.approx(np.mean(error))


@pytest.mark.parametrize("measure", [brier_score, expected_calibration_error])
def test_a_weight_is_the_same_as_a_repetition(measure):
    predictions = make_predictions(40)
    weights = np.random.default_rng(0).integers(0, 4, (1, 40))
    repeated = predictions.loc[np.repeat(np.arange(40), weights[0])].reset_index(drop=True)
    repeated["image_id"] = [f"COPY_{i}" for i in range(len(repeated))]
    assert measure(predictions, weights) == pytest.approx(measure(repeated, ones(repeated)))


def test_the_planted_temperature_is_found_and_mends_the_calibration():
    generator = np.random.default_rng(7)
    honest = make_predictions(20_000)
    cumulative = probabilities(honest).cumsum(1)
    drawn = (generator.random((len(honest), 1)) > cumulative[:, :-1]).sum(1)
    honest["dx"] = np.array([name.removeprefix("p_") for name in PROBABILITIES])[drawn]
    overconfident = with_temperature(honest, 0.5)
    assert fit_temperature(honest) == pytest.approx(1, abs=0.05)
    assert fit_temperature(overconfident) == pytest.approx(2, abs=0.1)
    mended = with_temperature(overconfident, fit_temperature(overconfident))
    before, after = (
        expected_calibration_error(each, ones(each)) for each in (overconfident, mended)
    )
    assert after < 0.2 * before


def test_no_other_temperature_is_more_likely():
    predictions = make_predictions(300)
    best = fit_temperature(predictions)

    def loss(temperature):
        return log_loss(
            labels(predictions), probabilities(with_temperature(predictions, temperature))
        )

    assert loss(best) < min(loss(0.98 * best), loss(1.02 * best))


def test_predictions_that_are_always_right_have_no_temperature():
    with pytest.raises(InputError, match="always right"):
        fit_temperature(make_predictions(30, skill=60.0))


@pytest.mark.parametrize("temperature", [0, -1, float("inf"), float("nan")])
def test_a_wrong_temperature_is_refused(temperature):
    with pytest.raises(InputError, match="above 0"):
        with_temperature(make_predictions(5), temperature)
