"""The whole pipeline by its one command, on the phantom and on a slice of the real images."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from browser import problems_of
from chapters import CHAPTERS
from conftest import ROOT, TINY, merged
from finished_reports import Report, errors_in
from solving import surprises

from hamsynth_utils.core.paths import RunPaths
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.synthetic import read_synthetic
from hamsynth_utils.experiment.claims import VERDICTS, read_claims
from hamsynth_utils.report.student import write_student_version

CLASSES = HAM10000.classes.names


def training(steps: int) -> dict:
    return {"training": {"steps": steps}}


SHORT = merged(
    yaml.safe_load((ROOT / "profiles/smoke.yaml").read_text(encoding="utf-8")),
    {
        "autoencoder": training(20),
        "vae": {**training(20), "textbook_steps": 20},
        "gan": {**training(20), "dcgan_demo_steps": 20},
        "diffusion": training(20),
        "flow": training(20),
        "dp": {"overfit_steps": 20},
    },
)
"""The profile smoke with shorter trainings of its generators."""


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Report:
    """A finished report on the phantom that was killed once on its way, during its first generator."""
    report = Report(tmp_path_factory.mktemp("phantom"), SHORT)
    process = subprocess.Popen(
        report.command, cwd=ROOT, env=report.environment, start_new_session=True
    )
    while not RunPaths(report.folder).generators.is_dir():
        assert process.poll() is None, "the pipeline ended before its first generator"
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


REAL = merged(TINY, {"synthesis": {"minority_fraction": 0.3}, "data": {"validation_fraction": 0.2}})


@pytest.fixture(scope="module")
def real(tmp_path_factory, ham10000_slice) -> Report:
    """A finished report on a slice of HAM10000, in which every class but one is rare."""
    report = Report(tmp_path_factory.mktemp("real"), REAL, str(ham10000_slice))
    done = report.make()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return report


@pytest.fixture(params=["phantom", pytest.param("real", marks=pytest.mark.slow)])
def report(request) -> Report:
    return request.getfixturevalue(request.param)


def test_three_chapters_run_on_real_images(tmp_path, ham10000_slice):
    report = Report(tmp_path, REAL, str(ham10000_slice), until="06_vit-vae-0")
    done = report.make()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    executed = {path.stem for path in (report.folder / "notebooks").glob("*.ipynb")}
    assert executed == {"01_dataset", "02_vae", "06_vit-vae-0"}
    assert [errors_in(report.cells(name)) for name in executed] == [0, 0, 0]
    assert_stages_left_results(report, generators=("vae",), arms=("vae",))


def assert_stages_left_results(report: Report, generators: tuple, arms: tuple) -> None:
    """The split covers three parts, each generator learned and drew every class, predictions are of the test part."""
    paths = RunPaths(report.folder)
    parts = pd.read_csv(paths.split()).set_index("image_id")["part"]
    assert set(parts) == {"train", "validation", "test"}
    for name in generators:
        history = pd.read_csv(paths.generator_history(name))
        assert history["step"].iloc[-1] == report.steps[name]
        made = read_synthetic(paths.synthetic(name), HAM10000.classes)
        assert min(made.counts.values()) > 0 and made.table["synthetic"].all()
    for arm in arms:
        predictions = pd.read_csv(paths.predictions(arm, "test", 0))
        assert set(predictions["image_id"]) == set(parts[parts == "test"].index)
        assert (
            predictions[[f"p_{name}" for name in CLASSES]].sum(axis=1).between(0.999, 1.001).all()
        )


def test_every_stage_leaves_its_results(report):
    assert_stages_left_results(report, report.generators, report.arms)
    metrics = ("fidelity", "probes", "probe_gains", "probe_sweep", "classification", "differences")
    for table in (*metrics, "privacy", "guarantee", "fairness", "explanation"):
        assert len(pd.read_csv(RunPaths(report.folder).table(table)))


def test_every_claim_has_its_estimate_and_none_is_judged_by_a_run_that_cannot(report):
    """Six steps of training speak for no method, but the estimates of both chapters must have reached the ledger."""
    verdicts = pd.read_csv(RunPaths(report.folder).table("verdicts")).set_index("id")
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
    table = pd.read_csv(RunPaths(report.folder).table("classification"))
    for arm in report.arms:
        predictions = pd.read_csv(RunPaths(report.folder).predictions(arm, "test", 0))
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
    assert problems_of(report.folder / "site", accessibility=False) == []


@pytest.mark.slow
def test_the_report_is_accessible(phantom):
    assert problems_of(phantom.folder / "site") == []


def test_a_second_start_repeats_nothing(phantom):
    before = phantom.written()
    done = phantom.make()
    assert done.returncode == 0, done.stderr[-3000:]
    assert phantom.written() == before


def test_other_settings_are_refused_in_one_line(phantom, tmp_path):
    path = tmp_path / Path(phantom.profile).name
    path.write_text(yaml.safe_dump({**SHORT, "threads": 2}), encoding="utf-8")
    command = [*phantom.command, f"PROFILE={path}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=phantom.environment,
        text=True,
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode != 0 and "profile.threads: this run has 1, you ask for 2" in done.stderr
    assert "Traceback" not in done.stderr


def with_parameters(report: Report, path: Path, folder: Path) -> Path:
    """A copy of a notebook in `folder`, whose parameters name the run of a report."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    (cell,) = (c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    values = {"profile": report.profile, "run": report.folder.name}
    cell["source"] = [
        *cell["source"],
        *(f"\n{name} = {value!r}" for name, value in values.items()),
    ]
    copy = folder / path.name
    copy.write_text(json.dumps(notebook), encoding="utf-8")
    return copy


