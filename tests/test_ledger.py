import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import make_predictions

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.ledger import (
    ESTIMATES,
    VERDICTS,
    Claim,
    decide,
    ledger,
    read_claims,
    read_estimates,
)
from hamsynth_utils.metrics import comparison
from hamsynth_utils.metrics.classification import PROBABILITIES

PASSES = {"vae": 20.0, "gan": 20.0, "diffusion": 20.0, "vit": 6.0}
UNTESTABLE = VERDICTS[3]


def estimates(*rows) -> pd.DataFrame:
    return pd.DataFrame(
        [dict(zip(ESTIMATES, (*row, 2000, 1490, 3, None), strict=True)) for row in rows], columns=ESTIMATES
    )


def claim(**change) -> Claim:
    given = {"id": "a", "says": "s", "hypothesis": "h", "statistic": "accuracy", "arm": "gan",
             "reference": "real", "above": 0.0, "models": ["gan", "vit"]}  # fmt: skip
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
    assert decide(claim(above=..., **rule) if "above" not in rule else claim(), *interval) == verdict


def test_the_row_that_decides_is_the_one_with_the_same_arm_and_reference():
    table = estimates(
        ("accuracy", "gan", "real", 2.0, 1.0, 3.0), ("accuracy", "gan", None, 90.0, 89.0, 91.0),
        ("accuracy", "vae", "real", -2.0, -3.0, -1.0), ("f1_macro", "gan", "real", -2.0, -3.0, -1.0),
    )  # fmt: skip
    (row,) = ledger([claim()], table, PASSES, "folder", 0.0).to_dict("records")
    assert (row["verdict"], row["rule"], row["value"], row["n"], row["seeds"]) == (
        "supported",
        "supported",
        2,
        2000,
        3,
    )
    (row,) = ledger([claim(reference=..., above=95.0)], table, PASSES, "folder", 0.0).to_dict("records")
    assert (row["verdict"], row["value"]) == ("contradicted", 90)
    assert row["threshold"] == "above 95"


def test_what_a_run_cannot_say_it_does_not_say():
    table = estimates(("accuracy", "gan", "real", 2.0, 1.0, 3.0))
    cases = {
        "the phantom is not HAM10000": ledger([claim()], table, PASSES, "phantom", 0.0),
        "gan saw each image 1.5 times": ledger([claim()], table, {**PASSES, "gan": 1.5}, "folder", 0.0),
        "vit is missing": ledger([claim()], table, {"gan": 9.0}, "folder", 0.0),
        "38.6 % of the test images show a lesion that was learned from": ledger(
            [claim()], table, PASSES, "folder", leaked=0.386
        ),
        "no such estimate in this run": ledger([claim(arm="vae", models=[])], table, PASSES, "folder", 0.0),
        "because": ledger(
            [claim(statistic=..., above=..., arm=..., reference=..., untestable="because")],
            table,
            PASSES,
            "f",
            0.0,
        ),
    }
    for reason, found in cases.items():
        (row,) = found.to_dict("records")
        assert row["verdict"] == UNTESTABLE and row["reason"] == reason
    assert cases["the phantom is not HAM10000"]["rule"].tolist() == ["supported"]
    other = ledger([claim(models=["gan"])], table, PASSES, "folder", leaked=0.386)
    assert other["verdict"].tolist() == ["supported"], "a leak of the classifier's test says nothing of a generator"
    undefined = estimates(("accuracy", "gan", "real", np.nan, np.nan, np.nan))
    assert ledger([claim()], undefined, PASSES, "folder", 0.0)["verdict"].tolist() == [UNTESTABLE]


def test_two_estimates_for_one_claim_are_refused():
    row = ("accuracy", "gan", "real", 2.0, 1.0, 3.0)
    with pytest.raises(InputError, match="claim a has 2 estimates"):
        ledger([claim()], estimates(row, row), PASSES, "folder", 0.0)
    with pytest.raises(InputError, match=r"lacks the column\(s\) seeds"):
        ledger([claim()], estimates(row).drop(columns="seeds"), PASSES, "folder", 0.0)


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
        arms["real"][seed], arms["gan"][seed] = real, answered(better, hits[: int(1000 * wrong)], False)
    return arms


@pytest.mark.parametrize(
    ("right", "wrong", "data", "dropped", "verdict"),
    [
        (0.08, 0.0, "folder", None, "supported"),
        (0.0, 0.08, "folder", None, "contradicted"),
        (0.04, 0.04, "folder", None, "undecided"),
        (0.08, 0.0, "phantom", None, UNTESTABLE),
        (0.08, 0.0, "folder", "gan", UNTESTABLE),
    ],
)
def test_the_books_verdict_follows_what_was_planted_in_the_predictions(right, wrong, data, dropped, verdict):
    """From the predictions by way of the estimates to the claim that GAN images raise the accuracy."""
    arms = {arm: by_seed for arm, by_seed in planted(right, wrong).items() if arm != dropped}
    accuracy, lesions = comparison.statistics()["accuracy"], np.arange(1000) // 2
    own = {arm: comparison.estimate(accuracy, by_seed, lesions, 300, 0) for arm, by_seed in arms.items()}
    rows = [
        {
            "statistic": "accuracy",
            "arm": "real",
            "value": own["real"].value,
            "low": own["real"].low,
            "high": own["real"].high,
        }
    ]
    if "gan" in own:
        rows.append({"statistic": "accuracy", "arm": "gan", "reference": "real",
                     **comparison.difference(own["gan"], own["real"]), "n": 1000, "lesions": 500, "seeds": 2})  # fmt: skip
    (claim,) = [claim for claim in read_claims() if claim.id == "accuracy-gan"]
    (row,) = ledger([claim], pd.DataFrame(rows, columns=ESTIMATES), PASSES, data, 0.0).to_dict("records")
    assert row["verdict"] == verdict
    if dropped is None:
        assert row["value"] == pytest.approx(right - wrong)
        assert row["rule"] == (
            "undecided" if right == wrong else "supported" if right > wrong else "contradicted"
        )
    else:
        assert row["reason"] == "no such estimate in this run"


def test_estimates_of_several_chapters_are_one_table(tmp_path):
    both = estimates(
        ("accuracy", "gan", "real", 2.0, 1.0, 3.0), ("membership_auroc", "gan", None, 0.5, 0.4, 0.6)
    )
    for name, part in (("evaluation", both[:1].assign(p=0.01)), ("ethics", both[1:])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    table = read_estimates([tmp_path / "evaluation.csv", tmp_path / "ethics.csv"])
    privacy = claim(statistic="membership_auroc", reference=..., above=..., below=0.55, id="b")
    assert ledger([claim(), privacy], table, PASSES, "folder", 0.0)["verdict"].tolist() == [
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
    path.write_text(yaml.safe_dump([{k: v for k, v in entry.items() if v is not ...}]))
    with pytest.raises(InputError, match=f"claim a: .*{message}"):
        read_claims(path)


def test_an_id_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim().model_dump(exclude_none=True)] * 2))
    with pytest.raises(InputError, match="two claims with the id a"):
        read_claims(path)


def test_the_books_claims_hold_no_verdict_and_every_number_of_the_reports_first_table():
    claims = read_claims()
    text = " ".join(claim.says for claim in claims)
    for printed in (
        "88.6",
        "90.2",
        "92.3",
        "94.1",
        "52.4",
        "45.6",
        "31.2",
        "87.9",
        "86.8",
        "87.3",
        "93.5",
        "93.7",
        "93.6",
    ):
        assert printed in text
    assert all(claim.untestable or claim.threshold for claim in claims)
