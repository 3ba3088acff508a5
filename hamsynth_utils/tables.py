"""Tables and numbers as the chapters show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import HTML


def table(frame: pd.DataFrame, digits: int = 1) -> HTML:
    """The frame as a plain table without its index, floats rounded to so many digits, a dash for nothing."""
    return HTML(frame.to_html(index=False, na_rep="-", float_format=f"{{:.{digits}f}}".format, border=0))


def in_words(row: Mapping[str, Any], value: str = "mean", digits: int = 1, factor: float = 1) -> str:
    """`value (low to high)`: the entry `value` of a row and its `low` and `high`, each times `factor`."""
    centre, low, high = (f"{factor * row[key]:z.{digits}f}" for key in (value, "low", "high"))
    return f"{centre} ({low} to {high})"
