"""Reads a table as text, or says in which line of the file what is wrong.

The separator is a comma, a tab or a semicolon. The encoding is one that `decode_text` knows. Any
other encoding is refused, because a wrong guess would change letters in silence.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import decode_text, read_bytes

MISSING = frozenset(
    (
        "",
        *("unknown", "unspecified", "undefined", "missing", "none", "null", "nil", "nan", "<na>"),
        *("na", "n/a", "n.a.", "#n/a", "-", "--", "–", "—", ".", "?"),
        *(
            f"not {word}"
            for word in (
                *("reported", "available", "applicable", "known", "recorded"),
                *("specified", "provided", "stated", "given"),
            )
        ),
    )
)
"""Spellings of a value that is not known, in lower case."""


def read_text(path: Path, known: Sequence[str], needed: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table as text.

    Args:
        path: the file.
        known: the columns that have a meaning, in the spelling of the result. In the file, capitals
            do not count, and spaces, hyphens and underscores are the same.
        needed: those that the table must have.

    Returns:
        Every cell as stripped text, without empty rows. The row index is the line in the file.
        Columns that are not known keep their names. A first column without a name, which pandas
        writes for row numbers, and columns without any content are left out.

    Raises:
        InputError: naming file and line, if the file is not a readable table, has a column twice or
            a row that does not have the header's fields, or lacks a column.
    """
    header, *rows = _rows(path, decode_text(read_bytes(path), str(path))) or [(1, [])]
    names = _names(header[1], known)
    if not any(names):
        raise InputError(f"{path} is not a readable table: it has no header")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise InputError(f"{path}, line {header[0]} has the column {twice[0]!r} twice: keep one")
    for line, fields in rows:
        if len(fields) < len(names) or any(fields[len(names) :]):
            raise InputError(
                f"{path}, line {line} has {len(fields)} fields, but the header has {len(names)}: "
                "mend the row, or put quotes around a field that holds the separator"
            )
    cells = [fields[: len(names)] for _, fields in rows]
    for column, name in enumerate(names):
        if not name and column and any(fields[column] for fields in cells):
            raise InputError(f"{path}: column {column + 1} has no name in the header: give it one")
    table = pd.DataFrame(
        {name: [fields[k] for fields in cells] for k, name in enumerate(names) if name},
        index=[line for line, _ in rows],
        dtype=object,
    )
    require_columns(path, table, needed)
    return table


def read_header(path: Path, known: Sequence[str]) -> list[str]:
    """The column names of a table, to tell what kind of table it is.

    Args:
        path: the file.
        known: as for `read_text`.

    Returns:
        The names, as `read_text` gives them; "" for a column without a name. No name if the file
        has no readable header.
    """
    content = path.read_bytes()
    try:
        text = decode_text(content, path.name)
    except InputError:
        text = content.decode(errors="replace")  # the header may be readable all the same
    try:
        rows = _rows(path, text, most=1)
    except InputError:
        return []
    return _names(rows[0][1], known) if rows else []


def require_columns(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise InputError if a table lacks a column.

    Args:
        path: the file, for the message.
        table: the table.
        columns: the columns that it must have.
    """
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise InputError(
            f"{path} lacks the column(s) {', '.join(lacking)}; it has {', '.join(table.columns)}"
        )


def refuse(path: Path, what: str, lines: Iterable[int], values: Iterable[str] = ()) -> None:
    """Raise InputError if there is any line.

    Args:
        path: the file.
        what: what is wrong, as it follows the line in the message.
        lines: the lines in the file; line 1 is the header.
        values: the wrong cells.
    """
    lines, values = list(lines), list(values)
    if lines:
        more = f" (and {len(lines) - 1:,} more lines)" if len(lines) > 1 else ""
        raise InputError(
            f"{path}, line {lines[0]}{more} {what}" + (f": {values[0]!r}" if values else "")
        )


def without_missing(values: pd.Series) -> pd.Series:
    """Replace every spelling of "missing" by NaN.

    Args:
        values: N texts.

    Returns:
        The texts [N], NaN where nothing is known.
    """
    return values.mask(values.str.lower().isin(MISSING), np.nan).astype(object)


def group_names(values: pd.Series) -> pd.Series:
    """Names of groups, so that one group has one spelling.

    Args:
        values: N texts.

    Returns:
        The texts in lower case with single spaces [N], NaN where nothing is known.
    """
    return without_missing(values.str.lower().str.split().str.join(" "))


def as_numbers(values: pd.Series) -> pd.Series:
    """Read numbers, with a decimal point or a decimal comma.

    Args:
        values: N texts, or NaN.

    Returns:
        float [N], NaN for what is not a number.
    """
    pointed = values.str.replace(r"^([+-]?[0-9]+),([0-9]+)$", r"\1.\2", regex=True)
    return pd.to_numeric(pointed, errors="coerce").astype(float)


def _rows(path: Path, text: str, most: int | None = None) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, each with its line in the file."""
    named = re.match(r'"?sep=(.)"?\r?\n', text)  # a line that Excel writes for itself
    start = 2 if named else 1
    text = text[named.end() :] if named else text
    separator = named[1] if named else _separator(text)
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    rows, line = [], start
    try:
        for fields in lines:
            fields = [unicodedata.normalize("NFC", field.strip()) for field in fields]
            if any(fields):
                rows.append((line, fields))
            line = start + lines.line_num
            if len(rows) == most:
                break
    except csv.Error as error:
        raise InputError(f"{path}, line {line} is not a readable row: {error}") from error
    return rows


def _separator(text: str) -> str:
    header = re.sub(r'"[^"]*"', "", text.lstrip().partition("\n")[0])
    if "\t" in header:
        return "\t"
    return ";" if header.count(";") > header.count(",") else ","


def _names(header: Sequence[str], known: Sequence[str]) -> list[str]:
    spelling = {_plain(name): name for name in known}
    return [spelling.get(_plain(name), name) for name in header]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name).casefold()
