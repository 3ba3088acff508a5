"""The book's API section: one page per subpackage, which Sphinx fills from the docstrings."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hamsynth_utils
from hamsynth_utils.notebook.templates import render

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PACKAGE = Path(hamsynth_utils.__file__).parent


INDEX = "api/index"
"""The page that lists the other pages of the section."""


CODE = re.compile(r"`+([^`]+)`+")


MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")
"""Characters that are markup in reStructuredText, but literal in our docstrings."""


IMPORT = re.compile(r"^\s*(?:from|import) hamsynth_utils\.(\w+)", re.M)


def api_pages(pages: Iterable[str]) -> dict[str, str]:
    """The pages of the API section.

    Args:
        pages: names of the pages of the book in the order of its table of contents. A page
            `api/<subpackage>` is about that subpackage.

    Returns:
        The MyST Markdown of each page of the section by its name.
    """
    subpackages = [
        page.removeprefix("api/") for page in pages if page.startswith("api/") and page != INDEX
    ]
    if not subpackages:
        return {}
    texts = {f"api/{name}": _subpackage_page(name) for name in subpackages}
    summaries = {name: summary(PACKAGE / name / "__init__.py") for name in subpackages}
    return {INDEX: render("api_index.md", summaries=summaries), **texts}


def subpackages_used(notebook: Mapping[str, Any]) -> list[str]:
    """The subpackages of `hamsynth_utils` that a notebook imports from, in alphabetical order."""
    sources = ("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
    return sorted({name for source in sources for name in IMPORT.findall(source)})


def add_see_also(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook with a last cell that links to the API pages of what it imports, if anything."""
    used = subpackages_used(notebook)
    if not used:
        return dict(notebook)
    cell = {
        "cell_type": "markdown",
        "id": "see-also",
        "metadata": {},
        "source": render("see_also.md", subpackages=used),
    }
    return {**notebook, "cells": [*notebook["cells"], cell]}


def summary(path: Path) -> str:
    """The first line of the docstring of a Python file, read without importing the module."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n", 1)[0]


def setup(app: Sphinx) -> dict[str, bool]:
    """The Sphinx extension that reads our docstrings; `_config.yml` names it.

    Args:
        app: the application that loads the extension.

    Returns:
        What Sphinx wants to know about an extension.
    """
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    # Before napoleon (priority 500), which writes markup of its own.
    app.connect("autodoc-process-docstring", _escape_markup, priority=400)
    return {"parallel_read_safe": True}


def _escape_markup(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    # Every second part is code. An escaped space ends it where a letter follows, as in `n`s.
    parts = CODE.split("\n".join(lines))
    parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    parts[1::2] = [rf"\ ``{code}``\ " for code in parts[1::2]]
    lines[:] = "".join(parts).split("\n")
    # Napoleon takes the words before a colon in the first line for a type.
    if what in {"data", "attribute", "property"}:
        lines.insert(0, "")
    else:
        lines[:] = _list_results(lines)


def _list_results(lines: list[str]) -> list[str]:
    """The lines of a docstring, with the entries of a result such as `value: The AUROC` as a list.

    An entry is a line of the section Returns whose next line is indented further. The escaped space
    keeps napoleon from reading the first entry as a type.
    """
    listed, body = [], ""
    for i, line in enumerate(lines):
        indent = line[: len(line) - len(line.lstrip())]
        if line.strip() and len(indent) < len(body):
            body = ""
        if body and line.strip():
            listed.append(
                f"{body}- {line.strip()}" if indent == body else f"{body}  {line.strip()}"
            )
        else:
            listed.append(line)
        if line.strip() in {"Returns:", "Yields:"}:
            body = f"{indent}    "
            listed.append(f"{body}\\ ")
            if _has_entries(lines[i + 1 :], body):
                listed.append("")
            else:
                body = ""
    return listed


def _has_entries(lines: list[str], body: str) -> bool:
    """Whether the section that begins here has entries with indented lines, and is no list yet."""
    section = list(
        itertools.takewhile(lambda line: not line.strip() or line.startswith(body), lines)
    )
    is_list = any(line.startswith(f"{body}- ") for line in section)
    return not is_list and any(line.startswith(f"{body}  ") for line in section)


def _subpackage_page(name: str) -> str:
    paths = [path for path in sorted((PACKAGE / name).rglob("*.py")) if path.name != "__init__.py"]
    modules = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    return render(
        "api_page.md", name=name, summary=summary(PACKAGE / name / "__init__.py"), modules=modules
    )
