"""Staging: the pages, executed notebooks and settings that Jupyter Book builds, in one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hamsynth_utils.core.arm_names import ARM_NAMES, ARMS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path, read_json, read_yaml
from hamsynth_utils.core.paths import RunPaths, project_root
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.experiment.model_card import model_cards
from hamsynth_utils.notebook.templates import render
from hamsynth_utils.report.pages.api import add_see_also, api_pages
from hamsynth_utils.report.pages.datasheet import datasheet_values
from hamsynth_utils.report.pages.equations import add_check_anchors, equations_page
from hamsynth_utils.report.pages.glossary import glossary_terms, link_glossary
from hamsynth_utils.report.pages.reference_run import reference_figures, reference_page
from hamsynth_utils.report.pages.run_summary import chapter_minutes, run_page, this_run
from hamsynth_utils.report.pages.unmeasured import show_unmeasured
from hamsynth_utils.report.redact import PathRedactor
from hamsynth_utils.report.reference import (
    REFERENCE,
    answer_figure,
    answer_in_words,
    headline_result,
)

CLASSIFIER = "notebooks/06_vit"
"""The chapter that the pipeline executes once per arm and seed."""


FIRST = "notebooks/01_dataset"
"""The chapter that every run executes."""


EXTERNAL = "notebooks/16_external"
"""The chapter that the pipeline executes only if the run has an external test set."""


PER_ARM = "per-arm"
"""Tag of the cells of 06_vit that differ between arms; pages after the first show only these."""


@dataclass(frozen=True)
class Book:
    """The book of one run, while it is staged.

    Attributes:
        folder: the run folder.
        root: the folder that has `_config.yml`, `_toc.yml`, `book/` and `notebooks/`.
        staged: the folder that Jupyter Book will build.
        record: the content of the run's `run.yaml`.
        toc: the content of `_toc.yml`.
        notebooks: path of each executed notebook by page name, e.g. `notebooks/02_vae`, in the
            order of the pipeline.
        redact: removes the paths of this machine from a text or a notebook.
    """

    folder: Path
    root: Path
    staged: Path
    record: dict[str, Any]
    toc: dict[str, Any]
    notebooks: dict[str, Path]
    redact: PathRedactor

    @property
    def pages(self) -> list[str]:
        """Names of all pages of the table of contents, in order."""
        chapters = [page for part in self.toc["parts"] for page in part["chapters"]]
        return [page["file"] for c in chapters for page in (c, *c.get("sections", ()))]

    @property
    def executions(self) -> list[str]:
        """Page names of the executions of 06_vit, in order."""
        return [name for name in self.notebooks if name.startswith(f"{CLASSIFIER}-")]

    def write(self, page: str, text: str) -> None:
        """Write one Markdown page.

        Args:
            page: name of the page, without `.md`.
            text: its MyST Markdown.
        """
        path = self.staged / f"{page}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def stage(folder: Path, root: Path | None = None) -> Path:
    """Assemble the folder that Jupyter Book builds.

    Args:
        folder: a run folder whose notebooks have all been executed.
        root: the folder that has `_config.yml`, `_toc.yml`, `book/` and `notebooks/`; the project
            by default.

    Returns:
        The staged folder, `folder / "book"`.

    Raises:
        InputError: if the folder is not a run, or a notebook of the table of contents has not been
            executed.
    """
    folder, root = folder.resolve(), root or project_root()
    if not RunPaths(folder).record.is_file():
        raise InputError(f"{folder} is not a run: it has no run.yaml. Make one with make report")
    record = read_yaml(RunPaths(folder).record)
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    notebooks = {f"notebooks/{path.stem}": path for path in executed_notebooks(folder)}
    external = _parameter(notebooks.get(EXTERNAL), "external")
    profile = _parameter(notebooks.get(FIRST), "profile")
    redact = PathRedactor(folder, root, record["data"], *external, *profile)
    with atomic_path(folder / "book") as staged:
        book = Book(folder, root, staged, record, toc, notebooks, redact)
        left_out = chapters_left_out(book)
        _require_executed(book, left_out)
        shutil.copytree(root / "book", staged, ignore=shutil.ignore_patterns("templates"))
        for write_pages in PAGES:
            write_pages(book)
        for page, reason in left_out.items():
            book.write(page, _left_out_page(root, page, reason))
        _write_settings(book)
    return folder / "book"


def chapters_left_out(book: Book) -> dict[str, str]:
    """The chapters that this run does not execute, each with the reason in one sentence.

    Such a chapter has a short page of its own in the book, so that the numbers of the chapters
    after it stay the same in every book.
    """
    reasons = {
        f"notebooks/{registration.chapter}": f"its profile has no section `{name}`"
        for name, registration in REGISTRY.items()
        if not (registration.in_every_run or book.record["profile"].get(name))
    }
    if EXTERNAL not in book.notebooks:
        reasons[EXTERNAL] = "it has no external test set"
    return {page: reason for page, reason in reasons.items() if page in book.pages}


def _require_executed(book: Book, left_out: dict[str, str]) -> None:
    """Raise InputError if a chapter of the run has not been executed."""
    executed = {*book.notebooks, *left_out, *([CLASSIFIER] if book.executions else [])}
    missing = [
        page for page in book.pages if page.startswith("notebooks/") and page not in executed
    ]
    if missing:
        raise InputError(
            f"{book.folder}: not executed yet: {', '.join(missing)}. Go on with make report"
        )


def _write_chapters(book: Book) -> None:
    """The executed notebooks, and the page of equations, which is made from them."""
    (book.staged / "notebooks").mkdir()
    glossary = glossary_terms((book.root / "book/glossary.md").read_text(encoding="utf-8"))
    pages = {}
    for name, path in book.notebooks.items():
        notebook = add_check_anchors(book.redact(read_json(path)))
        notebook = add_see_also(link_glossary(show_unmeasured(notebook), glossary))
        _name_parameters(notebook)
        if name in book.executions[1:]:
            notebook = _per_arm_page(notebook, name)
        target = CLASSIFIER if name in book.executions[:1] else name
        pages[target] = notebook
        (book.staged / f"{target}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    book.write("equations", equations_page(pages[page] for page in book.pages if page in pages))


def _write_answer(book: Book) -> None:
    """The result of the reference run, which the front page includes."""
    if REFERENCE.is_dir():
        book.write("answer", headline_result())
        answer_figure().savefig(book.staged / "answer.svg")
    else:
        book.write("answer", answer_in_words())


def _write_reference_run(book: Book) -> None:
    """The page of the reference run and its figures."""
    book.write("reference_run", reference_page(REFERENCE))
    (book.staged / "reference").mkdir()
    for path in reference_figures(REFERENCE):
        shutil.copy(path, book.staged / "reference")


def _write_run_page(book: Book) -> None:
    book.write("run", book.redact(run_page(book.folder, book.record, minutes(book.folder))))


def _write_model_cards(book: Book) -> None:
    book.write("model_cards", book.redact(model_cards(book.folder)))


def _write_api(book: Book) -> None:
    for page, text in api_pages(book.pages).items():
        book.write(page, text)


PAGES: tuple[Callable[[Book], None], ...] = (
    _write_chapters,
    _write_answer,
    _write_reference_run,
    _write_run_page,
    _write_model_cards,
    _write_api,
)
"""What writes the pages that are made for each run; all other pages are copied from `book/`."""


def _left_out_page(root: Path, page: str, reason: str) -> str:
    notebook = json.loads((root / f"{page}.ipynb").read_text(encoding="utf-8"))
    title = "".join(notebook["cells"][0]["source"]).split("\n", 1)[0].removeprefix("# ")
    return render("left_out.md", title=title, reason=reason)


def _write_settings(book: Book) -> None:
    """`_toc.yml` and `_config.yml`, with the sections and values of this run."""
    for part in book.toc["parts"]:
        for chapter in part["chapters"]:
            if chapter["file"] == CLASSIFIER and book.executions[1:]:
                chapter["sections"] = [{"file": name} for name in book.executions[1:]]
    (book.staged / "_toc.yml").write_text(
        yaml.safe_dump(book.toc, sort_keys=False), encoding="utf-8"
    )
    config = yaml.safe_load((book.root / "_config.yml").read_text(encoding="utf-8"))
    config.setdefault("parse", {})["myst_substitutions"] = {
        "this_run": this_run(book.folder, book.record),
        "chapter_minutes": chapter_minutes(minutes(book.folder)),
        **datasheet_values(book.folder, book.record),
    }
    (book.staged / "_config.yml").write_text(
        yaml.safe_dump(config, sort_keys=False), encoding="utf-8"
    )


def executed_notebooks(folder: Path) -> list[Path]:
    """The notebooks of a run that were executed to the end.

    Args:
        folder: the run folder.

    Returns:
        Their paths in the order of the pipeline; executions of 06_vit by split, arm and seed.
    """
    toc = yaml.safe_load((project_root() / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [Path(chapter["file"]).name for chapter in toc["parts"][0]["chapters"]]

    def key(path: Path) -> tuple[int, str, int, int]:
        """The position of a chapter in the book, then split, arm and seed."""
        chapter, *execution = path.stem.split("-")
        position = chapters.index(chapter) if chapter in chapters else len(chapters)
        if not execution:
            return position, "", 0, 0
        arm, seed, *split = execution
        return position, "".join(split), ARMS.index(arm), int(seed)

    paths = (folder / "notebooks").glob("*.ipynb")
    return sorted((path for path in paths if not path.stem.endswith(".partial")), key=key)


def minutes(folder: Path) -> dict[str, tuple[float, float | None]]:
    """Duration and memory of each executed notebook of a run.

    Args:
        folder: the run folder.

    Returns:
        By notebook: minutes, and peak memory in GiB or None if it was not measured.
    """
    table: dict[str, tuple[float, float | None]] = {}
    for path in executed_notebooks(folder):
        papermill = read_json(path)["metadata"].get("papermill", {})
        log = folder / "logs" / f"{path.stem}.json"
        memory = read_json(log)["peak_memory_gib"] if log.is_file() else None
        table[path.stem] = ((papermill.get("duration") or 0.0) / 60, memory)
    return table


def _per_arm_page(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """An execution of 06_vit reduced to its own results, with figure names of its own."""
    arm, seed, *split = name.removeprefix(f"{CLASSIFIER}-").split("-")
    title = f"The arm {ARM_NAMES[arm]}, seed {seed}" + (f", split by {split[0]}" if split else "")
    heading = {
        "cell_type": "markdown",
        "id": "title",
        "metadata": {},
        "source": f"# {title}\n\nThe same notebook as {{doc}}`06_vit`, executed for this arm.",
    }
    cells = [cell for cell in notebook["cells"] if PER_ARM in cell["metadata"].get("tags", [])]
    if not cells:
        raise InputError(
            f"06_vit.ipynb has no cell tagged {PER_ARM}: nothing to show of {arm}, seed {seed}"
        )
    for cell in cells:
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        if "name" in figure:
            figure["name"] += "-".join(["", arm, seed, *split])
    return {**notebook, "cells": [heading, *cells]}


def _name_parameters(notebook: dict[str, Any]) -> None:
    """Tell the injected parameters from the notebook's defaults, which stand above them."""
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["source"] = "".join(cell["source"]).replace(
                "# Parameters", "# The values of this run", 1
            )


def _parameter(path: Path | None, name: str) -> list[str]:
    """The value of a parameter of an executed notebook, in a list; empty if there is none."""
    if path is None:
        return []
    parameters = read_json(path)["metadata"].get("papermill", {}).get("parameters", {})
    return [parameters[name]] if name in parameters else []
