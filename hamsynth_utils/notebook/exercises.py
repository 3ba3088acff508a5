"""The checks under the exercises of the notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

UNANSWERED, RIGHT, WRONG = "not answered yet", "right", "not yet"


def self_check(answer: Any, expected: Any, hint: str = "", within: float | None = None) -> None:
    """Print the grade of an answer.

    Args:
        answer: None as long as the exercise is not answered.
        expected: a number, an array or tensor, a word, a list of these, or a function that tells
            whether an answer is right. A number may be answered by an int, a float, or an array or
            tensor of one element. The case of a word does not matter.
        hint: follows "not yet".
        within: the largest allowed difference of a number; by default one per cent of it.
    """
    print(grade(answer, expected, hint, within))


def grade(answer: Any, expected: Any, hint: str = "", within: float | None = None) -> str:
    """The grade of an answer.

    Args:
        answer, expected, hint, within: as for `self_check`.

    Returns:
        "right", "not yet" with the hint, or "not answered yet".
    """
    parts = answer if isinstance(answer, list | tuple) and len(answer) else [answer]
    if all(part is None for part in parts):
        return f"{UNANSWERED}: the answer is None"
    if _agrees(answer, expected, within):
        return RIGHT
    if isinstance(answer, str) and _numbers(expected) is not None:
        hint = f"a number is asked for, and {answer!r} is text"
    return f"{WRONG}: {hint}" if hint else WRONG


def _agrees(answer: Any, expected: Any, within: float | None) -> bool:
    """Whether an answer that is not None is the expected one."""
    if callable(expected):
        return bool(expected(answer))
    if isinstance(expected, str):
        return isinstance(answer, str) and answer.strip().casefold() == expected.casefold()
    if isinstance(expected, list | tuple):
        parts = answer.split(",") if isinstance(answer, str) else answer
        if not isinstance(parts, Iterable) or len(parts := list(parts)) != len(expected):
            return False
        return all(
            _agrees(part, truth, within) for part, truth in zip(parts, expected, strict=True)
        )
    value, truth = _numbers(answer), _numbers(expected)
    if value is None or truth is None:
        return False
    if value.shape != truth.shape and not value.size == truth.size == 1:
        return False
    tolerance = 0.01 * np.abs(truth) if within is None else within
    return bool(np.all(np.abs(value.reshape(truth.shape) - truth) <= tolerance + 1e-9))


def _numbers(value: Any) -> np.ndarray | None:
    """The value as an array of floats; None if it is not made of numbers."""
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError):
        return None
    return array.astype(float) if array.dtype.kind in "buif" else None
