import json
import shutil
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hamsynth_utils.cli import main
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.weights import read_weights, sha256_of, write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.synthetic import read_manifest, read_synthetic, write_sums
from hamsynth_utils.experiment.arms import in_proportion, requested_counts, top_up_counts
from hamsynth_utils.generators.loading import build_generator, checkpoint_metadata
from hamsynth_utils.generators.synthetic_sets import synthesize
from hamsynth_utils.release.verify import find_alterations

CLASSES = HAM10000.classes.names

COUNTS = {"df": 3, "mel": 2, "vasc": 1}


@pytest.fixture
def checkpoint(tiny_profile, tmp_path):
    torch.manual_seed(0)
    generator = build_generator("gan", load_profile(tiny_profile), n_classes=7)
    path = tmp_path / "gan.safetensors"
    about = {"trained_on": "abc", "counts": json.dumps({dx: int(dx != "bcc") for dx in CLASSES})}
    write_weights(
        path, generator.state_dict(), {**checkpoint_metadata(generator, HAM10000), **about}
    )
    return path


@pytest.fixture
def synthetic(checkpoint, tmp_path):
    synthesize(checkpoint, COUNTS, 5, tmp_path / "set", batch_size=4, progress=False)
    return tmp_path / "set"


def test_a_set_reads_back_as_it_was_sampled(checkpoint, synthetic):
    from hamsynth_utils.data.lesion_set import to_uint8
    from hamsynth_utils.generators.loading import load_generator

    lesions = read_synthetic(synthetic, HAM10000.classes)
    assert {name: n for name, n in lesions.counts.items() if n} == COUNTS
    assert lesions.table["synthetic"].all() and lesions.table["dataset"].eq("synthetic:gan").all()
    seeds = read_manifest(synthetic)["seed"]
    assert seeds.tolist() == list(range(5, 11))
    again = to_uint8(load_generator(checkpoint).sample(lesions.labels[3:4], int(seeds[3])))
    assert (again[0].int() - lesions.images[3].int()).abs().max() <= 1


def test_a_hash_that_reads_like_a_number_stays_a_hash(synthetic, tmp_path):
    """pandas 2.3 crashes when it takes this one for a number."""
    folder = shutil.copytree(synthetic, tmp_path / "copy")
    edit_manifest(folder, lambda manifest: manifest.__setitem__("trained_on", "81e3104049863b72"))
    assert set(read_manifest(folder)["trained_on"]) == {"81e3104049863b72"}


