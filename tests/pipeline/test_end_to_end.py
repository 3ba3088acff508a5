"""The whole road by its one command, on the phantom and on a slice of the real images."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from browser import problems_of
from conftest import ROOT, TINY, merged
from nbclient import NotebookClient
from solving import surprises, trying

from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.synthetic import read_synthetic
from hamsynth_utils.experiment.claims import VERDICTS, read_claims
from hamsynth_utils.report.student import write_student_version

CLASSES = HAM10000.classes.names

CHAPTERS = (
    "01_dataset",
    "02_vae",
    "03_gan",
    "04_diffusion",
    "07_controls",
    "08_fidelity",
    "09_evaluation",
    "10_privacy",
    "11_guarantee",
    "12_fairness",
    "13_explanation",
    "14_release",
    "15_claims",
)


class Report:
    """`make report` in a runs folder of its own, on the phantom with an external test set, which is a second phantom.

    Answers to the exercises are tried while its notebooks run, which see nothing of it.
    """

    def __init__(self, folder: Path, settings: dict, data: str = "phantom") -> None:
        self.settings, self.data = settings, data
        self.profile, self.folder = folder / "trial.yaml", folder / "runs/trial"
        self.profile.write_text(yaml.safe_dump(settings))
        profile = load_profile(str(self.profile))
        self.generators, self.arms = profile.generators, profile.arms
        more = [
            REGISTRY[name].chapter for name in self.generators if not REGISTRY[name].in_every_run
        ]
        self.executions = [*CHAPTERS, *more, *(f"06_vit-{arm}-0" for arm in self.arms)]
        self.command = ["make", "report", f"PROFILE={self.profile}", "RUN=trial", f"DATA={data}"]
        if data == "phantom":
            self.command.append("EXTERNAL=phantom")
            self.executions.append("16_external")
        # Not as a part of the `make test` that may have started this, which would say so in its output.
        outer = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        self.environment = {**outer, "HAMSYNTH_RUNS": str(folder / "runs"), "HF_HUB_OFFLINE": "1"}
        self.answers = folder / "answers"
        self.environment |= trying(self.answers)

    def make(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command,
            cwd=ROOT,
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
        )

    def written(self) -> dict[str, int]:
        """When each executed notebook was written."""
        return {
            name: (self.folder / f"notebooks/{name}.ipynb").stat().st_mtime_ns
            for name in self.executions
        }


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Report:
    """A finished report on the phantom, by the profile smoke, that was killed once on its way, during the GAN."""
    smoke = yaml.safe_load((ROOT / "profiles/smoke.yaml").read_text())
    report = Report(tmp_path_factory.mktemp("phantom"), smoke)
    process = subprocess.Popen(
        report.command, cwd=ROOT, env=report.environment, start_new_session=True
    )
    while not (report.folder / "generators/gan/seed-0").is_dir():
        assert process.poll() is None, "the road ended before its GAN"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = report.folder / "notebooks/01_dataset.ipynb"
    before = first.stat().st_mtime_ns
    done = report.make()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert first.stat().st_mtime_ns == before, "a finished stage was repeated after the kill"
    assert done.stdout.splitlines()[-1].endswith("index.html")
    return report


@pytest.fixture(scope="module")
def real(tmp_path_factory, ham10000_slice) -> Report:
    """A finished report on a slice of HAM10000, in which every class but one is rare."""
    settings = merged(
        TINY, {"synthesis": {"minority_fraction": 0.3}, "data": {"validation_fraction": 0.2}}
    )
    report = Report(tmp_path_factory.mktemp("real"), settings, str(ham10000_slice))
    done = report.make()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return report


@pytest.fixture(params=["phantom", "real"])
def report(request) -> Report:
    return request.getfixturevalue(request.param)


def test_every_room_leaves_its_results(report):
    folder = report.folder
    parts = pd.read_csv(folder / "data/split.csv").set_index("image_id")["part"]
    assert set(parts) == {"train", "validation", "test"}
    for name in report.generators:
        history = pd.read_csv(folder / f"generators/{name}/seed-0/history.csv")
        assert history["step"].iloc[-1] == report.settings[name]["training"]["steps"]
        made = read_synthetic(folder / f"generators/{name}/seed-0/synthetic", HAM10000.classes)
        assert min(made.counts.values()) > 0 and made.table["synthetic"].all()
    for arm in report.arms:
        predictions = pd.read_csv(folder / f"classifiers/{arm}/seed-0/predictions.csv")
        assert set(predictions["image_id"]) == set(parts[parts == "test"].index)
        assert (
            predictions[[f"p_{name}" for name in CLASSES]].sum(axis=1).between(0.999, 1.001).all()
        )
    metrics = ("fidelity", "probes", "probe_gains", "probe_sweep", "classification", "differences")
    for table in (*metrics, "privacy", "guarantee", "fairness", "explanation"):
        assert len(pd.read_csv(folder / f"metrics/{table}.csv"))


def test_every_claim_has_its_estimate_and_none_is_judged_by_a_run_that_cannot(report):
    """Six steps of training speak for no method, but the estimates of both chapters must have reached the ledger."""
    verdicts = pd.read_csv(report.folder / "metrics/verdicts.csv").set_index("id")
    claims = {claim.id: claim for claim in read_claims()}
    assert list(verdicts.index) == list(claims)
    assert set(verdicts["verdict"]) == {VERDICTS[3]}
    without = set(verdicts.index[verdicts["rule"].isna()])
    unmeasured = {
        name for name, claim in claims.items() if claim.untestable or claim.split_by == "image"
    }
    # The slice has no masks, so nobody knows where its lesions are.
    assert without == unmeasured | (set() if report.data == "phantom" else {"attention-lesion"})
    named = (
        "the phantom" if report.data == "phantom" else "the folder ham10000, which is not HAM10000"
    )
    assert set(verdicts["images"]) == {named}, "a part of HAM10000 is not HAM10000"


def test_the_numbers_of_the_report_are_those_of_the_predictions(report):
    """Accuracy per arm in metrics/classification.csv, recomputed from the saved predictions."""
    table = pd.read_csv(report.folder / "metrics/classification.csv")
    for arm in report.arms:
        predictions = pd.read_csv(report.folder / f"classifiers/{arm}/seed-0/predictions.csv")
        likeliest = predictions[[f"p_{name}" for name in CLASSES]].idxmax(axis=1).str[2:]
        accuracy = (likeliest == predictions["dx"]).mean()
        (row,) = table[(table["arm"] == arm) & (table["metric"] == "accuracy")].to_dict("records")
        assert row["value"] == pytest.approx(accuracy, abs=1e-6)
        assert row["low"] <= row["value"] <= row["high"]


def test_the_report_works_in_a_browser_without_a_network(report):
    pages = {path.name for path in (report.folder / "site").rglob("*.html")}
    expected = {f"{name}.html" for name in report.executions} - {"06_vit-real-0.html"} | {
        "06_vit.html"
    }
    assert expected <= pages
    assert problems_of(report.folder / "site", accessibility=report.data == "phantom") == []


def test_a_second_start_repeats_nothing(phantom):
    before = phantom.written()
    done = phantom.make()
    assert done.returncode == 0, done.stderr[-3000:]
    assert phantom.written() == before


def test_other_settings_are_refused_in_one_line(phantom):
    phantom.profile.write_text(yaml.safe_dump({**phantom.settings, "threads": 2}))
    done = phantom.make()
    phantom.profile.write_text(yaml.safe_dump(phantom.settings))
    assert done.returncode != 0 and "profile.threads: this run has 1, you ask for 2" in done.stderr
    assert "Traceback" not in done.stderr


def printed(path: Path) -> dict[str, str]:
    """What each cell of a notebook printed that is marked `# NBVAL_CHECK_OUTPUT`, by its source."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return {
        "".join(cell["source"]): "".join(
            "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            for output in cell["outputs"]
        )
        for cell in cells
        if "# NBVAL_CHECK_OUTPUT" in "".join(cell["source"])
    }


