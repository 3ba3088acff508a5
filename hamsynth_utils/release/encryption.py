"""Encryption to named recipients with age (https://age-encryption.org/v1).

A random file key encrypts the content (ChaCha20-Poly1305). A Diffie-Hellman exchange on Curve25519
with the public key of each recipient encrypts the file key. Only the recipients can read the
content, and they notice every change. The encryption does not show who the sender is, because
everybody can know a public key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import decode_text, read_bytes

SECRET = "AGE-SECRET-KEY-"


KINDS = "age1... (X25519), ssh-ed25519 or ssh-rsa"


def is_encrypted(content: bytes) -> bool:
    """Whether a content begins as age's files do, in binary or in text form."""
    return content.startswith((b"age-encryption.org/", b"-----BEGIN AGE"))


def recipients_in(path: Path) -> list[str]:
    """Read the recipients from a file.

    Args:
        path: a file with one public key per line. Empty lines and lines that begin with # are
            skipped.

    Returns:
        The public keys as texts.

    Raises:
        InputError: if the file is missing, has no public key, or has lines that are none; the
            message names these lines.
    """
    if not path.is_file():
        raise InputError(f"no file of recipients at {path}")
    text = decode_text(read_bytes(path), str(path))
    if "PRIVATE KEY-----" in text:
        raise InputError(f"{path} is a private key, which must stay with its owner: use the .pub")
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), 1)}
    found = {number: line for number, line in lines.items() if line and not line.startswith("#")}
    if not found:
        raise InputError(f"{path} names no recipient: write one public key per line, {KINDS}")
    faults = []
    for number, line in found.items():
        try:
            parse_recipients([line])
        except InputError as error:
            faults.append(f"line {number}: {error}")
    if faults:
        raise InputError(f"{path}, {'; '.join(faults)}")
    return list(found.values())


def parse_recipients(recipients: Sequence[str]) -> list[Any]:
    """Parse public keys.

    Args:
        recipients: public keys of age or ssh as texts.

    Returns:
        The keys as objects of pyrage.

    Raises:
        InputError: if there is no text, or a text is no public key or a secret key. The message
            does not repeat a secret key.
    """
    pyrage = _pyrage()
    if not recipients:
        raise InputError(f"nobody to encrypt to: name at least one recipient, {KINDS}")
    keys = []
    for text in recipients:
        if text.strip().upper().startswith(SECRET):
            raise InputError(
                "a recipient is a secret key, which must stay with its owner: give the public key, "
                "age1..."
            )
        kind = pyrage.ssh.Recipient if text.startswith("ssh-") else pyrage.x25519.Recipient
        try:
            keys.append(kind.from_str(text.strip()))
        except pyrage.RecipientError as error:
            raise InputError(
                f"{text!r} is no recipient ({_line(error)}): a public key is {KINDS}"
            ) from error
    return keys


def encrypt(content: bytes, recipients: Sequence[str]) -> bytes:
    """Encrypt a content to recipients.

    Args:
        content: any bytes.
        recipients: public keys of age or ssh as texts.

    Returns:
        The encrypted bytes, which each recipient alone can decrypt. Every call gives other bytes.

    Raises:
        InputError: as `parse_recipients` does.
    """
    keys = parse_recipients(recipients)
    return _pyrage().encrypt(content, keys)


def decrypt(content: bytes, identity: Path, name: str) -> bytes:
    """Decrypt a content.

    Args:
        content: the encrypted bytes.
        identity: a file with secret keys: lines AGE-SECRET-KEY-1... of age-keygen, or a private key
            of ssh without passphrase.
        name: the name of the content in messages.

    Returns:
        The decrypted bytes.

    Raises:
        InputError: if the file has no key, no key fits, or the content was altered.
    """
    pyrage = _pyrage()
    keys = _identities(identity)
    try:
        return pyrage.decrypt(content, keys)
    except pyrage.DecryptError as error:
        if b"\n-> scrypt " in content[:100]:
            raise InputError(
                f"{name} is locked with a passphrase, not encrypted to a key: unlock it with age -d"
            ) from error
        if "No matching keys" in str(error):
            raise InputError(
                f"{name} cannot be opened with the key(s) in {identity}: it was encrypted to others"
            ) from error
        raise InputError(
            f"{name} is no file of age, or it was altered or cut short ({_line(error)})"
        ) from error


def _identities(path: Path) -> list[Any]:
    pyrage = _pyrage()
    if not path.is_file():
        raise InputError(f"no secret key at {path}")
    content = read_bytes(path)
    if is_encrypted(content):
        raise InputError(f"{path} is locked with a passphrase: age -d -o my.key {path} unlocks it")
    text = decode_text(content, str(path)).strip()
    try:
        if text.startswith("-----BEGIN"):
            return [pyrage.ssh.Identity.from_buffer(f"{text}\n".encode())]
        lines = [line.strip() for line in text.splitlines()]
        keys = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(SECRET)]
    except pyrage.IdentityError as error:
        if "must be decrypted" in str(error):
            raise InputError(
                f"{path} is locked with a passphrase: name a copy without one, which "
                "ssh-keygen -p -f COPY makes"
            ) from error
        raise InputError(f"{path} holds no secret key that can be read ({_line(error)})") from error
    if not keys:
        raise InputError(f"{path} holds no secret key: a line of it must begin with {SECRET}")
    return keys


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _pyrage() -> ModuleType:
    try:
        import pyrage
    except ImportError as error:
        raise InputError(
            "encryption needs pyrage, which is not installed: pip install 'hamsynth[release]'"
        ) from error
    return pyrage
