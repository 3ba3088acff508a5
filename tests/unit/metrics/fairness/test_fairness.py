import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.metrics.classification import align_table
from hamsynth_utils.metrics.fairness import (
    EVERYBODY,
    age_band,
    chance_gaps,
    gap_changes,
    gap_table,
    group_masks,
    group_scores,
    largest_gaps,
)

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns


def make(
    n: int = 400, seed: int = 0, women: float = 0.6, men: float = 0.9
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions that are right as often as said; 40 sexes unknown, five images of the ear, no source."""
    generator = np.random.default_rng([seed, 7])
    truth = np.random.default_rng(0)
    labels = np.repeat(truth.integers(0, 7, n // 2), 2)
    sex = np.repeat(truth.choice(["female", "male"], n // 2), 2).astype(object)
    sex[:40] = np.nan
    right = generator.random(n) < np.where(sex == "male", men, women)
    predicted = np.where(right, labels, (labels + 1) % 7)
    predictions = pd.DataFrame(0.04 + 0.72 * np.eye(7)[predicted], columns=list(PROBABILITIES))
    predictions.insert(0, "dx", np.array(CLASSES)[labels])
    predictions.insert(0, "image_id", [f"i{i}" for i in range(n)])
    table = predictions[["image_id", "dx"]].assign(
        lesion_id=[f"l{i // 2}" for i in range(n)],
        sex=sex,
        age=truth.integers(0, 18, n) * 5.0,
        localization=np.where(np.arange(n) % 80 == 7, "ear", "back"),
        dataset=np.nan,
    )
    return predictions, table.sample(frac=1, random_state=1)


def guesses(predictions: pd.DataFrame) -> np.ndarray:
    return np.array(CLASSES)[predictions[list(PROBABILITIES)].to_numpy().argmax(1)]


def rates(truth, guess):
    """Recall and false-positive rate of melanoma by scikit-learn."""
    true, called = np.asarray(truth) == "mel", np.asarray(guess) == "mel"
    return recall_score(true, called), 1 - recall_score(~true, ~called)


def test_every_score_is_fairlearns():
    by_seed = {seed: make(seed=seed)[0] for seed in (0, 1)}
    table = make()[1]
    result = group_scores(by_seed, table, n_resamples=200, seed=0)
    sex = align_table(by_seed[0], table)["sex"].fillna("missing")
    metrics = {
        "accuracy": accuracy_score,
        "balanced_accuracy": balanced_accuracy_score,
        "recall": lambda t, g: rates(t, g)[0],
        "false_positive_rate": lambda t, g: rates(t, g)[1],
    }
    frames = [
        MetricFrame(metrics=metrics, y_true=p["dx"], y_pred=guesses(p), sensitive_features=sex)
        for p in by_seed.values()
    ]
    expected = sum(frame.by_group for frame in frames) / 2
    ours = result[(result["attribute"] == "sex") & result["dx"].isin(["", "mel"])]
    assert list(dict.fromkeys(ours["group"])) == ["female", "male", "missing"]
    for group, row in expected.iterrows():
        mine = ours[ours["group"] == group].set_index("measure")
        assert mine.loc[list(metrics), "value"].to_dict() == pytest.approx(row.to_dict())
        assert (mine["low"] <= mine["value"]).all() and (mine["value"] <= mine["high"]).all()
        true = (by_seed[0]["dx"] == "mel").to_numpy() & (sex == group).to_numpy()
        assert mine.loc["recall", "n"] == true.sum()
        assert mine.loc["false_positive_rate", "n"] == (sex == group).sum() - true.sum()
        assert mine.loc["accuracy", "lesions"] == (sex == group).sum() / 2
    gaps = {
        gap.measure: gap
        for gap in largest_gaps(by_seed, table, "mel", 200, 0)
        if gap.attribute == "sex"
    }
    between = np.mean([frame.difference()["accuracy"] for frame in frames])
    assert gaps["accuracy"].estimate.value == pytest.approx(between)


def test_classes_have_their_own_rows():
    predictions, table = make()
    result = group_scores({0: predictions}, table, 100, 0)
    result = result[(result["attribute"] == EVERYBODY) & (result["dx"] == "df")].set_index(
        "measure"
    )
    true, called = predictions["dx"] == "df", guesses(predictions) == "df"
    assert result.loc["recall", "value"] == pytest.approx(recall_score(true, called))
    assert result.loc["balanced_accuracy", "value"] == pytest.approx(
        balanced_accuracy_score(true, called)
    )
    # All called images have confidence 0.76, so the error is the distance of their precision to it.
    assert result.loc["calibration_error", "value"] == pytest.approx(
        abs(true[called].mean() - 0.76)
    )
    assert result.loc["calibration_error", "n"] == called.sum()


def test_a_planted_gap_is_found_and_beyond_chance_and_an_absent_one_is_not():
    for women, found in ((0.5, True), (0.9, False)):
        predictions, table = make(women=women)
        (gap,) = [
            g
            for g in largest_gaps({0: predictions}, table, "mel", 300, 0)
            if (g.attribute, g.measure) == ("sex", "accuracy")
        ]
        chance = chance_gaps({0: predictions}, table, "mel", 300, 0)["sex", "accuracy"]
        assert (gap.estimate.value > np.quantile(chance, 0.95)) == found
        assert chance.min() >= 0 and np.median(chance) > 0.01, "by chance alone a gap is above zero"
        if found:
            assert gap.highest == "male" and gap.estimate.low > 0.2
            assert set(gap.groups) == {"female", "male", "missing"} and (gap.n, gap.lesions) == (
                400,
                200,
            )


def test_a_gap_that_the_diagnoses_explain_is_no_more_than_chance():
    """One group has the easy class only. Shuffled over all lesions the gap would look like a finding."""
    predictions, table = make(women=0.8, men=0.8)
    right = predictions["dx"] == "nv"
    predictions.loc[right, list(PROBABILITIES)] = np.eye(7)[CLASSES.index("nv")]
    easy = table["dx"] == "nv"
    group = np.where(
        easy, "back", np.where(table["lesion_id"].str[-1].isin(list("13579")), "back", "face")
    )
    table = table.assign(localization=group)
    (gap,) = [
        g
        for g in largest_gaps({0: predictions}, table, "mel", 100, 0)
        if (g.attribute, g.measure) == ("localization", "accuracy")
    ]
    chance = chance_gaps({0: predictions}, table, "mel", 300, 0)["localization", "accuracy"]
    assert gap.estimate.value > 0.03 and gap.estimate.value < np.quantile(chance, 0.95)
    assert np.median(chance) > 0.03


def test_dealing_keeps_lesions_whole_and_groups_in_size():
    predictions, table = make()
    rows = align_table(predictions, table)
    lesion = rows["lesion_id"].str[1:].astype(int)
    even = predictions.assign(**{p: 0.0 for p in PROBABILITIES})
    for row, number in enumerate(lesion):  # right in one lesion only: accuracy counts its photos
        label = CLASSES.index(even["dx"][row])
        even.loc[row, PROBABILITIES[label if number == 150 else (label + 1) % 7]] = 1.0
    sizes = {name: inside.sum() for name, inside in group_masks(rows, "sex").items()}
    gaps = chance_gaps({0: even}, table, "mel", 200, 0)["sex", "accuracy"]
    assert set(np.round(gaps, 6)) <= {round(2 / size, 6) for size in sizes.values()}


def test_change_of_a_gap_is_paired_and_corrected():
    table = make()[1]
    gaps = {
        "real": largest_gaps({s: make(seed=s)[0] for s in (0, 1)}, table, "mel", 400, 0),
        "vae": largest_gaps({s: make(seed=s, women=0.9)[0] for s in (0, 1)}, table, "mel", 400, 0),
        "gan": largest_gaps({s: make(seed=s)[0] for s in (0, 1)}, table, "mel", 400, 0),
    }
    changes = gap_changes(gaps, ["accuracy"]).set_index(["arm", "attribute"])
    assert set(changes.index) == {(arm, a) for arm in ("vae", "gan") for a in ("sex", "age_band")}
    narrower = changes.loc["vae", "sex"]
    assert narrower["high"] < 0 and narrower["holm"] == pytest.approx(min(1, 4 * narrower["p"]))
    same = changes.loc["gan"]
    assert (same[["value", "low", "high"]] == 0).all(axis=None) and (same["holm"] == 1).all()
    assert gap_changes({"real": gaps["real"]}, ["accuracy"]).empty


def test_small_groups_are_flagged_and_kept_out_of_gaps():
    predictions, table = make()
    result = group_scores({0: predictions}, table, 100, 0)
    row = result[result["measure"] == "accuracy"].set_index("group")
    assert row.loc["ear", "n"] == 5
    assert not row.loc["ear", "enough"] and row.loc["back", "enough"]
    rows = gap_table("real", largest_gaps({0: predictions}, table, "mel", 100, 0))
    assert list(rows.columns) == [
        "arm",
        "attribute",
        "measure",
        "value",
        "low",
        "high",
        "n",
        "lesions",
        "seeds",
        "reason",
    ]
    place = rows[rows["attribute"] == "localization"]
    assert place[["value", "low", "high"]].isna().all(axis=None) and (place["seeds"] == 0).all()
    wide = gap_table("real", largest_gaps({0: predictions}, table, "mel", 100, 0, min_group_size=5))
    assert (
        wide.set_index(["attribute", "measure"]).loc[
            ("localization", "largest_gap_accuracy"), "value"
        ]
        > 0
    )


def test_no_melanoma_and_a_single_lesion_have_no_number():
    predictions, table = make()
    keep = (predictions["dx"] != "mel").to_numpy()
    without = group_scores({0: predictions[keep].reset_index(drop=True)}, table, 100, 0)
    melanoma = without[(without["measure"] == "recall") & (without["dx"] == "mel")]
    assert melanoma[["value", "low", "high"]].isna().all(axis=None) and (melanoma["n"] == 0).all()
    assert without.loc[without["measure"] == "balanced_accuracy", "value"].notna().any()
    alone = group_scores({0: predictions[:2]}, table, 100, 0)
    alone = alone[alone["measure"] == "accuracy"]
    assert (alone["lesions"] <= 1).all() and alone[["low", "high"]].isna().all(axis=None)


def test_age_bands_are_in_order_and_complete():
    predictions, table = make()
    assert list(group_masks(align_table(predictions, table), "age_band")) == [
        "under 30",
        "30 to 44",
        "45 to 59",
        "60 to 74",
        "75 and over",
    ]
    bands = age_band(pd.Series([0, 29, 30, 44.5, 45, 74, 75, 100, np.nan], index=range(5, 14)))
    assert list(bands) == [
        "under 30",
        "under 30",
        "30 to 44",
        "30 to 44",
        "45 to 59",
        "60 to 74",
        "75 and over",
        "75 and over",
        "missing",
    ]
    assert list(bands.index) == list(range(5, 14))
    with pytest.raises(InputError, match=r"2 ages.*-5"):
        age_band(pd.Series([50, -5, 999]))


def test_an_attribute_without_data_says_so():
    predictions, table = make()
    by_seed = {0: predictions}
    for frame in (table, table.drop(columns="dataset"), table.assign(dataset="unknown")):
        result = group_scores(by_seed, frame, n_resamples=100, seed=0)
        result = result[result["attribute"] == "dataset"]
        assert result["group"].tolist() == ["not available"]
        assert not result["enough"].any() and result[["value", "low", "high"]].isna().all(axis=None)
    nothing = table.assign(age=np.nan, sex=np.nan, localization=np.nan)
    scores = group_scores(by_seed, nothing, 100, 0)
    assert (scores["group"] == "not available").sum() == 4 and (
        scores["attribute"] == EVERYBODY
    ).sum() > 4
    gaps = largest_gaps(by_seed, nothing, "mel", 100, 0)
    assert (
        all(gap.estimate is None for gap in gaps)
        and chance_gaps(by_seed, nothing, "mel", 10, 0) == {}
    )
    assert gap_changes({"real": gaps, "vae": gaps}, ["accuracy"]).empty


def test_a_gap_has_the_reason_why_the_data_cannot_give_it():
    predictions, table = make()
    gaps = gap_table("real", largest_gaps({0: predictions}, table.assign(sex=np.nan), "mel", 50, 0))
    why = gaps.set_index("attribute")["reason"]
    assert set(why["sex"]) == {"no test image has a value for sex"} and not why["age_band"].any()
    kept = (predictions["dx"] != "mel").to_numpy()
    gaps = largest_gaps({0: predictions[kept].reset_index(drop=True)}, table, "mel", 50, 0)
    reasons = {(gap.attribute, gap.measure): gap.reason for gap in gaps}
    assert reasons["sex", "recall"] == "no test image is one that the recall of mel is over"
    assert reasons["sex", "accuracy"] == ""
    full = gap_table(
        "real", largest_gaps({0: predictions}, table.assign(dataset="x"), "mel", 50, 0)
    )
    assert "reason" not in full, "no ordinary table has the column"


def test_bad_input_is_refused():
    predictions, table = make()
    with pytest.raises(InputError, match="unknown attribute 'income'"):
        group_masks(table, "income")
    with pytest.raises(InputError, match="table lacks"):
        group_scores({0: predictions}, table[table["image_id"] != "i3"], 100, 0)
    with pytest.raises(InputError, match="no lesion id"):
        group_scores({0: predictions}, table.assign(lesion_id=np.nan), 100, 0)
    with pytest.raises(InputError, match="same images"):
        largest_gaps(
            {0: predictions, 1: predictions[::-1].reset_index(drop=True)}, table, "mel", 100, 0
        )
