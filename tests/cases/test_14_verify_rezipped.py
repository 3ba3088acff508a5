"""An export that was packed again, damaged, locked or changed on its way, or that is hostile."""

import errno
import os
import re
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from small_sets import small_set, write_files, write_zip

from hamsynth_utils.cli import main
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.synthetic import SUMS, read_synthetic

FILES = small_set()
IMAGE, OTHER_IMAGE = list(FILES)[:2]


@pytest.fixture
def verify(capsys):
    """Runs `hamsynth verify`: the exit code, the lines of stdout and those of stderr."""

    def run(path, *options):
        code = main(["verify", str(path), *options])
        out, err = capsys.readouterr()
        for words in (out, err):
            assert "Traceback" not in words and "/hamsynth-" not in words
        return code, out.splitlines(), err.splitlines()

    return run


def patched(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(bytes(content))
    return path


def set_field(content, local, central, how):
    """Change a 16-bit field of each entry in both of its headers."""
    for magic, at in ((b"PK\3\4", local), (b"PK\1\2", central)):
        start = content.find(magic)
        while start >= 0:
            old = struct.unpack_from("<H", content, start + at)[0]
            struct.pack_into("<H", content, start + at, how(old))
            start = content.find(magic, start + 4)


def test_a_set_that_was_packed_again_is_unaltered(tmp_path, verify):
    code, out, _ = verify(write_zip(tmp_path / "a.zip", FILES))
    assert code == 0 and "unaltered" in out[0]


@pytest.mark.parametrize("top", ["set/", "my set/set/", "set\\"])
def test_a_folder_around_the_set_is_read(tmp_path, verify, top):
    path = write_zip(tmp_path / "a.zip", FILES, top)
    assert verify(path)[0] == 0
    assert main(["open", str(path), "--out", str(tmp_path / "out")]) == 0
    assert len(read_synthetic(tmp_path / "out", HAM10000.classes)) == 2
    outer = tmp_path / "outer"
    write_files(outer / top.replace("\\", "/"), FILES)
    assert verify(outer)[0] == 0


def test_what_a_file_manager_adds_is_named_and_left_out(tmp_path, verify):
    added = ["__MACOSX/._set", "images/.DS_Store", "Thumbs.db", "README.md:Zone.Identifier"]
    files = FILES | dict.fromkeys(added, b"junk")
    for path in (write_zip(tmp_path / "a.zip", files), write_files(tmp_path / "set", files)):
        code, out, _ = verify(path)
        assert code == 0 and f"left out: {', '.join(sorted(added))}" in out[1]
    assert len(read_synthetic(tmp_path / "set", HAM10000.classes)) == 2
    assert main(["open", str(path), "--out", str(tmp_path / "out")]) == 0
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert {p.relative_to(tmp_path / "out").as_posix() for p in written} == set(FILES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: set_field(c, 8, 10, lambda _: 9), "packed with Deflate64: unpack the zip with"),
        (lambda c: set_field(c, 8, 10, lambda _: 14), "packed with LZMA: unpack the zip with"),
        (lambda c: set_field(c, 6, 8, lambda old: old | 1), "locked with a password: unpack"),
    ],
)
def test_what_cannot_be_unpacked_here_has_a_way_out(tmp_path, verify, change, reason):
    path = patched(write_zip(tmp_path / "a.zip", FILES), change)
    code, out, (line,) = verify(path)
    assert code == 2 and out == []
    assert line.startswith(f"error: {path} cannot be judged: README.md, {SUMS}, {IMAGE} and 2 more")
    assert reason in line


def damage(content, name):
    start = content.find(name.encode()) + len(name) + 20
    for at in range(start, start + 30):
        content[at] ^= 0x5A


def test_a_damaged_file_is_named_and_the_rest_is_judged(tmp_path, verify):
    path = write_zip(tmp_path / "a.zip", FILES)
    patched(path, lambda content: damage(content, "manifest.csv"))
    code, _, (line,) = verify(path)
    assert code == 2
    assert "manifest.csv cannot be read: damaged in the zip: ask for the set again" in line
    path = write_zip(tmp_path / "b.zip", FILES | {"README.md": b"For clinics.", "x.txt": b"x"})
    patched(path, lambda content: damage(content, "manifest.csv"))
    code, out, err = verify(path)
    assert code == 1 and err == [f"{path}: 2 alteration(s)"]
    assert [line.split(" ")[:3] for line in out] == [
        ["README.md", "was", "altered:"],
        ["x.txt", "was", "added"],
        ["manifest.csv", "cannot", "be"],
    ]