def test_what_the_notebooks_check_comes_out_as_it_is_stored(phantom):
    """The text that such a cell prints on the phantom is the one stored with it."""
    for chapter in [*CHAPTERS, "06_vit", "16_external"]:
        stored = printed(ROOT / f"notebooks/{chapter}.ipynb")
        executed = "06_vit-real-0" if chapter == "06_vit" else chapter
        assert (
            all(stored.values())
            and printed(phantom.folder / f"notebooks/{executed}.ipynb") == stored
        ), chapter


def test_so_does_what_the_chapters_check_that_the_profile_smoke_leaves_out(real):
    for chapter in (each.chapter for each in REGISTRY.values() if not each.in_every_run):
        stored = printed(ROOT / f"notebooks/{chapter}.ipynb")
        assert (
            all(stored.values()) and printed(real.folder / f"notebooks/{chapter}.ipynb") == stored
        )


SOMEBODY = """
from hamsynth_utils import hands

hands.is_interactive, hands.boxes, hands.make = lambda: True, [], hands.interact
hands.interact = lambda *given, **more: hands.boxes.append(hands.make(*given, **more))
"""
MOVE = """
for box in hands.boxes:
    *controls, picture = box.children
    for control in controls:
        *_, before = picture.value.partition("base64,")
        start, control.index = control.index, 0 if control.index else len(control.options) - 1
        *_, after = picture.value.partition("base64,")
        assert after and before.partition('"')[0] != after.partition('"')[0], control.description
        print(control.description, picture.value.partition("<p")[2])
        control.index = start
"""


