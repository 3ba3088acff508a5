"""Released checkpoints: what a long training made, for those who have not got its hours.

    python -m hamsynth_utils.checkpoints --run cpu

writes `checkpoints/<generator>.safetensors` in half precision, a model card `<generator>.md` and the pictures
of it, from the finished generators of a run. A profile with `released: true` takes them over.
"""

from __future__ import annotations

from pathlib import Path

from hamsynth_utils.generators import load_generator
from hamsynth_utils.generators.autoencoder import Autoencoder
from hamsynth_utils.generators.diffusion import Diffusion
from hamsynth_utils.profile import project_root
from hamsynth_utils.run import Run
from hamsynth_utils.weights import read_weights, write_weights
from hamsynth_utils.writing import replacing

WEIGHTS = "weights.safetensors"
TABLES = {"vae": ("history", "budget"), "gan": ("history", "budget"),
          "diffusion": ("history", "budget", "sampling")}  # fmt: skip
"""Tables of a generator's room, kept in the metadata of its checkpoint."""
AUTOENCODER = "autoencoder_history"


def checkpoint_of(name: str, folder: Path | None = None) -> Path:
    """The file of a generator's released checkpoint; `folder` is the project's `checkpoints/` by default."""
    return (folder or project_root() / "checkpoints") / f"{name}.safetensors"


def release(run: Run, name: str, folder: Path) -> Path:
    """Write the checkpoint of a run's finished generator to `folder`, in half precision; return its path.

    Raises InputError if the generator, or a table of its chapter, is not finished yet.
    """
    room = run.require(f"generators/{name}/{WEIGHTS}", f"the notebook of the {name}").parent
    tensors, metadata = read_weights(room / WEIGHTS)
    for table in TABLES[name]:
        metadata[table] = run.require(
            f"generators/{name}/{table}.csv", f"the notebook of the {name}"
        ).read_text()
    if name == "diffusion" and run.profile.diffusion.autoencoder is not None:
        metadata[AUTOENCODER] = (run.folder / "generators/autoencoder/history.csv").read_text()
    metadata |= {"released": "true", "profile": run.profile.name}
    half = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    path = checkpoint_of(name, folder)
    write_weights(path, half, metadata)
    load_generator(path)
    return path


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
    for table in TABLES[name]:
        _write(room / f"{table}.csv", metadata[table])
    if isinstance(generator, Diffusion) and isinstance(generator.representation, Autoencoder):
        # An autoencoder that a killed run has begun to train is of no use any more.
        _write(run.folder / "generators/autoencoder/history.csv", metadata[AUTOENCODER])
        write_weights(
            run.folder / "generators/autoencoder" / WEIGHTS, generator.representation.state_dict(),
            {"released": "true"},
        )  # fmt: skip
    # Last, since it is what says that the room is finished.
    write_weights(own, {key: value.float() if value.is_floating_point() else value
                        for key, value in tensors.items()}, metadata)  # fmt: skip
    return True


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)
