"""The checks under the exercises of the notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

UNANSWERED, RIGHT, WRONG = "not answered yet", "right", "not yet"


def self_check(answer: Any, expected: Any, hint: str = "", within: float | None = None) -> None:
    """Say of an answer "right", "not yet" with the hint, or "not answered yet" where it is None.

    expected: a number, an array or tensor, a word, a list of these, or a test of an answer that is there. A
    number may be given as int, float, or array or tensor of one element; a word in any case.
    within: how far a number may be off; by default one per cent.
    """
    print(grade(answer, expected, hint, within))


def grade(answer: Any, expected: Any, hint: str = "", within: float | None = None) -> str:
    """What `self_check` prints."""
    parts = answer if isinstance(answer, list | tuple) and len(answer) else [answer]
    if all(part is None for part in parts):
        return f"{UNANSWERED}: the answer is None"
    if _agrees(answer, expected, within):
        return RIGHT
    if isinstance(answer, str) and _numbers(expected) is not None:
        hint = f"a number is asked for, and {answer!r} is text"
    return f"{WRONG}: {hint}" if hint else WRONG


def _agrees(answer: Any, expected: Any, within: float | None) -> bool:
    if callable(expected):
        return bool(expected(answer))
    if isinstance(expected, str):
        return isinstance(answer, str) and answer.strip().casefold() == expected.casefold()
    if isinstance(expected, list | tuple):
        parts = answer.split(",") if isinstance(answer, str) else answer
        if not isinstance(parts, Iterable) or len(parts := list(parts)) != len(expected):
            return False
        return all(_agrees(one, other, within) for one, other in zip(parts, expected, strict=True))
    given, wanted = _numbers(answer), _numbers(expected)
    if given is None or wanted is None:
        return False
    if given.shape != wanted.shape and not given.size == wanted.size == 1:
        return False
    allowed = 0.01 * np.abs(wanted) if within is None else within
    return bool(np.all(np.abs(given.reshape(wanted.shape) - wanted) <= allowed + 1e-9))


def _numbers(value: Any) -> np.ndarray | None:
    """The value as an array of floats; None if it is not made of numbers."""
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError):
        return None
    return array.astype(float) if array.dtype.kind in "buif" else None
