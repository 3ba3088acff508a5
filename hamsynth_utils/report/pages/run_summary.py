"""The report's page about the run itself: settings, versions, minutes, and what was left out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from hamsynth_utils.core.paths import PROVENANCE, RunPaths, seed_of
from hamsynth_utils.experiment.external_test import read_opening
from hamsynth_utils.notebook.tables import markdown_table


def this_run(folder: Path, record: dict[str, Any]) -> str:
    """One sentence for the front page: which run this is, and what its numbers speak about."""
    profile = record["profile"]
    text = f"`{folder.name}`: {_data(record)}, profile `{profile['name']}`, seed {record['seed']}."
    if record["data"] == "phantom":
        text += " The phantom is drawn by a program and is not skin: its numbers test the road, not medicine."
    return text


def run_page(
    folder: Path, record: dict[str, Any], minutes: dict[str, tuple[float, float | None]]
) -> str:
    """The page as MyST Markdown.

    record: what `run.yaml` holds. minutes: of each notebook, its minutes and peak memory in GiB or None.
    """
    profile = record["profile"]
    facts = [
        ("run", folder.name),
        ("data", _data(record)),
        ("profile", profile["name"]),
        ("seed", record["seed"]),
        ("arms of the classifiers", ", ".join(profile["arms"])),
        ("seeds of the classifiers", ", ".join(map(str, profile["seeds"]))),
        ("split", f"by {profile['data']['split_by']}"),
        ("external test set", _external(folder)),
        ("image size", f"{profile['data']['image_size']} pixels"),
        ("device", record["device"]),
        ("threads of a notebook", record["threads"]),
        ("Python", record["python"]),
        ("code", f"commit {record['git_commit']}"),
    ]
    total = sum(length for length, _ in minutes.values())
    times = [
        (name, f"{length:.1f}", "-" if memory is None else f"{memory:.1f}")
        for name, (length, memory) in minutes.items()
    ]
    sections = [
        "# The run behind this report",
        markdown_table(facts, ("What", "Value")),
        "## Minutes",
        "Wall time of each notebook, and the most memory its kernel held. Notebooks may have run side by "
        "side; one that was continued after a stop counts only from there.",
        markdown_table([*times, ("all", f"{total:.1f}", "")], ("Notebook", "Minutes", "GiB")),
        "## Weights the classifiers started from",
        _weights(folder),
        "## What was left out",
        _skipped(folder),
        _extractors(folder),
        "## Versions",
        markdown_table(record["versions"].items(), ("Package", "Version")),
        "## All settings",
        _folded(f"profile {profile['name']}", yaml.safe_dump(profile, sort_keys=False)),
    ]
    return "\n\n".join(sections) + "\n"


def chapter_minutes(minutes: dict[str, tuple[float, float | None]]) -> str:
    """The table of minutes and memory for a teacher, in MyST Markdown: one row a chapter, with links.

    minutes: as of `run_page`. A chapter that is executed several times has the mean of its minutes, and the
    most memory of any of them.
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


def _external(folder: Path) -> str:
    """Whether the run has opened an external test set: which, when, and what was tested on it."""
    record = read_opening(folder)
    if record is None:
        return "none was opened"
    return (
        f"{record['folder']}, opened on {record['opened']} for {len(record['classifiers'])} finished "
        f"classifiers: {record['images']:,} images, sha256 {record['sha256'][:16]}"
    )


def _weights(folder: Path) -> str:
    rows = []
    for path in RunPaths(folder).classifier_files(PROVENANCE):
        values = {key: _plain(value) for key, value in json.loads(path.read_text()).items()}
        said = "; ".join(f"{key}: {value}" for key, value in values.items())
        rows.append((path.parent.parent.name, str(seed_of(path.parent)), said))
    return markdown_table(rows, ("Arm", "Seed", "Weights")) if rows else "No record was kept."


def _skipped(folder: Path) -> str:
    path = RunPaths(folder).skipped
    rows = []
    if path.is_file():
        with path.open(newline="") as file:
            rows = [(row["image_id"], row["reason"]) for row in csv.DictReader(file)]
    if not rows:
        return "No image was skipped."
    said = f"{len(rows)} images could not be read and were skipped."
    return f"{said}\n\n{markdown_table(rows, ('Image', 'Why'))}"


def _extractors(folder: Path) -> str:
    path = RunPaths(folder).extractors
    unavailable = json.loads(path.read_text()) if path.is_file() else {}
    if not unavailable:
        return "Every feature extractor of the profile was used."
    rows = [(name, _plain(reason)) for name, reason in unavailable.items()]
    return "Feature extractors that could not be used:\n\n" + markdown_table(
        rows, ("Extractor", "Why")
    )


def _folded(title: str, text: str) -> str:
    return f"````{{dropdown}} {title}\n```yaml\n{text}```\n````"


def _plain(value: Any) -> str:
    """Text without folders: of an absolute path only its last part is anyone's business."""
    if isinstance(value, str):
        return Path(value).name if value.startswith("/") else value
    return json.dumps(value)
