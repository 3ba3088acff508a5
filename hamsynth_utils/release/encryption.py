"""Encryption to named recipients with age, so that they alone can open what is sent.

A file key, drawn at random, encrypts the content (ChaCha20-Poly1305); it is wrapped for each recipient by a
Diffie-Hellman exchange on Curve25519 with his public key (https://age-encryption.org/v1). So it says who can
read, and that nothing was changed since, but not who wrote: everybody who knows the public key can encrypt.
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
    """The recipients in a file, one a line; empty lines and those that begin with # are left out.

    Raises InputError if it is missing or names nobody.
    """
    if not path.is_file():
        raise InputError(f"no file of recipients at {path}")
    lines = [line.strip() for line in path.read_text().splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise InputError(f"{path} names no recipient: write one public key a line, {KINDS}")
    return found


def parse_recipients(recipients: Sequence[str]) -> list[Any]:
    """The public keys of pyrage that the texts stand for.

    Raises InputError for none, for one that is no public key, and for a secret key, which it does not repeat.
    """
    pyrage = _pyrage()
    if not recipients:
        raise InputError(f"nobody to encrypt to: name at least one recipient, {KINDS}")
    keys = []
    for text in recipients:
        if text.strip().upper().startswith(SECRET):
            raise InputError(
                "a recipient is a secret key, which must stay with its owner: give his public key, age1..."
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
    """`content`, encrypted so that any one of the recipients can open it; other bytes at each call.

    Raises InputError as `parse_recipients` does.
    """
    keys = parse_recipients(recipients)
    return _pyrage().encrypt(content, keys)


def decrypt(content: bytes, identity: Path, name: str) -> bytes:
    """What was encrypted to the owner of the secret keys in the file `identity`; name: what `content` is
    called.

    identity: lines AGE-SECRET-KEY-1..., as age-keygen writes them, or a private key of ssh without
    passphrase. Raises InputError for a file without a key, for a wrong key, and for content that was altered.
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
