"""Check a received synthetic set: a folder, a .zip, or an encrypted .zip.age.

The check names every file that was altered, added or deleted since the export, and every file that
could not be read. Whoever can alter a file can also write a new hash. Only the fingerprint of the
hashes, received by another channel than the set, shows such an attack.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import (
    BYTE_ORDER_MARKS,
    atomic_path,
    decode_text,
    read_bytes,
    write_owner_only,
)
from hamsynth_utils.core.weights import sha256_of_bytes
from hamsynth_utils.data.synthetic import SUMS, parse_manifest, verify_image
from hamsynth_utils.release.encryption import decrypt, is_encrypted
from hamsynth_utils.release.received import (
    Received,
    ReceivedFolder,
    ReceivedZip,
    UnreadableFileError,
    bad_name,
)


@dataclass(frozen=True)
class Verdict:
    """What a check of a received set has found.

    Attributes:
        alterations: one line per file that was altered, added or deleted.
        unreadable: one line per file that could not be read, and so could not be judged.
        left_out: the files that a file manager has added by itself, such as .DS_Store. They are no
            part of the set.
        fingerprint: the SHA-256 of the set's SHA256SUMS, "" if that cannot be read.
    """

    alterations: list[str]
    unreadable: list[str]
    left_out: list[str]
    fingerprint: str


def verify_set(
    path: Path,
    identity: Path | None = None,
    fingerprint: str | None = None,
    out: Path | None = None,
) -> Verdict:
    """Check a received set, and write its files to `out` if nothing was altered.

    Args:
        path: the set: a folder, a .zip, or an encrypted .zip.age.
        identity: the file with the secret key of a recipient, for an encrypted set.
        fingerprint: the SHA-256 of the set's SHA256SUMS as the sender told it.
        out: a new folder for the files of the set; None to check only.

    Returns:
        What was found. If nothing was altered, every file could be read.

    Raises:
        InputError: the set cannot be judged: there is none, it cannot be opened, or no file is
            altered but some cannot be read. Also if `out` exists, or if the fingerprint is none.
    """
    if out and out.exists():
        raise InputError(f"{out} exists already: name a new folder, or delete it")
    with received(path, identity) as files:
        verdict = judge(files, str(path), fingerprint)
        if verdict.alterations:
            return verdict
        if verdict.unreadable:
            raise InputError(f"{path} cannot be judged: {'; '.join(verdict.unreadable)}")
        if out:
            with atomic_path(out) as target:
                for file in files.files:
                    write_owner_only(target / file, files.read(file))
    return verdict


def find_alterations(folder: Path, fingerprint: str | None = None) -> list[str]:
    """Find what was altered in a set in a folder since its export.

    Args:
        folder: the set.
        fingerprint: the SHA-256 of its SHA256SUMS, as the sender told it.

    Returns:
        One line per alteration, with the file. The list is empty if the hashes show no alteration.

    Raises:
        InputError: as `verify_set` does.
    """
    return verify_set(folder, fingerprint=fingerprint).alterations


@contextmanager
def received(path: Path, identity: Path | None = None) -> Iterator[Received]:
    """Open a received set.

    Args:
        path: a folder, a .zip, or a .zip.age.
        identity: the file with the age identity; needed for an encrypted set.

    Yields:
        The files of the set.

    Raises:
        InputError: for a path that does not exist, a file that is neither a zip nor encrypted by
            age, a wrong key, or an encrypted file without an identity.
    """
    if path.is_dir():
        yield ReceivedFolder(path)
        return
    if not path.is_file():
        raise InputError(f"nothing to verify at {path}")
    with path.open("rb") as file:
        encrypted = path.suffix == ".age" or is_encrypted(file.read(100))
        if not encrypted:
            yield ReceivedZip(file, str(path))
            return
    if identity is None:
        raise InputError(f"{path} is encrypted: name the file with your secret key by --identity")
    yield ReceivedZip(BytesIO(decrypt(read_bytes(path), identity, str(path))), str(path))


def judge(files: Received, name: str, fingerprint: str | None = None) -> Verdict:
    """Compare the files of a set with its hashes, its manifest and its images' own metadata.

    Args:
        files: the set.
        name: its name in messages.
        fingerprint: the SHA-256 of its SHA256SUMS, as the sender told it.

    Raises:
        InputError: if the files are no exported set, or the fingerprint is no SHA-256.
    """
    told = (fingerprint or "").strip().lower()
    if told and not re.fullmatch("[0-9a-f]{64}", told):
        raise InputError(
            f"a fingerprint has 64 digits of 0 to 9 and a to f, and {told!r} is none: "
            "copy it as the sender told it"
        )
    if not {SUMS, "manifest.csv"} & {*files.files, *files.refused}:
        raise InputError(f"{name} is no exported set: it has neither {SUMS} nor manifest.csv")
    check = _Check(files)
    listing = check.content(SUMS) if SUMS in files.files else None
    own = sha256_of_bytes(listing) if listing is not None else ""
    if SUMS in files.refused:
        check.alterations.append(f"{SUMS} {files.refused[SUMS]}")
    elif SUMS not in files.files:
        check.alterations.append(f"{SUMS} was deleted: the hashes of the export are gone")
    elif listing is not None:
        check.read_sums(listing)
        if told and told != own:
            check.alterations.append(
                f"{SUMS} is not the one that was sent: its SHA-256 is {own}, the fingerprint {told}"
            )
    check.read_manifest()
    for file in sorted({*(check.sums or {}), *files.files, *files.refused, *check.rows} - {SUMS}):
        fault = check.fault_of(file)
        if fault:
            check.alterations.append(fault)
    return Verdict(check.alterations, check.grouped_unreadable(), files.left_out, own)


@dataclass
class _Check:
    """What is known of a set while it is judged.

    Attributes:
        files: the set.
        alterations: the lines found so far.
        unreadable: by file, why it cannot be read.
        sums: by file, the hash that SHA256SUMS lists; None without a list that can be read.
        folded: the listed files by their names without capitals and accents.
        rows: by file, its row of the manifest.
        manifest_fault: why the manifest cannot be parsed.
    """

    files: Received
    alterations: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    sums: dict[str, str] | None = None
    folded: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifest_fault: str | None = None

    def content(self, file: str) -> bytes | None:
        """The content of a file; None, and a note of the reason, if it cannot be read."""
        try:
            return self.files.read(file)
        except UnreadableFileError as error:
            self.unreadable[file] = str(error)
            return None

    def read_sums(self, content: bytes) -> None:
        """Read the hash of each listed file, and the faults of the list itself."""
        self.sums = {}
        try:
            text = decode_text(content, SUMS).replace("\r\n", "\n")
            if content != text.encode() or not text.endswith("\n"):
                self.alterations.append(f"{SUMS} was altered: {describe_conversion(content)}")
        except InputError as error:
            self.alterations.append(f"{SUMS} was altered: {error}")
            text = content.decode(errors="replace")
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
            digest, separator, name = line.partition("  ")
            if not separator or not re.fullmatch("[0-9a-f]{64}", digest) or bad_name(name):
                fault = "is no hash with a file of the set"
            elif _fold(name) in self.folded:
                fault = f"lists {self.folded[_fold(name)]} again"
            else:
                self.sums[name], self.folded[_fold(name)] = digest, name
                continue
            self.alterations.append(f"{SUMS} was altered: line {number} {fault}")

    def read_manifest(self) -> None:
        """Read the rows of the manifest, if the manifest can be read."""
        if "manifest.csv" not in self.files.files:
            return
        content = self.content("manifest.csv")
        if content is None:
            return
        try:
            manifest = parse_manifest(content, "manifest.csv")
        except InputError as error:
            self.manifest_fault = str(error)
            return
        self.rows = {row["file"]: row for row in manifest.to_dict("records")}

    def fault_of(self, file: str) -> str | None:
        """The line about a file that was altered, added or deleted; None if it was not."""
        shown = file if file.isprintable() else ascii(file)
        if file in self.files.refused:
            return f"{shown} {self.files.refused[file]}"
        if file not in self.files.files:
            listed = "is listed in the manifest but missing"
            return f"{shown} {listed if file in self.rows else 'was deleted'}"
        content = None if file in self.unreadable else self.content(file)
        if content is None:
            return None
        if file in self.rows:
            try:
                verify_image(content, self.rows[file])
            except InputError as error:
                return str(error)
        elif self.rows and file.startswith("images/"):
            return f"{shown} was added: the manifest does not list it"
        if file == "manifest.csv" and self.manifest_fault:
            return self.manifest_fault
        if self.sums is None:
            return None
        if file not in self.sums:
            twin = self.folded.get(_fold(file))
            added = f": it differs from {twin} only in capitals or accents" if twin else ""
            return f"{shown} was added{added}"
        if sha256_of_bytes(content) != self.sums[file]:
            return f"{file} was altered: {_difference(content, self.sums[file])}"
        return None

    def grouped_unreadable(self) -> list[str]:
        """One line per reason why files cannot be read."""
        reasons: dict[str, list[str]] = {}
        for file, reason in sorted(self.unreadable.items()):
            reasons.setdefault(reason, []).append(file)
        return [f"{_some(group)} cannot be read: {why}" for why, group in reasons.items()]


def describe_conversion(content: bytes) -> str:
    """What a program on the way has made of a text in UTF-8 with the line ends of Unix.

    Args:
        content: the text as it is now, in an encoding that `decode_text` knows.
    """
    if not content.startswith(tuple(BYTE_ORDER_MARKS)) and b"\r\n" not in content:
        return "its last line has no end"
    encoding = "UTF-8" if content.startswith(codecs.BOM_UTF8) else "UTF-16"
    changes = []
    if content.startswith(tuple(BYTE_ORDER_MARKS)):
        changes.append(f"as {encoding} with a byte order mark")
    if "\r\n" in decode_text(content, ""):
        changes.append("with the line ends of Windows")
    return f"a program has saved it {' and '.join(changes)}; ask for the set again, as one file"


def _difference(content: bytes, digest: str) -> str:
    """How a content differs from that of the listed hash."""
    with suppress(InputError):
        text = decode_text(content, "").replace("\r\n", "\n")
        if sha256_of_bytes(text.encode()) == digest:
            return describe_conversion(content)
    return f"its SHA-256 is not that in {SUMS}"


def _fold(name: str) -> str:
    """The name as a system sees it that ignores capitals and the form of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _some(files: list[str]) -> str:
    """Up to three names, and how many more there are."""
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"{', '.join(files[:3])}{more}"
