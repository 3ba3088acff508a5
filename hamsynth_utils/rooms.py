"""What a room of the run makes: found and read back if it is there, made and kept if it is not.

    python -m hamsynth_utils.rooms --generator NAME --run NAME --profile PROFILE --data DATA
    python -m hamsynth_utils.rooms --arm ARM --classifier-seed SEED --run NAME --profile PROFILE --data DATA
    accelerate launch --num_processes 2 -m hamsynth_utils.rooms --generator NAME ...

trains one generator or one classifier of a run without its notebook, in one process or in several; the
notebook then loads it. What is made in a classifier's room is in `fine_tuning`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState
from torch import Tensor

from hamsynth_utils.checkpoints import SHARED, WEIGHTS, take_over
from hamsynth_utils.classifier import refuse_synthetic
from hamsynth_utils.data.augment import augment
from hamsynth_utils.data.lesions import LesionSet
from hamsynth_utils.errors import InputError
from hamsynth_utils.generators import build_generator, description, load_generator
from hamsynth_utils.generators.autoencoder import Autoencoder
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.profile import ARMS, GENERATORS
from hamsynth_utils.registry import REGISTRY
from hamsynth_utils.run import Run
from hamsynth_utils.synthesis import read_manifest, read_synthetic, requested_counts, synthesize
from hamsynth_utils.training import Training, train


def part_of(run: Run, part: str, protocol: str | None = None) -> LesionSet:
    """The `train`, `validation` or `test` images of the run; protocol: under that split, not its own."""
    return run.lesions().subset(run.split(protocol).parts()[part])


def flip_and_turn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flips and quarter turns, each image its own: exact permutations of pixels, free for skin lesions."""
    return augment(images, generator, rotation="quarter", flips=True)


def train_generator(run: Run, name: str, progress_bar: bool = True) -> Training:
    """The run's generator `name`, in `generators/<name>/`; trained on the training part alone.

    Where the profile allows it, a released checkpoint of a training on the same images is taken over instead,
    with its own settings: `Training.origin` says so.
    """
    training = run.profile.generator_settings(name).training
    lesions = training_part(run)
    torch.manual_seed(run.seed)
    with room_of_all(run, f"generators/{name}") as folder:
        generator = _released(run, name) or build_generator(name, run.profile)
        space = getattr(generator, "representation", None)
        if isinstance(space, Autoencoder) and not (folder / WEIGHTS).is_file():
            space.load_state_dict(train_autoencoder(run, name, progress_bar).module.state_dict())
        about = {"trained_on": run.training_fingerprint(), "counts": json.dumps(lesions.counts)}
        return train(
            generator, lesions, training, folder, seed=run.seed, augment=flip_and_turn,
            description={**description(generator), **about}, progress_bar=progress_bar,
        )  # fmt: skip


def settings_of(run: Run, name: str) -> Any:
    """The settings of the run's generator `name`: the profile's, or those of the checkpoint taken over."""
    released = _released(run, name)
    return released.settings if released else run.profile.generator_settings(name)


def train_autoencoder(run: Run, name: str = "diffusion", progress_bar: bool = True) -> Training:
    """The autoencoder of the run's generator `name`, in its `autoencoder_room`; on the training part alone.

    That of the released generator, where this one is taken over.
    Raises InputError if the generator works without one.
    """
    room = autoencoder_room(run, name)
    if room is None:
        raise InputError(f"this profile's {name} works on pixels: it has no autoencoder")
    settings = settings_of(run, name).autoencoder
    lesions = training_part(run)
    torch.manual_seed(run.seed)
    autoencoder = Autoencoder(settings)
    with room_of_all(run, room) as folder:
        return train(
            autoencoder, lesions, settings.training, folder, seed=run.seed,
            augment=flip_and_turn, description={"trained_on": run.training_fingerprint()},
            progress_bar=progress_bar,
        )  # fmt: skip


def _released(run: Run, name: str) -> Generator | None:
    """The released generator that the run has taken over, if any; of several processes the first takes it."""
    with PartialState().main_process_first():
        taken = take_over(run, name)
    return load_generator(run.folder / "generators" / name / WEIGHTS) if taken else None


def autoencoder_room(run: Run, name: str) -> str | None:
    """The room of a generator's autoencoder, None if it has none; those with equal settings share one."""
    could = [n for n in run.profile.generators if hasattr(run.profile.generator_settings(n), "autoencoder")]
    settings = {n: settings_of(run, n).autoencoder for n in could}
    if settings.get(name) is None:
        return None
    first = next(n for n in could if settings[n] is not None)
    owner = next(n for n in could if settings[n] == settings[name])
    return SHARED if owner == first else f"generators/{owner}-autoencoder"


