"""Files of recipients and identities as Windows saves them."""

import pyrage
import pytest

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.release.encryption import decrypt, encrypt, recipients_in

IDENTITY = pyrage.x25519.Identity.generate()
KEY = str(IDENTITY.to_public())

SAVED = {
    "plain": lambda text: text.encode(),
    "BOM and CRLF": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "UTF-16": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    "UTF-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("kind", SAVED)
def test_recipients_are_read(tmp_path, kind):
    path = tmp_path / "keys.txt"
    path.write_bytes(SAVED[kind](f"\n# the team, Zoë\n{KEY}\n"))
    assert recipients_in(path) == [KEY]


@pytest.mark.parametrize("kind", SAVED)
def test_an_identity_is_read(tmp_path, kind):
    path = tmp_path / "my.key"
    path.write_bytes(SAVED[kind](f"\n# created: today\n{IDENTITY}\n"))
    assert decrypt(encrypt(b"x", [KEY]), path, "a letter") == b"x"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (KEY.encode("utf-16-le"), "keys.txt is no text in UTF-8: save the file as UTF-8"),
        (f"# Zoë\n{KEY}\n".encode("latin-1"), "keys.txt, line 1, is not in UTF-8: save the file"),
    ],
    ids=["UTF-16 without a mark", "Latin-1"],
)
def test_another_encoding_is_named(tmp_path, content, message):
    path = tmp_path / "keys.txt"
    path.write_bytes(content)
    for read in (recipients_in, lambda path: decrypt(encrypt(b"x", [KEY]), path, "a letter")):
        with pytest.raises(InputError, match=message):
            read(path)


def test_each_line_that_is_no_key_is_named(tmp_path):
    path = tmp_path / "keys.txt"
    path.write_text(f"{KEY}\nalice@example.org\n{IDENTITY}\n", encoding="utf-8")
    with pytest.raises(
        InputError,
        match=r"keys\.txt, line 2: 'alice@example\.org' is no recipient .*; line 3: .*secret key",
    ) as error:
        recipients_in(path)
    assert str(IDENTITY) not in str(error.value)


def test_a_private_key_of_ssh_is_no_recipient_and_is_not_repeated(tmp_path):
    path = tmp_path / "id_ed25519"
    path.write_text(
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n-----END OPENSSH PRIVATE KEY-----\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError, match=r"is a private key.*use the \.pub") as error:
        recipients_in(path)
    assert "b3BlbnNz" not in str(error.value)
