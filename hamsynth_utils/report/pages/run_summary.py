"""The report's page about the run: settings, versions, minutes, and what was left out."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from hamsynth_utils.core.files import read_json
from hamsynth_utils.core.paths import PROVENANCE, RunPaths, seed_of
from hamsynth_utils.experiment.external_test import read_opening
from hamsynth_utils.notebook.tables import markdown_table
from hamsynth_utils.notebook.templates import render

Minutes = dict[str, tuple[float, float | None]]
"""Per executed notebook: minutes, and peak memory in GiB, None if it was not measured."""


def this_run(folder: Path, record: dict[str, Any]) -> str:
    """Which run the report shows, for the front page.

    Args:
        folder: the run folder.
        record: the content of its `run.yaml`.

    Returns:
        Markdown in one line.
    """
    return render(
        "this_run.md",
        run=folder.name,
        data=_data(record),
        profile=record["profile"]["name"],
        seed=record["seed"],
        phantom=record["data"] == "phantom",
    ).strip()


def run_page(folder: Path, record: dict[str, Any], minutes: Minutes) -> str:
    """The page about the run.

    Args:
        folder: the run folder.
        record: the content of its `run.yaml`.
        minutes: minutes and memory of each executed notebook.

    Returns:
        MyST Markdown.
    """
    times = [
        (name, f"{length:.1f}", "-" if memory is None else f"{memory:.1f}")
        for name, (length, memory) in minutes.items()
    ]
    total = sum(length for length, _ in minutes.values())
    return render(
        "run.md",
        profile=record["profile"]["name"],
        facts=_frame(_facts(folder, record), "What", "Value"),
        times=_frame([*times, ("all", f"{total:.1f}", "")], "Notebook", "Minutes", "GiB"),
        weights=_frame(_weights(folder), "Arm", "Seed", "Weights"),
        skipped=_frame(_skipped(folder), "Image", "Why"),
        unavailable=_frame(_unavailable_extractors(folder), "Extractor", "Why"),
        versions=_frame(list(record["versions"].items()), "Package", "Version"),
        settings=yaml.safe_dump(record["profile"], sort_keys=False),
    )


def _facts(folder: Path, record: dict[str, Any]) -> list[tuple[str, Any]]:
    profile = record["profile"]
    external = render("external_test.md", record=read_opening(folder)).strip()
    return [
        ("run", folder.name),
        ("data", _data(record)),
        ("profile", profile["name"]),
        ("seed", record["seed"]),
        ("arms of the classifiers", ", ".join(profile["arms"])),
        ("seeds of the classifiers", ", ".join(map(str, profile["seeds"]))),
        ("split", f"by {profile['data']['split_by']}"),
        ("external test set", external),
        ("image size", f"{profile['data']['image_size']} pixels"),
        ("device", record["device"]),
        ("threads of a notebook", record["threads"]),
        ("Python", record["python"]),
        ("code", f"commit {record['git_commit']}"),
    ]


def chapter_minutes(minutes: Minutes) -> str:
    """Minutes and memory of each chapter, for a teacher.

    Args:
        minutes: minutes and memory of each executed notebook.

    Returns:
        A Markdown table with one row per chapter, with links. A chapter that is executed several
        times has the mean of its minutes and the largest of its memories.
    """
    chapters: dict[str, list[tuple[float, float | None]]] = {}
    for name, measured in minutes.items():
        chapters.setdefault(name.partition("-")[0], []).append(measured)
    rows = []
    for chapter, measured_all in chapters.items():
        mean = sum(length for length, _ in measured_all) / len(measured_all)
        memory = max((each for _, each in measured_all if each is not None), default=None)
        rows.append(
            (
                f"{{doc}}`notebooks/{chapter}`",
                len(measured_all),
                f"{mean:.1f}",
                "-" if memory is None else f"{memory:.1f}",
            )
        )
    return markdown_table(rows, ("Chapter", "Times executed", "Minutes each", "GiB"))


def _data(record: dict[str, Any]) -> str:
    return (
        "the phantom" if record["data"] == "phantom" else f"the folder {Path(record['data']).name}"
    )


def _weights(folder: Path) -> list[tuple[str, str, str]]:
    """Arm, seed and first weights of each classifier."""
    rows = []
    for path in RunPaths(folder).classifier_files(PROVENANCE):
        values = {key: _plain(value) for key, value in read_json(path).items()}
        text = "; ".join(f"{key}: {value}" for key, value in values.items())
        rows.append((path.parent.parent.name, str(seed_of(path.parent)), text))
    return rows


def _skipped(folder: Path) -> list[tuple[str, str]]:
    """Name of each image that was skipped, and the reason."""
    path = RunPaths(folder).skipped
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["image_id"], row["reason"]) for row in csv.DictReader(file)]


def _unavailable_extractors(folder: Path) -> list[tuple[str, str]]:
    """Name of each feature extractor of the profile that could not be used, and the reason."""
    path = RunPaths(folder).extractors
    unavailable = read_json(path) if path.is_file() else {}
    return [(name, _plain(reason)) for name, reason in unavailable.items()]


def _frame(rows: Sequence[tuple[Any, ...]], *columns: str) -> pd.DataFrame | None:
    """The rows as a frame, None if there are none."""
    return pd.DataFrame(list(rows), columns=list(columns), dtype=object) if rows else None


def _plain(value: Any) -> str:
    """The value as text. Only the last part of an absolute path stays, to publish no folder."""
    if isinstance(value, str):
        return Path(value).name if value.startswith("/") else value
    return json.dumps(value)
