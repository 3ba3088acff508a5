"""Few images of two classes, one photo of each lesion, no attributes, no masks: the report is built, and says so."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, merged
from drawn_sets import write_drawn_set
from finished_reports import Report, page_text

from hamsynth_utils.core.paths import RunPaths

SETTINGS = merged(TINY, {"arms": ["real", "vae"], "data": {"image_size": 32}})
FEW = "20 reference images: a calibration needs 50 held-out ones"
ALONE = (
    "0 lesions in training and 0 held out have several photos: the attack on patients needs at "
    "least 10 of each"
)
NO_MASKS = "none of the images has a mask of its lesion"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("few")
    data = write_drawn_set(folder / "drawn", 200, ("mel", "nv"))
    metadata = data / "HAM10000_metadata.csv"
    attributes = dict.fromkeys(("age", "sex", "localization", "dataset"), np.nan)
    pd.read_csv(metadata).assign(**attributes).to_csv(metadata, index=False)
    report = Report(folder, SETTINGS, str(data), trials={})
    done = report.make()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return report


def reasons(report: Report, table: str, by: str) -> dict[str, set[str]]:
    """The reasons of the rows without a value, by the column `by`."""
    rows = pd.read_csv(RunPaths(report.folder).table(table))
    missed = rows[rows["reason"].notna()]
    assert missed["value"].isna().all()
    return missed.groupby(by)["reason"].agg(set).to_dict()


def test_attacks_without_enough_photos_are_left_out_and_say_so(report):
    found = reasons(report, "privacy", "measure")
    assert found["membership_auroc_loss"] == found["membership_tpr_loss"] == {FEW}
    assert found["patient_auroc"] == found["patient_member_auroc"] == {ALONE}
    assert "membership_auroc_nearest" not in found, "the attack by images needs no reference"
    text = page_text(report, "notebooks/10_privacy")
    assert f"VAE (kl) - ({FEW})" in text and f"unseen siblings - ({ALONE})" in text
    guarantee = reasons(report, "guarantee", "measure")
    assert guarantee["auroc_photograph"] == {FEW}
    assert guarantee["auroc_patient"] == {
        "no lesion in training, or none held out, has a second photograph"
    }


def test_unmeasured_privacy_does_not_pass_the_gate(report):
    gate = pd.read_csv(RunPaths(report.folder).table("gate"))
    by_loss = gate[gate["measure"] == "membership_auroc_loss"]
    assert len(by_loss) == len(report.generators)
    assert set(by_loss["verdict"]) == {"not measured"} and set(by_loss["reason"]) == {FEW}
    sex = gate[(gate["of"] == "sex") & (gate["generator"] == "vae")]
    assert set(sex["reason"]) == {"no test image has a value for sex"}
    assert f"- ({FEW})" in page_text(report, "notebooks/14_release")


def test_claims_that_rest_on_it_are_not_testable_and_say_why(report):
    verdicts = pd.read_csv(RunPaths(report.folder).table("verdicts")).set_index("id")
    for claim, why in {"privacy-vae": FEW, "attention-lesion": NO_MASKS}.items():
        assert verdicts.loc[claim, "verdict"] == "not testable in this run"
        assert verdicts.loc[claim, "reason"].endswith(why)


def test_pages_without_masks_and_attributes_show_a_dash_and_the_reason(report):
    assert reasons(report, "explanation", "test") == {
        "lesion, chance": {NO_MASKS},
        "lesion, centred blob": {NO_MASKS},
    }
    assert f"- ({NO_MASKS})" in page_text(report, "notebooks/13_explanation")
    assert "No image has a value for sex, age band" in page_text(report, "notebooks/12_fairness")
    cards = page_text(report, "model_cards")
    assert FEW in cards and "no test image has a value for sex" in cards


def test_no_page_shows_a_number_that_is_none(report):
    pages = [
        "model_cards",
        *(f"notebooks/{name}" for name in report.executions if "06" not in name),
    ]
    none = re.compile(r"NaN|<NA>|nan to|nan %|\(nan")
    assert [name for name in pages if none.search(page_text(report, name))] == []
