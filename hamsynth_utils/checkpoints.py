"""Released checkpoints: what a long training made, for those who have not got its hours.

`hamsynth_utils.release` writes them; a profile with `released: true` takes them over.
"""

from __future__ import annotations

from pathlib import Path

from hamsynth_utils.generators import load_generator
from hamsynth_utils.generators.latent import LatentGenerator
from hamsynth_utils.profile import project_root
from hamsynth_utils.run import Run
from hamsynth_utils.weights import read_weights, write_weights
from hamsynth_utils.writing import replacing

WEIGHTS = "weights.safetensors"
SHARED = "generators/autoencoder"
"""The room of the autoencoder that generators of the same settings share, see `rooms.autoencoder_room`."""
AUTOENCODER = "autoencoder_history"
"""The key of its losses, in the metadata of a checkpoint of a generator that works on it."""


def checkpoint_of(name: str, folder: Path | None = None) -> Path:
    """The file of a generator's released checkpoint; `folder` is the project's `checkpoints/` by default."""
    return (folder or project_root() / "checkpoints") / f"{name}.safetensors"


def take_over(run: Run, name: str) -> bool:
    """Put a generator's released checkpoint into the run's room of it, if that is wanted and right.

    Wanted: the profile says `released: true`, and the run has not begun to train one of its own. Right: it
    was trained on exactly this run's training images, at their size. Returns whether the room holds one.
    """
    room, path = run.folder / "generators" / name, checkpoint_of(name)
    own = room / WEIGHTS
    if own.is_file():
        return "released" in read_weights(own)[1]
    if not run.profile.released or not path.is_file() or (room / "checkpoint.safetensors").is_file():
        return False
    tensors, metadata = read_weights(path)
    wanted = {"trained_on": run.training_fingerprint(), "image_size": str(run.profile.data.image_size)}
    if any(metadata[key] != value for key, value in wanted.items()):
        return False
    generator = load_generator(path, name)
    for table in generator.tables:
        _write(room / f"{table}.csv", metadata[table])
    if isinstance(generator, LatentGenerator) and AUTOENCODER in metadata:
        # An autoencoder that a killed run has begun to train is of no use any more.
        _write(run.folder / SHARED / "history.csv", metadata[AUTOENCODER])
        states = generator.representation.state_dict()
        write_weights(run.folder / SHARED / WEIGHTS, states, {"released": "true"})
    # Last, since it is what says that the room is finished.
    write_weights(own, {key: value.float() if value.is_floating_point() else value
                        for key, value in tensors.items()}, metadata)  # fmt: skip
    return True


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)
