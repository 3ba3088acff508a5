"""The stages of the generators: train, install a released checkpoint, sample a synthetic set.

Each function loads what the run has already, and otherwise computes and saves it. The classifiers'
stages are in `classifiers`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path, read_csv
from hamsynth_utils.core.generator_settings import AutoencoderSettings
from hamsynth_utils.core.paths import (
    AUTOENCODER_HISTORY,
    CHECKPOINT,
    HISTORY,
    LATENTS,
    WEIGHTS,
    checkpoint_of,
)
from hamsynth_utils.core.weights import read_metadata, read_weights, write_weights
from hamsynth_utils.data.augmentation import flip_and_turn
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.synthetic import read_synthetic
from hamsynth_utils.experiment.arms import requested_counts
from hamsynth_utils.experiment.run import (
    Run,
)
from hamsynth_utils.generators.autoencoder.model import Autoencoder, AutoencoderTraining
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.latent import LatentGenerator
from hamsynth_utils.generators.loading import checkpoint_metadata, generator_class, load_generator
from hamsynth_utils.generators.synthetic_sets import synthesize
from hamsynth_utils.training.batches import TrainingData
from hamsynth_utils.training.loop import TrainingResult, train


def train_generator(
    run: Run, name: str, progress_bar: bool = True, seed: int = 0
) -> TrainingResult:
    """Train a generator of the run on the training part, or load it if it is trained already.

    If the profile allows it, seed 0 is not trained: a released checkpoint that was trained on the
    same images is installed instead, with its own settings. `TrainingResult.origin` says so.
    Further seeds have the settings of seed 0.

    Args:
        run: the run.
        name: the generator.
        progress_bar: whether to show one.
        seed: the generator seed. The training draws from the seed `run.seed + seed`.

    Returns:
        The trained generator, its losses and its snapshots.

    Raises:
        InputError: if the profile has no such generator.
        TrainingDiverged: if the loss is not finite any more or explodes.
    """
    settings = effective_settings(run, name)
    lesions = run.training_images()
    torch.manual_seed(run.seed + seed)
    with run.shared_stage_dir(run.paths.generator(name, seed)) as folder:
        generator = generator_class(name)(
            run.profile.data.image_size, settings, len(lesions.classes)
        )
        data: LesionSet | TrainingData = lesions
        if not (folder / WEIGHTS).is_file():
            data = _training_data(run, generator, progress_bar, seed)
        about = {
            "trained_on": run.training_fingerprint(),
            "counts": json.dumps(lesions.counts),
            "generator_seed": str(seed),
        }
        return train(
            generator,
            data,
            settings.training,
            folder,
            seed=run.seed + seed,
            description={**checkpoint_metadata(generator, run.dataset), **about},
            progress_bar=progress_bar,
        )


def _training_data(run: Run, generator: Generator, progress_bar: bool, seed: int) -> TrainingData:
    """What a generator is trained on; one in latents gets its autoencoder, trained first."""
    lesions = run.training_images()
    space = getattr(generator, "representation", None)
    if not isinstance(space, Autoencoder):
        return generator.training_data(lesions)
    training = cast(AutoencoderTraining, train_autoencoder(run, progress_bar, seed).module)
    space.load_state_dict(training.autoencoder.state_dict())
    space.eval()  # in training mode, to encode would move the mean and variance of the latents
    with run.shared_stage_dir(run.paths.autoencoder(seed)) as folder:
        return generator.training_data(lesions, folder / LATENTS)


def effective_settings(run: Run, name: str) -> Any:
    """The settings of a generator: the profile's, or those of the installed released checkpoint.

    Args:
        run: the run; the released checkpoint is installed now if it is wanted and not there yet.
        name: the generator.

    Raises:
        InputError: if the profile has no such generator.
    """
    settings = run.profile.generator_settings(name)
    with PartialState().main_process_first():
        released = install_released_checkpoint(run, name)
    if not released:
        return settings
    metadata = read_metadata(run.paths.generator_weights(name))
    return type(settings).model_validate_json(metadata["settings"])


def train_autoencoder(run: Run, progress_bar: bool = True, seed: int = 0) -> TrainingResult:
    """Train the autoencoder of the run on the training part, or load it if it is trained.

    All generators of the run that work in latents share it.

    Args:
        run: the run.
        progress_bar: whether to show one.
        seed: the generator seed, as for `train_generator`.

    Returns:
        The trained `AutoencoderTraining`, its losses and its snapshots.

    Raises:
        InputError: if the run has no autoencoder.
    """
    settings = autoencoder_settings(run)
    if settings is None:
        raise InputError("all generators of this profile work on pixels: it has no autoencoder")
    torch.manual_seed(run.seed + seed)
    training = AutoencoderTraining(settings, run.profile.data.image_size)
    with run.shared_stage_dir(run.paths.autoencoder(seed)) as folder:
        return train(
            training,
            run.training_images(),
            settings.training,
            folder,
            seed=run.seed + seed,
            augment=flip_and_turn,
            description={"trained_on": run.training_fingerprint()},
            progress_bar=progress_bar,
        )


def autoencoder_settings(run: Run) -> AutoencoderSettings | None:
    """The settings of the autoencoder that the run's generators share.

    Args:
        run: the run.

    Returns:
        The profile's, or those of an installed released checkpoint; None if every generator works
        on pixels.
    """
    for name in run.profile.generators:
        settings = effective_settings(run, name)
        if getattr(settings, "autoencoder", None) is not None:
            return settings.autoencoder
    return None


def autoencoder_seconds(run: Run, name: str, seed: int = 0) -> float:
    """The duration of the training of a generator's autoencoder.

    Args:
        run: the run.
        name: the generator.
        seed: the generator seed.

    Returns:
        Seconds; 0 if the generator works on pixels, or the autoencoder is not trained yet.
    """
    history = run.paths.autoencoder(seed) / HISTORY
    if getattr(effective_settings(run, name), "autoencoder", None) is None or not history.is_file():
        return 0.0
    return float(read_csv(history)["seconds"].iloc[-1])


def make_synthetic(run: Run, name: str, progress_bar: bool = True, seed: int = 0) -> LesionSet:
    """Sample the synthetic set of a generator, or load it if it is there; verified.

    Args:
        run: the run.
        name: the generator.
        progress_bar: whether to show one.
        seed: the generator seed. Further seeds are sampled with the guidance scale of seed 0.

    Returns:
        The images in the order of the manifest.

    Raises:
        InputError: if the generator is not trained yet.
    """
    folder = run.paths.synthetic(name, seed)
    with run.stage_dir(run.paths.generator(name, seed)):
        if folder.is_dir():
            return run.load_once(folder, lambda: read_synthetic(folder, run.dataset.classes))
        settings = run.profile.synthesis
        counts = requested_counts(
            run.images("train").counts,
            settings.minority_fraction,
            settings.evaluation_images,
            max(run.profile.probe.ratios),
        )
        notebook = f"the notebook of the {name}"
        weights = run.require(run.paths.generator_weights(name, seed), notebook)
        sampling_kwargs = {}
        if seed != 0:
            first = run.require(run.paths.generator_weights(name), notebook)
            chosen = json.loads(read_metadata(first)["settings"])
            sampling_kwargs = {key: chosen[key] for key in ("guidance",) if key in chosen}
        # Far from the seeds of the other generators and of the images in the notebooks.
        first_image = 1_000_000 * (1 + GENERATORS.index(name)) + 10_000_000 * (run.seed + seed)
        return run.load_once(
            folder,
            lambda: synthesize(
                weights,
                counts,
                first_image,
                folder,
                settings.batch_size,
                progress=progress_bar,
                **sampling_kwargs,
            ),
        )


def make_further_seeds(run: Run, name: str, progress_bar: bool = True) -> None:
    """Train a generator with every seed of the profile but 0, and sample a synthetic set of each.

    Args:
        run: the run; seed 0 of the generator is finished.
        name: the generator.
        progress_bar: whether to show one.

    Raises:
        InputError: if seed 0 is not trained yet.
    """
    for seed in run.profile.generator_seeds[1:]:
        train_generator(run, name, progress_bar, seed)
        make_synthetic(run, name, progress_bar, seed)


def install_released_checkpoint(run: Run, name: str) -> bool:
    """Install a generator's released checkpoint as seed 0 of the run, if that is wanted and right.

    Wanted: the profile says `use_released_checkpoints: true`, and the run has not begun to train a
    generator of its own. Right: the checkpoint was trained on exactly this run's training images,
    at their size.

    Args:
        run: the run.
        name: the generator.

    Returns:
        Whether the run has the released checkpoint, installed now or before.

    Raises:
        InputError: if the checkpoint is damaged or was made by another version.
    """
    folder, path = run.paths.generator(name), checkpoint_of(name)
    weights = folder / WEIGHTS
    if weights.is_file():
        return "released" in read_metadata(weights)
    wanted = run.profile.use_released_checkpoints and path.is_file()
    if not wanted or (folder / CHECKPOINT).is_file():
        return False
    metadata = read_metadata(path)
    right = {
        "trained_on": run.training_fingerprint(),
        "image_size": str(run.profile.data.image_size),
    }
    if any(metadata[key] != value for key, value in right.items()):
        return False
    generator = load_generator(path, name, run.dataset.classes)
    for table in generator.tables:
        _write(folder / f"{table}.csv", metadata[table])
    if isinstance(generator, LatentGenerator) and AUTOENCODER_HISTORY in metadata:
        # Replaces an autoencoder that an interrupted run has begun to train.
        shared = run.paths.autoencoder()
        _write(shared / HISTORY, metadata[AUTOENCODER_HISTORY])
        training = AutoencoderTraining(generator.settings.autoencoder, generator.image_size)
        training.autoencoder.load_state_dict(generator.representation.state_dict())
        write_weights(shared / WEIGHTS, training.state_dict(), {"released": "true"})
    # Written last: the weights say that the folder is complete.
    tensors = {
        key: value.float() if value.is_floating_point() else value
        for key, value in read_weights(path)[0].items()
    }
    write_weights(weights, tensors, {**metadata, "generator_seed": "0"})
    return True


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
