"""Files and folders written whole or not at all; foreign files read or refused by name."""

from __future__ import annotations

import codecs
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hamsynth_utils.core.errors import InputError

UNWRITABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
}


BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""How a text begins that Windows has saved, and the encoding that this means."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Write a file or a folder under a temporary name, and rename it to `path` at the end.

    So nothing incomplete ever has the name `path`. After an error the temporary is removed, and an
    older `path` stays as it was.

    Args:
        path: the final name.

    Yields:
        The temporary name, in the same folder.

    Raises:
        InputError: if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with oserror_as_input_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(temporary)
            yield temporary
            if temporary.is_dir():
                _remove(path)
            temporary.replace(path)
    finally:
        _remove(temporary)


def write_owner_only(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read (mode 0600), in new folders of mode 0700.

    Args:
        path: the file; missing folders are created.
        content: its bytes.

    Raises:
        FileExistsError: if the file exists, because its mode may be another one.
    """
    for folder in reversed([parent for parent in path.parents if not parent.exists()]):
        folder.mkdir(mode=0o700)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


@contextmanager
def oserror_as_input_error(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into an InputError.

    Args:
        path: what is being written, for the message.

    Raises:
        InputError: in place of such an OSError; any other error passes unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Free space or make the folder "
            "writable (or name another in HAMSYNTH_RUNS) and start again: what is finished is kept"
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_bytes(path: Path) -> bytes:
    """Read a file that somebody else has written.

    Args:
        path: the file.

    Raises:
        InputError: if there is no such file, or the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def decode_text(content: bytes, name: str) -> str:
    """Decode a text that somebody else has written.

    Args:
        content: UTF-8, or what Windows writes: UTF-8 or UTF-16 behind a byte order mark.
        name: the name of the text in messages.

    Returns:
        The text without the mark; line ends stay as they are.

    Raises:
        InputError: if the text is in another encoding, or is no text.
    """
    marks = (encoding for mark, encoding in BYTE_ORDER_MARKS.items() if content.startswith(mark))
    encoding = next(marks, "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {line}, is not in UTF-8: save the file as UTF-8") from error
    if "\0" in text:
        raise InputError(f"{name} is no text in UTF-8: save the file as UTF-8")
    return text
