"""MyST Markdown as plain Markdown, because JupyterLab shows no roles, labels and captions.

What a page numbers keeps its name: (eq-vae-kl) beside an equation, fig-vae-kl-loss under a figure,
and a number of the run by the name under which its cell prints it where somebody is there, see
`hands.glue`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import project_root

ROLE = re.compile(r"\{([a-z:]+)\}`([^`<]*?)(?:\s*<([^>`]*)>)?`")


LABEL = re.compile(r"\n\$\$ \((eq-[\w-]+)\)")


NAMES = (
    "**Names.** Where the text says `like-this`, it means a number of your run: the cell that "
    "computes it prints it under that name. Equations and figures are called by the names that "
    "stand beside and beneath them. The *profile* is the file with all settings of the run, as "
    "`profiles/smoke.yaml`. The *source report* is the report on synthetic lesions whose claims "
    "these notebooks test."
)


def in_plain_markdown(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook for JupyterLab: text without MyST, a caption cell under each figure.

    Args:
        notebook: the notebook's JSON.

    Returns:
        A new notebook; the given one stays as it is.

    Raises:
        InputError: for a role that has no plain form.
    """
    cells: list[dict[str, Any]] = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell = {**cell, "source": _lines(plain("".join(cell["source"])))}
        cells.append(cell)
        figure = cell["metadata"].get("mystnb", {}).get("figure")
        if figure:
            caption = f"*{figure.get('name', 'Figure')}.* {figure['caption']}"
            cells.append(_markdown(f"{cell['id']}-caption", plain(caption)))
    return {**notebook, "cells": [*cells[:1], _markdown("names", NAMES), *cells[1:]]}


def plain(text: str) -> str:
    """MyST Markdown without labels and roles."""

    def said(found: re.Match[str]) -> str:
        """The plain form of one role."""
        kind, shown, target = found.groups()
        if kind not in FORMS:
            raise InputError(
                f"{found[0]} has no plain form: add one for {{{kind}}} to {__name__}.FORMS"
            )
        return FORMS[kind](shown, target or shown)

    return ROLE.sub(said, LABEL.sub(r"\\tag{\1}\n$$", text))


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _markdown(name: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name[-64:], "metadata": {}, "source": _lines(text)}


def _page(shown: str, target: str) -> str:
    *folders, name = target.split("/")
    return f"*{shown.rpartition('/')[2]}* of the report" if folders else f"[{shown}]({name}.ipynb)"


@cache
def _papers() -> Mapping[str, Entry]:
    return parse_file(str(project_root() / "book/references.bib")).entries


def _citation(form: str) -> Callable[[str, str], str]:
    """A paper is said in `form`, with its authors and year, as a link to it."""

    def cited(_: str, keys: str) -> str:
        """The plain form of a citation of one or several papers."""
        papers = [_papers()[key.strip()] for key in keys.split(",")]
        said = [
            _linked(form.format(_authors(paper), paper.fields["year"]), paper) for paper in papers
        ]
        return "; ".join(said) if form.endswith(")") else f"({'; '.join(said)})"

    return cited


def _authors(paper: Entry) -> str:
    people = [" ".join([*each.prelast_names, *each.last_names]) for each in paper.persons["author"]]
    names = [str(Text.from_latex(name)) for name in people]
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


def _linked(words: str, paper: Entry) -> str:
    fields = paper.fields
    arxiv = re.search(r"arXiv:(\d+\.\d+)", f"{fields.get('note', '')} {fields.get('journal', '')}")
    address = fields.get("url") or (f"https://doi.org/{fields['doi']}" if "doi" in fields else None)
    address = address or (f"https://arxiv.org/abs/{arxiv[1]}" if arxiv else None)
    return f"[{words}]({address})" if address else words


FORMS: dict[str, Callable[[str, str], str]] = {
    "doc": _page,
    "eq": lambda shown, _: f"({shown})",
    "numref": lambda shown, _: shown,
    "glue:text": lambda shown, _: f"`{shown.partition(':')[0]}`",
    "cite": _citation("{}, {}"),
    "cite:p": _citation("{}, {}"),
    "cite:t": _citation("{} ({})"),
}
"""Of each role the plain form, from what it shows and what it leads to."""
