"""What Jupyter Book is given: pages, executed notebooks and settings in one folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from hamsynth_utils.core.arm_names import ARMS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.experiment.model_card import model_cards
from hamsynth_utils.notebook.plots import ARM_NAMES
from hamsynth_utils.report.pages.datasheet import datasheet_values
from hamsynth_utils.report.pages.equations import add_check_anchors, equations_page
from hamsynth_utils.report.pages.glossary import glossary_terms, link_glossary
from hamsynth_utils.report.pages.reference_run import reference_figures, reference_page
from hamsynth_utils.report.pages.run_summary import chapter_minutes, run_page, this_run
from hamsynth_utils.report.redact import PathRedactor
from hamsynth_utils.report.reference import (
    REFERENCE,
    answer_figure,
    answer_in_words,
    headline_result,
)

CLASSIFIER = "notebooks/06_vit"


EXTERNAL = "notebooks/16_external"
"""The chapter that only a run with an external test set has."""


PER_ARM = "per-arm"
"""The tag of cells of 06_vit that differ between its executions: pages after the first show only those."""


def stage(folder: Path, root: Path | None = None) -> Path:
    """Put together in `folder / "book"` what Jupyter Book is to build, and return that folder.

    folder: a run folder whose notebooks have all been executed.
    root: the checkout, which has `_config.yml`, `_toc.yml` and `book/`.
    Raises InputError if there is no run or a notebook of the table of contents has not been executed.
    """
    folder, root = folder.resolve(), root or project_root()
    if not (folder / "run.yaml").is_file():
        raise InputError(f"{folder} is not a run: it has no run.yaml. Make one with make report")
    record = yaml.safe_load((folder / "run.yaml").read_text())
    notebooks = {f"notebooks/{path.stem}": path for path in executed_notebooks(folder)}
    executions = [name for name in notebooks if name.startswith(f"{CLASSIFIER}-")]
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    road = toc["parts"][0]["chapters"]
    absent = {
        f"notebooks/{each.chapter}"
        for name, each in REGISTRY.items()
        if not (each.in_every_run or record["profile"].get(name))
    }
    road[:] = [chapter for chapter in road if chapter["file"] not in absent]
    if EXTERNAL in notebooks:
        road.append({"file": EXTERNAL})
    wanted = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    missing = [
        chapter["file"]
        for chapter in wanted
        if chapter["file"].startswith("notebooks/")
        and chapter["file"] not in {CLASSIFIER, *notebooks}
    ]
    if any(chapter["file"] == CLASSIFIER for chapter in wanted) and not executions:
        missing.append(CLASSIFIER)
    if missing:
        raise InputError(
            f"{folder}: not executed yet: {', '.join(missing)}. Go on with make report"
        )

    with atomic_path(folder / "book") as staged:
        shutil.copytree(root / "book", staged)
        (staged / "notebooks").mkdir()
        scrub = PathRedactor(
            folder, root, record["data"], *_given(notebooks.get(EXTERNAL), "external")
        )
        pages, glossary = {}, glossary_terms((root / "book/glossary.md").read_text())
        for name, path in notebooks.items():
            notebook = link_glossary(
                add_check_anchors(scrub(json.loads(path.read_text()))), glossary
            )
            _name_parameters(notebook)
            if name in executions[1:]:
                notebook = _per_arm_page(notebook, name)
            target = CLASSIFIER if name in executions[:1] else name
            pages[target] = notebook
            (staged / f"{target}.ipynb").write_text(json.dumps(notebook))
        (staged / "equations.md").write_text(
            equations_page(pages[chapter["file"]] for chapter in wanted if chapter["file"] in pages)
        )
        for chapter in wanted:
            if chapter["file"] == CLASSIFIER and executions[1:]:
                chapter["sections"] = [{"file": name} for name in executions[1:]]
        (staged / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))
        config = yaml.safe_load((root / "_config.yml").read_text())
        config.setdefault("parse", {})["myst_substitutions"] = {
            "this_run": this_run(folder, record),
            "chapter_minutes": chapter_minutes(minutes(folder)),
            **datasheet_values(folder, record),
        }
        (staged / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
        if REFERENCE.is_dir():
            (staged / "answer.md").write_text(headline_result())
            answer_figure().savefig(staged / "answer.svg")
        else:
            (staged / "answer.md").write_text(answer_in_words())
        (staged / "reference_run.md").write_text(reference_page(REFERENCE))
        (staged / "reference").mkdir()
        for path in reference_figures(REFERENCE):
            shutil.copy(path, staged / "reference")
        (staged / "run.md").write_text(scrub(run_page(folder, record, minutes(folder))))
        (staged / "model_cards.md").write_text(scrub(model_cards(folder)))
    return folder / "book"


def executed_notebooks(folder: Path) -> list[Path]:
    """The notebooks of a run that were executed to the end, in the order of the road."""
    toc = yaml.safe_load((project_root() / "_toc.yml").read_text())
    road = [Path(chapter["file"]).name for chapter in toc["parts"][0]["chapters"]]

    def key(path: Path) -> tuple[int, str, int, int]:
        chapter, *execution = path.stem.split("-")
        place = road.index(chapter) if chapter in road else len(road)
        if not execution:
            return place, "", 0, 0
        arm, seed, *split = execution
        return place, "".join(split), ARMS.index(arm), int(seed)

    paths = (folder / "notebooks").glob("*.ipynb")
    return sorted((path for path in paths if not path.stem.endswith(".partial")), key=key)


def minutes(folder: Path) -> dict[str, tuple[float, float | None]]:
    """Of each executed notebook of a run: minutes, and peak memory in GiB (None if it was not measured)."""
    table: dict[str, tuple[float, float | None]] = {}
    for path in executed_notebooks(folder):
        papermill = json.loads(path.read_text())["metadata"].get("papermill", {})
        watched = folder / "logs" / f"{path.stem}.json"
        memory = json.loads(watched.read_text())["peak_memory_gib"] if watched.is_file() else None
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
    """Papermill's cell stands under the notebook's own defaults: say which is which."""
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["source"] = "".join(cell["source"]).replace(
                "# Parameters", "# The values of this run", 1
            )


def _given(path: Path | None, parameter: str) -> list[str]:
    """What an executed notebook, if there is one, was given as the parameter."""
    if path is None:
        return []
    parameters = json.loads(path.read_text())["metadata"].get("papermill", {}).get("parameters", {})
    return [parameters[parameter]] if parameter in parameters else []
