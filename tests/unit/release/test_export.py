"""Leaving the house: what goes with a set, what is refused, and that a received set shows what was altered."""

import csv
import io
import json
import re
import shutil
import stat
import subprocess
import zipfile
from datetime import date

import numpy as np
import pandas as pd
import pyrage
import pytest
from PIL import Image, PngImagePlugin
from released import COUNTS, GENERATOR, change, finished_run

from hamsynth_utils.cli import main
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import write_owner_only
from hamsynth_utils.core.paths import RunPaths
from hamsynth_utils.core.weights import read_weights, sha256_of, write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.synthetic import SUMS, read_manifest, read_synthetic
from hamsynth_utils.release import croissant
from hamsynth_utils.release.encryption import decrypt, encrypt, recipients_in
from hamsynth_utils.release.export import export
from hamsynth_utils.release.verify import find_alterations, verify_set

DAY = date(2026, 11, 24)


@pytest.fixture
def run(tmp_path, tiny_profile):
    return finished_run(tmp_path / "run", tiny_profile)


@pytest.fixture
def sent(run, tmp_path):
    export(run, GENERATOR, tmp_path / "sent", DAY)
    return tmp_path / "sent"


@pytest.fixture
def keys(tmp_path):
    """Files with the secret keys of two people, and their public keys."""
    found = {}
    for name in ("alice", "eve"):
        identity = pyrage.x25519.Identity.generate()
        path = tmp_path / f"{name}.key"
        path.write_text(
            f"# created: today\n# public key: {identity.to_public()}\n{identity}\n",
            encoding="utf-8",
        )
        found[name] = path, str(identity.to_public())
    return found


def test_a_folder_holds_the_set_its_cards_and_its_measurements(run, sent):
    lesions = read_synthetic(sent, HAM10000.classes)
    assert {name: n for name, n in lesions.counts.items() if n} == COUNTS
    source = run / f"generators/{GENERATOR}/seed-0/synthetic"
    for path in source.rglob("*.*"):
        assert (sent / path.relative_to(source)).read_bytes() == path.read_bytes()
    others = {path.relative_to(sent).as_posix() for path in sent.rglob("*") if path.is_file()}
    assert others - {f"images/{path.name}" for path in (source / "images").iterdir()} == {
        "README.md",
        "SHA256SUMS",
        "croissant.json",
        "gate.csv",
        "generator.md",
        "manifest.csv",
        *(
            f"measurements/{name}.csv"
            for name in ("privacy", "fairness", "fidelity", "class_consistency")
        ),
    }
    privacy = pd.read_csv(sent / "measurements/privacy.csv")
    assert set(privacy["generator"]) == {GENERATOR} and "patient_auroc" in set(privacy["measure"])
    assert set(pd.read_csv(sent / "measurements/fairness.csv")["arm"]) == {"real", GENERATOR}


def test_the_readable_card_says_what_the_run_measured(run, sent):
    card = (sent / "README.md").read_text(encoding="utf-8")
    assert "SYNTHETIC IMAGE" in card and "CC BY-NC-SA 4.0" in card and "Not intended" in card
    assert "2026-11-24" in card and "Every limit is passed." in card
    rows = {
        tuple(part.strip() for part in line.strip("|").split("|"))
        for line in card.splitlines()
        if line[:1] == "|"
    }
    assert ("mel, melanoma", "2") in rows and ("nv, melanocytic nevus", "0") in rows
    assert (
        "near copies",
        "near_duplicate_rate (efficientnet_lite0)",
        "0.005 (0 to 0.045)",
        "300",
        "high at most 0.05",
        "passed",
    ) in rows
    assert ("patient_auroc", "0.52", "0.48", "0.56", "300", "200", "efficientnet_lite0") in rows
    generator = (sent / "generator.md").read_text(encoding="utf-8")
    assert sha256_of(run / f"generators/{GENERATOR}/seed-0/weights.safetensors") in generator
    assert "| coverage | vit | 0.7 | 0.68 | 0.72 | 200 |" in generator and "loss 1.25" in generator


