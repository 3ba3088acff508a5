import time

import numpy as np
import pandas as pd
import pytest
from conftest import make_predictions
from sklearn import metrics

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.metrics.classification import (
    METRICS,
    align_table,
    bootstrap_scores,
    check_predictions,
    confusion,
    per_class,
    read_predictions,
    scores,
    scores_from_confusion,
)

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns


def truth_and_prediction(predictions: pd.DataFrame) -> tuple[pd.Series, np.ndarray]:
    return predictions["dx"], np.array(CLASSES)[
        predictions[list(PROBABILITIES)].to_numpy().argmax(1)
    ]


def sklearn_scores(predictions: pd.DataFrame) -> dict[str, float]:
    true, predicted = truth_and_prediction(predictions)
    result = {"accuracy": metrics.accuracy_score(true, predicted)}
    result["balanced_accuracy"] = metrics.balanced_accuracy_score(true, predicted)
    for average in ("macro", "weighted"):
        values = metrics.precision_recall_fscore_support(
            true, predicted, average=average, zero_division=0
        )
        result |= zip(
            (f"{name}_{average}" for name in ("precision", "recall", "f1")), values[:3], strict=True
        )
    return result


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize(
    "predictions", [make_predictions(300), make_predictions(9, 1), make_predictions(40, 2, 9.0, 4)]
)
def test_scores_equal_scikit_learn(predictions):
    assert tuple(scores(predictions)) == METRICS
    assert scores(predictions) == pytest.approx(sklearn_scores(predictions))
    true, predicted = truth_and_prediction(predictions)
    np.testing.assert_array_equal(
        confusion(predictions), metrics.confusion_matrix(true, predicted, labels=CLASSES)
    )


def test_scores_by_hand():
    """Three melanomas of which two are found, one nevus that is taken for a melanoma."""
    counts = np.zeros((7, 7), dtype=int)
    mel, nv = CLASSES.index("mel"), CLASSES.index("nv")
    counts[mel, mel], counts[mel, nv], counts[nv, mel] = 2, 1, 1
    values = scores_from_confusion(counts)
    assert values["accuracy"] == pytest.approx(0.5)
    assert values["balanced_accuracy"] == pytest.approx(1 / 3)
    assert values["precision_macro"] == pytest.approx(1 / 3)
    assert values["f1_weighted"] == pytest.approx(0.5)


def test_per_class_equals_scikit_learn():
    predictions = make_predictions(200, 3)
    true, predicted = truth_and_prediction(predictions)
    precision, recall, f1, n = metrics.precision_recall_fscore_support(
        true, predicted, labels=CLASSES
    )
    table = per_class(predictions)
    assert tuple(table["class"]) == CLASSES
    np.testing.assert_array_equal(table["n"], n)
    for column, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        np.testing.assert_allclose(table[column], expected)
    one_hot = pd.get_dummies(true)[list(CLASSES)].to_numpy()
    expected = metrics.average_precision_score(
        one_hot, predictions[list(PROBABILITIES)].to_numpy(), average=None
    )
    np.testing.assert_allclose(table["average_precision"], expected)


def test_per_class_of_a_class_that_does_not_occur_is_undefined():
    table = per_class(make_predictions(50, 4, classes=5)).set_index("class")
    assert table.loc["vasc", "n"] == 0
    assert table.loc["vasc", ["recall", "f1", "average_precision"]].isna().all()
    assert table.loc["mel"].notna().all()


def test_bootstrap_of_single_photos_is_that_of_images():
    """One photo a lesion: accuracy is a binomial share, whose standard error is known."""
    predictions = make_predictions(800, 5)
    table = bootstrap_scores(predictions, np.arange(800), n_resamples=2000, seed=0).set_index(
        "metric"
    )
    assert tuple(table.index) == METRICS
    accuracy = table.loc["accuracy", "value"]
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 800)
    assert table.loc["accuracy", "low"] == pytest.approx(accuracy - half, abs=0.1 * half)
    assert table.loc["accuracy", "high"] == pytest.approx(accuracy + half, abs=0.1 * half)
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()
    assert set(table["n_images"]) == {800} and set(table["n_lesions"]) == {800}


def test_bootstrap_equals_one_done_image_by_image():
    predictions = make_predictions(60, 6)
    lesions = np.random.default_rng(1).integers(0, 20, 60).astype(str)
    names = pd.unique(lesions)
    drawn = np.random.default_rng(9).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=50
    )
    samples = []
    for weights in drawn:
        rows = [
            np.flatnonzero(lesions == name)
            for name, weight in zip(names, weights, strict=True)
            for _ in range(weight)
        ]
        samples.append(
            scores(
                predictions.iloc[np.concatenate(rows)].assign(image_id=range(sum(map(len, rows))))
            )
        )
    expected = pd.DataFrame(samples).quantile([0.025, 0.975])
    table = bootstrap_scores(predictions, lesions, n_resamples=50, seed=9).set_index("metric")
    for metric in METRICS:
        np.testing.assert_allclose(
            table.loc[metric, ["low", "high"]].astype(float), expected[metric]
        )
    assert set(table["n_lesions"]) == {len(names)}


