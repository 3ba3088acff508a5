"""The students' notebooks: without solutions and the answers of the quizzes, in plain Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.report.plain_markdown import in_plain_markdown

SOLUTION, CHECK, QUIZ = "solution", "self-check", "quiz"
"""The tags of cells that hold a solution, that check an answer, and of the quiz."""


FIRST_LINE = "# The check: run this cell\n"
"""Of a check, which knows the answer: JupyterLab folds a cell down to its first line."""


ANSWER = re.compile(r"\n*^(`{3,})\{dropdown\} Answer\n.*?^\1$", re.M | re.S)


def for_students(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook without its solutions, with the questions of its quiz alone, as JupyterLab shows it."""
    cells = []
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if QUIZ in tags:
            questions = ANSWER.sub("", "".join(cell["source"]))
            cell = {**cell, "source": questions.splitlines(keepends=True)}
        if CHECK in tags:
            cell = {**cell, "source": [FIRST_LINE, *cell["source"]]}
        if SOLUTION not in tags:
            cells.append(cell)
    return in_plain_markdown({**notebook, "cells": cells})


def write_student_version(folder: Path, notebooks: Path | None = None) -> list[Path]:
    """Write every notebook as students get it into the folder, and return the files.

    notebooks: a folder of notebooks, by default that of the checkout.
    Raises InputError, before anything is written, if a notebook of such a name is there and is another: a
    student may have worked in it.
    """
    texts = {}
    for path in sorted((notebooks or project_root() / "notebooks").glob("*.ipynb")):
        notebook = for_students(json.loads(path.read_text()))
        texts[folder / path.name] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    worked_in = [
        path.name for path, text in texts.items() if path.exists() and path.read_text() != text
    ]
    if worked_in:
        raise InputError(
            f"{folder} has notebooks that are not as they were handed out, and may be somebody's work: "
            f"{', '.join(worked_in)}. Nothing was written: name another folder, or move these away"
        )
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    return list(texts)
