"""The HTML report of a run: executed notebooks and the pages of `book/`, built by Jupyter Book.

python -m hamsynth_utils.book runs/NAME             build runs/NAME/site
python -m hamsynth_utils.book runs/NAME --minutes   print the minutes of each chapter
python -m hamsynth_utils.book runs/NAME --keep results/NAME     keep its numbers as a reference
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from hamsynth_utils.bench import write_bench
from hamsynth_utils.cards import model_cards
from hamsynth_utils.datasheet import datasheet_values
from hamsynth_utils.equations import equations_page, with_anchors
from hamsynth_utils.errors import InputError
from hamsynth_utils.figures import ARM_NAMES
from hamsynth_utils.glossary import terms, with_links
from hamsynth_utils.playground import write_playground
from hamsynth_utils.profile import ARMS, project_root
from hamsynth_utils.quiz import write_quiz
from hamsynth_utils.reference_page import reference_figures, reference_page
from hamsynth_utils.registry import REGISTRY
from hamsynth_utils.results import REFERENCE, answer, answer_figure, answer_in_words, keep
from hamsynth_utils.run_page import chapter_minutes, run_page, this_run
from hamsynth_utils.theme_repairs import repair
from hamsynth_utils.writing import replacing

CLASSIFIER = "notebooks/05_vit"
EXTERNAL = "notebooks/09_external"
"""The chapter that only a run with an external test set has."""
PER_ARM = "per-arm"
"""The tag of cells of 05_vit that differ between its executions: pages after the first show only those."""

JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]


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
        f"notebooks/{each.chapter}" for name, each in REGISTRY.items()
        if not (each.in_every_run or record["profile"].get(name))
    }  # fmt: skip
    road[:] = [chapter for chapter in road if chapter["file"] not in absent]
    if EXTERNAL in notebooks:
        road.append({"file": EXTERNAL})
    wanted = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    missing = [
        chapter["file"] for chapter in wanted
        if chapter["file"].startswith("notebooks/") and chapter["file"] not in {CLASSIFIER, *notebooks}
    ]  # fmt: skip
    if any(chapter["file"] == CLASSIFIER for chapter in wanted) and not executions:
        missing.append(CLASSIFIER)
    if missing:
        raise InputError(f"{folder}: not executed yet: {', '.join(missing)}. Go on with make report")

    with replacing(folder / "book") as staged:
        shutil.copytree(root / "book", staged)
        (staged / "notebooks").mkdir()
        scrub = _Scrub(folder, root, record["data"], *_given(notebooks.get(EXTERNAL), "external"))
        pages, glossary = {}, terms((root / "book/glossary.md").read_text())
        for name, path in notebooks.items():
            notebook = with_links(with_anchors(scrub(json.loads(path.read_text()))), glossary)
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
            "this_run": this_run(folder, record), "chapter_minutes": chapter_minutes(minutes(folder)),
            **datasheet_values(folder, record),
        }  # fmt: skip
        (staged / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
        if REFERENCE.is_dir():
            (staged / "answer.md").write_text(answer())
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


def build(folder: Path, root: Path | None = None) -> Path:
    """Build `folder / "site"` with warnings as errors, and return its index.html.

    An older site stays until the new one is complete. Raises InputError as `stage` does, and RuntimeError
    with Jupyter Book's own words if it fails.
    """
    folder = folder.resolve()
    staged = stage(folder, root)
    command = [*JUPYTER_BOOK, "build", str(staged), "-n", "-W", "--keep-going", "--all", "-q"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with replacing(folder / "logs/report.log") as log:
        log.write_text(result.stdout)
    if result.returncode:
        raise RuntimeError(f"Jupyter Book could not build {staged}:\n{result.stdout}")
    html, record = staged / "_build/html", yaml.safe_load((folder / "run.yaml").read_text())
    repair(html)
    write_playground(html / "playground/networks", folder, record["data"])
    write_quiz(html / "quiz", folder, record)
    write_bench(html / "bench", folder, record)
    with replacing(folder / "site") as site:
        shutil.move(html, site)
    return folder / "site/index.html"


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
    """An execution of 05_vit reduced to its own results, with figure names of its own."""
    arm, seed, *split = name.removeprefix(f"{CLASSIFIER}-").split("-")
    title = f"The arm {ARM_NAMES[arm]}, seed {seed}" + (f", split by {split[0]}" if split else "")
    heading = {
        "cell_type": "markdown", "id": "title", "metadata": {},
        "source": f"# {title}\n\nThe same notebook as {{doc}}`05_vit`, executed for this arm.",
    }  # fmt: skip
    cells = [cell for cell in notebook["cells"] if PER_ARM in cell["metadata"].get("tags", [])]
    if not cells:
        raise InputError(f"05_vit.ipynb has no cell tagged {PER_ARM}: nothing to show of {arm}, seed {seed}")
    for cell in cells:
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        if "name" in figure:
            figure["name"] += "-".join(["", arm, seed, *split])
    return {**notebook, "cells": [heading, *cells]}


def _name_parameters(notebook: dict[str, Any]) -> None:
    """Papermill's cell stands under the notebook's own defaults: say which is which."""
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["source"] = "".join(cell["source"]).replace("# Parameters", "# The values of this run", 1)


def _given(path: Path | None, parameter: str) -> list[str]:
    """What an executed notebook, if there is one, was given as the parameter."""
    if path is None:
        return []
    parameters = json.loads(path.read_text())["metadata"].get("papermill", {}).get("parameters", {})
    return [parameters[parameter]] if parameter in parameters else []


class _Scrub:
    """Takes this machine's paths out of everything that is published."""

    def __init__(self, folder: Path, root: Path, *sources: str) -> None:
        names = {
            str(folder.resolve()): f"runs/{folder.name}",
            str(root.resolve()): ".",
            str(Path(sys.prefix).resolve()): "python",
            str(Path.home()): "~",
        }
        names |= {source: Path(source).name for source in sources if source != "phantom"}
        # Longest first: the run folder usually lies in the checkout, and that in the home folder.
        paths = sorted((path for path in names if len(path) > 1), key=len, reverse=True)
        self._names = names
        self._pattern = re.compile(rf"(?<![\w.+/-])({'|'.join(map(re.escape, paths))})(?![\w.-])")

    def __call__(self, value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            return (
                value if key.startswith("image/") else self._pattern.sub(lambda m: self._names[m[1]], value)
            )
        if isinstance(value, list):
            return [self(item, key) for item in value]
        return {name: self(item, name) for name, item in value.items()} if isinstance(value, dict) else value


def _print_minutes(folder: Path, since: float | None) -> None:
    table = minutes(folder)
    for name, (length, memory) in table.items():
        print(f"{name:<24}{length:6.1f} min" + (f"{memory:7.1f} GiB" if memory is not None else ""))
    print(f"{'all chapters':<24}{sum(length for length, _ in table.values()):6.1f} min")
    if since is not None:
        print(f"{'this command':<24}{(time.time() - since) / 60:6.1f} min")
    print((folder / "site/index.html").resolve())


def main(arguments: list[str] | None = None) -> int:
    """Build the report of a run; 2 with one line for bad input, 1 if Jupyter Book fails."""
    parser = argparse.ArgumentParser(prog="python -m hamsynth_utils.book", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="the run folder")
    parser.add_argument("--minutes", action="store_true", help="only print the minutes of each chapter")
    parser.add_argument("--keep", type=Path, help="only keep the run's numbers in this folder")
    parser.add_argument("--note", default="", help="with --keep: what a reader must know of the run")
    parser.add_argument("--since", type=float, help="with --minutes: when the command began, in seconds")
    options = parser.parse_args(arguments)
    try:
        if options.keep:
            lengths = {name: m for name, (m, _) in minutes(options.folder).items()}
            keep(options.folder, options.keep, lengths, options.note)
        elif options.minutes:
            _print_minutes(options.folder, options.since)
        else:
            print(build(options.folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
