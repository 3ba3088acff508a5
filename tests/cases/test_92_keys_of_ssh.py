"""Keys of ssh as recipients and identities, and keys that have no place here."""

import shutil
import subprocess

import pyrage
import pytest

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.release.encryption import decrypt, encrypt, parse_recipients

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")


@pytest.fixture
def new_key(tmp_path):
    """Makes a key pair: the file with the private half, and the public half."""

    def make(kind, passphrase=""):
        path = tmp_path / f"{kind}-{passphrase}"
        command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path), "-C", "x"]
        subprocess.run(command, check=True)
        return path, path.with_name(f"{path.name}.pub").read_text(encoding="utf-8").strip()

    return make


def test_a_key_with_the_line_ends_of_windows_opens(new_key):
    path, public = new_key("ed25519")
    path.write_bytes(b"\r\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert decrypt(encrypt(b"x", [public]), path, "a letter") == b"x"


def test_ecdsa_is_refused_by_name(new_key):
    with pytest.raises(InputError, match=r"'ecdsa-sha2.* is no recipient .*ssh-ed25519 or ssh-rsa"):
        parse_recipients([new_key("ecdsa")[1]])


def test_a_key_with_a_passphrase_says_how_to_go_on(new_key):
    path, public = new_key("ed25519", "secret")
    with pytest.raises(InputError, match="is locked with a passphrase: .*ssh-keygen -p -f COPY"):
        decrypt(encrypt(b"x", [public]), path, "a letter")


def test_an_identity_of_age_with_a_passphrase_says_how_to_go_on(tmp_path):
    identity = pyrage.x25519.Identity.generate()
    path = tmp_path / "my.key"
    path.write_bytes(pyrage.passphrase.encrypt(str(identity).encode(), "secret"))
    with pytest.raises(InputError, match="is locked with a passphrase: age -d -o my.key"):
        decrypt(encrypt(b"x", [str(identity.to_public())]), path, "a letter")


def test_a_set_that_is_locked_with_a_passphrase_says_so(tmp_path):
    path = tmp_path / "my.key"
    path.write_text(str(pyrage.x25519.Identity.generate()), encoding="utf-8")
    locked = pyrage.passphrase.encrypt(b"x", "secret")
    with pytest.raises(InputError, match="a letter is locked with a passphrase"):
        decrypt(locked, path, "a letter")
