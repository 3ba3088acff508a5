"""Every chapter has what a reader is promised of one: an opening, an attempt that fails, limits, and what to take away."""

import re

import nbformat
import pytest

from hamsynth_utils.core.paths import project_root

CHAPTERS = sorted((project_root() / "notebooks").glob("*.ipynb"))


def text_of(cells) -> str:
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_opens_with_its_question_and_ends_with_its_limits(path):
    cells = nbformat.read(path, 4).cells
    opening, text = cells[0].source, text_of(cells)
    assert opening.startswith("# ")
    parts = [
        "**The question.**",
        "**You will be able to**",
        "**You need first",
        "minutes",
        "**Licence.**",
    ]
    places = [opening.find(part) for part in parts]
    assert -1 not in places and places == sorted(places), dict(zip(parts, places, strict=True))
    assert re.search(r"\bnaive\b", text, re.IGNORECASE)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    limits = [heading for heading in headings if re.match(r"What .*\bnot\b", heading)]
    assert limits and headings[-3:] == ["Take-aways", "Exercises", "Quiz"], headings
