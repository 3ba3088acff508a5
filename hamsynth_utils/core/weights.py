"""Weights on disk: safetensors, written whole or not at all, read with their metadata."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path


def write_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a .safetensors file; an older file is replaced only when the new one is complete.

    Args:
        path: the file.
        tensors: the tensors by name.
        metadata: text by key.

    Raises:
        InputError: if the file cannot be written.
    """
    with atomic_path(path) as temporary, _numbered_errors():
        # A copy of each, since tied or strided tensors cannot be stored.
        save_file(
            {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()},
            temporary,
            metadata,
        )


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a .safetensors file.

    Args:
        path: the file.

    Returns:
        The tensors by name, and the metadata, text by key.

    Raises:
        InputError: if the file is missing or damaged.
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a .safetensors file, but not its tensors.

    Args:
        path: the file.

    Returns:
        Text by key.

    Raises:
        InputError: if the file is missing or damaged.
    """
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _numbered_errors() -> Iterator[None]:
    """Give safetensors' error of a full disk the class and the number that Python's errors have."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"(?:os error |code: )(\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise InputError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise InputError(
            f"{path} is damaged or not a safetensors file ({error}): delete it and make it again"
        ) from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    return sha256_of_bytes(path.read_bytes())


def sha256_of_bytes(content: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
