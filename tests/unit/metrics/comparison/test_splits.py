import numpy as np
import pandas as pd
import pytest

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.metrics.comparison import SplitPredictions, compare_splits, estimate, statistics

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns

NAMED = {
    name: statistics(HAM10000.classes)[name]
    for name in ("accuracy", "balanced_accuracy", "recall_mel", "recall_nv")
}
SHARES = {"mel": 0.5, "nv": 0.9}


def answers(images: dict[str, int], name: str) -> pd.DataFrame:
    """So many images of each class; of each the same share is answered rightly, wherever it is tested."""
    truth = np.repeat(list(images), list(images.values()))
    right = np.concatenate([np.arange(n) < SHARES[dx] * n for dx, n in images.items()])
    other = np.where(truth == "mel", "nv", "mel")
    p = np.eye(7)[[CLASSES.index(dx) for dx in np.where(right, truth, other)]]
    frame = pd.DataFrame(p, columns=list(PROBABILITIES))
    return frame.assign(image_id=[f"{name}{i}" for i in range(len(truth))], dx=truth)


def under(frames: list[pd.DataFrame], leaked: np.ndarray) -> SplitPredictions:
    return SplitPredictions(dict(enumerate(frames)), np.arange(len(leaked)), leaked)


def table(seeds: int = 2) -> pd.DataFrame:
    """By image, the leaked part has more melanomas than the other, and no class is easier in it."""
    by_lesion = answers({"mel": 100, "nv": 100}, "a")
    by_image = pd.concat(
        [answers({"mel": 160, "nv": 40}, "b"), answers({"mel": 40, "nv": 160}, "c")]
    )
    leaked = np.arange(400) < 200
    found = compare_splits(
        under([by_lesion] * seeds, np.zeros(200, bool)),
        under([by_image.reset_index(drop=True)] * seeds, leaked),
        NAMED,
        2000,
        5,
    )
    return found.set_index(["metric", "split", "part"]).sort_index()


def test_a_mix_of_classes_is_no_leak():
    found = table()
    accuracy = found.loc["accuracy", "image"]
    assert accuracy.loc["leaked", "value"] == pytest.approx(0.8 * 0.5 + 0.2 * 0.9)
    assert accuracy.loc["leaked less not leaked", "value"] == pytest.approx(-0.24)
    assert accuracy.loc["leaked less not leaked", "high"] < 0
    for metric in ("balanced_accuracy", "recall_mel", "recall_nv"):
        row = found.loc[metric, "image", "leaked less not leaked"]
        assert row["value"] == pytest.approx(0) and row["low"] < 0 < row["high"]


def test_a_difference_has_the_chance_of_both_sides():
    """Two independent shares, by the normal approximation."""
    row = table(1).loc["accuracy", "image", "all, less split by lesion"]
    half = 1.96 * np.sqrt(0.7 * 0.3 / 200 + 0.7 * 0.3 / 400)
    assert [row["low"], row["high"]] == pytest.approx([-half, half], abs=0.01)


def test_one_quantity_has_one_interval_and_its_own_n():
    found, by_lesion = table(), answers({"mel": 100, "nv": 100}, "a")
    alone = estimate(NAMED["accuracy"], {0: by_lesion, 1: by_lesion}, np.arange(200), 2000, 5)
    row = found.loc["accuracy", "lesion", "all"]
    assert (row["value"], row["low"], row["high"]) == (alone.value, alone.low, alone.high)
    sizes = found.loc["accuracy", "image"]["n"]
    assert (sizes["all"], sizes["leaked"], sizes["not leaked"]) == (400, 200, 200)
    assert pd.isna(sizes["leaked less not leaked"])


def test_what_cannot_be_compared():
    sound = under([answers({"mel": 4, "nv": 4}, "a")], np.zeros(8, bool))
    with pytest.raises(InputError, match="2 test images leak"):
        compare_splits(under(list(sound.by_seed.values()), np.arange(8) < 2), sound, NAMED, 10, 0)
    with pytest.raises(InputError, match=r"\[0\] by lesion, \[0, 1\] by image"):
        compare_splits(
            sound, under(list(sound.by_seed.values()) * 2, np.zeros(8, bool)), NAMED, 10, 0
        )
