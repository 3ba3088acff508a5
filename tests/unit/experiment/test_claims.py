import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import make_predictions
from scipy.spatial.distance import cdist
from scipy.special import softmax

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.duplicates import repeated_photos, thumbnails
from hamsynth_utils.data.ham10000 import NO_PAIRS, dataset_name
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.phantom.corruptions import with_copies, with_label_noise
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.data.split import Split, leaked_share, lesion_split
from hamsynth_utils.experiment.claims import (
    ESTIMATES,
    VERDICTS,
    Claim,
    decide,
    read_claims,
    read_estimates,
    verdict_table,
)
from hamsynth_utils.metrics import comparison

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns

PASSES = {"vae": 20.0, "gan": 20.0, "diffusion": 20.0, "vit": 6.0}
UNTESTABLE = VERDICTS[3]
PHANTOM = make_phantom(700, seed=0)
ON_HAM10000 = ("HAM10000", "lesion", 0.0)
"""Whose images, split how, and the share of the test part that leaks: a run that can judge every claim."""


def estimates(*rows) -> pd.DataFrame:
    """Rows statistic, arm, reference, value, low, high, and a split_by if it is not the split by lesions."""
    return pd.DataFrame(
        [
            dict(
                zip(
                    ESTIMATES,
                    (*row[:3], *(row[6:] or ["lesion"]), *row[3:6], 2000, 1490, 3, None),
                    strict=True,
                )
            )
            for row in rows
        ]
    )


def claim(**change) -> Claim:
    given = {
        "id": "a",
        "says": "s",
        "hypothesis": "h",
        "statistic": "accuracy",
        "arm": "gan",
        "reference": "real",
        "above": 0.0,
        "models": ["gan", "vit"],
    }
    return Claim.model_validate({k: v for k, v in {**given, **change}.items() if v is not ...})


@pytest.mark.parametrize(
    ("rule", "interval", "verdict"),
    [
        ({"above": 0.0}, (0.1, 2.0), "supported"),
        ({"above": 0.0}, (-2.0, -0.1), "contradicted"),
        ({"above": 0.0}, (-0.1, 2.0), "undecided"),
        ({"above": 0.0}, (0.0, 2.0), "undecided"),
        ({"below": 0.55}, (0.48, 0.53), "supported"),
        ({"below": 0.55}, (0.6, 0.7), "contradicted"),
        ({"below": 0.55}, (0.5, 0.6), "undecided"),
        ({"within": [4.5, 6.5]}, (4.9, 6.0), "supported"),
        ({"within": [4.5, 6.5]}, (-0.5, 1.5), "contradicted"),
        ({"within": [4.5, 6.5]}, (7.0, 9.0), "contradicted"),
        ({"within": [4.5, 6.5]}, (1.0, 5.0), "undecided"),
        ({"within": [4.5, 6.5]}, (1.0, 9.0), "undecided"),
    ],
)
def test_the_rules(rule, interval, verdict):
    assert (
        decide(claim(above=..., **rule) if "above" not in rule else claim(), *interval) == verdict
    )


def test_the_row_that_decides_is_the_one_with_the_same_arm_and_reference():
    table = estimates(
        ("accuracy", "gan", "real", 2.0, 1.0, 3.0),
        ("accuracy", "gan", None, 90.0, 89.0, 91.0),
        ("accuracy", "vae", "real", -2.0, -3.0, -1.0),
        ("f1_macro", "gan", "real", -2.0, -3.0, -1.0),
    )
    (row,) = verdict_table([claim()], table, PASSES, *ON_HAM10000).to_dict("records")
    assert (row["verdict"], row["rule"], row["value"], row["n"], row["seeds"]) == (
        "supported",
        "supported",
        2,
        2000,
        3,
    )
    (row,) = verdict_table([claim(reference=..., above=95.0)], table, PASSES, *ON_HAM10000).to_dict(
        "records"
    )
    assert (row["verdict"], row["value"]) == ("contradicted", 90)
    assert row["threshold"] == "above 95"


