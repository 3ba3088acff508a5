"""Tables and numbers as the chapters show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML


def in_per_cent(found: dict[str, float], key: str) -> str:
    """A share with its interval: `61.0 % (58.1 to 63.9)`."""
    return f"{100 * found[key]:.1f} % ({100 * found[f'{key}_low']:.1f} to {100 * found[f'{key}_high']:.1f})"


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; what is not a number is a dash."""
    table = table.astype(object).where(table.notna(), "-")
    rows = [table.columns.tolist(), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def table(frame: pd.DataFrame, digits: int = 1) -> HTML:
    """The frame as a plain table without its index, floats rounded to so many digits, a dash for nothing."""
    return HTML(
        frame.to_html(index=False, na_rep="-", float_format=f"{{:.{digits}f}}".format, border=0)
    )


def in_words(
    row: Mapping[str, Any], value: str = "mean", digits: int = 1, factor: float = 1
) -> str:
    """`value (low to high)`: the entry `value` of a row and its `low` and `high`, each times `factor`."""
    centre, low, high = (f"{factor * row[key]:z.{digits}f}" for key in (value, "low", "high"))
    return f"{centre} ({low} to {high})"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of a page in Markdown; what would break its cells is taken care of."""

    def line(cells: Iterable[object]) -> str:
        return (
            "| "
            + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
            + " |"
        )

    return "\n".join([line(head), line("---" for _ in head), *(line(row) for row in rows)])
