"""Release criteria: does a synthetic set meet limits that were fixed before the measurements?

`book/release.yaml` states each limit: which measure, in which table of the run, which end of its
95 % interval is judged, and the largest or smallest value allowed. A number that the run did not
measure does not pass. A written reason overrides most limits and stands on the data card of the
set; see `export`.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import Field, ValidationError, model_validator

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import read_csv
from hamsynth_utils.core.paths import RunPaths, project_root
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.data.files.images import open_picture

PASSED, FAILED, NOT_MEASURED = "passed", "failed", "not measured"
"""The verdicts on a limit."""


CRITERIA_COLUMNS = [
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
"""Columns of the evaluated criteria.

`of` distinguishes the rows of one limit, for example by extractor or attribute. `excess` is the
amount by which the judged end exceeds the limit, 0 or less if it passes. `reason` says why the
number was not measured.
"""


THE_SET = "the set"
"""The `table` of a limit that is about the images themselves."""


class Limit(Settings):
    """One limit of `book/release.yaml`.

    Attributes:
        id: name of the limit.
        asks: the question that the limit answers.
        why: the reason for the value of the limit.
        table: a file of the run, or `the set` for the images themselves.
        model: the column of the table that names the generator.
        rows: the value that each of the other columns must have. Of a list, each value is judged.
        columns: the columns that hold the value, the ends of its interval, and n.
        judged_by: the number that is compared with the limit.
        at_most: the largest value allowed.
        at_least: the smallest value allowed; a limit has exactly one of the two.
        override: whether a written reason can override the limit.
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
        """Refuse a limit without exactly one bound, or without the columns that it needs."""
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("a limit needs exactly one of at_most and at_least")
        if set(self.columns) != {"value", "low", "high", "n"}:
            raise ValueError("columns must say where value, low, high and n stand")
        return self

    @property
    def rule(self) -> str:
        """The limit in words."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}"

    @property
    def measures(self) -> str:
        """Names of the measures that the limit judges, in words."""
        measures = self.rows.get("measure", self.columns["value"])
        return measures if isinstance(measures, str) else ", ".join(measures)

    def excess(self, judged: float) -> float:
        """How far a number lies beyond the limit.

        Args:
            judged: the number.

        Returns:
            The distance, 0 or less if the number passes. It is rounded to nine decimals, so that
            0.1 + 0.2 + 0.3 is not above 0.6.
        """
        if self.at_most is not None:
            return round(judged - self.at_most, 9)
        assert self.at_least is not None
        return round(self.at_least - judged, 9)

    def selections(self, generator: str) -> list[dict[str, str]]:
        """What the columns of a row must have for the limit to judge it.

        Args:
            generator: name of the generator.

        Returns:
            One value per column, for each combination of the listed values.
        """
        listed = {
            column: [values] if isinstance(values, str) else values
            for column, values in {self.model: generator, **self.rows}.items()
        }
        return [dict(zip(listed, values, strict=True)) for values in product(*listed.values())]


def read_limits(path: Path | None = None) -> list[Limit]:
    """Read the limits.

    Args:
        path: a YAML file with one entry per limit; `book/release.yaml` by default.

    Returns:
        The limits in the order of the file.

    Raises:
        InputError: with the limit and its fault, for an unknown or missing key, a limit that has no
            or two bounds, an id that occurs twice, or a file without limits.
    """
    path = path or project_root() / "book/release.yaml"
    if not path.is_file():
        raise InputError(f"no limits at {path}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
    """Compare the measurements of a run's synthetic set with the limits.

    Args:
        folder: the run folder.
        generator: name of the generator that made the set.
        limits: the limits, by default those of `book/release.yaml`.

    Returns:
        One row per number that a limit judges, with the `CRITERIA_COLUMNS`. If a table has several
        rows for a limit, such as one per extractor, each of them is judged. A limit without a
        table, a row or a defined number is `not measured`.
    """
    rows = [row for limit in limits or read_limits() for row in _evaluate(limit, folder, generator)]
    return pd.DataFrame(rows, columns=CRITERIA_COLUMNS)


def failed_criteria(criteria: pd.DataFrame) -> list[str]:
    """Each judged number that does not pass, in one line.

    Args:
        criteria: from `evaluate_criteria`.

    Returns:
        For each: the limit, and by how much it failed or why it was not measured.
    """
    return [
        describe_failure(row) for row in criteria.to_dict("records") if row["verdict"] != PASSED
    ]


def describe_failure(row: dict[str, Any]) -> str:
    """A row of the evaluated criteria that does not pass, as one line.

    Args:
        row: the row, by the `CRITERIA_COLUMNS`.

    Returns:
        The line.
    """
    details = [text for text in (row["measure"], row["of"]) if text and text != row["limit"]]
    name = row["limit"] + (f" ({', '.join(details)})" if details else "")
    if row["verdict"] == NOT_MEASURED:
        return f"{name}: not measured, {row['reason']}"
    end = "" if row["judged_by"] == "value" else f"{row['judged_by']} end of the interval "
    judged, direction = row[row["judged_by"]], "much" if "most" in row["rule"] else "little"
    by = f", too {direction} by {row['excess']:.3g}" if row["excess"] > 0 else ""
    return f"{name}: {end}{judged:.3g}, must be {row['rule']}{by} (n = {row['n']:.0f})"


def labelled_fraction(folder: Path) -> pd.DataFrame:
    """The fraction of the images of a set whose metadata say that they are synthetic.

    Args:
        folder: the set.

    Returns:
        One row with the columns measure, value, low, high and n. Every image was read, so that the
        interval is the value itself. A file that cannot be read counts as not labelled.
    """
    files = sorted((folder / "images").glob("*"))
    fraction = sum(map(_is_labelled, files)) / len(files) if files else float("nan")
    numbers = {"value": fraction, "low": fraction, "high": fraction, "n": len(files)}
    return pd.DataFrame([{"measure": "labelled", **numbers}])


def _is_labelled(path: Path) -> bool:
    try:
        with open_picture(path) as image:
            return image.info.get("hamsynth:synthetic") == "true"
    except InputError:
        return False


def _evaluate(limit: Limit, folder: Path, generator: str) -> list[dict[str, Any]]:
    """The rows of one limit."""
    row: dict[str, Any] = {
        "limit": limit.id,
        "measure": limit.measures,
        "of": "",
        "judged_by": limit.judged_by,
        "rule": limit.rule,
        "override": limit.override,
        "verdict": NOT_MEASURED,
    }
    table, problem = _read_table(limit, folder, generator)
    if problem:
        return [{**row, "reason": problem}]
    rows = []
    for selection in limit.selections(generator):
        row["measure"] = selection.get("measure", limit.columns["value"])
        measured = table
        for column, value in selection.items():
            measured = measured[measured[column].astype(str) == value]
        if measured.empty:
            others = [v for key, v in selection.items() if key not in ("measure", limit.model)]
            reason = f"{limit.table} has no such row of {generator}"
            rows.append({**row, "of": ", ".join(others), "reason": reason})
        for numbers in measured.to_dict("records"):
            rows.append({**row, "of": _details(numbers, limit), **_judge(numbers, limit)})
    return rows


def _read_table(limit: Limit, folder: Path, generator: str) -> tuple[pd.DataFrame, str]:
    """The table of a limit, and what makes it useless, "" if nothing does."""
    if limit.table == THE_SET:
        labels = labelled_fraction(RunPaths(folder).synthetic(generator))
        return labels.assign(**{limit.model: generator}), ""
    path = folder / limit.table
    if not path.is_file():
        return pd.DataFrame(), f"{limit.table} is not there"
    table = read_csv(path)
    columns = (limit.model, *limit.rows, *limit.columns.values())
    missing = [column for column in columns if column not in table]
    return table, f"{limit.table} lacks the column(s) {', '.join(missing)}" if missing else ""


def _judge(row: dict[str, Any], limit: Limit) -> dict[str, Any]:
    """Numbers, excess and verdict of one row of a limit's table."""
    numbers: dict[str, Any] = {name: row[column] for name, column in limit.columns.items()}
    judged = numbers[limit.judged_by]
    if pd.isna(judged):
        reason = row.get("reason")
        unknown = f"its {limit.judged_by} is not defined in {limit.table}"
        return {**numbers, "reason": reason if isinstance(reason, str) else unknown}
    excess = limit.excess(judged)
    verdict = FAILED if excess > 0 else PASSED
    return {**numbers, "excess": excess, "verdict": verdict, "reason": ""}


def _details(row: dict[str, Any], limit: Limit) -> str:
    """What tells this row from the other rows of the limit."""
    columns = dict.fromkeys([*limit.rows, "extractor"])
    shown = [column for column in columns if column not in {"measure", "reference"}]
    return ", ".join(str(row[c]) for c in shown if c in row and not pd.isna(row[c]))
