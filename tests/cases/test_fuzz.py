"""Files that somebody else has written, damaged at random: an error or a verdict, never a traceback.

Each file is damaged in a thousand ways, in twenty by the fast tests. Bits are flipped, bytes are cut,
inserted, repeated and set. Whatever is damaged, the answer comes within seconds, takes little memory,
and is an `InputError` of one line or a value. "Unaltered" is said only of a set whose files are all
the same. A checkpoint is refused, or loads finite tensors of the network that it describes.
"""

import random
import resource
import signal
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyrage
import pytest
import torch
from PIL import Image
from small_sets import small_set, write_files, write_zip

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.generator_settings import VAESettings
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.profile import Profile, load_profile
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.core.weights import write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.ham10000 import read_ham10000
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.synthetic import read_synthetic
from hamsynth_utils.generators.loading import checkpoint_metadata, load_generator
from hamsynth_utils.generators.vae import VAE
from hamsynth_utils.release.encryption import decrypt, recipients_in
from hamsynth_utils.release.verify import verify_set

TIMES = [20, pytest.param(1000, marks=pytest.mark.slow)]
SECONDS, MEGABYTES = 20, 500

FILES = small_set()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content after one to three random damages."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 16, len(content) // 3 + 1))
        kind = rng.choice(("flip", "cut", "insert", "repeat", "set", "end"))
        if kind == "flip" and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del changed[at : at + length]
        elif kind == "insert":
            changed[at:at] = rng.choice((rng.randbytes(length), b"9" * length, b"\n", b"\r", b"\0"))
        elif kind == "repeat":
            changed[at:at] = changed[at : at + length]
        elif kind == "set":
            changed[at : at + length] = rng.choice((b"\0", b"\xff", b" ")) * length
        else:
            del changed[at:]
    return bytes(changed)


@contextmanager
def limits():
    """Fails after `SECONDS`, or if more than `MEGABYTES` were taken."""

    def stop(*_):
        raise TimeoutError(f"no answer within {SECONDS} seconds")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert taken < MEGABYTES, f"{taken:.0f} MB"


def answers(
    ask: Callable[[bytes], None], content: bytes, times: int, seed: int = 0
) -> dict[str, int]:
    """How often damaged content was refused, and how often it was not; any other error is a failure."""
    rng, counts = random.Random(seed), {"refused": 0, "taken": 0}
    for number in range(times):
        changed = damaged(content, rng)
        try:
            with limits():
                ask(changed)
            counts["taken"] += 1
        except InputError as error:
            assert "\n" not in str(error) and str(error), number
            counts["refused"] += 1
        except BaseException as error:
            error.add_note(f"damage number {number} of seed {seed}: {changed[:300]!r}")
            raise
    return counts


def is_whole(folder: Path) -> bool:
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    return found == FILES


