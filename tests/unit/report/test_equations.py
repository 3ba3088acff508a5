"""Every equation of the notebooks has a label and a cell that checks it, and no link of the page is dead."""

import importlib
import json
import re

import pytest

from hamsynth_utils.core.paths import project_root
from hamsynth_utils.report.pages.equations import (
    FULL_NAME,
    add_check_anchors,
    checks,
    equations,
    equations_page,
)

ROOT = project_root()
NOTEBOOKS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
CHECKED = [
    pytest.param(check, cell, id=check.label)
    for notebook in NOTEBOOKS.values()
    for cell in notebook["cells"]
    if cell["cell_type"] == "code"
    for check in checks("".join(cell["source"]))
]


def named(full_name: str) -> object:
    """What a full name such as scipy.stats.binom stands for; fails if there is no such thing."""
    parts = full_name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"nothing is called {full_name}")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_equation_has_one_label_and_a_check_in_its_chapter(name):
    notebook = NOTEBOOKS[name]
    labels = [label for label, _ in equations(notebook)]
    fences = sum(
        "".join(cell["source"]).count("$$")
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown"
    )
    assert fences == 2 * len(labels), "displayed mathematics that is not seen as an equation"
    assert None not in labels and len(set(labels)) == len(labels), labels
    checked = [
        check.label
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        for check in checks("".join(cell["source"]))
    ]
    assert sorted(checked) == sorted(labels), set(labels) ^ set(checked)


def test_every_line_that_begins_as_a_check_is_understood():
    begun = sum(
        len(re.findall(r"# check ", "".join(c["source"])))
        for n in NOTEBOOKS.values()
        for c in n["cells"]
    )
    assert begun == len(CHECKED) > 50


@pytest.mark.parametrize(("check", "cell"), CHECKED)
def test_a_check_compares_what_it_names(check, cell):
    """The cell uses the package's function and the other library's, both exist, and it asserts or stores its result."""
    code = re.sub(r"^# check .*$", "", "".join(cell["source"]), flags=re.M)
    stored = "# NBVAL_CHECK_OUTPUT" in code and "True" in json.dumps(cell["outputs"])
    decided = "# NBVAL_CHECK_OUTPUT" in code and "passed" in json.dumps(cell["outputs"])
    assert stored or decided or re.search(r"^\s*assert ", code, re.M)
    full_names = [
        name for name in (check.function, check.truth) if name and FULL_NAME.fullmatch(name)
    ]
    for name in full_names:
        assert named(name) is not None
        assert re.search(rf"\b{name.split('.')[-1]}\b", code), f"{name} is not used in the cell"


def test_every_equation_and_paper_that_is_referred_to_is_there():
    text = "".join(json.dumps(notebook) for notebook in NOTEBOOKS.values())
    text += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))
    labels = {label for notebook in NOTEBOOKS.values() for label, _ in equations(notebook)}
    assert set(re.findall(r"\{eq\}`([^`]+)`", text)) <= labels
    keys = set(
        re.findall(
            r"^@\w+\{([^,]+),", (ROOT / "book/references.bib").read_text(encoding="utf-8"), re.M
        )
    )
    assert {key for each in CHECKED for key in each.values[0].papers} <= keys


def test_the_source_reports_equations_are_there():
    labels = {label for notebook in NOTEBOOKS.values() for label, _ in equations(notebook)}
    assert {
        "eq-vae-elbo",
        "eq-gan-minimax",
        "eq-diffusion-loss",
        "eq-diffusion-reverse",
        "eq-vit-attention",
        "eq-fidelity-frechet",
    } <= labels


def test_the_page_has_a_line_for_each_equation_and_says_which_is_not_checked():
    source = [
        "# check eq-a-b (ho2020ddpm, song2021ddim): hamsynth_utils.classifier.attention.relevance against numpy.dot\n",
        "1",
    ]
    chapter = {
        "cells": [
            {
                "cell_type": "markdown",
                "source": ["# One chapter\n", "\n$$\na\n$$ (eq-a-b)\n\n$$\nb\n$$ (eq-a-c)"],
            },
            {"cell_type": "code", "id": "one", "source": source},
            {"cell_type": "code", "id": "two", "source": ["2"]},
        ]
    }
    assert equations_page([chapter]).strip().splitlines()[-2:] == [
        "| {eq}`eq-a-b` b | {ref}`cell <check-eq-a-b>` | `numpy.dot` | `classifier.attention.relevance` "
        "| {cite:t}`ho2020ddpm`, {cite:t}`song2021ddim` |",
        "| {eq}`eq-a-c` c | no | | | |",
    ]
    cells = add_check_anchors(chapter)["cells"]
    assert [cell["source"] for cell in cells if cell["cell_type"] == "markdown"][1:] == [
        "(check-eq-a-b)="
    ]
    assert cells[1]["source"] == "(check-eq-a-b)=" and cells[2] == chapter["cells"][1]
