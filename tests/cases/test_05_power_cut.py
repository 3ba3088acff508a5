"""A power cut: what was written is on the disk before it has its name, and an empty or half file is named."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import TINY, merged

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path, read_csv, read_json, read_yaml
from hamsynth_utils.core.paths import RunPaths
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.experiment.run import Run

SETTINGS = merged(TINY, {"data": {"phantom_images": 600, "image_size": 32}})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a profile and a run that has its images and its split."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    Run.open("r", str(folder / "tiny.yaml"), root=folder / "runs").split()
    return folder


@pytest.fixture
def opened(made, tmp_path) -> Callable[..., Run]:
    """Opens a copy of the run, as a new process does."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return partial(Run.open, "r", str(tmp_path / "tiny.yaml"), root=tmp_path / "runs")


def empty(content: bytes) -> bytes:
    return b""


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeros(content: bytes) -> bytes:
    return bytes(len(content))


READERS = {
    "record": lambda run: run,
    "lesion_images": lambda run: run.lesions(),
    "lesion_table": lambda run: run.lesions(),
    "split": lambda run: run.split(),
}


@pytest.mark.parametrize("spoil", [empty, half, zeros])
@pytest.mark.parametrize("what", READERS)
def test_an_empty_or_half_file_of_a_run_is_named(opened, what, spoil):
    path = getattr(opened().paths, what)
    path = path() if callable(path) else path
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path} is empty or damaged .*delete") as raised:
        READERS[what](opened())
    assert str(raised.value).count("\n") == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.iloc[:-1],
        lambda table: table.iloc[::-1],
        lambda table: pd.concat([table, table.iloc[:1]]),
        lambda table: table.assign(part=table["part"].where(table.index > 0, "trial")),
        lambda table: table.assign(part=table["part"].where(table.index > 0)),
        lambda table: table[["image_id"]],
    ],
    ids=["a row less", "another order", "a row twice", "unknown part", "no part", "no column"],
)
def test_a_split_that_does_not_cover_every_image_once_in_order_is_refused(opened, change):
    path = opened().paths.split()
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"split\.csv is empty or damaged .*delete"):
        opened().split()


def test_a_whole_run_is_read_as_before(opened):
    run = opened()
    assert sum(map(len, run.split().parts().values())) == len(run.lesions()) == 600


def test_the_half_table_of_a_chapter_names_the_notebook_to_execute_again(opened):
    run = opened()
    run.write_table("fidelity", pd.DataFrame({"a": range(100)}))
    path = run.paths.table("fidelity")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"fidelity\.csv is empty .*notebook 08_fidelity"):
        run.read_table("fidelity", "08_fidelity")


@pytest.mark.parametrize(
    ("read", "name"), [(read_csv, "a.csv"), (read_json, "a.json"), (read_yaml, "a.yaml")]
)
def test_files_that_are_no_files_of_their_kind_are_named(tmp_path, read, name):
    path = tmp_path / name
    for content in (b"", b"\0" * 80, b'{"a": [1, 2', b"\xff\xfe\xff", b"- : - {"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is empty or damaged"):
            read(path)


@pytest.mark.parametrize("spoil", [empty, half, zeros])
def test_half_weights_are_named(tmp_path, spoil):
    path = tmp_path / "weights.safetensors"
    write_weights(path, {"a": torch.zeros(100)}, {})
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=f"{path} is damaged .*delete it"):
        read_weights(path)


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    """The order of calls; what a disk does with them cannot be seen from here."""
    events = []
    synced, replaced = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        synced(descriptor)

    def replace(path: Path, target: Path) -> Path:
        events.append(("rename", target.name))
        return replaced(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_path(tmp_path / "set") as folder:
        (folder / "inner").mkdir(parents=True)
        np.save(folder / "inner/a.npy", np.zeros(3))
        (folder / "b.txt").write_text("b", encoding="utf-8")
    before, after = events[: events.index(("rename", "set"))], events[-1]
    part = f".set.{os.getpid()}.part"
    assert {name for _, name in before} == {"a.npy", "b.txt", "inner", part}
    assert before[-1] == ("sync", part), "a folder is synced after what is in it"
    assert after == ("sync", tmp_path.name)


def test_every_file_of_a_run_is_written_under_a_temporary_name(opened, monkeypatch):
    """Whoever opens a file of the run for writing opens one that atomic_path will rename."""
    import builtins
    import io

    run, really = opened(), io.open
    written = []

    def noting(file, mode="r", *more, **named):
        if isinstance(file, str | Path) and set("wax+") & set(mode):
            written.append(Path(file))
        return really(file, mode, *more, **named)

    monkeypatch.setattr(builtins, "open", noting)
    monkeypatch.setattr(io, "open", noting)
    run.write_table("splits", pd.DataFrame({"a": [1]}))
    RunPaths(run.folder).split().unlink()
    opened().split()
    opened(seeds=[0, 1])
    names = [path.name for path in written if run.folder in path.parents]
    assert names and all(name.endswith((".part", ".lock")) for name in names), names