@pytest.mark.parametrize("times", TIMES)
def test_a_set_in_a_folder(tmp_path, times):
    names = sorted(FILES)
    folder = write_files(tmp_path / "set", FILES)
    for seed, name in enumerate(names):

        def ask(changed: bytes, name: str = name) -> None:
            (folder / name).write_bytes(changed)
            found = verify_set(folder)
            assert bool(found.alterations) == (changed != FILES[name]), found

        counts = answers(ask, FILES[name], times // len(names), seed)
        assert counts["taken"] > 0
        (folder / name).write_bytes(FILES[name])
    assert verify_set(folder).alterations == []


@pytest.mark.parametrize("times", TIMES)
def test_a_folder_that_is_read_as_a_synthetic_set(tmp_path, times):
    folder = write_files(tmp_path / "set", FILES)
    for seed, name in enumerate(("manifest.csv", *[name for name in FILES if "images" in name])):

        def ask(changed: bytes, name: str = name) -> None:
            (folder / name).write_bytes(changed)
            lesions = read_synthetic(folder, HAM10000.classes)
            assert isinstance(lesions, LesionSet) and lesions.images.shape[1:] == (3, 8, 8)
            assert name == "manifest.csv" or changed == FILES[name]

        assert answers(ask, FILES[name], times // 3, seed)["refused"] > 0
        (folder / name).write_bytes(FILES[name])


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_set_in_a_zip(tmp_path, times, method):
    path = write_zip(tmp_path / "set.zip", FILES, method=method)
    content, out = path.read_bytes(), tmp_path / "out"

    def ask(changed: bytes) -> None:
        path.write_bytes(changed)
        found = verify_set(path, out=out / str(len(list(out.glob("*")))))
        assert found.alterations or is_whole(max(out.iterdir(), key=lambda each: int(each.name)))

    out.mkdir()
    assert answers(ask, content, times)["refused"] > 0


@pytest.mark.parametrize("times", TIMES)
def test_an_encrypted_set(tmp_path, times):
    identity, path = pyrage.x25519.Identity.generate(), tmp_path / "set.zip.age"
    (tmp_path / "my.key").write_text(str(identity), encoding="utf-8")
    content = pyrage.encrypt(
        write_zip(tmp_path / "set.zip", FILES).read_bytes(), [identity.to_public()]
    )

    def ask(changed: bytes) -> None:
        path.write_bytes(changed)
        found = verify_set(path, tmp_path / "my.key")
        assert changed == content and found.alterations == []

    assert answers(ask, content, times)["refused"] >= 0.9 * times


@pytest.mark.parametrize("times", TIMES)
def test_keys(tmp_path, times):
    identity = pyrage.x25519.Identity.generate()
    key, content = str(identity.to_public()), pyrage.encrypt(b"x", [identity.to_public()])
    secret, path = f"# my key\n{identity}\n".encode(), tmp_path / "keys.txt"

    def ask_for_recipients(changed: bytes) -> None:
        path.write_bytes(changed)
        assert set(recipients_in(path)) == {key}

    def ask_for_identity(changed: bytes) -> None:
        path.write_bytes(changed)
        try:
            assert decrypt(content, path, "a letter") == b"x"
        except InputError as error:
            assert str(identity)[16:40] not in str(error)
            raise

    for ask, text in (
        (ask_for_recipients, f"# my team\n{key}\n".encode()),
        (ask_for_identity, secret),
    ):
        assert answers(ask, text, times // 2)["refused"] > 0


@pytest.fixture
def checkpoint(tmp_path):
    """A small VAE in a file: the path, and how many bytes the header has."""
    training = TrainingSettings(steps=1, batch_size=1, learning_rate=1.0)
    vae = VAE(32, VAESettings(layers=1, width=32, training=training), 7)
    path = tmp_path / "vae.safetensors"
    about = {"counts": '{"mel": 3, "nv": 0}', "trained_on": "abc", "generator_seed": "0"}
    half = {name: value.half() for name, value in vae.state_dict().items()}
    write_weights(path, half, {**checkpoint_metadata(vae, HAM10000), **about})
    return path, 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.mark.parametrize("times", TIMES)
def test_a_checkpoint(checkpoint, times):
    path, header = checkpoint
    content = path.read_bytes()
    shapes = {name: value.shape for name, value in load_generator(path).state_dict().items()}

    def load(changed: bytes) -> None:
        path.write_bytes(changed)
        state = load_generator(path).state_dict()
        assert {name: value.shape for name, value in state.items()} == shapes
        assert all(torch.isfinite(value).all() for value in state.values())

    for part in (slice(0, header), slice(header, None)):

        def ask(changed: bytes, part: slice = part) -> None:
            load(changed + content[header:] if part.start == 0 else content[:header] + changed)

        assert answers(ask, content[part], times // 2)["refused"] > 0


@pytest.mark.parametrize("times", TIMES)
def test_a_profile(tmp_path, times):
    path = tmp_path / "mine.yaml"
    content = (project_root() / "profiles/smoke.yaml").read_bytes()

    def ask(changed: bytes) -> None:
        path.write_bytes(changed)
        assert isinstance(load_profile(str(path)), Profile)

    assert answers(ask, content, times)["refused"] > 0


@pytest.fixture
def photos(tmp_path):
    """A data set in HAM10000's layout: one drawn picture of each class, in three formats."""
    folder = tmp_path / "photos/HAM10000_images_part_1"
    folder.mkdir(parents=True)
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"]
    for number, dx in enumerate(HAM10000.classes.names):
        lines.append(f"HAM_{number:07},ISIC_{number:07},{dx},histo,45.0,male,back,vidir_modern")
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)
        suffix = ("jpg", "png", "bmp")[number % 3]
        picture.save(folder / f"ISIC_{number:07}.{suffix}")
    (folder.parent / "HAM10000_metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder.parent


@pytest.mark.parametrize("times", TIMES)
def test_a_table_of_photos(photos, times):
    path = photos / "HAM10000_metadata.csv"

    def ask(changed: bytes) -> None:
        path.write_bytes(changed)
        lesions = read_ham10000(photos, 32, progress=False).lesions
        assert set(lesions.table["dx"]) <= set(HAM10000.classes.names)
        assert lesions.table["age"].dropna().between(0, 120).all()

    assert answers(ask, path.read_bytes(), times)["refused"] > 0


@pytest.mark.parametrize("times", TIMES)
def test_a_picture(photos, times):
    paths = sorted((photos / "HAM10000_images_part_1").iterdir())[:3]
    for seed, path in enumerate(paths):
        content = path.read_bytes()

        def ask(changed: bytes, path: Path = path, seed: int = seed) -> None:
            path.write_bytes(changed)
            lesions = read_ham10000(photos, 32, progress=False).lesions
            assert lesions.images.shape == (7, 3, 32, 32) and lesions.images[seed].float().std() > 0

        assert answers(ask, content, times // 3, seed)["refused"] > 0
        path.write_bytes(content)


def test_the_damages_are_various():
    rng = random.Random(0)
    lengths = {len(damaged(b"0123456789" * 10, rng)) for _ in range(300)}
    assert {99, 100, 101} < lengths and min(lengths) < 50 and max(lengths) > 130
