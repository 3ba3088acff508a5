"""The error for input that the user can correct."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message says what is wrong, where (file, row, column), and what to do."""
