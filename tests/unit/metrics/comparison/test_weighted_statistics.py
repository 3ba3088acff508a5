"""The recall of the minority classes, against scikit-learn."""

import numpy as np
import pytest
from conftest import make_predictions
from sklearn.metrics import recall_score

from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.metrics.comparison import minority_statistics

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns

MINORITY = np.array([True, False, True, False, False, False, True])


def test_the_mean_recall_of_the_minority_and_how_far_it_is_above_the_others():
    frame = make_predictions(600, 1)
    times = np.random.default_rng(0).integers(0, 3, (2, len(frame)))
    said = np.array(CLASSES)[frame[list(PROBABILITIES)].to_numpy().argmax(1)]
    named = minority_statistics(MINORITY)
    for row, weights in enumerate(times):
        recall = recall_score(
            frame["dx"], said, labels=CLASSES, average=None, sample_weight=weights
        )
        mean, others = recall[MINORITY].mean(), recall[~MINORITY].mean()
        assert named["minority_recall"](frame, times)[row] == pytest.approx(mean)
        assert named["minority_recall_gap"](frame, times)[row] == pytest.approx(mean - others)


def test_without_a_minority_or_without_others_there_is_nothing_to_compare():
    assert minority_statistics(~np.ones(7, bool)) == {}
    assert set(minority_statistics(np.ones(7, bool))) == {"minority_recall"}