def test_what_a_run_cannot_say_it_does_not_say():
    table = estimates(("accuracy", "gan", "real", 2.0, 1.0, 3.0))
    cases = {
        "gan saw each image 1.5 times": verdict_table(
            [claim()], table, {**PASSES, "gan": 1.5}, *ON_HAM10000
        ),
        "vit is missing": verdict_table([claim()], table, {"gan": 9.0}, *ON_HAM10000),
        "38.6 % of the test images show a lesion that was learned from": verdict_table(
            [claim()], table, PASSES, "HAM10000", "lesion", leaked=0.386
        ),
        "no such estimate in this run": verdict_table(
            [claim(arm="vae", models=[])], table, PASSES, *ON_HAM10000
        ),
        "because": verdict_table(
            [claim(statistic=..., above=..., arm=..., reference=..., untestable="because")],
            table,
            PASSES,
            *ON_HAM10000,
        ),
    }
    for reason, found in cases.items():
        (row,) = found.to_dict("records")
        assert row["verdict"] == UNTESTABLE and row["reason"] == reason
    assert cases["vit is missing"]["rule"].tolist() == ["supported"]
    other = verdict_table(
        [claim(models=["gan"])], table, PASSES, "HAM10000", "lesion", leaked=0.386
    )
    assert other["verdict"].tolist() == ["supported"], (
        "a leak of the classifier's test says nothing of a generator"
    )
    undefined = estimates(("accuracy", "gan", "real", np.nan, np.nan, np.nan))
    for why in ("no such estimate in this run", "no test image shows the class"):
        (row,) = verdict_table([claim()], undefined, PASSES, *ON_HAM10000).to_dict("records")
        assert (row["verdict"], row["reason"]) == (UNTESTABLE, why)
        undefined["reason"] = "no test image shows the class"


def test_a_claim_that_names_a_split_is_judged_under_that_one_and_a_leak_by_images_is_no_obstacle():
    table = estimates(
        ("accuracy", "real", None, 0.80, 0.78, 0.82),
        ("accuracy", "real", None, 0.886, 0.88, 0.89, "image"),
    )
    own = claim(arm="real", reference=..., above=..., within=[0.876, 0.896], models=["vit"])
    theirs = own.model_copy(update={"id": "b", "split_by": "image"})
    honest = verdict_table([own, theirs], table, PASSES, *ON_HAM10000)
    assert honest["verdict"].tolist() == ["contradicted", "supported"]
    assert honest["split_by"].tolist() == ["lesion", "image"]
    leaking = verdict_table([own, theirs], table, PASSES, "HAM10000", "image", 0.376)
    assert leaking["verdict"].tolist() == [UNTESTABLE, "supported"]
    assert leaking["rule"].tolist() == ["supported", "supported"]
    assert leaking["reason"][0] == "37.6 % of the test images show a lesion that was learned from"
    without = verdict_table([theirs], table[:1], PASSES, *ON_HAM10000)
    assert without["reason"].tolist() == ["no such estimate in this run"]


def test_protection_needs_more_passes_than_a_leak():
    """A model of few passes had nothing to hide; but who was found in it has been found."""
    private = claim(
        statistic="membership_auroc",
        reference=...,
        above=...,
        below=0.55,
        models=["gan"],
        passes=90,
    )

    def verdicts(low: float, high: float, passes: float) -> list[str]:
        table = estimates(("membership_auroc", "gan", None, (low + high) / 2, low, high))
        return verdict_table([private], table, {"gan": passes}, *ON_HAM10000)["verdict"].tolist()

    assert verdicts(0.47, 0.52, 13) == [UNTESTABLE] and verdicts(0.47, 0.52, 99.5) == ["supported"]
    assert verdicts(0.53, 0.57, 13) == [UNTESTABLE] and verdicts(0.53, 0.57, 99.5) == ["undecided"]
    assert verdicts(0.56, 0.60, 2) == verdicts(0.56, 0.60, 99.5) == ["contradicted"]
    assert {each.passes for each in read_claims() if each.id.startswith("privacy")} == {90}


def test_two_estimates_for_one_claim_are_refused():
    row = ("accuracy", "gan", "real", 2.0, 1.0, 3.0)
    with pytest.raises(InputError, match="claim a has 2 estimates"):
        verdict_table([claim()], estimates(row, row), PASSES, *ON_HAM10000)
    with pytest.raises(InputError, match=r"lacks the column\(s\) seeds"):
        verdict_table([claim()], estimates(row).drop(columns="seeds"), PASSES, *ON_HAM10000)


def answered(predictions: pd.DataFrame, index: np.ndarray, correctly: bool) -> pd.DataFrame:
    """The table with the images of `index` answered rightly, or all wrongly."""
    truth = predictions["dx"].map(CLASSES.index).to_numpy()[index]
    p = np.zeros((len(index), 7))
    p[np.arange(len(index)), truth if correctly else (truth + 1) % 7] = 1
    changed = predictions.copy()
    changed.loc[index, list(PROBABILITIES)] = p
    return changed


def planted(right: float, wrong: float) -> dict[str, dict[int, pd.DataFrame]]:
    """Two seeds of the arms real and gan; gan answers so large shares of the images rightly, or wrongly."""
    arms: dict[str, dict[int, pd.DataFrame]] = {"real": {}, "gan": {}}
    for seed in (0, 1):
        real = make_predictions(1000, 3, skill=1.0)
        hit = real[list(PROBABILITIES)].to_numpy().argmax(1) == real["dx"].map(CLASSES.index)
        draw = np.random.default_rng(seed)
        hits, misses = (draw.permutation(np.flatnonzero(part)) for part in (hit, ~hit))
        better = answered(real, misses[: int(1000 * right)], True)
        arms["real"][seed], arms["gan"][seed] = (
            real,
            answered(better, hits[: int(1000 * wrong)], False),
        )
    return arms


