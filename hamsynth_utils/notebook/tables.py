"""Tables and numbers as the chapters and pages show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML


def table(frame: pd.DataFrame, digits: int = 1) -> HTML:
    """A frame as a plain table of a notebook.

    Args:
        frame: any table. Its index is not shown, and a missing value is a dash.
        digits: decimals of the floats.

    Returns:
        The table in HTML.
    """
    return HTML(
        frame.to_html(index=False, na_rep="-", float_format=f"{{:.{digits}f}}".format, border=0)
    )


def measurement_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A table of measurements.

    Args:
        rows: the rows, such as those of `core.measured`.
        columns: the columns of the table; other entries of a row are left out.

    Returns:
        One row per row, with these columns, and a column `reason` if a row was not measured.
    """
    rows = list(rows)
    missed = any(isinstance(row.get("reason"), str) and row["reason"] for row in rows)
    return pd.DataFrame(rows, columns=[*columns, *(["reason"] if missed else [])])


def markdown_table(
    rows: pd.DataFrame | Iterable[Sequence[object]], head: Sequence[str] = ()
) -> str:
    """A table in Markdown. A missing value is a dash.

    Args:
        rows: a frame, whose index is not written, or the cells of each row.
        head: the names of the columns, where `rows` is not a frame.

    Returns:
        One line for the head, one line of dashes, one line per row. Line breaks in a cell become
        spaces, and `|` is escaped.
    """
    if not isinstance(rows, pd.DataFrame):
        rows = pd.DataFrame(list(rows), columns=list(head), dtype=object)
    cells = rows.astype(object).where(rows.notna(), "-")
    lines = [rows.columns, ["---"] * rows.shape[1], *cells.to_numpy()]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: object) -> str:
    """The text of a cell, without what would end the cell or the row."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def format_interval(
    row: Mapping[str, Any], value: str = "mean", digits: int = 1, factor: float = 1
) -> str:
    """An estimate with its interval, such as `61.0 (58.1 to 63.9)`.

    Args:
        row: has the entries `value`, low and high, and `reason` if it was not measured.
        value: the name of the entry with the estimate.
        digits: decimals.
        factor: all three numbers are multiplied by it, such as 100 for per cent.

    Returns:
        The text. A negative number that rounds to 0 has no minus. What was not measured is a dash,
        with its reason if there is one.
    """
    if math.isnan(row[value]):
        return dash(row.get("reason"))
    if math.isnan(row["low"]):
        return f"{factor * row[value]:z.{digits}f} (no interval)"
    centre, low, high = (f"{factor * row[key]:z.{digits}f}" for key in (value, "low", "high"))
    return f"{centre} ({low} to {high})"


def dash(reason: object = None) -> str:
    """The text for what was not measured.

    Args:
        reason: why, as text; anything else, such as a missing value, is no reason.

    Returns:
        A dash, and the reason in brackets if there is one.
    """
    return f"- ({reason})" if isinstance(reason, str) and reason else "-"


def format_percent_interval(row: Mapping[str, Any], name: str) -> str:
    """A fraction with its interval in per cent, such as `61.0 % (58.1 to 63.9)`.

    Args:
        row: has the entries `name`, `name`_low and `name`_high, fractions in [0, 1], and `reason`
            if it was not measured.
        name: which of the fractions of the row.

    Returns:
        The text. What was not measured is a dash, with its reason if there is one.
    """
    if math.isnan(row[name]):
        return dash(row.get("reason"))
    centre, low, high = (f"{100 * row[key]:.1f}" for key in (name, f"{name}_low", f"{name}_high"))
    return f"{centre} % ({low} to {high})"
