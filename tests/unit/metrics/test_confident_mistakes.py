import numpy as np
import pandas as pd
import pytest

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.metrics.classification import confident_mistakes

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns


def made(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """Truth, prediction and its probability; the rest of it is the truth's, or the next class's."""
    frame = pd.DataFrame(0.0, range(len(rows)), list(PROBABILITIES))
    for row, (truth, called, p) in enumerate(rows):
        other = truth if truth != called else CLASSES[(CLASSES.index(truth) + 1) % 7]
        frame.loc[row, f"p_{called}"], frame.loc[row, f"p_{other}"] = p, 1 - p
    frame.insert(0, "dx", [truth for truth, _, _ in rows])
    frame.insert(0, "image_id", [f"i{row}" for row in range(len(rows))])
    return frame


def test_missed_melanomas_come_first_and_the_surest_before_the_rest():
    predictions = made(
        ("nv", "bkl", 0.99),
        ("mel", "nv", 0.6),
        ("mel", "mel", 0.9),
        ("nv", "nv", 1.0),
        ("mel", "bcc", 0.8),
        ("df", "nv", 0.7),
    )
    found = confident_mistakes(predictions, "mel")
    assert found["image_id"].tolist() == ["i4", "i1", "i0", "i5"]
    assert found.loc[0, ["image_id", "truth", "predicted"]].tolist() == ["i4", "mel", "bcc"]
    np.testing.assert_allclose(found["probability"], [0.8, 0.6, 0.99, 0.7])
    assert found["predicted"].tolist() == ["bcc", "nv", "bkl", "nv"]
    np.testing.assert_allclose(found["of_truth"], [0.2, 0.4, 0.01, 0.3])
    assert confident_mistakes(predictions, first="df")["image_id"].iloc[0] == "i5"


def test_a_classifier_without_mistakes_has_an_empty_table():
    assert confident_mistakes(made(("nv", "nv", 0.9)), "mel").empty
    with pytest.raises(InputError, match="sum to 1"):
        confident_mistakes(made(("nv", "nv", 0.9)).assign(p_df=0.5), "mel")
