"""Every interval is the one that version 0.1.0 computed: same seed, same resamples, same ends.

`bootstrap_regression.json` holds what the code of 0.1.0 returned for the inputs below.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_predictions

from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.metrics import comparison, fairness
from hamsynth_utils.metrics.bootstrap import lesion_mean
from hamsynth_utils.metrics.class_consistency import class_consistency
from hamsynth_utils.metrics.classification import bootstrap_scores
from hamsynth_utils.metrics.comparison import SplitPredictions, compare_splits, minority_statistics
from hamsynth_utils.metrics.power_spectrum import power_ratio
from hamsynth_utils.metrics.privacy.membership_inference import guess_members
from hamsynth_utils.metrics.privacy.memorization import (
    authenticity,
    data_copying,
    neighbour_ratio,
    neighbours,
)
from hamsynth_utils.metrics.privacy.nearest_neighbours import near_duplicate_rate
from hamsynth_utils.metrics.ranking import precision_band
from hamsynth_utils.metrics.skin_tone import agreement

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns

FROZEN = Path(__file__).with_name("bootstrap_regression.json")
N, N_RESAMPLES, SEED = 120, 100, 5
LESIONS = np.random.default_rng(0).integers(0, 70, N)


def arm(skill: float, seeds=(0, 1, 2), n: int = N) -> dict[int, pd.DataFrame]:
    """Predictions of the same images by several trainings."""
    truth, by_seed = make_predictions(n), {}
    labels = truth["dx"].map(CLASSES.index).to_numpy()
    for seed in seeds:
        logits = np.random.default_rng([seed, 1]).normal(size=(n, 7))
        logits[np.arange(n), labels] += skill
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        by_seed[seed] = truth.assign(**dict(zip(PROBABILITIES, p.T, strict=True)))
    return by_seed


def patients() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "image_id": make_predictions(N)["image_id"],
            "lesion_id": [f"L{number}" for number in LESIONS],
            "dx": make_predictions(N)["dx"],
            "age": rng.choice([20.0, 40.0, 50.0, 80.0, np.nan], N),
            "sex": rng.choice(["female", "male"], N),
        }
    )


def points(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3))


def classification() -> dict:
    return {"scores": bootstrap_scores(arm(1.5)[0], LESIONS, N_RESAMPLES, SEED)}


def arms() -> dict:
    named = comparison.statistics(HAM10000.classes) | minority_statistics(np.arange(7) < 3)
    ours, theirs = (
        comparison.estimates(named, arm(skill), LESIONS, N_RESAMPLES, SEED) for skill in (1.5, 1.0)
    )
    found = {name: [e.value, e.low, e.high] for name, e in ours.items()}
    return found | {
        f"{name} gained": comparison.difference(ours[name], theirs[name]) for name in named
    }


def splits() -> dict:
    image = SplitPredictions(arm(2.0), LESIONS, np.arange(N) % 3 == 0)
    lesion = SplitPredictions(arm(1.0, n=90), LESIONS[:90], np.zeros(90, dtype=bool))
    named = {
        name: comparison.statistics(HAM10000.classes)[name] for name in ("accuracy", "auroc_mel")
    }
    return {"splits": compare_splits(lesion, image, named, N_RESAMPLES, SEED)}


def bands() -> dict:
    recall = np.linspace(0, 1, 5)
    return {"band": precision_band(arm(1.5), ["mel", "nv"], recall, LESIONS, N_RESAMPLES, SEED)}


def groups() -> dict:
    gaps = {
        name: fairness.largest_gaps(arm(skill), patients(), "mel", N_RESAMPLES, SEED, 10)
        for name, skill in (("real", 1.5), ("gan", 2.5))
    }
    chance = fairness.chance_gaps(arm(1.5), patients(), "mel", 20, SEED, 10)
    return {
        "groups": fairness.group_scores(arm(1.5), patients(), N_RESAMPLES, SEED, 10),
        "gaps": fairness.gap_table("real", gaps["real"]),
        "changes": fairness.gap_changes(gaps, ["recall", "accuracy"]),
        "chance": {"/".join(key): values for key, values in chance.items()},
    }


def consistency() -> dict:
    synthetic, real = arm(2.5, n=80)[0], arm(1.5)[0]
    return {"consistency": class_consistency(synthetic, real, LESIONS, N_RESAMPLES, SEED)}


def skin() -> dict:
    first = pd.Series(np.random.default_rng(2).uniform(-40, 60, N)).where(np.arange(N) % 9 > 0)
    second = first + np.random.default_rng(3).normal(4, 8, N)
    angles = agreement(first, second, pd.Series(LESIONS), N_RESAMPLES, SEED)
    return {"agreement": angles, "mean": lesion_mean(second.fillna(0), LESIONS, N_RESAMPLES, SEED)}


def spectrum() -> dict:
    phantom = make_phantom(60, seed=3)
    sets = (phantom.subset(np.arange(30)), phantom.subset(np.arange(30, 60)))
    return {"power": power_ratio(*sets, N_RESAMPLES, SEED)}


def privacy() -> dict:
    train, lesions = points(200, 0), np.arange(200) // 2
    heldout, made = points(N, 1), np.concatenate([points(90, 2), train[:10] + 0.01])
    near_heldout, near_made = (neighbours(each, train, lesions) for each in (heldout, made))
    cells = (heldout[:, 0] > 0).astype(int), (made[:, 0] > 0).astype(int)
    held_lesions = [f"held-out {number}" for number in LESIONS]
    return {
        "authenticity": authenticity(near_made, N_RESAMPLES, SEED),
        "authenticity of real": authenticity(near_heldout, N_RESAMPLES, SEED, held_lesions),
        "ratio": neighbour_ratio(near_made, N_RESAMPLES, SEED),
        "c_t": data_copying(near_heldout, near_made, *cells, held_lesions, N_RESAMPLES, SEED),
        "near": near_duplicate_rate(
            near_heldout.distance, near_made.distance, held_lesions, N_RESAMPLES, SEED
        ),
        "members": guess_members(
            -near_heldout.distance[:100] + 0.1,
            -near_heldout.distance[100:],
            held_lesions[:100],
            [f"another {number}" for number in range(20)],
            N_RESAMPLES,
            SEED,
        ),
    }


def plain(found: object) -> object:
    """Tables and arrays as lists, for JSON; an undefined number as None.

    The column `reason` is left out: the first release did not say why a number is undefined.
    """
    if isinstance(found, pd.DataFrame):
        found = found.drop(columns="reason", errors="ignore")
        return {str(name): plain(found[name].to_numpy(dtype=object)) for name in found}
    if isinstance(found, dict):
        return {str(name): plain(value) for name, value in found.items()}
    if isinstance(found, (list, np.ndarray)):
        return [plain(each) for each in found]
    if isinstance(found, (float, np.floating)):
        return None if np.isnan(found) else float(found)
    return (
        int(found)
        if isinstance(found, (int, np.integer, np.bool_))
        else None
        if found is pd.NA
        else str(found)
    )


def numbers(found: object, where: str = "") -> dict[str, object]:
    """Nested lists and dictionaries as one dictionary, by place."""
    if isinstance(found, dict):
        pairs = found.items()
    elif isinstance(found, list):
        pairs = enumerate(found)
    else:
        return {where: found}
    return {k: v for name, each in pairs for k, v in numbers(each, f"{where}/{name}").items()}


CASES = (
    classification, arms, splits, bands, groups, consistency, skin, spectrum, privacy
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_same_seed_gives_the_intervals_of_the_first_release(case):
    frozen = numbers(json.loads(FROZEN.read_text(encoding="utf-8"))[case.__name__])
    found = numbers(plain(case()))
    assert found.keys() == frozen.keys()
    for place, value in frozen.items():
        assert found[place] == (
            pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value
        ), place
