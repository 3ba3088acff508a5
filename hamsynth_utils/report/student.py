"""The students' notebooks: plain Markdown, without solutions and without answers of quizzes."""

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
"""First line of a check; JupyterLab shows only this line of a folded cell, not the answer."""


ANSWER = re.compile(r"\n*^(`{3,})\{dropdown\} Answer\n.*?^\1$", re.M | re.S)


def for_students(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The students' version of a notebook.

    Args:
        notebook: a notebook as JSON.

    Returns:
        The notebook without solutions and without the answers of its quiz, in the Markdown that
        JupyterLab can show.
    """
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
    """Write the students' version of every notebook.

    Args:
        folder: where the notebooks are written.
        notebooks: a folder of notebooks, by default that of the project.

    Returns:
        The written files.

    Raises:
        InputError: if a file of that name exists with another content, because a student may have
            worked in it. In this case nothing is written.
    """
    texts = {}
    for path in sorted((notebooks or project_root() / "notebooks").glob("*.ipynb")):
        notebook = for_students(json.loads(path.read_text(encoding="utf-8")))
        texts[folder / path.name] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    worked_in = [
        path.name
        for path, text in texts.items()
        if path.exists() and path.read_text(encoding="utf-8") != text
    ]
    if worked_in:
        raise InputError(
            f"{folder} has notebooks that are not as they were handed out, and may be somebody's "
            f"work: {', '.join(worked_in)}. Nothing was written: name another folder, or move "
            "these away"
        )
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(texts)
