"""Who the classifier is wrong about, the surest mistakes first."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.metrics.classification import PROBABILITIES, check_predictions


def confident_mistakes(predictions: pd.DataFrame, first: str = "mel") -> pd.DataFrame:
    """One row for each image that is called wrong: image_id, truth, predicted, probability, of_truth.

    predictions: a table as in `metrics.classification`. probability: that of the predicted class; of_truth:
    that of the true one. Images of the class `first` come before the others; within both, the surest first.
    Raises InputError for unsound predictions.
    """
    check_predictions(predictions)
    p = predictions[list(PROBABILITIES)].to_numpy(dtype=float)
    predicted = np.array(CLASSES)[p.argmax(1)]
    truth = predictions["dx"].to_numpy()
    of_truth = p[np.arange(len(p)), [CLASSES.index(dx) for dx in truth]]
    table = pd.DataFrame(
        {"image_id": predictions["image_id"].to_numpy(), "truth": truth, "predicted": predicted,
         "probability": p.max(1), "of_truth": of_truth}
    )  # fmt: skip
    wrong = table[predicted != truth].assign(after=lambda t: t["truth"] != first)
    wrong = wrong.sort_values(["after", "probability"], ascending=[True, False], kind="stable")
    return wrong.drop(columns="after").reset_index(drop=True)