def test_a_set_of_the_first_version_has_no_generator_seeds_and_is_read(synthetic, tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(synthetic, folder)
    edit_manifest(folder, lambda manifest: manifest.pop("generator_seed"))
    assert (
        "generator_seed"
        not in (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()[0]
    )
    assert set(read_manifest(folder)["generator_seed"]) == {0}
    assert torch.equal(*(read_synthetic(f, HAM10000.classes).images for f in (folder, synthetic)))
    write_sums(folder)
    assert find_alterations(folder) == []


def test_every_png_says_itself_that_it_is_synthetic(checkpoint, synthetic):
    for row in read_manifest(synthetic).to_dict("records"):
        text = Image.open(synthetic / row["file"]).text
        assert text["hamsynth:synthetic"] == "true" and "SYNTHETIC" in text["Comment"]
        assert text["hamsynth:generator"] == "gan" and text["hamsynth:class"] == row["dx"]
        assert text["hamsynth:checkpoint"] == sha256_of(checkpoint) and text[
            "hamsynth:seed"
        ] == str(row["seed"])


def files(folder):
    return sorted((folder / "images").glob("*.png"))


def resave(path, change_pixel=False, keep_text=True):
    from PIL.PngImagePlugin import PngInfo

    with Image.open(path) as image:
        text, pixels = dict(image.text), np.array(image)
    if change_pixel:
        pixels[0, 0, 0] ^= 1
    info = PngInfo()
    for key, value in text.items() if keep_text else []:
        info.add_text(key, value)
    Image.fromarray(pixels).save(path, pnginfo=info)


def swap(a, b):
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def edit_manifest(folder, change):
    manifest = pd.read_csv(folder / "manifest.csv", dtype=str)
    change(manifest)
    manifest.to_csv(folder / "manifest.csv", index=False)


TAMPERINGS = {
    "one pixel": (lambda f: resave(files(f)[0], change_pixel=True), "was altered"),
    "no label": (lambda f: resave(files(f)[0], keep_text=False), "not labelled as synthetic"),
    "a class in the manifest": (
        lambda f: edit_manifest(f, lambda m: m.__setitem__("dx", "nv")),
        "its metadata says class",
    ),
    "a seed in the manifest": (
        lambda f: edit_manifest(f, lambda m: m.__setitem__("seed", "77")),
        "its metadata says seed",
    ),
    "a deleted file": (lambda f: files(f)[2].unlink(), "listed in the manifest but missing"),
    "an added file": (
        lambda f: (f / "images/x.png").write_bytes(b""),
        r"1 file\(s\) not in the manifest, first images/x.png",
    ),
    "a cut file": (
        lambda f: files(f)[1].write_bytes(files(f)[1].read_bytes()[:200]),
        "not a readable PNG",
    ),
    "two files swapped": (lambda f: swap(*files(f)[:2]), "its metadata says|was altered"),
    "a repeated row": (
        lambda f: (f / "manifest.csv").write_text(
            (f / "manifest.csv").read_text(encoding="utf-8")
            + (f / "manifest.csv").read_text(encoding="utf-8").splitlines()[-1]
            + "\n",
            encoding="utf-8",
        ),
        "listed twice",
    ),
    "a lost column": (
        lambda f: read_manifest(f).drop(columns="sha256").to_csv(f / "manifest.csv", index=False),
        "lacks sha256",
    ),
    "no manifest": (lambda f: (f / "manifest.csv").unlink(), "manifest.csv is missing"),
    "a cut manifest": (
        lambda f: (f / "manifest.csv").write_text(
            (f / "manifest.csv").read_text(encoding="utf-8")[:-40], encoding="utf-8"
        ),
        "damaged|altered|its metadata says",
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_an_altered_set_is_refused_and_the_fault_named(synthetic, what):
    tamper, message = TAMPERINGS[what]
    tamper(synthetic)
    with pytest.raises(InputError, match=message):
        read_synthetic(synthetic, HAM10000.classes)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"df": -1}, "must not be negative"),
        ({"df": 0}, "must not be negative, nor 0"),
        ({}, "nor 0"),
        ({"xyz": 2}, "unknown class 'xyz'"),
        ({"bcc": 2, "df": 1}, "trained without any image of bcc"),
    ],
)
def test_wrong_counts_are_refused_before_anything_is_written(checkpoint, tmp_path, counts, message):
    with pytest.raises(InputError, match=message):
        synthesize(checkpoint, counts, 0, tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_a_sampled_set_verifies_as_it_is_and_not_when_altered(synthetic, capsys):
    assert find_alterations(synthetic) == [] and main(["verify", str(synthetic)]) == 0
    manifest = synthetic / "manifest.csv"
    manifest.write_text(
        manifest.read_text(encoding="utf-8").replace(",mel,", ",nv,", 1), encoding="utf-8"
    )
    capsys.readouterr()
    assert main(["verify", str(synthetic)]) == 1
    assert "manifest.csv was altered" in capsys.readouterr().out


def test_an_existing_folder_is_not_overwritten(checkpoint, synthetic):
    with pytest.raises(InputError, match="exists already"):
        synthesize(checkpoint, COUNTS, 0, synthetic, progress=False)


def test_the_command_works_without_the_data_set(checkpoint, tmp_path, capsys):
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--per-class",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["sample", "--generator", "gan", *arguments]) == 2
    assert "trained without any image of bcc" in capsys.readouterr().err
    others = [dx for dx in CLASSES if dx != "bcc"]
    assert main(["sample", "--generator", "gan", *arguments, "--classes", ",".join(others)]) == 0
    assert len(read_synthetic(tmp_path / "out", HAM10000.classes)) == len(others)
    assert main(["sample", "--generator", "vae", *arguments[:-1], str(tmp_path / "b")]) == 2
    assert "holds a gan, not a vae" in capsys.readouterr().err
    assert main(["sample", "--generator", "wavelet", *arguments]) == 2
    assert "no generator is called 'wavelet'" in capsys.readouterr().err
    assert (
        main(["sample", "--generator", "gan", *arguments[:-1], str(tmp_path / "b"), "--steps", "9"])
        == 2
    )
    assert "a gan has no steps" in capsys.readouterr().err


def test_a_checkpoint_of_another_size_or_format_is_refused_before_anything_is_written(
    checkpoint, tmp_path, capsys
):
    out = tmp_path / "out"
    arguments = ["sample", "--checkpoint", str(checkpoint), "--per-class", "1", "--classes", "df"]
    assert main([*arguments, "--out", str(out), "--image-size", "128"]) == 2
    assert "draws images of 64 pixels a side, not of 128" in capsys.readouterr().err
    tensors, metadata = read_weights(checkpoint)
    write_weights(checkpoint, tensors, {**metadata, "format": "2"})
    assert main([*arguments, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"in format 2; this is hamsynth {version('hamsynth')}, which reads format" in said
    assert "use that version, or train anew" in said and not out.exists()
    write_weights(checkpoint, tensors, metadata)
    assert main([*arguments, "--out", str(out), "--image-size", "64"]) == 0
    assert read_synthetic(out, HAM10000.classes).image_size == 64


def test_a_diffusion_models_sampling_is_chosen_by_command_and_recorded(
    tiny_profile, tmp_path, capsys
):
    torch.manual_seed(0)
    diffusion = build_generator("diffusion", load_profile(tiny_profile), n_classes=7)
    path = tmp_path / "diffusion.safetensors"
    write_weights(path, diffusion.state_dict(), checkpoint_metadata(diffusion, HAM10000))
    arguments = [
        "sample",
        "--generator",
        "diffusion",
        "--checkpoint",
        str(path),
        "--per-class",
        "1",
        "--classes",
        "df",
    ]
    assert main([*arguments, "--out", str(tmp_path / "own")]) == 0
    assert (
        main([*arguments, "--out", str(tmp_path / "two"), "--steps", "2", "--solver", "ddim"]) == 0
    )
    recorded = [read_manifest(tmp_path / name)["sampling"][0] for name in ("own", "two")]
    assert recorded == ["checkpoint's own", "steps=2 solver=ddim"]
    for wrong, message in [("euler", "no solver is called 'euler'"), ("0.5", "guidance must be")]:
        option = "--solver" if wrong == "euler" else "--guidance"
        assert main([*arguments, "--out", str(tmp_path / "no"), option, wrong]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_counts_bring_minorities_up_and_ask_for_no_class_without_images():
    real = dict.fromkeys(CLASSES, 0) | {"nv": 100, "mel": 30, "df": 2}
    assert top_up_counts(real, 0.2) == dict.fromkeys(CLASSES, 0) | {"df": 18}
    counts = requested_counts(real, 0.2, 66)
    assert counts == dict.fromkeys(CLASSES, 0) | {"nv": 50, "mel": 15, "df": 18}


def test_a_proportional_draw_has_the_real_shares_and_no_repeat(synthetic):
    lesions = read_synthetic(synthetic, HAM10000.classes)
    drawn = in_proportion(lesions, {"df": 2, "mel": 2}, 4)
    assert drawn.counts["df"] == 2 and drawn.counts["mel"] == 2
    assert drawn.table["image_id"].is_unique
    with pytest.raises(InputError, match="holds 2 images of mel, but 4 are needed"):
        in_proportion(lesions, {"mel": 1}, 4)
