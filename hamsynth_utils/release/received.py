"""The files of a received set, read from a folder or a zip without unpacking anything.

Nothing is written while a set is judged, so that no hostile name reaches the disk.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.synthetic import SUMS, is_system_file

MAX_BYTES = 2**28
"""No file of a set is larger than 256 MiB; a larger one is not read."""


MAX_RATIO = 200
"""A file of a set unpacks to at most so many times its packed size; one of a zip bomb to 1000."""


METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "Deflate"}
"""The ways of packing that are read."""


OTHER_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}


UNPACK_YOURSELF = "unpack the zip with the program that packed it, then verify the folder"


DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class UnreadableFileError(InputError):
    """A file of a set cannot be read; the message is the reason and the way out."""


class Received(ABC):
    """The files of a received set.

    Attributes:
        files: the ordinary files: by name, relative to the set's own folder and with / between
            folders, the name under which the file is stored.
        refused: by name, why an entry can belong to no set, such as a link.
        left_out: the files that a file manager has added by itself.

    Args:
        found: by stored name, why the entry is no ordinary file, or None if it is one.
    """

    def __init__(self, found: Mapping[str, str | None]) -> None:
        names = {stored: stored.replace("\\", "/") for stored in found}  # old Windows writes \
        self.left_out = sorted(name for name in names.values() if is_system_file(name))
        names = {stored: name for stored, name in names.items() if not is_system_file(name)}
        top = _top_folder(set(names.values()))
        self.files: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        for stored, name in names.items():
            inner = name.removeprefix(top)
            reason = found[stored] or bad_name(inner)
            if reason is None and inner in self.files:
                reason = "is in the set twice"
            if reason is None:
                self.files[inner] = stored
            else:
                self.refused[inner] = reason

    @abstractmethod
    def read(self, file: str) -> bytes:
        """The content of a file.

        Args:
            file: one of `files`.

        Raises:
            UnreadableFileError: if the file cannot be read.
        """


class ReceivedFolder(Received):
    """A set in a folder.

    Args:
        folder: the set's folder, or a folder that holds nothing else.

    Raises:
        InputError: if a folder cannot be listed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = {}
        for parent, folders, files in os.walk(folder, onerror=_stop):
            for name in [*files, *(each for each in folders if Path(parent, each).is_symlink())]:
                path = Path(parent, name)
                found[path.relative_to(folder).as_posix()] = _special(path.lstat().st_mode)
        super().__init__(found)

    def read(self, file: str) -> bytes:
        """See `Received.read`."""
        path = self.folder / self.files[file]
        try:
            if path.stat().st_size > MAX_BYTES:
                raise UnreadableFileError("larger than 256 MiB, as no file of a set is")
            return path.read_bytes()
        except OSError as error:
            raise UnreadableFileError(
                f"{error.strerror}: copy the set again, or change its permissions"
            ) from error


class ReceivedZip(Received):
    """A set in a zip.

    Args:
        content: the zip.
        name: its name in messages.

    Raises:
        InputError: if the content is no zip, is cut short, or claims more than it holds.
    """

    def __init__(self, content: BinaryIO, name: str) -> None:
        try:
            self.archive = zipfile.ZipFile(content)
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise InputError(
                f"{name} is no zip of a set, or it was cut short or damaged ({error}): "
                "ask for it again"
            ) from error
        entries = [entry for entry in self.archive.infolist() if not _is_folder(entry.filename)]
        if sum(entry.compress_size for entry in entries) > content.seek(0, os.SEEK_END):
            raise InputError(
                f"{name} claims to hold more than it does, as a zip bomb does: ask for it again"
            )
        found: dict[str, str | None] = {}
        for entry in entries:
            twice = entry.filename in found
            special = _special(entry.external_attr >> 16)
            found[entry.filename] = "is in the zip twice" if twice else special
        super().__init__(found)

    def read(self, file: str) -> bytes:
        """See `Received.read`."""
        entry = self.archive.getinfo(self.files[file])
        if entry.flag_bits & 0x41:  # encrypted, or strongly encrypted
            raise UnreadableFileError(f"locked with a password: {UNPACK_YOURSELF}")
        if entry.compress_type not in METHODS:
            method = OTHER_METHODS.get(entry.compress_type, f"method {entry.compress_type}")
            raise UnreadableFileError(f"packed with {method}: {UNPACK_YOURSELF}")
        if entry.file_size > min(MAX_BYTES, MAX_RATIO * entry.compress_size + 2**20):
            raise UnreadableFileError("too large unpacked, as in a zip bomb: ask for the set again")
        try:
            return self.archive.read(entry)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            RuntimeError,
            ValueError,
        ) as error:
            raise UnreadableFileError("damaged in the zip: ask for the set again") from error


def bad_name(name: str) -> str | None:
    """Why a file of this name can belong to no set; None if it can.

    A set can be stored on every system, and its files stay inside of its folder.

    Args:
        name: relative to the set's folder, with / between folders.
    """
    parts = name.split("/")
    if parts[0] == "" or ".." in parts or re.match("[a-zA-Z]:", name):
        return "was added: it would be written outside of the set"
    if any(DEVICE.fullmatch(part) for part in parts):
        return "was added: it has the name of a device of Windows"
    if (
        not name.isprintable()
        or re.search(r'[<>:"|?*\\]|[. ](/|$)|//', name)
        or len(name.encode()) > 250
    ):
        return "was added: it has a name that not every system can store"
    return None


def _top_folder(names: set[str]) -> str:
    """The folder around the whole set that a file manager has packed too, with a / at the end."""
    top = ""
    while not {f"{top}{SUMS}", f"{top}manifest.csv"} & names:
        folders = {name[len(top) :].split("/")[0] for name in names}
        (folder,) = folders if len(folders) == 1 else [".."]
        if bad_name(folder) or f"{top}{folder}" in names:
            return ""
        top += f"{folder}/"
    return top


def _is_folder(name: str) -> bool:
    return name.endswith(("/", "\\"))


def _special(mode: int) -> str | None:
    """Why an entry of this mode is no ordinary file; None if it is one."""
    if stat.S_ISLNK(mode):
        return "was replaced by a link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):  # a zip of Windows has no mode
        return "is no ordinary file"
    return None


def _stop(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be listed ({error.strerror}): change its permissions"
    ) from error
