"""Files and folders written whole or not at all, and read whole or refused by name."""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import yaml

from hamsynth_utils.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

UNWRITABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ENOLCK,
    errno.ENOTSUP,
}


BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""How a text begins that Windows has saved, and the encoding that this means."""


SHORT_WRITE = re.compile(r"\d+ requested and \d+ written|encoder error")
"""What NumPy and Pillow say when a disk is full, in an OSError without a number."""


MAKE_AGAIN = "restore it, or delete it and start again: a run makes it again"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Write a file or a folder under a temporary name, and rename it to `path` at the end.

    So nothing incomplete ever has the name `path`, also after a power cut: the content reaches the
    disk before the rename, and the rename before this ends. After an error the temporary is
    removed, and an older `path` stays as it was.

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
            for written in (*temporary.rglob("*"), temporary):
                _sync(written)
            if temporary.is_dir():
                _remove(path)
            temporary.replace(path)
            _sync(path.parent)
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
        reason = error.strerror
        if error.errno is None and SHORT_WRITE.search(str(error)):
            reason = f"{os.strerror(errno.ENOSPC)} ({error})"
        elif error.errno not in UNWRITABLE:
            raise
        raise InputError(
            f"cannot write {path}: {reason}. Free space or make the folder "
            "writable (or name another in HAMSYNTH_RUNS) and start again: what is finished is kept"
        ) from error


@contextmanager
def damage_as_input_error(path: Path, remedy: str = MAKE_AGAIN) -> Iterator[None]:
    """Turn the many errors of an empty or half file into an InputError that names the file.

    Args:
        path: the file that is being read, for the message.
        remedy: what to do, for the message.

    Raises:
        InputError: in place of an error of a parser; an InputError passes unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, EOFError, KeyError, TypeError, BadZipFile, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is empty or damaged ({reason}): {remedy}") from error


def read_csv(path: Path, remedy: str = MAKE_AGAIN, **options: Any) -> pd.DataFrame:
    """Read a table that this package wrote.

    Args:
        path: the CSV file, in UTF-8.
        remedy: what to do with a damaged file, for the message.
        options: as for `pandas.read_csv`.

    Returns:
        The table.

    Raises:
        InputError: if the file is empty or damaged, or its last line is not complete.
    """
    import pandas as pd

    with damage_as_input_error(path, remedy):
        return pd.read_csv(BytesIO(_whole_lines(path)), **options)


def read_json(path: Path) -> Any:
    """Read a JSON file that this package or papermill wrote, such as an executed notebook.

    Args:
        path: the file, in UTF-8.

    Raises:
        InputError: if the file is empty or damaged.
    """
    with damage_as_input_error(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that maps keys to values, such as the record of a run.

    Args:
        path: the file, in UTF-8.

    Raises:
        InputError: if the file is empty or damaged.
    """
    with damage_as_input_error(path):
        content = yaml.safe_load(_whole_lines(path).decode())
        if not isinstance(content, dict):
            raise ValueError("it must map keys to values")
        return content


def set_future_times_to_now(paths: Iterable[Path]) -> None:
    """Give files whose time lies in the future the time of now, keep their order, and say so.

    Snakemake would execute a chapter that is older than what it was made of again and again.

    Args:
        paths: the files.

    Raises:
        InputError: if the time of a file cannot be set.
    """
    now = time.time()
    times = {path: path.stat().st_mtime for path in paths}
    future = sorted((path for path in times if times[path] > now + 1), key=times.__getitem__)
    for position, path in enumerate(future):
        written = datetime.fromtimestamp(times[path]).isoformat(" ", "seconds")
        what = f"{path} is dated {written}, but the clock says {datetime.now():%H:%M:%S}"
        try:
            moment = now - (len(future) - position) / 1e6
            os.utime(path, (moment, moment))
        except OSError as error:
            raise InputError(
                f"{what}, and its time cannot be set ({error.strerror}): set the clock, or `touch` "
                "that file"
            ) from error
        print(f"{what}: its time was set to now. Set the clock if it is slow", file=sys.stderr)


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        raise ValueError("its last line is not complete")
    return content


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this for a folder.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


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
