"""Free memory in control groups of both versions, in files as the kernel writes them."""

from pathlib import Path

import psutil
import pytest

from hamsynth_utils.core.machine import free_memory_mb, memory_kills, memory_limit_mb

MB = 2**20


def group(folder: Path, version: int, limit: object, used: int, cache: int, kills: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "memory.max" if version == 2 else "memory.limit_in_bytes": limit,
        "memory.current" if version == 2 else "memory.usage_in_bytes": used,
        "memory.stat": f"anon 5\n{'' if version == 2 else 'total_'}inactive_file {cache}",
        "memory.events" if version == 2 else "memory.oom_control": f"oom 1\noom_kill {kills}",
    }
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n", encoding="utf-8")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def in_groups(root: Path, lines: str) -> None:
    (root / "proc/self/cgroup").write_text(lines, encoding="utf-8")


V1 = "5:cpu,cpuacct:/job\n4:memory:/job/step\n0::/\n"


@pytest.mark.parametrize(
    ("version", "lines", "base"),
    [(2, "0::/job/step\n", "sys/fs/cgroup"), (1, V1, "sys/fs/cgroup/memory")],
)
def test_the_smallest_of_the_groups_around_counts(root, version, lines, base):
    in_groups(root, lines)
    without = "max" if version == 2 else 9223372036854771712
    group(root / base / "job/step", version, without, 300 * MB, 0, 1)
    group(root / base / "job", version, 900 * MB, 500 * MB, 100 * MB, 2)
    group(root / base, version, without, 700 * MB, 0, 0)
    assert memory_limit_mb(root) == 900
    assert free_memory_mb(root) == 500, "a cache of files is given up when memory is wanted"
    assert memory_kills(root) == 3


def test_a_container_sees_its_group_at_the_root(root):
    """The path in /proc is that of the host, of which the container has nothing."""
    in_groups(root, "4:memory:/docker/0123abcd\n")
    group(root / "sys/fs/cgroup/memory", 1, 600 * MB, 100 * MB, 0, 0)
    assert (memory_limit_mb(root), free_memory_mb(root)) == (600, 500)


def test_without_groups_the_machine_counts(root):
    assert memory_limit_mb(root) == psutil.virtual_memory().total >> 20
    assert free_memory_mb(root) == pytest.approx(psutil.virtual_memory().available >> 20, abs=3000)
    assert memory_kills(root) == 0
