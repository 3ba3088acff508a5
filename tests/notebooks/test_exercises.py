"""Exercises and quizzes: their form, their checks, and the notebooks that students get.

That every solution passes its check, and no wrong answer does, is tried in whole runs: test_end_to_end.py.
"""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from solving import CHAPTERS, exercises_of, surprises, trying

from hamsynth_utils.cli import main
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.report.plain_markdown import plain
from hamsynth_utils.report.student import for_students, write_student_version


def cells_of(chapter: str) -> list[dict]:
    return json.loads((ROOT / f"notebooks/{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_exercises_go_from_prediction_to_implementation_each_in_four_cells(chapter):
    cells = cells_of(chapter)
    places = [place for place, cell in enumerate(cells) if "exercise" in tags(cell)]
    assert len(places) >= 3
    levels = []
    for number, place in enumerate(places, start=1):
        task, answer, check, solution = cells[place - 1 : place + 3]
        levels += re.findall(
            rf"^\*\*{number}\. (Predict|Compute|Implement): [^*]+[.?]\*\* ", source(task)
        )
        assert [cell["cell_type"] for cell in (task, answer, check, solution)] == [
            "markdown",
            "code",
            "code",
            "markdown",
        ]
        assert "None" in source(answer) and "self_check" not in source(answer)
        assert "self_check(" in source(check).splitlines()[-1] and {
            "self-check",
            "hide-input",
        } <= set(tags(check))
        assert check["metadata"]["jupyter"] == {"source_hidden": True}, (
            "the check would give the answer away"
        )
        assert set(check["metadata"]["mystnb"].values()) == {"The check"}, (
            "what a page shows of what is folded"
        )
        assert "solution" in tags(solution) and source(solution).startswith(
            "````{dropdown} Solution\n```python\n"
        )
        words = source(solution).rpartition("```\n\n")[2]
        assert len(words.split()) > 10 and words.endswith("\n````")
    order = [("Predict", "Compute", "Implement").index(level) for level in levels]
    assert len(levels) == len(places) and order == sorted(order) and {order[0], order[-1]} == {0, 2}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_each_exercise_has_a_solution_in_code_and_typical_wrong_answers(chapter):
    for exercise in exercises_of(chapter):
        names = re.findall(r"^(?:def )?(\w+)", exercise.answer)
        codes = [exercise.code_of_solution, *(each["code"] for each in exercise.wrong)]
        for code in codes:
            compile(code, exercise.name, "exec")
            assert re.search(rf"^(def )?{names[0]}\b", code, re.M), f"{exercise.name}: {code}"
        assert len(set(codes)) == len(codes) >= 3, exercise.name


def test_wrong_answers_are_of_exercises_that_are_there():
    wrong = yaml.safe_load((ROOT / "tests/support/wrong_answers.yaml").read_text(encoding="utf-8"))
    assert {chapter: list(of_one) for chapter, of_one in wrong.items()} == {
        chapter: list(range(1, len(exercises_of(chapter)) + 1)) for chapter in CHAPTERS
    }
    checks = [exercise.check for chapter in CHAPTERS for exercise in exercises_of(chapter)]
    assert len(set(checks)) == len(checks), (
        "an answer is found by its check, which must be like no other"
    )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_quiz_asks_for_more_than_yes_or_no_and_explains(chapter):
    (quiz,) = [source(cell) for cell in cells_of(chapter) if "quiz" in tags(cell)]
    asked = re.findall(
        r"^\*\*([A-Z])\.\*\* (.*?)\n\n````\{dropdown\} Answer\n(.*?)\n````", quiz, re.M | re.S
    )
    assert (
        "".join(letter for letter, *_ in asked) == "ABCDEFGH"[: quiz.count("{dropdown}")]
        and len(asked) >= 3
    )
    for _, question, answer in asked:
        last = re.split(r"(?<=[.?])\s+", " ".join(question.split()))[-1]
        assert last.endswith("?") and re.search(
            r"\b(why|what|which|where|how|between which)\b", last, re.I
        ), question
        assert len(answer.split()) >= 12 and not re.match(
            r"(Yes|No|Nobody|Not surely|One cannot)\b", answer
        ), answer


def test_a_solution_that_fails_or_a_wrong_answer_that_passes_is_a_surprise(tmp_path):
    check = "total = sum(answer)\nprint('right' if total == n else 'not yet')"
    codes = {
        "solution": ("answer = [n]", "right"),
        "bad": ("answer = [1]", "right"),
        "passes": ("n = 1; answer = [1]", "not yet"),
        "fails": ("answer = 1", "not yet"),
        "wrong": ("answer = [2]", "not yet"),
    }
    trials = {
        check: [{"name": name, "code": code, "must": must} for name, (code, must) in codes.items()],
        "print('never run')": [{"name": "other", "code": "", "must": "right"}],
    }
    notebook = (
        f"n, answer = 3, [0]\nget_ipython().run_cell({check!r})\nassert (n, answer) == (3, [0])"
    )
    command = [sys.executable, "-m", "IPython", "--no-banner", "-c", notebook]
    environment = os.environ | trying(tmp_path, trials)
    done = subprocess.run(
        command, env=environment, text=True, capture_output=True, check=True, encoding="utf-8"
    )
    assert done.stdout.split() == ["not", "yet"], "the notebook prints its own answer alone"
    found = surprises(tmp_path)
    assert [line.split(":")[0] for line in found] == ["other", "bad", "passes", "fails"]
    assert "TypeError" in found[-1] and surprises(tmp_path, "solution", "wrong") == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_students_notebooks_have_nothing_that_jupyterlab_does_not_show(chapter):
    cells = for_students({"cells": cells_of(chapter)})["cells"]
    said = [source(cell) for cell in cells if cell["cell_type"] == "markdown"]
    assert not [
        text for text in said if re.search(r"\{[a-z:]+\}`|^(```|:::)\{|^\$\$ \(", text, re.M)
    ]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for after, cell in enumerate(cells[:-1]):
        figure = cell["metadata"].get("mystnb", {}).get("figure")
        if figure:
            assert source(cells[after + 1]).endswith(f".* {plain(figure['caption'])}")
    code = "\n".join(source(cell) for cell in cells)
    assert re.search(r"^from hamsynth_utils\.notebook import .*\bglue\b", code, re.M)


@pytest.mark.parametrize(
    ("myst", "shown"),
    [
        ("see {doc}`02_vae`", "see [02_vae](02_vae.ipynb)"),
        (
            "page {doc}`../run`, {doc}`datasheet <../datasheet>`",
            "page *run* of the report, *datasheet* of the report",
        ),
        ("By {eq}`eq-vae-kl`", "By (eq-vae-kl)"),
        ("$$\na = b\n$$ (eq-a-b)\n\n$$\nc\n$$", "$$\na = b\\tag{eq-a-b}\n$$\n\n$$\nc\n$$"),
        ("{numref}`fig-vae-toy`", "fig-vae-toy"),
        ("{glue:text}`vae-steps:,.0f` steps", "`vae-steps` steps"),
        ("{cite}`kingma2014vae`", "([Kingma and Welling, 2014](https://arxiv.org/abs/1312.6114))"),
        ("{cite:t}`ho2020ddpm`", "[Ho et al. (2020)](https://arxiv.org/abs/2006.11239)"),
        ("`{eq}` in code", "`{eq}` in code"),
    ],
)
def test_plain_markdown_keeps_what_a_page_would_show(myst, shown):
    assert plain(myst) == shown


def test_a_role_without_a_plain_form_is_named():
    with pytest.raises(
        InputError, match=r"\{ref\}`cell <x>` has no plain form: add one for \{ref\}"
    ):
        plain("see {ref}`cell <x>`")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_students_get_everything_but_solutions_and_answers(chapter):
    notebook = {"cells": cells_of(chapter), "metadata": {}, "nbformat": 4}
    given = for_students(notebook)["cells"]
    ours = {cell["id"]: cell for cell in notebook["cells"] if "solution" not in tags(cell)}
    assert [cell["id"] for cell in given if cell["id"] in ours] == list(ours)
    code = [cell for cell in given if cell["cell_type"] == "code"]
    for cell in code:
        # JupyterLab shows the first line of a folded cell, which must not be one that knows the answer
        first = "# The check: run this cell\n" if "self-check" in tags(cell) else ""
        assert (
            source(cell) == first + source(ours[cell["id"]])
            and cell["metadata"] == ours[cell["id"]]["metadata"]
        )
    text = "".join(map(source, given))
    assert "{dropdown}" not in text and "Exercises" in text
    questions = re.findall(r"^\*\*[A-Z]\.\*\* .*?\?$", source(notebook["cells"][-1]), re.M | re.S)
    assert source(given[-1]).split("\n\n") == ["## Quiz", *questions]


def test_a_students_work_is_not_overwritten(tmp_path, capsys):
    written = write_student_version(tmp_path / "class")
    assert [path.stem for path in written] == CHAPTERS
    assert main(["student", "--out", str(tmp_path / "class")]) == 0  # as they were handed out
    mine = tmp_path / "class/02_vae.ipynb"
    mine.write_text(
        mine.read_text(encoding="utf-8").replace("answer_1 = None", "answer_1 = 0.818"),
        encoding="utf-8",
    )
    (tmp_path / "class/01_dataset.ipynb").unlink()
    with pytest.raises(
        InputError, match=r"02_vae\.ipynb\. Nothing was written: name another folder, or move"
    ):
        write_student_version(tmp_path / "class")
    assert (
        "answer_1 = 0.818" in mine.read_text(encoding="utf-8")
        and not (tmp_path / "class/01_dataset.ipynb").exists()
    )
    assert main(["student", "--out", str(tmp_path / "class")]) == 2
    assert "Traceback" not in capsys.readouterr().err
