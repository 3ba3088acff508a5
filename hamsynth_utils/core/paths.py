"""The checkout, the folder of runs, and the names of files that several stages share."""

from __future__ import annotations

import os
from pathlib import Path


def project_root() -> Path:
    """The checkout that holds `profiles/` and `notebooks/`."""
    return Path(__file__).resolve().parent.parent.parent


def runs_folder() -> Path:
    """The folder in HAMSYNTH_RUNS, where `~` is the user's home, else `runs/` of the project."""
    return Path(os.environ.get("HAMSYNTH_RUNS") or project_root() / "runs").expanduser()


SYNTHETIC_SET = "generators/{}/synthetic"
"""Where a run keeps the synthetic set of a generator."""


WEIGHTS = "weights.safetensors"


SHARED_AUTOENCODER = "generators/autoencoder"
"""The room of the autoencoder that generators of the same settings share, see `rooms.autoencoder_dir`."""


AUTOENCODER_HISTORY = "autoencoder_history"
"""The key of its losses, in the metadata of a checkpoint of a generator that works on it."""


def checkpoint_of(name: str, folder: Path | None = None) -> Path:
    """The file of a generator's released checkpoint; `folder` is the project's `checkpoints/` by default."""
    return (folder or project_root() / "checkpoints") / f"{name}.safetensors"
