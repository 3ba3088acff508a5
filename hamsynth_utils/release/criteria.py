"""The gate: whether a synthetic set may leave the house, by limits that were written before the numbers.

`book/release.yaml` states each limit: which measure, in which table of the run, which end of its 95 %
interval is judged, and how large or small it may be. What a run has not measured is not passed. People may
override most limits by a reason in writing, which goes on the card of the set; see export.py.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from PIL import Image, UnidentifiedImageError
from pydantic import Field, ValidationError, model_validator

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import RunPaths, project_root
from hamsynth_utils.core.settings import Settings

VERDICTS = ("passed", "failed", "not measured")


GATE_COLUMNS = [
    "limit",
    "measure",
    "of",
    "value",
    "low",
    "high",
    "n",
    "judged_by",
    "rule",
    "excess",
    "verdict",
    "override",
    "reason",
]
"""Columns of a judged gate. `of`: what else tells the row from others, as its extractor or attribute; excess:
by how much the judged end is on the wrong side of the limit, 0 or less if it is not; reason: why it is not
measured."""


THE_SET = "the set"


class Limit(Settings):
    """One limit.

    id, asks, why: its name, the question, and why the limit lies where it does.
    table: a file of the run, or `the set` for the images themselves. model: its column that names the
    generator. rows: what its other columns must hold; of a list every value must be there. columns: where
    the value, the ends of its interval and n stand. judged_by: which of the first three is compared with
    at_most or at_least. override: whether a written reason may stand in for it.
    """

    id: str
    asks: str
    why: str
    table: str
    model: str = "generator"
    rows: dict[str, str | list[str]] = Field(default_factory=dict)
    columns: dict[str, str] = Field(
        default_factory=lambda: {name: name for name in ("value", "low", "high", "n")}
    )
    judged_by: Literal["value", "low", "high"]
    at_most: float | None = None
    at_least: float | None = None
    override: bool = True

    @model_validator(mode="after")
    def decidable(self) -> Limit:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("a limit needs exactly one of at_most and at_least")
        if set(self.columns) != {"value", "low", "high", "n"}:
            raise ValueError("columns must say where value, low, high and n stand")
        return self

    @property
    def rule(self) -> str:
        """The limit in words."""
        return (
            f"at most {self.at_most:g}"
            if self.at_most is not None
            else f"at least {self.at_least:g}"
        )

    def excess(self, judged: float) -> float:
        """By how much a number is on the wrong side of the limit; 0 or less if it is not."""
        if self.at_most is not None:
            return judged - self.at_most
        assert self.at_least is not None
        return self.at_least - judged


def read_limits(path: Path | None = None) -> list[Limit]:
    """The limits in `path`, by default those of the book.

    Raises InputError naming the limit and its fault for an unknown or missing key, a limit that cannot
    decide, an id that is there twice, or a file without limits.
    """
    path = path or project_root() / "book/release.yaml"
    if not path.is_file():
        raise InputError(f"no limits at {path}")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, list) or not content:
        raise InputError(f"{path} holds no limits: it must be a list, one entry a limit")
    limits: list[Limit] = []
    for entry in content:
        try:
            limits.append(Limit.model_validate(entry))
        except ValidationError as error:
            what = "; ".join(
                f"{'.'.join(map(str, each['loc']))} {each['msg']}".strip()
                for each in error.errors()
            )
            name = entry.get("id", entry) if isinstance(entry, dict) else entry
            raise InputError(f"{path}, limit {name}: {what}") from error
        if limits[-1].id in {limit.id for limit in limits[:-1]}:
            raise InputError(f"{path} has two limits with the id {limits[-1].id}")
    return limits


def evaluate_criteria(
    folder: Path, generator: str, limits: list[Limit] | None = None
) -> pd.DataFrame:
    """The gate of a run's synthetic set: one row, with the columns GATE, for each number that a limit is
    put to.

    folder: the run. Where a table has several rows for a limit, as one an extractor, each of them is judged.
    A limit without a number, with one that is not defined, or without a table is `not measured`.
    """
    rows: list[dict[str, Any]] = []
    for limit in limits or read_limits():
        rows += _judged(limit, folder, generator)
    return pd.DataFrame(rows, columns=GATE_COLUMNS)


def failed_criteria(gate: pd.DataFrame) -> list[str]:
    """What is not passed, one line each: which limit, by how much, or why it is not measured."""
    return [describe_failure(row) for row in gate.to_dict("records") if row["verdict"] != "passed"]


def describe_failure(row: dict[str, Any]) -> str:
    """One row of a gate as a line."""
    told = [text for text in (row["measure"], row["of"]) if text and text != row["limit"]]
    name = row["limit"] + (f" ({', '.join(told)})" if told else "")
    if row["verdict"] == "not measured":
        return f"{name}: not measured, {row['reason']}"
    end = "" if row["judged_by"] == "value" else f"{row['judged_by']} end of the interval "
    by = (
        f", too {'much' if 'most' in row['rule'] else 'little'} by {row['excess']:.3g}"
        if row["excess"] > 0
        else ""
    )
    return (
        f"{name}: {end}{row[row['judged_by']]:.3g}, must be {row['rule']}{by} (n = {row['n']:.0f})"
    )


def labelled_fraction(folder: Path) -> pd.DataFrame:
    """The share of a set's images that say in their metadata that they are synthetic: one row, the whole set.

    Every image was looked at, so its interval is the value itself. A file that cannot be read is not
    labelled.
    """
    files = sorted((folder / "images").glob("*"))
    share = sum(map(_says_synthetic, files)) / len(files) if files else float("nan")
    return pd.DataFrame(
        [{"measure": "labelled", "value": share, "low": share, "high": share, "n": len(files)}]
    )


def _says_synthetic(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("hamsynth:synthetic") == "true"
    except (OSError, SyntaxError, UnidentifiedImageError):
        return False


def _judged(limit: Limit, folder: Path, generator: str) -> list[dict[str, Any]]:
    named = limit.rows.get("measure", limit.columns["value"])
    empty: dict[str, Any] = {
        "limit": limit.id,
        "measure": named if isinstance(named, str) else ", ".join(named),
        "of": "",
        "judged_by": limit.judged_by,
        "rule": limit.rule,
        "override": limit.override,
        "verdict": VERDICTS[2],
    }
    if limit.table == THE_SET:
        table, ours = labelled_fraction(RunPaths(folder).synthetic(generator)), {}
    else:
        path = folder / limit.table
        if not path.is_file():
            return [{**empty, "reason": f"{limit.table} is not there"}]
        table, ours = pd.read_csv(path), {limit.model: generator}
    missing = [name for name in (*ours, *limit.rows, *limit.columns.values()) if name not in table]
    if missing:
        return [{**empty, "reason": f"{limit.table} lacks the column(s) {', '.join(missing)}"}]
    choices = [
        [(key, each) for each in ([value] if isinstance(value, str) else value)]
        for key, value in {**ours, **limit.rows}.items()
    ]
    judged = []
    for choice in product(*choices):
        wanted = dict(choice)
        found = (
            table[(table[list(wanted)].astype(str) == pd.Series(wanted)).all(axis=1)]
            if wanted
            else table
        )
        told = {"measure": wanted.get("measure", limit.columns["value"])}
        if found.empty:
            also = [value for key, value in wanted.items() if key not in ("measure", limit.model)]
            reason = f"{limit.table} has no such row of {generator}"
            judged.append({**empty, **told, "of": ", ".join(also), "reason": reason})
        for row in found.to_dict("records"):
            judged.append({**empty, **told, "of": _of(row, limit), **_verdict(row, limit)})
    return judged


def _verdict(row: dict[str, Any], limit: Limit) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: row[column] for name, column in limit.columns.items()}
    if pd.isna(numbers[limit.judged_by]):
        return {**numbers, "reason": f"its {limit.judged_by} is not defined in {limit.table}"}
    excess = round(
        limit.excess(numbers[limit.judged_by]), 9
    )  # 0.6 is not above 0.6, however it was computed
    return {**numbers, "excess": excess, "verdict": VERDICTS[excess > 0], "reason": ""}


def _of(row: dict[str, Any], limit: Limit) -> str:
    """What tells this row from the others that the limit is put to."""
    return ", ".join(
        str(row[key])
        for key in dict.fromkeys([*limit.rows, "extractor"])
        if key in row and key not in {"measure", "reference"} and not pd.isna(row[key])
    )
