"""Terms are linked to the glossary where a chapter first uses them, and nowhere else."""

import json
import re

import pytest

from hamsynth_utils.core.paths import project_root
from hamsynth_utils.report.pages.glossary import OTHERWISE, first_use, glossary_terms, link_glossary

ROOT = project_root()
TERMS = glossary_terms((ROOT / "book/glossary.md").read_text(encoding="utf-8"))
NOTEBOOKS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}


def texts(notebook: dict) -> list[str]:
    return [
        "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"
    ]


def linked(*cells: str, glossary: list[str]) -> list[str]:
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": cell.splitlines(keepends=True)} for cell in cells
        ]
    }
    return texts(link_glossary(notebook, glossary))


def test_the_terms_are_those_of_the_glossary():
    assert len(TERMS) == len(set(TERMS)) > 40
    assert {"arm", "Fréchet distance", "precision of a generator", "Vision Transformer"} < set(
        TERMS
    )
    assert set(OTHERWISE) <= set(TERMS)


def test_only_the_first_use_is_linked_in_singular_or_plural():
    first, second = linked("Two Lesions.\n\nA lesion.", "One lesion.", glossary=["lesion"])
    assert (first, second) == ("Two {term}`Lesions <lesion>`.\n\nA lesion.", "One lesion.")
    assert linked("a lesion", glossary=["lesion"]) == ["a {term}`lesion`"]
    assert linked("sublesion, lesion-wise, lesional", glossary=["lesion"]) == [
        "sublesion, lesion-wise, lesional"
    ]


def test_a_longer_term_comes_first_and_may_break_at_a_line():
    said = linked("balanced\naccuracy, accuracy", glossary=["accuracy", "balanced accuracy"])
    assert said == ["{term}`balanced accuracy`, {term}`accuracy`"]


@pytest.mark.parametrize(
    "hidden",
    [
        "`prior`",
        "$prior$",
        "$$\nprior\n$$ (eq-prior)",
        "# The prior",
        "| prior |",
        "[prior](prior.md)",
        "```python\nprior\n```",
        "````{dropdown} Solution\nThe prior.\n````",
        "{doc}`prior`",
        "(prior)=",
    ],
)
def test_what_is_no_sentence_is_left_alone(hidden):
    assert linked(f"{hidden}\n\nThe prior.", glossary=["prior"]) == [
        f"{hidden}\n\nThe {{term}}`prior`."
    ]


def test_a_word_that_means_something_else_is_no_term():
    text = "We run it and pay attention to density. This run has attention heads."
    said = linked(text, glossary=["run", "attention", "density"])
    assert said == [
        "We run it and pay attention to density. This {term}`run` has {term}`attention` heads."
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_chapter_links_each_term_that_it_uses_once_and_first(name):
    assert "{term}`" not in "".join(texts(NOTEBOOKS[name])), (
        "terms link themselves: write them plainly"
    )
    text = "\n\n".join(texts(link_glossary(NOTEBOOKS[name], TERMS)))
    links = [found for found in re.finditer(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", text)]
    found = [link[1] for link in links]
    assert len(found) == len(set(found)) >= 5 and {"lesion", "synthetic", "run"} & set(found)
    assert set(found) == {
        term for term in TERMS if any(first_use(term, t) for t in texts(NOTEBOOKS[name]))
    }
    for link in links:
        assert not any(first_use(link[1], t) for t in text[: link.start()].split("\n\n# ")), link[0]