def test_photos_of_one_lesion_widen_the_interval():
    single = make_predictions(200, 7)
    repeated = pd.concat([single] * 4, ignore_index=True).assign(
        image_id=[f"i{i}" for i in range(800)]
    )
    by_lesion = bootstrap_scores(repeated, np.tile(np.arange(200), 4), 800, 0).set_index("metric")
    by_image = bootstrap_scores(repeated, np.arange(800), 800, 0).set_index("metric")

    def width(table: pd.DataFrame) -> float:
        return table.loc["accuracy", "high"] - table.loc["accuracy", "low"]

    assert width(by_lesion) == pytest.approx(2 * width(by_image), rel=0.15)


def test_bootstrap_is_fast_and_repeats_with_its_seed():
    predictions = make_predictions(2000, 8)
    lesions = np.random.default_rng(0).integers(0, 1500, 2000)
    start = time.process_time()
    table = bootstrap_scores(predictions, lesions, 1000, seed=3)
    assert time.process_time() - start < 3
    pd.testing.assert_frame_equal(table, bootstrap_scores(predictions, lesions, 1000, seed=3))
    assert not table.equals(bootstrap_scores(predictions, lesions, 1000, seed=4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.drop(columns="p_mel"), "lack.*p_mel"),
        (lambda p: p.assign(p_wart=0.0), "'p_wart', but that is none of the classes akiec, bcc"),
        (
            lambda p: p[["image_id", "dx", *PROBABILITIES[::-1]]],
            "in this order, but they have vasc",
        ),
    ],
)
def test_predictions_of_other_classes_are_refused(change, message, tmp_path):
    broken = change(make_predictions(10, 1))
    broken.to_csv(tmp_path / "predictions.csv", index=False)
    with pytest.raises(InputError, match=message):
        check_predictions(broken, HAM10000.classes)
    with pytest.raises(InputError, match=rf"predictions\.csv: .*{message}"):
        read_predictions(tmp_path / "predictions.csv", HAM10000.classes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p.drop(columns="p_mel"),
            "unknown diagnosis 'mel'|lack.*p_mel",
        ),
        (lambda p: p[:0], "no row"),
        (lambda p: p.assign(dx=p["dx"].where(p.index != 2, "wart")), "unknown diagnosis 'wart'"),
        (
            lambda p: p.assign(image_id=p["image_id"].where(p.index != 4, "IMAGE_00001")),
            "repeat.*row 4.*IMAGE_00001",
        ),
        (lambda p: p.assign(p_nv=p["p_nv"].where(p.index != 3, np.nan)), "not a number.*row 3"),
        (lambda p: p.assign(p_nv=p["p_nv"].where(p.index != 5, 1.5)), "outside 0 to 1.*row 5"),
        (lambda p: p.assign(p_nv=p["p_nv"] / 2), "do not sum to 1"),
    ],
)
def test_unsound_predictions_are_refused(change, message, tmp_path):
    broken = change(make_predictions(10, 1))
    for function in (check_predictions, scores, per_class, confusion):
        with pytest.raises(InputError, match=message):
            function(broken)
    broken.to_csv(tmp_path / "predictions.csv", index=False)
    with pytest.raises(InputError, match=rf"predictions.csv: .*{message}"):
        read_predictions(tmp_path / "predictions.csv", HAM10000.classes)


def test_missing_lesions_and_files_are_refused(tmp_path):
    predictions = make_predictions(10)
    with pytest.raises(InputError, match="2 of 10 images have no lesion id, the first in row 1"):
        bootstrap_scores(predictions, ["a", None, "b", np.nan, *"cdefgh"], 100, 0)
    with pytest.raises(InputError, match="9 lesion ids for 10 images"):
        bootstrap_scores(predictions, np.arange(9), 100, 0)
    with pytest.raises(InputError, match="at least 2 resamples"):
        bootstrap_scores(predictions, np.arange(10), 1, 0)
    with pytest.raises(InputError, match="needs at least one lesion"):
        bootstrap_scores(predictions[:0], [], 100, 0)
    with pytest.raises(InputError, match="no predictions at"):
        read_predictions(tmp_path / "predictions.csv", HAM10000.classes)


def test_predictions_survive_their_file_and_find_their_rows(tmp_path):
    predictions = make_predictions(30)
    predictions.to_csv(tmp_path / "predictions.csv", index=False)
    pd.testing.assert_frame_equal(
        read_predictions(tmp_path / "predictions.csv", HAM10000.classes),
        predictions,
        check_dtype=False,
    )
    table = pd.DataFrame(
        {"image_id": predictions["image_id"], "lesion_id": [f"L{i}" for i in range(30)]}
    )
    shuffled = table.sample(frac=1, random_state=0)
    assert list(align_table(predictions, shuffled)["lesion_id"]) == list(table["lesion_id"])
    with pytest.raises(
        InputError, match=r"1 of 30 rows are of an image that the table lacks.*row 4"
    ):
        align_table(predictions, table.drop(index=4))
    with pytest.raises(InputError, match="holds twice"):
        align_table(predictions, pd.concat([table, table[:1]]))