@pytest.mark.parametrize(
    ("right", "wrong", "leaked", "dropped", "verdict"),
    [
        (0.08, 0.0, 0.0, None, "supported"),
        (0.0, 0.08, 0.0, None, "contradicted"),
        (0.04, 0.04, 0.0, None, "undecided"),
        (0.08, 0.0, 0.3, None, UNTESTABLE),
        (0.08, 0.0, 0.0, "gan", UNTESTABLE),
    ],
)
@pytest.mark.parametrize("images", ["HAM10000", "the phantom"])
def test_the_books_verdict_follows_what_was_planted_in_the_predictions(
    right, wrong, leaked, dropped, verdict, images
):
    """From the predictions by way of the estimates to the claim that GAN images raise the accuracy."""
    arms = {arm: by_seed for arm, by_seed in planted(right, wrong).items() if arm != dropped}
    accuracy, lesions = comparison.statistics(HAM10000.classes)["accuracy"], np.arange(1000) // 2
    own = {
        arm: comparison.estimate(accuracy, by_seed, lesions, 300, 0)
        for arm, by_seed in arms.items()
    }
    rows = [
        {
            "statistic": "accuracy",
            "arm": "real",
            "split_by": "lesion",
            "value": own["real"].value,
            "low": own["real"].low,
            "high": own["real"].high,
        }
    ]
    if "gan" in own:
        rows.append(
            {
                "statistic": "accuracy",
                "arm": "gan",
                "reference": "real",
                "split_by": "lesion",
                **comparison.difference(own["gan"], own["real"]),
                "n": 1000,
                "lesions": 500,
                "seeds": 2,
            }
        )
    (claim,) = [claim for claim in read_claims() if claim.id == "accuracy-gan"]
    table = pd.DataFrame(rows, columns=ESTIMATES)
    (row,) = verdict_table([claim], table, PASSES, images, "lesion", leaked).to_dict("records")
    assert row["verdict"] == verdict and row["images"] == images
    if dropped is None:
        assert row["value"] == pytest.approx(right - wrong)
        assert row["rule"] == (
            "undecided" if right == wrong else "supported" if right > wrong else "contradicted"
        )
    else:
        assert row["reason"] == "no such estimate in this run"


def centroid_predictions(lesions: LesionSet, split: Split) -> pd.DataFrame:
    """Predictions of the test part by a classifier of little brain: the nearest mean picture of a class."""
    pictures = thumbnails(lesions.images).flatten(1).numpy() / 255
    labels = lesions.labels.numpy()
    means = [pictures[split.train][labels[split.train] == label].mean(0) for label in range(7)]
    p = softmax(-20 * cdist(pictures[split.test], means), axis=1)
    table = lesions.table.iloc[split.test].reset_index(drop=True)
    return pd.concat(
        [table[["image_id", "dx"]], pd.DataFrame(p, columns=list(PROBABILITIES))], axis=1
    )


def judged_accuracy(lesions: LesionSet, split: Split, near_duplicates: pd.DataFrame) -> dict:
    """The ledger's row on a claim that the accuracy is above 0.35, from the images by way of predictions and estimates."""
    predictions = centroid_predictions(lesions, split)
    ids = lesions.table["lesion_id"].iloc[split.test]
    found = comparison.estimate(
        comparison.statistics(HAM10000.classes)["accuracy"], {0: predictions}, ids, 300, 0
    )
    table = estimates(("accuracy", "real", None, found.value, found.low, found.high))
    above = claim(arm="real", reference=..., above=0.35, models=["vit"])
    leak = leaked_share(lesions.table, split, near_duplicates)
    (row,) = verdict_table(
        [above], table, PASSES, dataset_name("planted", lesions.table), "lesion", leak
    ).to_dict("records")
    return row


def test_wrong_diagnoses_that_were_planted_turn_the_verdict():
    clean, spoiled = PHANTOM, with_label_noise(PHANTOM, 0.8, seed=1)
    rows = [
        judged_accuracy(each, lesion_split(each.table, HAM10000.classes, NO_PAIRS, 0), NO_PAIRS)
        for each in (clean, spoiled)
    ]
    assert [row["verdict"] for row in rows] == ["supported", "contradicted"]
    assert {row["images"] for row in rows} == {"the folder planted, which is not HAM10000"}