def test_the_machines_card_is_valid_croissant_and_leads_to_the_images(sent):
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=sent / "croissant.json")
    assert dataset.metadata.ctx.issues.report() == ""
    assert dataset.metadata.license == [HAM10000.licence_url]
    assert "teaching" in dataset.metadata.data_use_cases[0].lower()
    read = {row["images/file"].decode(): row for row in dataset.records("images")}
    manifest = read_manifest(sent)
    assert sorted(read) == sorted(manifest["file"])
    for row in manifest.to_dict("records"):
        found = read[row["file"]]
        assert found["images/dx"].decode() == row["dx"] and found["images/seed"] == row["seed"]
    pictures = {
        row["pictures/file"].decode(): row["pictures/image"] for row in dataset.records("pictures")
    }
    own = dict(zip(manifest["file"], read_synthetic(sent, HAM10000.classes).images, strict=True))
    assert sorted(pictures) == sorted(own)
    for file, picture in pictures.items():
        assert np.array_equal(np.asarray(picture), own[file].permute(1, 2, 0).numpy())


def test_a_card_that_is_no_croissant_is_not_sent():
    document = json.loads(
        croissant.validated(
            croissant.croissant("a", "b", HAM10000, b"csv", DAY, {"data_use_cases": ["none"]})
        )
    )
    for spoil in (
        lambda d: d.pop("license"),
        lambda d: d["recordSet"][0]["field"][0]["source"]["fileObject"].update({"@id": "gone.csv"}),
    ):
        faulty = json.loads(json.dumps(document))
        spoil(faulty)
        with pytest.raises(RuntimeError, match="no valid Croissant"):
            croissant.validated(faulty)


def test_only_the_owner_can_read_what_is_written(run, sent, tmp_path, keys):
    export(run, GENERATOR, tmp_path / "sent.zip", DAY)
    export(run, GENERATOR, tmp_path / "sent.zip.age", DAY, [keys["alice"][1]])
    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in [sent, *sent.rglob("*"), *tmp_path.glob("sent.zip*"), RunPaths(run).exports]
    }
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    with zipfile.ZipFile(tmp_path / "sent.zip") as archive:
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100600}
    assert not list(tmp_path.glob(".*.part"))
    with pytest.raises(FileExistsError):
        write_owner_only(tmp_path / "sent.zip", b"")


def test_the_same_run_gives_the_same_bytes_except_where_the_date_stands(run, tmp_path):
    for name, day in (("a", DAY), ("b", DAY), ("c", date(2027, 1, 2))):
        export(run, GENERATOR, tmp_path / f"{name}.zip", day)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as one, zipfile.ZipFile(tmp_path / "c.zip") as other:
        assert one.namelist() == other.namelist()
        differing = {name for name in one.namelist() if one.read(name) != other.read(name)}
        assert differing == {"README.md", "croissant.json", SUMS}
        old, new = (json.loads(archive.read("croissant.json")) for archive in (one, other))
    assert {key for key in old if old[key] != new[key]} == {"datePublished"}


@pytest.mark.parametrize("form", ["", ".zip", ".zip.age"])
def test_an_unaltered_set_is_found_unaltered_whatever_its_form(run, tmp_path, keys, form, capsys):
    identity, public = keys["alice"]
    out = tmp_path / f"out{form}"
    fingerprint = export(run, GENERATOR, out, DAY, [public] if form.endswith("age") else [])
    found = verify_set(out, identity, fingerprint)
    assert (found.alterations, found.unreadable, found.fingerprint) == ([], [], fingerprint)
    command = ["open", str(out), "--identity", str(identity), "--out", str(tmp_path / "unpacked")]
    assert main([*command, "--fingerprint", fingerprint]) == 0
    assert fingerprint in capsys.readouterr().out
    assert len(read_synthetic(tmp_path / "unpacked", HAM10000.classes)) == 6
    assert stat.S_IMODE((tmp_path / "unpacked").stat().st_mode) == 0o700
    assert main(command) == 2 and "exists already" in capsys.readouterr().err


def test_the_hashes_are_those_of_sha256sum(sent):
    assert subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=sent).returncode == 0
    listed = {
        line.split("  ")[1] for line in (sent / SUMS).read_text(encoding="utf-8").splitlines()
    }
    assert listed == {
        path.relative_to(sent).as_posix() for path in sent.rglob("*") if path.is_file()
    } - {SUMS}


def resave(path, pixel=False, **text):
    """Write the PNG again with the same labels but for `text`, perhaps with one pixel less green."""
    with Image.open(path) as image:
        said, pixels = dict(image.text), np.array(image)
    if pixel:
        pixels[5, 7, 1] ^= 1
    info = PngImagePlugin.PngInfo()
    for key, value in {**said, **text}.items():
        info.add_text(key, value)
    Image.fromarray(pixels).save(path, pnginfo=info)


