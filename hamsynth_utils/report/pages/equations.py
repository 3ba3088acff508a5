"""The book's page of equations: the place of each equation, its check, and its paper.

An equation is displayed mathematics with a label, `$$ (eq-vae-kl)`. A cell says what it checks in a
comment:

    # check eq-vae-kl (kingma2014vae): FUNCTION against TRUTH

In brackets stand the papers by their keys in the bibliography, if there are any; FUNCTION is the
package's, by its full name, or `this cell` where only the notebook computes it; TRUTH is another
library's function by its full name, or words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hamsynth_utils.notebook.templates import render

EQUATION = re.compile(r"^\$\$\n(?P<tex>.+?)\n\$\$(?: \((?P<label>eq-[\w-]+)\))?", re.M | re.S)


CHECK = re.compile(
    r"^# check (eq-[\w-]+)(?: \(([\w, ]+)\))?: (this cell|hamsynth_utils[\w.]+) against (.+)$", re.M
)


FULL_NAME = re.compile(r"[a-z]\w*(\.\w+)+")
"""Of a function or class in some library."""


@dataclass(frozen=True)
class Check:
    """One line `# check ...` of a cell.

    function: of the package, by its full name; None where the notebook alone computes the equation.
    truth: another library's function by its full name, or words.
    """

    label: str
    papers: tuple[str, ...]
    function: str | None
    truth: str


def equations(notebook: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """Label, None if it has none, and TeX of each displayed equation of a notebook, in order."""
    return [
        (found["label"], found["tex"])
        for text in _sources(notebook, "markdown")
        for found in EQUATION.finditer(text)
    ]


def checks(source: str) -> list[Check]:
    """What the code of a cell says that it checks."""
    return [
        Check(
            label,
            tuple(papers.split(", ")) if papers else (),
            None if function == "this cell" else function,
            truth,
        )
        for label, papers, function, truth in CHECK.findall(source)
    ]


def add_check_anchors(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook with a link target `check-LABEL` before each cell that checks equations."""
    cells: list[dict[str, Any]] = []
    for cell in notebook["cells"]:
        found = checks("".join(cell["source"])) if cell["cell_type"] == "code" else []
        if found:
            places = "\n".join(f"(check-{check.label})=" for check in found)
            cells.append(
                {
                    "cell_type": "markdown",
                    "id": f"check-{cell['id']}"[:64],
                    "metadata": {},
                    "source": places,
                }
            )
        cells.append(cell)
    return {**notebook, "cells": cells}


def equations_page(notebooks: Iterable[Mapping[str, Any]]) -> str:
    """The page of equations.

    Args:
        notebooks: the chapters in the order of the book, each with its anchors.

    Returns:
        MyST Markdown with one table per chapter. An equation that no cell checks is listed as well.
    """
    chapters = []
    for notebook in notebooks:
        checked = {
            check.label: check for text in _sources(notebook, "code") for check in checks(text)
        }
        rows = [_row(label, checked.get(label)) for label, _ in equations(notebook) if label]
        if rows:
            chapters.append({"title": _title(notebook), "rows": rows})
    return render("equations.md", chapters=chapters)


def _row(label: str, check: Check | None) -> str:
    equation = f"{{eq}}`{label}` {label.split('-', 2)[-1]}"
    if check is None:
        return f"| {equation} | no | | | |"
    truth = f"`{check.truth}`" if FULL_NAME.fullmatch(check.truth) else check.truth
    function = (
        f"`{check.function.removeprefix('hamsynth_utils.')}`" if check.function else "the cell"
    )
    papers = ", ".join(f"{{cite:t}}`{key}`" for key in check.papers)
    return f"| {equation} | {{ref}}`cell <check-{label}>` | {truth} | {function} | {papers} |"


def _title(notebook: Mapping[str, Any]) -> str:
    return _sources(notebook, "markdown")[0].split("\n", 1)[0].removeprefix("# ")


def _sources(notebook: Mapping[str, Any], kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]