def nbval(report: Report, *notebooks: Path) -> subprocess.CompletedProcess[str]:
    """Notebooks executed by nbval, which compares what each marked cell prints with what is stored."""
    options = ["-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "-q"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, notebooks)]
    environment = {**os.environ, "HAMSYNTH_RUNS": str(report.runs), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=ROOT / "notebooks",
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        encoding="utf-8",
    )


LIGHT = ("14_release", "15_claims")


def test_nbval_finds_the_stored_outputs_of_two_light_chapters(phantom, tmp_path):
    paths = [ROOT / f"notebooks/{name}.ipynb" for name in LIGHT]
    done = nbval(phantom, *(with_parameters(phantom, path, tmp_path) for path in paths))
    assert done.returncode == 0, done.stdout[-4000:]


def test_nbval_fails_on_a_stored_output_that_is_another(phantom, tmp_path):
    path = with_parameters(phantom, ROOT / "notebooks/15_claims.ipynb", tmp_path)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    marked = [
        cell for cell in notebook["cells"] if "# NBVAL_CHECK_OUTPUT" in "".join(cell["source"])
    ]
    marked[0]["outputs"][0]["text"] = ["something else\n"]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    done = nbval(phantom, path)
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-4000:]


@pytest.mark.slow
def test_nbval_finds_the_stored_outputs_of_every_chapter(phantom, tmp_path):
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    done = nbval(phantom, *(with_parameters(phantom, path, tmp_path) for path in paths))
    assert done.returncode == 0, done.stdout[-4000:]


def printed(path: Path) -> dict[str, str]:
    """What each cell of a notebook printed that is marked `# NBVAL_CHECK_OUTPUT`, by its source."""
    cells = [
        cell
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
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
def test_every_control_changes_its_picture(phantom, chapter, controls):
    """Moved in the kernel that executed the chapter, right after the cell of the figure."""
    lines = (phantom.answers / "controls.jsonl").read_text(encoding="utf-8").splitlines()
    cells = {
        "".join(cell["source"])
        for cell in json.loads((ROOT / f"notebooks/{chapter}.ipynb").read_text(encoding="utf-8"))[
            "cells"
        ]
    }
    moved = [line for line in map(json.loads, lines) if line["cell"] in cells]
    assert [line.get("error") for line in moved] == [None] * len(controls)
    assert [line["control"] for line in moved] == controls
    assert all(line["image_changed"] and line["words"] for line in moved)


def test_no_executed_notebook_holds_an_error(report):
    assert {name: errors_in(report.cells(name)) for name in report.executions} == dict.fromkeys(
        report.executions, 0
    )


def test_solutions_pass_their_checks_and_wrong_answers_do_not(phantom):
    """In the state that each notebook has at that cell; nothing that was tried is left in the notebook."""
    assert (
        surprises(phantom.answers, *(name.partition("-")[0] for name in phantom.executions)) == []
    )
    cells = json.loads((phantom.folder / "notebooks/01_dataset.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
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
    parameters = ["-p", "run", phantom.folder.name, "-p", "profile", phantom.profile]
    environment = phantom.environment | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, *parameters], cwd=tmp_path / "class", env=environment, check=True)
    executed, ours = (
        json.loads(path.read_text(encoding="utf-8"))["cells"]
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