def images(folder):
    return sorted((folder / "images").glob("*.png"))


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def relabel(folder):
    """A melanoma is listed as a nevus in the manifest, and the hash of the manifest is written anew."""
    edit(folder / "manifest.csv", ",mel,", ",nv,")


def forge(folder):
    """Another picture, with a label and hashes in the manifest and in SHA256SUMS that fit."""
    path = images(folder)[0]
    before = sha256_of(path)
    resave(path, pixel=True)
    manifest = sha256_of(folder / "manifest.csv")
    edit(folder / "manifest.csv", before, sha256_of(path))
    edit(folder / SUMS, before, sha256_of(path))
    edit(folder / SUMS, manifest, sha256_of(folder / "manifest.csv"))


TAMPERINGS = {
    "one pixel": (
        lambda f: resave(images(f)[0], pixel=True),
        ["images/SYN_gan_df_000000.png .*was altered"],
    ),
    "a label in the picture": (
        lambda f: resave(images(f)[0], **{"hamsynth:class": "nv"}),
        ["images/SYN_gan_df_000000.png: its metadata says class 'nv', the manifest 'df'"],
    ),
    "the word synthetic": (
        lambda f: resave(images(f)[1], **{"hamsynth:synthetic": "false"}),
        ["images/SYN_gan_df_000001.png is not labelled as synthetic"],
    ),
    "a label in the manifest": (
        relabel,
        [
            "images/SYN_gan_mel_000003.png: its metadata says class 'mel', the manifest 'nv'",
            "manifest.csv was altered",
        ],
    ),
    "a deleted image": (
        lambda f: images(f)[2].unlink(),
        ["images/SYN_gan_df_000002.png is listed .* but missing"],
    ),
    "an image deleted everywhere": (
        lambda f: (
            images(f)[5].unlink(),
            (f / "manifest.csv").write_text(
                "".join((f / "manifest.csv").read_text(encoding="utf-8").splitlines(True)[:-1]),
                encoding="utf-8",
            ),
        ),
        ["images/SYN_gan_vasc_000005.png was deleted", "manifest.csv was altered"],
    ),
    "an added image": (
        lambda f: shutil.copy(images(f)[0], f / "images/x.png"),
        ["images/x.png was added"],
    ),
    "an added file": (
        lambda f: write_owner_only(f / "deep/er/note.txt", b"hello"),
        ["deep/er/note.txt was added"],
    ),
    "an altered card": (
        lambda f: edit(f / "README.md", "Not intended", "Intended"),
        ["README.md was altered"],
    ),
    "a deleted card": (lambda f: (f / "croissant.json").unlink(), ["croissant.json was deleted"]),
    "a better number": (
        lambda f: edit(f / "measurements/privacy.csv", "0.52", "0.50"),
        ["measurements/privacy.csv was altered"],
    ),
    "an altered hash": (
        lambda f: edit(f / SUMS, sha256_of(f / "gate.csv"), "0" * 64),
        ["gate.csv was altered"],
    ),
    "a damaged list": (
        lambda f: edit(f / SUMS, "  gate.csv", "gate.csv"),
        [f"{SUMS} was altered: line \\d+ is no hash", "gate.csv was added"],
    ),
    "no hashes": (lambda f: (f / SUMS).unlink(), [f"{SUMS} was deleted"]),
    "a link": (
        lambda f: (
            (f / "gate.csv").rename(f.parent / "gate.csv"),
            (f / "gate.csv").symlink_to(f.parent / "gate.csv"),
        ),
        ["gate.csv was replaced by a link"],
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_each_alteration_is_named_and_nothing_else(sent, what):
    tamper, expected = TAMPERINGS[what]
    tamper(sent)
    found = find_alterations(sent)
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, line), line


def test_all_alterations_are_named_in_one_go(sent, capsys):
    resave(images(sent)[0], pixel=True)
    relabel(sent)
    images(sent)[2].unlink()
    shutil.copy(images(sent)[1], sent / "images/x.png")
    edit(sent / "generator.md", "dermatologist", "doctor")
    assert main(["verify", str(sent)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0].strip(":") for line in lines] == [
        "generator.md",
        "images/SYN_gan_df_000000.png",
        "images/SYN_gan_df_000002.png",
        "images/SYN_gan_mel_000003.png",
        "images/x.png",
        "manifest.csv",
    ]


def test_only_the_fingerprint_shows_hashes_that_were_written_anew(run, tmp_path):
    out = tmp_path / "sent"
    fingerprint = export(run, GENERATOR, out, DAY)
    forge(out)
    assert find_alterations(out) == []
    (line,) = find_alterations(out, fingerprint)
    assert line.startswith(f"{SUMS} is not the one that was sent") and fingerprint in line


def test_a_wrong_key_opens_nothing_and_every_recipient_can(run, tmp_path, keys, capsys):
    out = tmp_path / "sent.zip.age"
    bob = pyrage.x25519.Identity.generate()
    (tmp_path / "bob.key").write_text(str(bob), encoding="utf-8")
    export(run, GENERATOR, out, DAY, [keys["alice"][1], str(bob.to_public())])
    assert b"PNG" not in out.read_bytes() and b"hamsynth" not in out.read_bytes()
    for name in ("alice.key", "bob.key"):
        assert main(["verify", str(out), "--identity", str(tmp_path / name)]) == 0
    capsys.readouterr()
    for arguments, message in (
        (["--identity", str(keys["eve"][0])], "cannot be opened with the key"),
        (["--identity", str(tmp_path / "gone.key")], "no secret key at"),
        ([], "is encrypted: name the file with your secret key"),
    ):
        assert main(["verify", str(out), *arguments]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and message in said


def test_an_encrypted_file_that_was_altered_does_not_open(run, tmp_path, keys):
    out = tmp_path / "sent.zip.age"
    export(run, GENERATOR, out, DAY, [keys["alice"][1]])
    content = out.read_bytes()
    for spoilt in (
        content[:-20],
        content[:3000] + bytes([content[3000] ^ 1]) + content[3001:],
        b"junk" * 50,
    ):
        with pytest.raises(InputError, match="no file of age, or it was altered"):
            decrypt(spoilt, keys["alice"][0], "sent.zip.age")


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_keys_of_ssh_are_recipients_too(tmp_path, kind):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen here")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "me", "-f", tmp_path / "key"], check=True
    )
    sealed = encrypt(b"a letter", [(tmp_path / "key.pub").read_text(encoding="utf-8")])
    assert decrypt(sealed, tmp_path / "key", "a letter") == b"a letter"


@pytest.mark.parametrize(
    ("recipients", "message"),
    [
        ([], "nobody to encrypt to"),
        (["age1foo"], "'age1foo' is no recipient"),
        (["alice@example.org"], "'alice@example.org' is no recipient"),
        (["ssh-ed25519 AAAA me"], "is no recipient"),
    ],
)
def test_recipients_are_checked_before_anything_is_written(run, tmp_path, recipients, message):
    with pytest.raises(InputError, match=message):
        export(run, GENERATOR, tmp_path / "sent.zip.age", DAY, recipients)
    assert not list(tmp_path.glob("*sent*"))


def test_a_secret_key_as_a_recipient_is_refused_and_not_repeated(run, tmp_path):
    secret = str(pyrage.x25519.Identity.generate())
    with pytest.raises(InputError, match="is a secret key") as error:
        export(run, GENERATOR, tmp_path / "sent.zip.age", DAY, [secret])
    assert secret not in str(error.value)


def test_a_file_of_recipients(tmp_path, keys):
    alice, eve = (public for _, public in keys.values())
    path = tmp_path / "team.txt"
    path.write_text(f"# Alice\n{alice}\n\n  {eve}  \n", encoding="utf-8")
    assert recipients_in(path) == [alice, eve]
    path.write_text("# nobody\n", encoding="utf-8")
    with pytest.raises(InputError, match="names no recipient"):
        recipients_in(path)


def test_an_overfitted_generators_set_stays_in_the_house(run, tmp_path, capsys):
    change(run, "privacy", "near_duplicate_rate", value=0.5, low=0.45, high=0.55)
    change(run, "privacy", "membership_auroc_loss", value=0.97, low=0.95, high=0.99)
    (run / "metrics/fairness.csv").unlink()
    command = [
        "export",
        "--run",
        str(run),
        "--generator",
        GENERATOR,
        "--out",
        str(tmp_path / "sent.zip"),
    ]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "(2 failed, 1 not measured of 7)" in said
    assert (
        "near copies (near_duplicate_rate, efficientnet_lite0): high end of the interval 0.55, must be at most 0.05"
        in said
    )
    assert "membership_auroc_loss" in said and "0.99" in said and "too much by 0.39" in said
    assert (
        "subgroup gap (largest_gap_recall): not measured, metrics/fairness.csv is not there" in said
    )
    assert not list(tmp_path.glob("*sent*")) and not RunPaths(run).exports.exists()

    assert main([*command, "--override", "  "]) == 2
    assert "needs its reason in writing" in capsys.readouterr().err
    reason = "For the course on attacks, 3 May; the ethics board knows."
    assert main([*command, "--override", reason]) == 0
    with zipfile.ZipFile(tmp_path / "sent.zip") as archive:
        card = archive.read("README.md").decode()
        machines = json.loads(archive.read("croissant.json"))
        assert reason in card and "Not every limit is passed" in card and "failed by 0.5" in card
        assert (
            reason in machines["rai:dataReleaseMaintenancePlan"]
            and "0.99" in machines["rai:dataBiases"][1]
        )
        assert "Not measured in this run." in card.split("## Fairness")[1]
    (row,) = csv.DictReader(io.StringIO(RunPaths(run).exports.read_text(encoding="utf-8")))
    assert row["override"] == reason and row["name"] == "sent.zip" and len(row["fingerprint"]) == 64


def test_a_reason_for_nothing_and_a_set_without_labels_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="nothing to override"):
        export(run, GENERATOR, tmp_path / "sent", DAY, override="just in case")
    path = images(run / f"generators/{GENERATOR}/seed-0/synthetic")[0]
    with Image.open(path) as image:
        pixels = np.array(image)
    Image.fromarray(pixels).save(path)
    for override in (None, "we know which ones they are"):
        with pytest.raises(InputError, match="labels .*0.833, must be at least 1"):
            export(run, GENERATOR, tmp_path / "sent", DAY, override=override)