def test_copies_that_were_planted_leak_unless_they_are_united_with_their_lesions():
    both = with_copies(PHANTOM, 0.3, seed=1)
    pairs = repeated_photos(both)
    by_names = lesion_split(both.table, HAM10000.classes, NO_PAIRS, 0)
    assert leaked_share(both.table, by_names) == 0, (
        "by their names the copies are lesions of their own"
    )
    row = judged_accuracy(both, by_names, pairs)
    assert row["verdict"] == UNTESTABLE and row["rule"] in VERDICTS[:3]
    assert row["reason"].endswith("% of the test images show a lesion that was learned from")
    assert 20 < float(row["reason"].split(" %")[0]) < 90
    united = judged_accuracy(both, lesion_split(both.table, HAM10000.classes, pairs, 0), pairs)
    assert united["verdict"] == united["rule"] and united["reason"] == ""


def test_estimates_of_several_chapters_are_one_table(tmp_path):
    both = estimates(
        ("accuracy", "gan", "real", 2.0, 1.0, 3.0), ("membership_auroc", "gan", None, 0.5, 0.4, 0.6)
    )
    for name, part in (("evaluation", both[:1].assign(p=0.01)), ("ethics", both[1:])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    table = read_estimates([tmp_path / "evaluation.csv", tmp_path / "ethics.csv"])
    privacy = claim(statistic="membership_auroc", reference=..., above=..., below=0.55, id="b")
    assert verdict_table([claim(), privacy], table, PASSES, *ON_HAM10000)["verdict"].tolist() == [
        "supported",
        "undecided",
    ]
    both.drop(columns="low").to_csv(tmp_path / "ethics.csv", index=False)
    with pytest.raises(InputError, match=r"ethics.csv lacks the column\(s\) low"):
        read_estimates([tmp_path / "evaluation.csv", tmp_path / "ethics.csv"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"below": 1.0}, "exactly one of above, below and within"),
        ({"above": ...}, "exactly one of above, below and within"),
        ({"untestable": "why"}, "either a statistic or a reason"),
        ({"above": ..., "within": [2.0, 1.0]}, "two numbers that rise"),
        ({"arm": "wavelet"}, "no arm or model wavelet"),
        ({"models": ["resnet"]}, "no arm or model resnet"),
        ({"verdict": "supported"}, "verdict Extra inputs are not permitted"),
    ],
)
def test_claims_that_cannot_decide_are_refused_by_name(change, message, tmp_path):
    entry = claim().model_dump(exclude_none=True) | change
    path = tmp_path / "claims.yaml"
    path.write_text(
        yaml.safe_dump([{k: v for k, v in entry.items() if v is not ...}]), encoding="utf-8"
    )
    with pytest.raises(InputError, match=f"claim a: .*{message}"):
        read_claims(path)


def test_an_id_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim().model_dump(exclude_none=True)] * 2), encoding="utf-8")
    with pytest.raises(InputError, match="two claims with the id a"):
        read_claims(path)


PRINTED = {
    "real": (88.6, 87.9, 86.8, 87.3),
    "vae": (90.2, 89.1, 88.9, 89.0),
    "gan": (92.3, 91.7, 91.2, 91.4),
    "diffusion": (94.1, 93.5, 93.7, 93.6),
}
"""The report's first table: accuracy, precision, recall and F1 of each arm, in per cent."""
SCORES = ("accuracy", "precision_macro", "recall_macro", "f1_macro")


def test_every_number_of_the_reports_first_table_is_judged_as_it_is_printed():
    """Each score and each step over the real-only arm, give or take a point, and whether there is a step at all."""
    asked = {
        (each.statistic, each.arm, each.reference, each.split_by): (
            each.above,
            tuple(each.within or ()),
        )
        for each in read_claims()
        if each.statistic in SCORES and each.reference in (None, "real") and each.within
    }
    raised = {
        (each.statistic, each.arm)
        for each in read_claims()
        if each.reference == "real" and each.above == 0
    }
    wanted = {}
    for column, score in enumerate(SCORES):
        for split_by in (None, "image"):
            wanted[score, "real", None, split_by] = PRINTED["real"][column]
        for arm in ("vae", "gan", "diffusion"):
            wanted[score, arm, "real", None] = PRINTED[arm][column] - PRINTED["real"][column]
            assert (score, arm) in raised
    wanted |= {
        ("accuracy", arm, None, None): PRINTED[arm][0] for arm in ("vae", "gan", "diffusion")
    }
    assert set(asked) == set(wanted)
    for key, value in wanted.items():
        assert asked[key][1] == pytest.approx(((value - 1) / 100, (value + 1) / 100)), key


def test_the_books_claims_hold_no_verdict_and_all_that_is_printed():
    text = " ".join(claim.says for claim in read_claims())
    printed = [f"{value:.1f}" for row in PRINTED.values() for value in row] + [
        "52.4",
        "45.6",
        "31.2",
    ]
    assert [number for number in printed if number not in text] == []
    assert all(claim.untestable or claim.threshold for claim in read_claims())
