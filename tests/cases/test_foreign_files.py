"""Hostile or odd profiles, checkpoints and pictures that public reports tell of, each refused by name."""

import json
import struct
import zlib
from hashlib import sha256

import pytest
import torch
from small_sets import small_set, write_files

from hamsynth_utils.cli import main
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.generator_settings import VAESettings
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.synthetic import read_synthetic
from hamsynth_utils.generators.loading import checkpoint_metadata, load_generator
from hamsynth_utils.generators.vae import VAE

LAUGHS = "a: &a [lol, lol]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
SMOKE = (project_root() / "profiles/smoke.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "holds more than 10,000 values: it is no profile"),
        ("a: &a [*a]\n", "holds more than 10,000 values: it is no profile"),
        ("a: " + "[" * 5000, "is not readable YAML: maximum recursion depth"),
        (f"a: {'1' * 5000}\n", "is not readable YAML: Exceeds the limit"),
        ("a: 2026-99-99\n", "is not readable YAML: month must be in 1..12"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not readable YAML: could not determine"),
        (f"threads: 1\n{SMOKE}", "is not readable YAML: the key threads is written twice"),
        (f"name: other\n{SMOKE}", "name is not a setting"),
        (f"{SMOKE}\n1: 2\n", "1"),
    ],
)
def test_a_hostile_or_careless_profile_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        load_profile(str(path))
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_width_that_no_network_can_have_is_refused_with_the_profile(edited_tiny):
    for name, multiple in (("vae", 32), ("gan", 8), ("autoencoder", 8)):
        with pytest.raises(InputError, match=rf"{name}.*multiple of {multiple}"):
            load_profile(edited_tiny({name: {"width": 12}}))


@pytest.fixture
def checkpoint(tmp_path):
    training = TrainingSettings(steps=1, batch_size=1, learning_rate=1.0)
    vae = VAE(32, VAESettings(layers=1, width=32, training=training), 7)
    path = tmp_path / "vae.safetensors"
    write_weights(path, vae.state_dict(), checkpoint_metadata(vae, HAM10000))
    assert load_generator(path).name == "vae"
    return path


def with_settings(metadata, **changes):
    return {**metadata, "settings": json.dumps({**json.loads(metadata["settings"]), **changes})}


HOSTILE = {
    "a network of a million gigabytes": (
        lambda t, m: (t, with_settings(m, layers=2, width=32 * 10**6)),
        "does not fit this version's vae",
    ),
    "weights that are no numbers": (
        lambda t, m: ({k: torch.full_like(v, torch.nan) for k, v in t.items()}, m),
        "holds values that are no finite numbers",
    ),
    "weights of another type": (
        lambda t, m: ({k: v.to(torch.int32) for k, v in t.items()}, m),
        "holds numbers of the type torch.int32",
    ),
    "no settings": (
        lambda t, m: (t, {k: v for k, v in m.items() if k != "settings"}),
        "whose settings this version does not know: Invalid JSON",
    ),
    "no size": (
        lambda t, m: (t, {**m, "image_size": "1e9"}),
        "its images would have '1e9' pixels a side",
    ),
    "a deep description": (
        lambda t, m: (t, {**m, "dataset": "[" * 100_000}),
        "does not say which classes it was trained on",
    ),
    "counts that are none": (
        lambda t, m: (t, {**m, "counts": "many"}),
        "do not say how many images of each class",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_checkpoint_is_refused_in_one_line(checkpoint, tmp_path, capsys, what):
    spoil, message = HOSTILE[what]
    write_weights(checkpoint, *spoil(*read_weights(checkpoint)))
    out = ["--out", str(tmp_path / "out"), "--per-class", "1"]
    assert main(["sample", "--checkpoint", str(checkpoint), *out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {checkpoint}") and message in line
    assert not (tmp_path / "out").exists()


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def with_chunk(png, kind, content):
    """The PNG with another chunk after its first, which says how large the picture is."""
    return png[:33] + chunk(kind, content) + png[33:]


def larger(png, side):
    return png[:8] + chunk(b"IHDR", struct.pack(">II", side, side) + png[24:29]) + png[33:]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda png: with_chunk(png, b"zTXt", b"x\0\0" + zlib.compress(bytes(2**21))),
            "it is damaged: .*Decompressed data too large",
        ),
        (lambda png: larger(png, 5000), "it has 5000 x 5000 pixels"),
        (lambda png: larger(png, 30000), "it .* pixels"),
        (lambda png: b"GIF89a" + png, "it is not an image that can be read"),
    ],
)
def test_a_picture_that_fills_the_memory_is_not_decoded(tmp_path, capsys, spoil, reason):
    files = small_set()
    name = next(iter(files))
    before, files[name] = sha256(files[name]).hexdigest(), spoil(files[name])
    new = sha256(files[name]).hexdigest().encode()
    files = {k: v if k == name else v.replace(before.encode(), new) for k, v in files.items()}
    folder = write_files(tmp_path / "set", files)
    with pytest.raises(InputError, match=f"set/{name} is not a readable PNG: {reason}"):
        read_synthetic(folder, HAM10000.classes)
    assert main(["verify", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{name} is not a readable PNG") for line in lines)
