"""The gate: what passes, what is refused and by how much, and that what was not measured is not passed."""

import pandas as pd
import pytest
import yaml
from PIL import Image
from released import GENERATOR, change, finished_run

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.release.criteria import (
    CRITERIA_COLUMNS,
    evaluate_criteria,
    failed_criteria,
    read_limits,
)


@pytest.fixture
def run(tmp_path, tiny_profile):
    return finished_run(tmp_path / "run", tiny_profile)


def verdicts(gate):
    return gate.groupby("limit")["verdict"].agg(set).to_dict()


def test_the_books_limits_put_every_question_and_a_good_set_passes(run):
    gate = evaluate_criteria(run, GENERATOR)
    assert list(gate.columns) == CRITERIA_COLUMNS and failed_criteria(gate) == []
    assert (
        set(gate["limit"])
        == {limit.id for limit in read_limits()}
        == {
            "labels",
            "near copies",
            "membership",
            "class consistency",
            "coverage",
            "subgroup gap",
        }
    )
    assert (gate["excess"] <= 0).all()
    # Both attacks and both attributes are put to their limit, each by itself; other generators' rows are not.
    assert sorted(gate["measure"][gate["limit"] == "membership"]) == [
        "membership_auroc_loss",
        "membership_auroc_nearest",
    ]
    assert sorted(gate["of"][gate["limit"] == "subgroup gap"]) == ["age_band", "sex"]


OVERFITTED = {
    "near copies": (
        "privacy",
        "near_duplicate_rate",
        {"value": 0.4, "low": 0.35, "high": 0.45},
        "0.45",
        "too much by 0.4 ",
    ),
    "membership": (
        "privacy",
        "membership_auroc_loss",
        {"value": 0.9, "low": 0.87, "high": 0.93},
        "0.93",
        "too much by 0.33",
    ),
    "coverage": (
        "fidelity",
        "coverage",
        {"mean": 0.2, "low": 0.1, "high": 0.3},
        "0.1",
        "too little by 0.4",
    ),
    "subgroup gap": (
        "fairness",
        "largest_gap_recall",
        {"value": 0.4, "low": 0.25, "high": 0.6},
        "0.25",
        "too much by 0.05",
    ),
}


@pytest.mark.parametrize("limit", OVERFITTED)
def test_each_limit_refuses_and_says_by_how_much(run, limit):
    table, measure, values, judged, by = OVERFITTED[limit]
    change(run, table, measure, **values)
    gate = evaluate_criteria(run, GENERATOR)
    assert verdicts(gate)[limit] >= {"failed"}
    lines = failed_criteria(gate)
    assert all(line.startswith(limit) for line in lines)
    assert f" {judged}," in lines[0] and by in lines[0] and "n = " in lines[0]


def test_a_limit_is_put_to_the_end_of_the_interval_that_it_names(run):
    # The value itself is harmless: what is refused is that more cannot be excluded.
    change(run, "privacy", "membership_auroc_nearest", value=0.52, low=0.4, high=0.64)
    assert verdicts(evaluate_criteria(run, GENERATOR))["membership"] == {"passed", "failed"}
    # The gap is judged by its low end: a wide interval alone does not refuse it.
    change(run, "fairness", "largest_gap_recall", value=0.5, low=0.19, high=0.9)
    assert verdicts(evaluate_criteria(run, GENERATOR))["subgroup gap"] == {"passed"}


def test_an_exact_hit_passes(run):
    for exact in (0.6, 0.56 + 0.04, 0.1 + 0.2 + 0.3):  # the last two are a trifle above 0.6
        change(run, "privacy", "membership_auroc_loss", high=exact)
        assert verdicts(evaluate_criteria(run, GENERATOR))["membership"] == {"passed"}
    change(run, "privacy", "membership_auroc_loss", high=0.600001)
    assert verdicts(evaluate_criteria(run, GENERATOR))["membership"] == {"passed", "failed"}


