"""What this machine, or the container around it, has to offer: memory, and a home."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")

HOME_FOLDERS = (".", ".cache", ".config", ".ipython", ".local/share/jupyter")
"""Where programs write in a home; those that are there must be writable."""


def free_memory_mb(root: Path = ROOT) -> int:
    """How much memory new processes may take.

    Args:
        root: the root of the file system that describes the control groups of this process.

    Returns:
        MB: what is free on this machine, or what its control group (a container, a batch job)
        leaves, if that is less.
    """
    import psutil

    free = psutil.virtual_memory().available
    return min([free, *(limit - used for limit, used in _memory_groups(root))]) >> 20


def memory_limit_mb(root: Path = ROOT) -> int:
    """How much memory all processes together may take.

    Args:
        root: as for `free_memory_mb`.

    Returns:
        MB: the memory of this machine, or the limit of its control group, if that is less.
    """
    import psutil

    total = psutil.virtual_memory().total
    return min([total, *(limit for limit, _ in _memory_groups(root))]) >> 20


def memory_kills(root: Path = ROOT) -> int:
    """How many processes were killed so far because a control group of this process was full."""
    kills = 0
    for folder, version in _group_folders(root):
        events = _numbers(folder / ("memory.events" if version == 2 else "memory.oom_control"))
        kills += events.get("oom_kill", 0)
    return kills


def stand_in_for_home(folder: Path) -> dict[str, str]:
    """Where programs put caches and settings on a machine without a home that can be written.

    Args:
        folder: where they may write instead.

    Returns:
        Environment variables by name; none if the home can be written. A user without an entry in
        the table of users gets a name, too, since programs ask for it.
    """
    user = {}
    try:
        getpass.getuser()
    except (KeyError, OSError):
        user = {"USER": f"user{os.getuid()}"}
    names = {
        "XDG_CACHE_HOME": "cache",
        "XDG_CONFIG_HOME": "config",
        "XDG_DATA_HOME": "data",
        "JUPYTER_CONFIG_DIR": "jupyter/config",
        "JUPYTER_DATA_DIR": "jupyter/data",
        "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
        "IPYTHONDIR": "ipython",
        "MPLCONFIGDIR": "matplotlib",
    }
    variables = {name: str(folder / path) for name, path in names.items()}
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in the table of users
        return {**user, **variables, "HOME": str(folder)}
    there = [home / name for name in HOME_FOLDERS if name == "." or (home / name).exists()]
    if all(os.access(path, os.W_OK | os.X_OK) for path in there):
        return user
    # Weights that were fetched before are found where they are.
    caches = {"HF_HOME": home / ".cache/huggingface", "TORCH_HOME": home / ".cache/torch"}
    return user | variables | {name: str(path) for name, path in caches.items() if path.is_dir()}


def _memory_groups(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of each control group around this process that has a limit.

    A cache of files counts as unused, since the kernel gives it up when memory is wanted.
    """
    for folder, version in _group_folders(root):
        names = (
            ("memory.max", "memory.current", "inactive_file")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        limit, used = (_text(folder / name) for name in names[:2])
        if limit.isdecimal() and used.isdecimal():
            cache = _numbers(folder / "memory.stat").get(names[2], 0)
            yield int(limit), max(int(used) - cache, 0)


def _group_folders(root: Path) -> Iterator[tuple[Path, int]]:
    """The folder and version of each control group for memory, from this process's to the root."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = base / path.strip("/")
        # In a container, the path may be that of the host: then only the root is there.
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                yield folder, 1 if controllers else 2


def _numbers(path: Path) -> dict[str, int]:
    """The numbers in lines such as `oom_kill 3`."""
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