def play(chapter: str, settings: dict) -> str:
    """What is said when somebody is there, runs a chapter up to its last figure for the hand, and moves every control."""
    notebook = nbformat.read(ROOT / f"notebooks/{chapter}.ipynb", 4)
    last = max(
        place for place, cell in enumerate(notebook.cells) if "hands.interact(" in cell.source
    )
    (defaults,) = (
        place
        for place, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    )
    notebook.cells[defaults].source = "\n".join(
        f"{name} = {value!r}" for name, value in settings.items()
    )
    cells = [
        SOMEBODY,
        *(cell.source for cell in notebook.cells[: last + 1] if cell.cell_type == "code"),
        MOVE,
    ]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": str(ROOT / "notebooks")}}
    ).execute()
    return "".join(
        output.text for output in notebook.cells[-1].outputs if output.output_type == "stream"
    )


@pytest.mark.parametrize(
    ("chapter", "controls"),
    [
        (
            "02_vae",
            ["first direction", "second direction", "diagnosis", "from image", "to image", "way"],
        ),
        ("04_diffusion", ["lesion", "noise level", "diagnosis", "guidance", "steps"]),
        ("07_controls", ["generator", "ratio"]),
        ("09_evaluation", ["arm", "threshold"]),
    ],
)
def test_every_control_changes_its_picture(phantom, tmp_path, monkeypatch, chapter, controls):
    shutil.copytree(
        phantom.folder, tmp_path / "trial", ignore=shutil.ignore_patterns("site", "book")
    )
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    )
    said = play(
        chapter, {"data": "phantom", "profile": str(phantom.profile), "run": "trial", "seed": 0}
    )
    assert [line.partition(' role="status">')[0].strip() for line in said.splitlines()] == controls


def test_no_executed_notebook_holds_an_error(report):
    for name in report.executions:
        cells = json.loads((report.folder / f"notebooks/{name}.ipynb").read_text())["cells"]
        kinds = {output["output_type"] for cell in cells for output in cell.get("outputs", [])}
        assert "error" not in kinds and kinds, name


def test_solutions_pass_their_checks_and_wrong_answers_do_not(phantom, real):
    """In the state that each notebook has at that cell; nothing that was tried is left in the notebook."""
    assert (
        surprises(phantom.answers, *(name.partition("-")[0] for name in phantom.executions)) == []
    )
    assert (
        surprises(
            real.answers, *(each.chapter for each in REGISTRY.values() if not each.in_every_run)
        )
        == []
    )
    cells = json.loads((phantom.folder / "notebooks/01_dataset.ipynb").read_text())["cells"]
    checked = [cell for cell in cells if "self-check" in cell["metadata"].get("tags", [])]
    assert [output["text"] for cell in checked for output in cell["outputs"]] == [
        ["not answered yet: the answer is None\n"]
    ] * len(checked)


def test_a_students_notebook_runs_as_it_was_handed_out(phantom, tmp_path):
    """On a finished run, as in a class, from a folder that lies anywhere."""
    write_student_version(tmp_path / "class")
    command = [
        sys.executable,
        "-m",
        "papermill",
        "15_claims.ipynb",
        "executed.ipynb",
        "-k",
        "python3",
    ]
    parameters = ["-p", "run", "trial", "-p", "profile", str(phantom.profile)]
    environment = phantom.environment | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, *parameters], cwd=tmp_path / "class", env=environment, check=True)
    executed, ours = (
        json.loads(path.read_text())["cells"]
        for path in (
            tmp_path / "class/executed.ipynb",
            phantom.folder / "notebooks/15_claims.ipynb",
        )
    )
    outputs = [
        [
            cell["outputs"]
            for cell in cells
            if cell["cell_type"] == "code" and "keep_output" in cell["metadata"].get("tags", [])
        ]
        for cells in (executed, ours)
    ]
    assert outputs[0] == outputs[1] != []
    assert sum("self-check" in cell["metadata"].get("tags", []) for cell in executed) >= 3
