"""The errors for input that the user can correct, and for measures that the data cannot give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any


class InputError(ValueError):
    """Bad input: the message says what is wrong, where (file, row, column), and what to do."""


class NotMeasured(InputError):
    """The data cannot give a measure: a class or a value is absent, or the images are too few.

    The message is the reason, as it stands behind the dash in a table.
    """


INTERVAL = ("value", "low", "high")
"""The numbers of a row that are NaN where it was not measured."""


def measured(
    take: Callable[..., dict[str, Any]], *arguments: Any, numbers: Sequence[str] = INTERVAL
) -> dict[str, Any]:
    """A row of a table: what was measured, or why it was not.

    Args:
        take: takes the measure.
        arguments: what `take` is called with.
        numbers: the numbers that `take` gives.

    Returns:
        What `take` returns. If it raises `NotMeasured`, the result of `not_measured`.
    """
    try:
        return take(*arguments)
    except NotMeasured as reason:
        return not_measured(str(reason), numbers)


def not_measured(reason: str, numbers: Sequence[str] = INTERVAL) -> dict[str, Any]:
    """A row of a table that was not measured.

    Args:
        reason: why.
        numbers: the numbers that a measured row has.

    Returns:
        NaN for each of `numbers`; 0 as n, lesions and seeds; and `reason`.
    """
    return {**dict.fromkeys(numbers, math.nan), "n": 0, "lesions": 0, "seeds": 0, "reason": reason}