def test_a_set_that_was_altered_in_the_house_does_not_leave_it(run, tmp_path):
    resave(images(run / f"generators/{GENERATOR}/seed-0/synthetic")[0], pixel=True)
    with pytest.raises(InputError, match="SYN_gan_df_000000.png was altered"):
        export(run, GENERATOR, tmp_path / "sent", DAY)


def test_a_set_of_other_weights_does_not_leave_the_house(run, tmp_path):
    path = run / f"generators/{GENERATOR}/seed-0/weights.safetensors"
    tensors, metadata = read_weights(path)
    write_weights(path, {key: value * 1.01 for key, value in tensors.items()}, metadata)
    with pytest.raises(InputError, match="was not drawn by"):
        export(run, GENERATOR, tmp_path / "sent", DAY)


@pytest.mark.parametrize("name", ["there", "there.zip"])
def test_nothing_is_overwritten(run, tmp_path, name):
    target = tmp_path / name
    target.mkdir() if name == "there" else target.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="exists already"):
        export(run, GENERATOR, target, DAY)
    assert target.is_dir() or target.read_text(encoding="utf-8") == "mine"


def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, capsys, keys, monkeypatch):
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path))
    zipped, out = tmp_path / "junk.zip", str(tmp_path / "out")
    zipped.write_bytes(b"no zip at all")
    (tmp_path / "empty").mkdir()
    cases = [
        (["export", "--run", "nothing", "--generator", "gan", "--out", out], "is not a run"),
        (
            ["export", "--run", "run", "--generator", "vae", "--out", out],
            "no finished set of 'vae'.*It has sets of gan",
        ),
        (["export", "--run", "run", "--generator", "gan", "--out", out + ".tar"], "end in .zip"),
        (
            [
                "export",
                "--run",
                "run",
                "--generator",
                "gan",
                "--out",
                out + ".zip",
                "--recipient",
                keys["eve"][1],
            ],
            "would not be encrypted",
        ),
        (
            ["export", "--run", "run", "--generator", "gan", "--out", out + ".zip.age"],
            "nobody to encrypt to",
        ),
        (
            [
                "export",
                "--run",
                "run",
                "--generator",
                "gan",
                "--out",
                out + ".zip.age",
                "--recipients",
                out,
            ],
            "no file of recipients",
        ),
        (["verify", out], "nothing to verify"),
        (["verify", str(zipped)], "no zip of a set"),
        (["verify", str(tmp_path / "empty")], "is no exported set"),
    ]
    for arguments, message in cases:
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and re.search(message, said), said
    (run / f"generators/{GENERATOR}/seed-0/weights.safetensors").unlink()
    with pytest.raises(InputError, match="no finished set of 'gan'"):
        export(run, GENERATOR, tmp_path / "out", DAY)