def test_a_zip_that_is_cut_short_cannot_be_judged(tmp_path, verify):
    path = write_zip(tmp_path / "a.zip", FILES)
    path.write_bytes(path.read_bytes()[:-300])
    code, _, (line,) = verify(path)
    assert code == 2 and re.search(
        r"a\.zip is no zip of a set, or it was cut short .*ask for", line
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside.txt", "written outside of the set"),
        ("/tmp/outside.txt", "written outside of the set"),
        ("..\\outside.txt", "written outside of the set"),
        ("C:\\outside.txt", "written outside of the set"),
        ("images/aux.png", "the name of a device of Windows"),
        ("NUL", "the name of a device of Windows"),
        ("images/x.png ", "a name that not every system can store"),
        ("images/a\nb.png", "a name that not every system can store"),
        (f"images/{'x' * 300}.png", "a name that not every system can store"),
        ("readme.MD", "differs from README.md only in capitals or accents"),
        ("images//x.png", "a name that not every system can store"),
        ("x.txt", "was added"),
        ("README.md/x.txt", "was added"),
    ],
)
def test_a_hostile_entry_is_named_and_nothing_is_written(tmp_path, verify, name, reason):
    path = write_zip(tmp_path / "a.zip", {**FILES, name: b"x"})
    code, (line,), _ = verify(path)
    assert code == 1 and reason in line
    assert main(["open", str(path), "--out", str(tmp_path / "out")]) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.zip"]


def test_links_and_doubles_in_a_zip_are_named(tmp_path, verify):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            entry = zipfile.ZipInfo(name)
            if name == "README.md":
                entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, content)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(zipfile.ZipInfo(IMAGE), FILES[OTHER_IMAGE])
    code, out, _ = verify(path)
    assert code == 1
    assert out == ["README.md was replaced by a link", f"{IMAGE} is in the zip twice"]


def test_a_zip_bomb_is_not_unpacked(tmp_path, verify):
    path = write_zip(tmp_path / "a.zip", FILES | {"README.md": bytes(2**25)})
    code, _, (line,) = verify(path)
    assert code == 2 and "README.md cannot be read: too large unpacked, as in a zip bomb" in line
    patched(
        path, lambda content: struct.pack_into("<I", content, content.find(b"PK\1\2") + 20, 9999)
    )
    code, _, (line,) = verify(path)
    assert code == 2 and "claims to hold more than it does, as a zip bomb does" in line


def test_a_folder_with_links_and_pipes_is_judged(tmp_path, verify):
    folder = write_files(tmp_path / "set", FILES)
    (tmp_path / "images").mkdir()
    (folder / "more").symlink_to(tmp_path / "images")
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")
    code, out, _ = verify(folder)
    assert code == 1 and out == ["README.md is no ordinary file", "more was replaced by a link"]


def test_a_file_that_cannot_be_read_is_no_alteration(tmp_path, verify, monkeypatch):
    folder = write_files(tmp_path / "set", FILES)

    def read(path):
        if path.name == "README.md":  # the superuser can read every file, whatever its mode
            raise PermissionError(errno.EACCES, "Permission denied")
        return path.open("rb").read()

    monkeypatch.setattr(Path, "read_bytes", read)
    code, _, (line,) = verify(folder)
    assert code == 2 and "README.md cannot be read: Permission denied" in line


CONVERSIONS = {
    "crlf": (
        lambda content: content.replace(b"\n", b"\r\n"),
        "a program has saved it with the line ends of Windows",
    ),
    "mark": (
        lambda content: b"\xef\xbb\xbf" + content,
        "a program has saved it as UTF-8 with a byte order mark",
    ),
    "utf-16": (
        lambda content: content.decode().replace("\n", "\r\n").encode("utf-16"),
        "saved it as UTF-16 with a byte order mark and with the line ends of Windows",
    ),
}


@pytest.mark.parametrize("kind", CONVERSIONS)
@pytest.mark.parametrize("file", [SUMS, "manifest.csv", "README.md"])
def test_a_text_in_another_encoding_is_named_and_the_rest_is_judged(tmp_path, verify, kind, file):
    convert, reason = CONVERSIONS[kind]
    folder = write_files(tmp_path / "set", {**FILES, file: convert(FILES[file])})
    code, (line,), _ = verify(folder)
    assert code == 1 and line.startswith(f"{file} was altered: ") and reason in line
    (folder / IMAGE).write_bytes(FILES[OTHER_IMAGE])
    code, out, _ = verify(folder)
    assert code == 1 and any(line.startswith(f"{IMAGE}: its metadata says") for line in out)
    assert len(out) == 2


def test_a_list_of_hashes_without_its_last_line_end_is_altered(tmp_path, verify):
    folder = write_files(tmp_path / "set", {**FILES, SUMS: FILES[SUMS][:-1]})
    assert verify(folder)[:2] == (1, [f"{SUMS} was altered: its last line has no end"])
    (folder / SUMS).write_bytes(FILES[SUMS] + b"\xff\xfe")
    code, out, _ = verify(folder)
    assert code == 1 and out[0] == (
        f"{SUMS} was altered: {SUMS}, line 5, is not in UTF-8: save the file as UTF-8"
    )


def test_a_fingerprint_that_is_none_is_an_error_and_no_alteration(tmp_path, verify):
    folder = write_files(tmp_path / "set", FILES)
    code, _, (line,) = verify(folder, "--fingerprint", "abc")
    assert code == 2 and "a fingerprint has 64 digits" in line
    code, out, _ = verify(folder, "--fingerprint", "0" * 64)
    assert code == 1 and out[0].startswith(f"{SUMS} is not the one that was sent")


@pytest.mark.parametrize("command", ["verify", "open"])
def test_the_help_says_what_the_exit_codes_mean(command, capsys):
    assert main([command, "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert (
        "Exit code 0: nothing was altered. 1: a file was altered, added or deleted. 2: the set"
        in words
    )
