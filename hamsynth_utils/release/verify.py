"""Check a received synthetic set: a folder, a .zip, or an encrypted .zip.age.

The check names every file that was altered, added or deleted since the export. Whoever can alter a
file can also write a new hash. Only the fingerprint of the hashes, received by another channel than
the set, shows such an attack.
"""

from __future__ import annotations

import stat
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path, write_owner_only
from hamsynth_utils.core.weights import sha256_of, sha256_of_bytes
from hamsynth_utils.data.synthetic import SUMS, files_not_in_manifest, read_manifest, verified_image
from hamsynth_utils.release.encryption import decrypt


def find_alterations(folder: Path, fingerprint: str | None = None) -> list[str]:
    """Find what was altered in an exported set since its export.

    Args:
        folder: the set.
        fingerprint: the SHA-256 of its SHA256SUMS, as the sender told it.

    Returns:
        One line per alteration, with the file. The list is empty if the hashes show no alteration.

    Raises:
        InputError: if the folder is no exported set.
    """
    sums_path = folder / SUMS
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    )
    if not sums_path.is_file():
        if (folder / "manifest.csv").is_file():
            return [
                f"{SUMS} was deleted: the hashes of the export are gone",
                *_altered_images(folder).values(),
            ]
        raise InputError(f"{folder} is no exported set: it has neither {SUMS} nor manifest.csv")
    sums, found = _read_sums(sums_path)
    if fingerprint and sha256_of(sums_path) != fingerprint.strip().lower():
        found.append(
            f"{SUMS} is not the one that was sent: its SHA-256 is {sha256_of(sums_path)}, "
            f"the fingerprint {fingerprint.strip().lower()}"
        )
    images = _altered_images(folder)
    for file in sorted({*sums, *files} - {SUMS}):
        if file in images:
            found.append(images.pop(file))
        elif file not in files:
            found.append(f"{file} was deleted")
        elif file not in sums:
            found.append(f"{file} was added")
        elif (folder / file).is_symlink():
            found.append(f"{file} was replaced by a link")
        elif sha256_of(folder / file) != sums[file]:
            found.append(f"{file} was altered: its SHA-256 is not that in {SUMS}")
    return [*found, *images.values()]


def _altered_images(folder: Path) -> dict[str, str]:
    """By file: the contradiction between the manifest and the image's own metadata."""
    try:
        manifest = read_manifest(folder)
    except InputError as error:
        return {"manifest.csv": _inside(error, folder)}
    found = {
        file: f"{file} was added: the manifest does not list it"
        for file in files_not_in_manifest(folder, manifest)
    }
    for row in manifest.to_dict("records"):
        try:
            verified_image(folder, row)
        except InputError as error:
            found[row["file"]] = _inside(error, folder)
    return found


def _inside(error: InputError, folder: Path) -> str:
    return str(error).replace(f"{folder}/", "").replace(f"{folder}: ", "")


def _read_sums(path: Path) -> tuple[dict[str, str], list[str]]:
    """The hash of each listed file, and the faults of the list itself."""
    sums: dict[str, str] = {}
    found = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        digest, separator, name = line.partition("  ")
        if (
            not separator
            or len(digest) != 64
            or PurePosixPath(name).is_absolute()
            or ".." in name.split("/")
        ):
            found.append(f"{SUMS} was altered: line {number} is no hash with a file of the set")
        elif name in sums:
            found.append(f"{SUMS} was altered: line {number} lists {name} again")
        else:
            sums[name] = digest
    return sums, found


def verify_set(
    path: Path,
    identity: Path | None = None,
    fingerprint: str | None = None,
    out: Path | None = None,
) -> tuple[list[str], str]:
    """Check a received set, and unpack it into `out` if nothing was altered.

    Args:
        path: the set: a folder, a .zip, or an encrypted .zip.age.
        identity: the file with the secret key of a recipient, for an encrypted set.
        fingerprint: the SHA-256 of the set's SHA256SUMS as the sender told it.
        out: a new folder for the files of the set; None to check only.

    Returns:
        A line per alteration, as `find_alterations` gives them, and the set's own fingerprint, ""
        if something was altered.

    Raises:
        InputError: if `out` exists, or as `unpacked` and `find_alterations` do.
    """
    if out and out.exists():
        raise InputError(f"{out} exists already: name a new folder, or delete it")
    with unpacked(path, identity) as folder:
        alterations = find_alterations(folder, fingerprint)
        if alterations:
            return alterations, ""
        if out:
            with atomic_path(out) as target:
                for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                    write_owner_only(target / file.relative_to(folder), file.read_bytes())
        return [], sha256_of_bytes((folder / SUMS).read_bytes())


@contextmanager
def unpacked(path: Path, identity: Path | None = None) -> Iterator[Path]:
    """The folder of a received set; a file is unpacked to a folder that only the owner can read.

    Args:
        path: a folder, a .zip, or a .zip.age.
        identity: the file with the age identity; needed for an encrypted set.

    Yields:
        The folder of the set; it is deleted afterwards if it was unpacked.

    Raises:
        InputError: for a path that does not exist, a file that is neither a zip nor encrypted by
            age, a wrong key, or an encrypted file without an identity.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise InputError(f"nothing to verify at {path}")
    content = path.read_bytes()
    if content.startswith((b"age-encryption.org/", b"-----BEGIN AGE")) or path.suffix == ".age":
        if identity is None:
            raise InputError(
                f"{path} is encrypted: name the file with your secret key by --identity"
            )
        content = decrypt(content, identity, str(path))
    with tempfile.TemporaryDirectory(prefix="hamsynth-") as name:
        _unpack(content, Path(name), path)
        yield Path(name)


def _unpack(content: bytes, folder: Path, path: Path) -> None:
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            names = archive.namelist()
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise InputError(f"{path} was altered: it holds {twice[0]} twice")
            for entry in archive.infolist():
                inner = PurePosixPath(entry.filename)
                if (
                    inner.is_absolute()
                    or ".." in inner.parts
                    or stat.S_ISLNK(entry.external_attr >> 16)
                ):
                    raise InputError(
                        f"{path} is refused: {entry.filename!r} would be written outside of it"
                    )
                if not entry.is_dir():
                    write_owner_only(folder / inner, archive.read(entry))
    except (zipfile.BadZipFile, EOFError, FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{path} is no zip of a set, or it was altered or cut short ({error})"
        ) from error
