"""The teacher's page: plans that hold together, cells that are there, minutes from the run."""

import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

from hamsynth_utils.core.paths import project_root, runs_folder
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.report.pages.run_summary import chapter_minutes
from hamsynth_utils.report.staging import EXTERNAL

ROOT = project_root()
PAGE = (ROOT / "book/teaching.md").read_text(encoding="utf-8")
NOTEBOOKS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in (ROOT / "notebooks").glob("*.ipynb")
}
NOT_IN_EVERY_RUN = {each.chapter for each in REGISTRY.values() if not each.in_every_run}
NOT_IN_EVERY_RUN.add(Path(EXTERNAL).name)
TOC = re.findall(r"file: notebooks/(\w+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
ROAD = [chapter for chapter in TOC if chapter not in NOT_IN_EVERY_RUN]
"""A page may only refer to chapters that every report has."""


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def chapters(text: str) -> list[str]:
    return re.findall(r"\{doc\}`notebooks/(\w+)`", text)


def test_the_day_runs_forward_from_chapter_to_chapter():
    clock = [
        60 * int(h) + int(m)
        for h, m in re.findall(r"^\| (\d+):(\d\d) \|", section("One day"), re.M)
    ]
    assert clock == sorted(clock) and all(15 <= b - a <= 60 for a, b in pairwise(clock))
    assert clock[-1] - clock[0] <= 8 * 60 and "| 17:00 | End |" in section("One day")
    assert clock[-1] - clock[-2] == 30, "the last half hour, which must not be cut"
    plan = chapters(section("One day"))
    assert set(plan) <= set(ROAD) and plan[:-1] == sorted(
        plan[:-1], key=ROAD.index
    )  # the release comes up only in the last talk


def test_six_weeks_visit_every_chapter_once():
    weeks = re.findall(r"^\| (\d) \|", section("Six weeks"), re.M)
    assert weeks == list("123456") and sorted(chapters(section("Six weeks"))) == sorted(ROAD)


def test_the_cells_to_run_live_are_there():
    rows = re.findall(
        r"^\| \{doc\}`notebooks/(\w+)` \| `(\w+)`", section("Run live, and guess first"), re.M
    )
    assert len(rows) >= 9
    for chapter, function in rows:
        code = [
            "".join(c["source"]) for c in NOTEBOOKS[chapter]["cells"] if c["cell_type"] == "code"
        ]
        assert any(f"def {function}(" in source for source in code), (chapter, function)


def test_a_class_on_a_server_uses_the_environment_of_all_and_each_has_runs_of_his_own(
    tmp_path, monkeypatch
):
    server = section("On a server for a class")
    (environment,) = set(re.findall(r"^sudo make \w+ (BIN=\S+) ", server, re.M))
    makes = re.findall(r"^sudo (make \w+) ", server, re.M)
    assert makes == ["make report", "make student"]
    for command in makes:
        said = subprocess.run(
            [*command.split(), "-n", environment],
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=True,
            encoding="utf-8",
        )
        assert (
            f'"{environment.removeprefix("BIN=")}/python" -m' in said.stdout
            and ".venv" not in said.stdout
        )
    (config,) = re.findall(r"^```python\n(.*?)^```$", server, re.M | re.S)
    hub = SimpleNamespace(Spawner=SimpleNamespace())
    exec(config, {"c": hub})
    for name, value in hub.Spawner.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    (copied,) = re.findall(r"^mkdir -p (\S+) && cp -r \S+/runs/phantom-smoke (\S+)/$", server, re.M)
    assert {(tmp_path / path.removeprefix("~/")) for path in copied} == {runs_folder()}


def test_minutes_are_the_runs_and_none_is_typed():
    assert "{{ chapter_minutes }}" in PAGE and not re.search(
        r"\d[\d.]* (min\b|minutes|GiB|hours)", PAGE
    )
    table = chapter_minutes(
        {"01_dataset": (1.25, None), "06_vit-real-0": (2.0, 1.5), "06_vit-gan-0": (4.0, 2.25)}
    )
    assert table.splitlines()[2:] == [
        "| {doc}`notebooks/01_dataset` | 1 | 1.2 | - |",
        "| {doc}`notebooks/06_vit` | 2 | 3.0 | 2.2 |",
    ]
