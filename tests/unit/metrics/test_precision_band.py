import numpy as np
import pandas as pd
import pytest
from conftest import make_predictions
from scipy import stats
from sklearn import metrics

from hamsynth_utils.core.errors import InputError, NotMeasured
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.metrics.ranking import precision_band

PROBABILITIES = HAM10000.classes.probability_columns

RECALL = np.linspace(0, 1, 6)


def best_precision(predictions: pd.DataFrame, dx: str) -> list[float]:
    precision, recall, _ = metrics.precision_recall_curve(
        predictions["dx"] == dx, predictions[f"p_{dx}"]
    )
    return [precision[:-1][recall[:-1] >= each - 1e-9].max() for each in RECALL]


def test_the_curve_is_the_mean_of_classes_and_seeds():
    one = make_predictions(300)
    other = one.assign(**{name: one[name].to_numpy() for name in PROBABILITIES})
    other[list(PROBABILITIES)] = 0.5 * one[list(PROBABILITIES)].to_numpy()[::-1] + 0.5 / 7
    band = precision_band({3: one, 5: other}, ["mel", "bcc"], RECALL, np.arange(300), 50, 0)
    expected = np.mean(
        [best_precision(frame, dx) for frame in (one, other) for dx in ("mel", "bcc")], axis=0
    )
    assert band["value"].to_numpy() == pytest.approx(expected)
    assert (band["low"] <= band["high"]).all()


def test_the_band_at_full_recall_of_useless_scores_is_that_of_a_share():
    """Where all images score alike, precision is the share of the class, whatever the recall."""
    n, share = 400, 0.3
    truth = np.where(np.arange(n) < share * n, "mel", "nv")
    frame = pd.DataFrame(1 / 7, index=range(n), columns=list(PROBABILITIES))
    frame = frame.assign(image_id=[f"i{i}" for i in range(n)], dx=truth)
    band = precision_band({0: frame}, ["mel"], RECALL, np.arange(n), 4000, 1)
    assert band["value"].to_numpy() == pytest.approx(share)
    low, high = stats.binom.ppf([0.025, 0.975], n, share) / n
    assert band["low"].to_numpy() == pytest.approx(low, abs=0.006)
    assert band["high"].to_numpy() == pytest.approx(high, abs=0.006)


def test_seeds_that_differ_widen_the_band():
    sharp, blunt = make_predictions(300, skill=8.0), make_predictions(300, skill=0.0)
    assert sharp["image_id"].equals(blunt["image_id"]) and sharp["dx"].equals(blunt["dx"])
    widths = [
        (band["high"] - band["low"])[3]
        for band in (
            precision_band(by_seed, ["nv"], RECALL, np.arange(300), 300, 0)
            for by_seed in ({0: sharp, 1: sharp}, {0: sharp, 1: blunt})
        )
    ]
    assert widths[1] > 3 * widths[0]


def test_bad_input():
    predictions = make_predictions(60, 4, classes=5)
    with pytest.raises(InputError, match="at least one seed"):
        precision_band({}, ["mel"], RECALL, [], 10, 0)
    with pytest.raises(NotMeasured, match="no image of class vasc"):
        precision_band({0: predictions}, ["mel", "vasc"], RECALL, np.arange(60), 10, 0)
