"""The recall of the classes that got synthetic images: their mean, and how far it is above the others'."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.metrics.comparison import Statistic, statistics


def minority_statistics(minority: np.ndarray) -> dict[str, Statistic]:
    """The mean recall of the classes that `minority` (bool [7]) marks, and that mean less the others'.

    Neither where no class is marked, and no second one where all are. A class of which a weighting has no
    image is left out.
    """
    recalls = statistics()

    def mean_recall(predictions: pd.DataFrame, weights: np.ndarray, these: np.ndarray) -> np.ndarray:
        each = [recalls[f"recall_{CLASSES[label]}"](predictions, weights) for label in np.flatnonzero(these)]
        return np.nanmean(each, axis=0)

    def recall(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return mean_recall(predictions, weights, minority)

    def gap(predictions: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return recall(predictions, weights) - mean_recall(predictions, weights, ~minority)

    named: dict[str, Statistic] = {"minority_recall": recall} if minority.any() else {}
    return {**named, "minority_recall_gap": gap} if named and not minority.all() else named
