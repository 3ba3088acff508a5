"""A full disk is one sentence for tables, images and weights alike, and leaves what was there before."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.weights import write_weights
from hamsynth_utils.data.phantom.corruptions import write_corrupted_phantom
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.experiment.run import Run


def images(folder: Path) -> None:
    with atomic_path(folder / "lesions") as path:
        path.mkdir()
        make_phantom(400, 32, 0).save(path)


def weights(folder: Path) -> None:
    write_weights(folder / "w.safetensors", {"a": torch.zeros(1_000_000)}, {})


def table(folder: Path) -> None:
    with atomic_path(folder / "t.csv") as path:
        pd.DataFrame({"a": np.random.rand(200_000)}).to_csv(path)


def features(folder: Path) -> None:
    with atomic_path(folder / "f.npz") as path, path.open("wb") as out:
        np.savez(out, features=np.random.rand(200_000))


def picture(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8)
    with atomic_path(folder / "p.png") as path:
        Image.fromarray(noise).save(path, "PNG")


def phantom(folder: Path) -> None:
    """More pictures than fit; each alone would."""
    write_corrupted_phantom(folder / "phantom", 300)


WRITERS = (images, weights, table, features, picture)


@pytest.fixture
def small_files() -> None:
    """No file of this process may be larger than 1,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", [*WRITERS, phantom])
def test_a_file_that_may_not_grow_is_one_sentence(write, tmp_path, small_files):
    with pytest.raises(
        InputError, match=rf"^cannot write {tmp_path}/\S+: (File too large|No space left)"
    ) as raised:
        write(tmp_path)
    assert str(raised.value).endswith("start again: what is finished is kept")
    assert list(tmp_path.iterdir()) == [], "something half is left"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError("1843200 requested and 1453952 written"),
    ],
    ids=["Python", "a quota", "NumPy"],
)
def test_the_errors_of_a_full_disk_are_one_sentence(error, tmp_path):
    with (
        pytest.raises(InputError, match="cannot write .*a: (No space left|Disk quota)"),
        atomic_path(tmp_path / "a"),
    ):
        raise error


@pytest.mark.parametrize(
    "message",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space" })',
    ],
)
def test_the_errors_of_safetensors_are_the_same_sentence(message, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise SafetensorError(message)

    monkeypatch.setattr("hamsynth_utils.core.weights.save_file", full)
    with pytest.raises(InputError, match=r"cannot write .*w\.safetensors: No space left on device"):
        write_weights(tmp_path / "w.safetensors", {}, {})


def test_an_image_that_cannot_be_read_is_no_full_disk(tmp_path):
    (tmp_path / "no image.jpg").write_bytes(b"no image")
    with pytest.raises(OSError, match="cannot identify"), atomic_path(tmp_path / "set"):
        Image.open(tmp_path / "no image.jpg")


MOUNT = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_12_disk_full as cases
from hamsynth_utils.core.errors import InputError
for write in (*cases.WRITERS, cases.phantom):
    try: write(Path({folder!r}))
    except InputError as error: print(write.__name__, error)
"""


def test_a_disk_of_one_megabyte(tmp_path):
    """The real thing: an own file system, in an own name space, which ends with its process."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.getuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("an own file system needs root and the right to mount")
    script = MOUNT.format(path=[str(Path(__file__).parent)], folder=str(folder))
    mount = f'mount -t tmpfs -o size=1m tmpfs {folder} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [line.split()[0] for line in said] == [w.__name__ for w in (*WRITERS, phantom)]
    assert all(f"cannot write {folder}/" in line for line in said)
    assert all("No space left on device" in line for line in said)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_without_locks_is_one_sentence(number, tiny_profile, tmp_path, monkeypatch):
    """NFS without its lock service, and some FUSE file systems."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match=f"cannot write {tmp_path}/r: {os.strerror(number)}"):
        Run.open("r", tiny_profile, root=tmp_path)
