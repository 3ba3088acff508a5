"""Terms of the glossary, linked where a chapter first uses them.

The chapters write their terms plainly; links are put in when the book is staged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

OTHERWISE = {
    "attention": r"(?:self-)?attention(?= (?:weight|map|in|by|head|layer|kernel|rollout)|$)",
    "coverage": r"(?<=and \*\*)coverage|coverage(?= uses)",
    "density": r"density(?=\*\* and| asks)",
    "run": r"(?<=[Tt]his )run|(?<=of a )run|(?<=the )run(?='s)",
}
"""Patterns of terms that have other meanings too; any other term is searched for literally."""


NOT_PROSE = re.compile(
    r"^(`{3,}|:{3,}).*?^\1[`:]*$"  # code, folds and other directives
    r"|^\$\$.*?^\$\$.*?$|^\(\S+\)=$|^\#+ .*?$|^\|.*?$"  # equations, places, headings, tables
    r"|\{[\w:+]+\}`[^`]*`|(`+).+?\2|\$[^$]+\$|!?\[[^\]]*\]\([^)]*\)|<[^>]+>",
    re.M | re.S,
)


def glossary_terms(glossary: str) -> list[str]:
    """The terms that a page with `:::{glossary}` defines, in its order."""
    inside = glossary.partition(":::{glossary}\n")[2].partition("\n:::")[0]
    return [line for line in inside.splitlines() if line and not line.startswith(" ")]


def first_use(term: str, text: str) -> re.Match[str] | None:
    """Find the first use of a term in a sentence, in singular or plural.

    Args:
        term: a term of the glossary.
        text: Markdown.

    Returns:
        The match in `text`; None if the text does not use the term.
    """
    blanked = NOT_PROSE.sub(lambda found: " " * len(found[0]), text)
    word = OTHERWISE.get(term) or re.escape(term).replace(r"\ ", r"\s+")
    return re.search(rf"(?<![\w-])({word})(s|es)?(?![\w-])", blanked, re.I | re.M)


def link_glossary(notebook: Mapping[str, Any], glossary: Iterable[str]) -> dict[str, Any]:
    """Link the first use of each term in the text of a notebook to the glossary.

    Args:
        notebook: the notebook's JSON.
        glossary: the terms.

    Returns:
        A new notebook; the given one stays as it is.
    """
    cells = [dict(cell) for cell in notebook["cells"]]
    texts = {
        i: "".join(cell["source"])
        for i, cell in enumerate(cells)
        if cell["cell_type"] == "markdown"
    }
    for term in sorted(
        glossary, key=len, reverse=True
    ):  # "class token" before a term that is part of it
        for i, text in texts.items():
            found = first_use(term, text)
            if found:
                shown = " ".join(text[found.start() : found.end()].split())
                link = f"{{term}}`{shown}`" if shown == term else f"{{term}}`{shown} <{term}>`"
                texts[i] = text[: found.start()] + link + text[found.end() :]
                break
    for i, text in texts.items():
        cells[i]["source"] = text
    return {**notebook, "cells": cells}