def seconds_before(run: Run, name: str) -> float:
    """Seconds of training that came before a generator's own: those of the autoencoder, if it has one."""
    room = autoencoder_room(run, name)
    path = run.folder / (room or "") / "history.csv"
    return float(pd.read_csv(path)["seconds"].iloc[-1]) if room and path.is_file() else 0.0


def make_synthetic(run: Run, name: str, progress_bar: bool = True) -> LesionSet:
    """The run's synthetic set of the generator `name`, in `generators/<name>/synthetic/`, verified."""
    settings = run.profile.synthesis
    with run.room(f"generators/{name}") as folder:
        if (folder / "synthetic").exists():
            return read_synthetic(folder / "synthetic")
        counts = requested_counts(
            part_of(run, "train").labels, settings.minority_share, settings.evaluation_images,
            max(run.profile.probe.ratios),
        )  # fmt: skip
        return synthesize(
            run.require(f"generators/{name}/{WEIGHTS}", f"the notebook of the {name}"), counts,
            # Far from the seeds of the other generators and of the pictures in the notebooks.
            1_000_000 * (1 + GENERATORS.index(name)) + 10_000_000 * run.seed,
            folder / "synthetic", settings.batch_size, progress=progress_bar,
        )  # fmt: skip


def synthetic_of(run: Run, name: str) -> LesionSet:
    """The finished synthetic set of a generator; raises InputError if its notebook has not been run,
    or if it was trained on other images than this run's training part."""
    if name not in REGISTRY:
        raise InputError(f"no generator is called {name!r}; there are {', '.join(GENERATORS)}")
    folder = run.require(f"generators/{name}/synthetic", REGISTRY[name].chapter)
    trained_on = set(read_manifest(folder)["trained_on"])
    if trained_on != {run.training_fingerprint()}:
        raise InputError(
            f"{folder} comes from a generator trained on other images than this run's training part"
        )
    return read_synthetic(folder)


def classifier_room(run: Run, arm: str, seed: int, protocol: str | None = None) -> str:
    """The room of one classifier; those under the other protocol than the run's are apart from its own."""
    own = protocol in (None, run.profile.data.protocol)
    return f"classifiers/{arm}{'' if own else f'-{protocol}-split'}/seed-{seed}"


def training_part(run: Run, protocol: str | None = None) -> LesionSet:
    """The real training images; of several processes the first reads and splits, the others find it done."""
    with PartialState().main_process_first():
        lesions = part_of(run, "train", protocol)
    refuse_synthetic(lesions, "the real training images")
    return lesions


@contextmanager
def room_of_all(run: Run, name: str) -> Iterator[Path]:
    """`run.room`, entered by all processes of one training together; the first one holds its lock."""
    if PartialState().is_main_process:
        with run.room(name) as folder:
            yield folder
    else:
        yield run.folder / name


def main(arguments: list[str] | None = None) -> int:
    """Train a generator or classifier of a run; exit code 0, or 2 with a line that says what is wrong."""
    from hamsynth_utils.fine_tuning import fine_tune  # it works in the rooms of this module

    parser = argparse.ArgumentParser(prog="python -m hamsynth_utils.rooms", description=main.__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--generator", choices=GENERATORS)
    what.add_argument("--arm", choices=ARMS, help="of a classifier")
    parser.add_argument("--classifier-seed", type=int, default=0)
    parser.add_argument("--protocol", choices=["lesion", "image"], help="its split, if not the run's")
    parser.add_argument("--run", required=True)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--data", default="phantom")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    state = PartialState()
    first = state.is_main_process
    try:
        with state.main_process_first():
            run = Run.open(options.run, options.profile, options.data, options.seed)
        if options.generator:
            room = f"generators/{options.generator}"
            training = train_generator(run, options.generator, first)
        else:
            room = classifier_room(run, options.arm, options.classifier_seed, options.protocol)
            training = fine_tune(run, options.arm, options.classifier_seed, first, options.protocol).training
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if first:
        last = training.history.iloc[-1]
        how = "was trained already" if training.loaded else "trained"
        print(f"{run.folder / room}: {how}, {int(last['step'])} steps in "
              f"{last['seconds'] / 60:.1f} min, loss {last['loss']:.4f}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
