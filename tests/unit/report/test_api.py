"""The API pages: one per subpackage, from docstrings that Sphinx can read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from made_runs import make_run

from hamsynth_utils.core.paths import project_root
from hamsynth_utils.report.pages.api import PACKAGE, add_see_also, api_pages, subpackages_used
from hamsynth_utils.report.staging import stage

ROOT = project_root()
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [
    section["file"]
    for part in TOC["parts"]
    for chapter in part["chapters"]
    for section in (chapter, *chapter.get("sections", ()))
]


def test_every_subpackage_and_each_of_its_modules_has_its_place() -> None:
    subpackages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    pages = api_pages(PAGES)
    assert set(pages) == {"api/index", *(f"api/{name}" for name in subpackages)}
    described = re.findall(r"automodule:: (\S+)", "".join(pages.values()))
    modules = [path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")]
    assert sorted(described) == sorted(
        ".".join(path.with_suffix("").parts)
        for path in modules
        if path.name != "__init__.py" and len(path.parts) > 2
    )
    assert "| {doc}`metrics` | Measures with intervals" in pages["api/index"]


def test_a_chapter_leads_to_the_pages_of_what_it_imports() -> None:
    notebook = json.loads((ROOT / "notebooks/02_vae.ipynb").read_text(encoding="utf-8"))
    used = subpackages_used(notebook)
    assert {"experiment", "generators", "notebook"} <= set(used)
    last = add_see_also(notebook)["cells"][-1]["source"]
    assert [*re.findall(r"<../api/(\w+)>", last)] == used
    empty = {"cells": [{"cell_type": "code", "source": ["import numpy"], "metadata": {}}]}
    assert add_see_also(empty) == empty


def test_the_built_pages_have_what_the_docstrings_say(site: Path) -> None:
    page = (site / "api/metrics.html").read_text(encoding="utf-8")
    assert 'id="hamsynth_utils.metrics.fidelity.frechet_distance"' in page
    article = page.partition("<article")[2].partition("</article>")[0]
    text = " ".join(re.sub(r"<[^>]+>", " ", article).split())
    assert "Measures with intervals" in text and "Parameters" in text
    assert "system-message" not in page
    assert 'href="../api/metrics.html"' in (site / "notebooks/02_vae.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
def test_plain_sphinx_builds_the_same_pages(site: Path, tmp_path: Path) -> None:
    """The way on when Jupyter Book 1 is no longer kept."""
    staged = stage(make_run(tmp_path / "tiny"))
    book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    subprocess.run([*book, "config", "sphinx", str(staged)], check=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "--keep-going", "-q"]
    result = subprocess.run(
        [*command, str(staged), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert result.returncode == 0, result.stderr
    for page in PAGES:
        assert (tmp_path / f"html/{page}.html").is_file(), page