@pytest.mark.parametrize(
    ("spoil", "limit", "reason"),
    [
        (lambda t: None, "near copies", "is not there"),
        (
            lambda t: t[t["measure"] != "near_duplicate_rate"],
            "near copies",
            "has no such row of gan",
        ),
        (lambda t: t[t["generator"] != "gan"], "membership", "has no such row of gan"),
        (lambda t: t.drop(columns="high"), "near copies", "lacks the column(s) high"),
        (
            lambda t: t.rename(columns={"generator": "set"}),
            "near copies",
            "lacks the column(s) generator",
        ),
        (lambda t: t.assign(high=float("nan")), "membership", "its high is not defined"),
    ],
)
def test_what_was_not_measured_is_not_passed(run, spoil, limit, reason):
    path = run / "metrics/privacy.csv"
    spoilt = spoil(pd.read_csv(path))
    if spoilt is None:
        path.unlink()
    else:
        spoilt.to_csv(path, index=False)
    gate = evaluate_criteria(run, GENERATOR)
    assert verdicts(gate)[limit] == {"not measured"}
    assert any(line.startswith(limit) and reason in line for line in failed_criteria(gate))


def test_the_gate_gives_the_reason_of_the_table(run):
    change(run, "privacy", "membership_auroc_loss", value=None, low=None, high=None, n=0)
    path = run / "metrics/privacy.csv"
    table = pd.read_csv(path)
    why = table["measure"].map({"membership_auroc_loss": "22 reference images, and 50 are needed"})
    table.assign(reason=why).to_csv(path, index=False)
    (line,) = failed_criteria(evaluate_criteria(run, GENERATOR))
    assert line.startswith("membership (membership_auroc_loss")
    assert line.endswith("): not measured, 22 reference images, and 50 are needed")


def test_one_attribute_that_was_not_measured_is_enough(run):
    path = run / "metrics/fairness.csv"
    table = pd.read_csv(path)
    table[table["attribute"] != "age_band"].to_csv(path, index=False)
    (line,) = failed_criteria(evaluate_criteria(run, GENERATOR))
    assert line.startswith("subgroup gap (largest_gap_recall, age_band): not measured")


def test_every_extractor_must_pass(run):
    path = run / "metrics/fidelity.csv"
    table = pd.read_csv(path)
    pd.concat([table, table.assign(extractor="inception", low=0.3)]).to_csv(path, index=False)
    (line,) = failed_criteria(evaluate_criteria(run, GENERATOR))
    assert line.startswith("coverage (inception)") and "too little by 0.2" in line


def test_the_share_of_labelled_images_is_counted(run):
    first = sorted((run / f"generators/{GENERATOR}/seed-0/synthetic/images").glob("*.png"))[0]
    with Image.open(first) as image:
        image.load()
    image.info.clear()
    image.save(first)
    (line,) = failed_criteria(evaluate_criteria(run, GENERATOR))
    assert (
        line.startswith("labels")
        and "0.833" in line
        and "too little by 0.167" in line
        and "n = 6" in line
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"at_least": 0.1},
            "limit labels: Value error, a limit needs exactly one of at_most and at_least",
        ),
        ({"judged_by": "middle"}, "limit labels: judged_by"),
        ({"most": 1}, "limit labels: most"),
        ({"columns": {"value": "ratio"}}, "columns must say where"),
    ],
)
def test_limits_that_cannot_decide_are_refused(tmp_path, edit, message):
    entry = {
        "id": "labels",
        "asks": "?",
        "why": "!",
        "table": "t.csv",
        "judged_by": "high",
        "at_most": 0.5,
    }
    path = tmp_path / "release.yaml"
    path.write_text(yaml.safe_dump([entry | edit]), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_limits(path)


def test_limits_are_there_and_each_once(tmp_path):
    path = tmp_path / "release.yaml"
    entry = {
        "id": "a",
        "asks": "?",
        "why": "!",
        "table": "t.csv",
        "judged_by": "high",
        "at_most": 0.5,
    }
    for content, message in (
        (None, "no limits at"),
        ("[]", "holds no limits"),
        (yaml.safe_dump([entry] * 2), "two limits with the id a"),
    ):
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_limits(path)
