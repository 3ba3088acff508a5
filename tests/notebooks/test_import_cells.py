"""A reader takes in at one glance what a chapter imports: at most twelve lines of at most 100 columns."""

import ast

import nbformat
import pytest

from hamsynth_utils.core.paths import project_root

CHAPTERS = sorted((project_root() / "notebooks").glob("*.ipynb"))
MOST_LINES, MOST_COLUMNS = 12, 100


def import_lines(code: str) -> list[str]:
    """The lines of a cell from its first import at the top level to its last one, blank lines included."""
    imports = [
        node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    return code.splitlines()[imports[0].lineno - 1 : imports[-1].end_lineno] if imports else []


def too_long(cells: list[dict]) -> list[str]:
    """What is wrong with the imports of the code cells of a notebook."""
    found = []
    for number, cell in enumerate(cells):
        lines = import_lines(cell["source"]) if cell["cell_type"] == "code" else []
        if len(lines) > MOST_LINES:
            found.append(f"cell {number}: {len(lines)} lines")
        found += [f"cell {number}: {line}" for line in lines if len(line) > MOST_COLUMNS]
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_imports_of_a_cell_are_short(path):
    assert too_long(nbformat.read(path, 4).cells) == []


def test_long_imports_are_found():
    names = [f"name_{number}" for number in range(11)]
    wrapped = "from some_module import (\n" + "".join(f"    {name},\n" for name in names) + ")"
    long = f"from some_module import {', '.join(names)}"
    cells = [{"cell_type": "code", "source": code} for code in ("import math", wrapped, long)]
    assert too_long(cells) == ["cell 1: 13 lines", f"cell 2: {long}"]
