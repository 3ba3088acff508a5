"""What a room of the run makes: found and read back if it is there, made and kept if it is not.

The stages of a classifier are in `classifiers`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState
from torch import Tensor

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.paths import (
    AUTOENCODER_HISTORY,
    CHECKPOINT,
    HISTORY,
    WEIGHTS,
    checkpoint_of,
)
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.data.augmentation import augment
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.synthetic import read_synthetic
from hamsynth_utils.experiment.arms import requested_counts
from hamsynth_utils.experiment.run import (
    Run,
)
from hamsynth_utils.generators.autoencoder import Autoencoder
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.latent import LatentGenerator
from hamsynth_utils.generators.loading import build_generator, checkpoint_metadata, load_generator
from hamsynth_utils.generators.sampling import synthesize
from hamsynth_utils.training.loop import TrainingResult, train


def flip_and_turn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flips and quarter turns, each image its own: exact permutations of pixels, free for skin lesions."""
    return augment(images, generator, rotation="quarter", flips=True)


def train_generator(run: Run, name: str, progress_bar: bool = True) -> TrainingResult:
    """The run's generator `name`, in `generators/<name>/`; trained on the training part alone.

    Where the profile allows it, a released checkpoint of a training on the same images is taken over instead,
    with its own settings: `Training.origin` says so.
    """
    training = run.profile.generator_settings(name).training
    lesions = run.training_images()
    torch.manual_seed(run.seed)
    with run.shared_stage_dir(run.paths.generator(name)) as folder:
        generator = _released(run, name) or build_generator(name, run.profile)
        space = getattr(generator, "representation", None)
        if isinstance(space, Autoencoder) and not (folder / WEIGHTS).is_file():
            space.load_state_dict(train_autoencoder(run, name, progress_bar).module.state_dict())
        about = {"trained_on": run.training_fingerprint(), "counts": json.dumps(lesions.counts)}
        return train(
            generator,
            lesions,
            training,
            folder,
            seed=run.seed,
            augment=flip_and_turn,
            description={**checkpoint_metadata(generator), **about},
            progress_bar=progress_bar,
        )


def effective_settings(run: Run, name: str) -> Any:
    """The settings of the run's generator `name`: the profile's, or those of the checkpoint taken over."""
    released = _released(run, name)
    return released.settings if released else run.profile.generator_settings(name)


def train_autoencoder(
    run: Run, name: str = "diffusion", progress_bar: bool = True
) -> TrainingResult:
    """The autoencoder of the run's generator `name`, in its `autoencoder_dir`; on the training part alone.

    That of the released generator, where this one is taken over.
    Raises InputError if the generator works without one.
    """
    room = autoencoder_dir(run, name)
    if room is None:
        raise InputError(f"this profile's {name} works on pixels: it has no autoencoder")
    settings = effective_settings(run, name).autoencoder
    lesions = run.training_images()
    torch.manual_seed(run.seed)
    autoencoder = Autoencoder(settings)
    with run.shared_stage_dir(room) as folder:
        return train(
            autoencoder,
            lesions,
            settings.training,
            folder,
            seed=run.seed,
            augment=flip_and_turn,
            description={"trained_on": run.training_fingerprint()},
            progress_bar=progress_bar,
        )


def _released(run: Run, name: str) -> Generator | None:
    """The released generator that the run has taken over, if any; of several processes the first takes it."""
    with PartialState().main_process_first():
        taken = install_released_checkpoint(run, name)
    return load_generator(run.paths.generator_weights(name)) if taken else None


def autoencoder_dir(run: Run, name: str) -> Path | None:
    """The room of a generator's autoencoder, None if it has none; those with equal settings share one."""
    could = [
        n
        for n in run.profile.generators
        if hasattr(run.profile.generator_settings(n), "autoencoder")
    ]
    settings = {n: effective_settings(run, n).autoencoder for n in could}
    if settings.get(name) is None:
        return None
    first = next(n for n in could if settings[n] is not None)
    owner = next(n for n in could if settings[n] == settings[name])
    return run.paths.autoencoder(None if owner == first else owner)


def autoencoder_seconds(run: Run, name: str) -> float:
    """Seconds of training that came before a generator's own: those of the autoencoder, if it has one."""
    folder = autoencoder_dir(run, name)
    if folder is None or not (folder / HISTORY).is_file():
        return 0.0
    return float(pd.read_csv(folder / HISTORY)["seconds"].iloc[-1])


def make_synthetic(run: Run, name: str, progress_bar: bool = True) -> LesionSet:
    """The run's synthetic set of the generator `name`, in `generators/<name>/synthetic/`, verified."""
    settings = run.profile.synthesis
    with run.stage_dir(run.paths.generator(name)):
        if run.has_synthetic_set(name):
            return read_synthetic(run.paths.synthetic(name), run.dataset.classes)
        counts = requested_counts(
            run.images("train").labels,
            settings.minority_fraction,
            settings.evaluation_images,
            max(run.profile.probe.ratios),
        )
        return synthesize(
            run.require(run.paths.generator_weights(name), f"the notebook of the {name}"),
            counts,
            # Far from the seeds of the other generators and of the pictures in the notebooks.
            1_000_000 * (1 + GENERATORS.index(name)) + 10_000_000 * run.seed,
            run.paths.synthetic(name),
            settings.batch_size,
            progress=progress_bar,
        )


def install_released_checkpoint(run: Run, name: str) -> bool:
    """Put a generator's released checkpoint into the run's room of it, if that is wanted and right.

    Wanted: the profile says `released: true`, and the run has not begun to train one of its own. Right: it
    was trained on exactly this run's training images, at their size. Returns whether the room holds one.
    """
    room, path = run.paths.generator(name), checkpoint_of(name)
    own = room / WEIGHTS
    if own.is_file():
        return "released" in read_weights(own)[1]
    if (
        not run.profile.use_released_checkpoints
        or not path.is_file()
        or (room / CHECKPOINT).is_file()
    ):
        return False
    tensors, metadata = read_weights(path)
    wanted = {
        "trained_on": run.training_fingerprint(),
        "image_size": str(run.profile.data.image_size),
    }
    if any(metadata[key] != value for key, value in wanted.items()):
        return False
    generator = load_generator(path, name)
    for table in generator.tables:
        _write(room / f"{table}.csv", metadata[table])
    if isinstance(generator, LatentGenerator) and AUTOENCODER_HISTORY in metadata:
        # An autoencoder that a killed run has begun to train is of no use any more.
        _write(run.paths.autoencoder() / HISTORY, metadata[AUTOENCODER_HISTORY])
        states = generator.representation.state_dict()
        write_weights(run.paths.autoencoder() / WEIGHTS, states, {"released": "true"})
    # Last, since it is what says that the room is finished.
    write_weights(
        own,
        {
            key: value.float() if value.is_floating_point() else value
            for key, value in tensors.items()
        },
        metadata,
    )
    return True


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)
