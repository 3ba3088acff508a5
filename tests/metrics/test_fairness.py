import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics.classification import PROBABILITIES
from hamsynth_utils.metrics.fairness import age_band, group_scores


def make(n: int = 400, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions that are right in 90 % of men, else in 60 %; 20 sexes unknown, five images of the ear."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 7, n)
    sex = generator.choice(["female", "male"], n).astype(object)
    sex[:20] = np.nan
    right = generator.random(n) < np.where(sex == "male", 0.9, 0.6)
    predicted = np.where(right, labels, (labels + 1) % 7)
    predictions = pd.DataFrame(np.eye(7)[predicted], columns=list(PROBABILITIES))
    predictions.insert(0, "dx", np.array(CLASSES)[labels])
    predictions.insert(0, "image_id", [f"i{i}" for i in range(n)])
    table = predictions[["image_id", "dx"]].assign(
        lesion_id=[f"l{i // 2}" for i in range(n)],
        sex=sex,
        age=generator.integers(0, 18, n) * 5.0,
        localization=np.where(np.arange(n) % 80 == 7, "ear", "back"),
        dataset=np.nan,
    )
    return predictions, table.sample(frac=1, random_state=1)


def test_scores_equal_scikit_learn_on_each_group():
    predictions, table = make()
    result = group_scores(predictions, table, "sex", draws=300, seed=0).set_index("group")
    assert list(result.index) == ["female", "male", "missing"]
    joined = predictions.merge(table[["image_id", "lesion_id", "sex"]], on="image_id")
    for name, row in result.iterrows():
        part = joined[joined["sex"].isna() if name == "missing" else joined["sex"] == name]
        guess = np.array(CLASSES)[part[list(PROBABILITIES)].to_numpy().argmax(1)]
        assert row["accuracy"] == pytest.approx(accuracy_score(part["dx"], guess))
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(part["dx"], guess))
        melanoma = (part["dx"] == "mel").to_numpy()
        assert row["melanoma_recall"] == pytest.approx((guess[melanoma] == "mel").mean())
        assert (row["n_images"], row["n_lesions"]) == (len(part), part["lesion_id"].nunique())
        assert row["n_melanomas"] == melanoma.sum()
        assert row["low"] <= row["accuracy"] <= row["high"]
    assert result["n_images"].sum() == len(predictions)


def test_a_planted_gap_is_outside_the_intervals():
    result = group_scores(*make(), "sex", draws=300, seed=0).set_index("group")
    assert result.loc["female", "high"] < result.loc["male", "low"]


def test_small_groups_are_flagged_and_kept():
    result = group_scores(*make(), "localization", draws=100, seed=0).set_index("group")
    assert result.loc["ear", "n_images"] == 5
    assert not result.loc["ear", "enough"] and result.loc["back", "enough"]
    assert group_scores(*make(), "localization", 100, 0, minimum=5)["enough"].all()


def test_no_melanoma_and_a_single_lesion_have_no_number():
    predictions, table = make()
    keep = predictions["dx"] != "mel"
    without = group_scores(predictions[keep], table, "sex", 100, 0)
    assert without["melanoma_recall"].isna().all() and without["melanoma_recall_low"].isna().all()
    assert (without["n_melanomas"] == 0).all() and without["balanced_accuracy"].notna().all()
    alone = group_scores(predictions[:2], table, "localization", 100, 0)
    assert alone["n_lesions"].tolist() == [1]
    assert alone["accuracy"].notna().all() and alone[["low", "high"]].isna().all(axis=None)


def test_age_bands_are_in_order_and_complete():
    result = group_scores(*make(), "age_band", draws=100, seed=0)
    assert list(result["group"]) == ["under 30", "30 to 44", "45 to 59", "60 to 74", "75 and over"]
    bands = age_band(pd.Series([0, 29, 30, 44.5, 45, 74, 75, 100, np.nan], index=range(5, 14)))
    assert list(bands) == [
        "under 30", "under 30", "30 to 44", "30 to 44", "45 to 59", "60 to 74",
        "75 and over", "75 and over", "missing",
    ]  # fmt: skip
    assert list(bands.index) == list(range(5, 14))
    with pytest.raises(InputError, match=r"2 ages.*-5"):
        age_band(pd.Series([50, -5, 999]))


def test_an_attribute_without_data_says_so():
    predictions, table = make()
    for frame in (table, table.drop(columns="dataset"), table.assign(dataset="unknown")):
        result = group_scores(predictions, frame, "dataset", draws=100, seed=0)
        assert result["group"].tolist() == ["not available"]
        assert not result["enough"].any() and result[["accuracy", "low", "high"]].isna().all(axis=None)
        assert result["n_images"].tolist() == [400]
    ages = group_scores(predictions, table.assign(age=np.nan), "age_band", draws=100, seed=0)
    assert ages["group"].tolist() == ["not available"]
    full = group_scores(predictions, table, "sex", draws=100, seed=0)
    assert list(full.columns) == list(result.columns)


def test_bad_input_is_refused():
    predictions, table = make()
    with pytest.raises(InputError, match="unknown attribute 'income'"):
        group_scores(predictions, table, "income", 100, 0)
    with pytest.raises(InputError, match="table lacks"):
        group_scores(predictions, table[table["image_id"] != "i3"], "sex", 100, 0)
    with pytest.raises(InputError, match="no lesion id"):
        group_scores(predictions, table.assign(lesion_id=np.nan), "sex", 100, 0)
