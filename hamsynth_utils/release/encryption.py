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

SECRET = "AGE-SECRET-KEY-"


KINDS = "age1... (X25519), ssh-ed25519 or ssh-rsa"


def recipients_in(path: Path) -> list[str]:
    """Read the recipients from a file.

    Args:
        path: a file with one public key per line. Empty lines and lines that begin with # are
            skipped.

    Returns:
        The public keys as texts.

    Raises:
        InputError: if the file is missing or has no public key.
    """
    if not path.is_file():
        raise InputError(f"no file of recipients at {path}")
    lines = [line.strip() for line in path.read_text().splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise InputError(f"{path} names no recipient: write one public key per line, {KINDS}")
    return found


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
                f"{text!r} is no recipient ({error}): a public key is {KINDS}"
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
        if "No matching keys" in str(error):
            raise InputError(
                f"{name} cannot be opened with the key(s) in {identity}: it was encrypted to others"
            ) from error
        raise InputError(
            f"{name} is no file of age, or it was altered or cut short ({error})"
        ) from error


def _identities(path: Path) -> list[Any]:
    pyrage = _pyrage()
    if not path.is_file():
        raise InputError(f"no secret key at {path}")
    content = path.read_bytes()
    try:
        if content.startswith(b"-----BEGIN"):
            return [pyrage.ssh.Identity.from_buffer(content)]
        lines = [line.strip() for line in content.decode(errors="replace").splitlines()]
        keys = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(SECRET)]
    except pyrage.IdentityError as error:
        raise InputError(f"{path} holds no secret key that can be read ({error})") from error
    if not keys:
        raise InputError(f"{path} holds no secret key: a line of it must begin with {SECRET}")
    return keys


def _pyrage() -> ModuleType:
    try:
        import pyrage
    except ImportError as error:
        raise InputError(
            "encryption needs pyrage, which is not installed: pip install 'hamsynth[release]'"
        ) from error
    return pyrage
