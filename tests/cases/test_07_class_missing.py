"""A data set without melanomas and nevi: the report is built, and says what it could not measure."""

import re

import pandas as pd
import pytest
from conftest import TINY, merged
from drawn_sets import write_drawn_set
from finished_reports import Report, page_text

from hamsynth_utils.core.paths import RunPaths
from hamsynth_utils.data.synthetic import read_manifest

CLASSES = ("akiec", "bcc", "bkl", "df", "vasc")
SETTINGS = merged(TINY, {"arms": ["real", "vae"], "data": {"image_size": 32}})

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("five")
    data = write_drawn_set(folder / "drawn", 260, CLASSES, photos_per_lesion=2)
    report = Report(folder, SETTINGS, str(data), trials={})
    done = report.make()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return report


def test_a_class_without_images_is_a_zero_and_a_dash_in_the_first_table(report):
    text = page_text(report, "notebooks/01_dataset")
    assert "mel melanoma 0 0 - 0.0" in text and "nv melanocytic nevus 0 0 - 0.0" in text
    assert "Among melanomas it is - %" in text, "nor is there a share of them that leaks"


def test_no_generator_is_asked_for_a_class_that_it_never_saw(report):
    for name in report.generators:
        manifest = read_manifest(RunPaths(report.folder).synthetic(name))
        assert set(manifest["dx"]) == set(CLASSES)


def test_scores_of_the_class_and_the_gate_have_the_reason(report):
    paths = RunPaths(report.folder)
    estimates = pd.read_csv(paths.table("estimates/evaluation")).set_index("statistic")
    for name in ("recall_mel", "auroc_nv", "mel_sensitivity_at_80"):
        assert set(estimates.loc[name, "reason"]) == {"no test image shows the class"}
        assert estimates.loc[name, "value"].isna().all()
    assert estimates.loc["accuracy", "value"].notna().all()
    gate = pd.read_csv(paths.table("gate"))
    gaps = gate[(gate["limit"] == "subgroup gap") & (gate["generator"] == "vae")]
    assert set(gaps["verdict"]) == {"not measured"}
    assert set(gaps["reason"]) == {"no test image is one that the recall of mel is over"}
    told = "- (no test image is one that the recall of mel is over)"
    assert told in page_text(report, "notebooks/14_release")
    assert "- (no test image shows the class)" in page_text(report, "notebooks/09_evaluation")


def test_no_page_shows_a_number_that_is_none(report):
    pages = [
        "model_cards",
        *(f"notebooks/{name}" for name in report.executions if "06" not in name),
    ]
    none = re.compile(r"NaN|<NA>|nan to|nan %|\(nan")
    assert [name for name in pages if none.search(page_text(report, name))] == []
