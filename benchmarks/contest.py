"""Two models side by side: equal minutes, the same real images, one measure at one n.

Each side has a process and an even part of the cores to itself, so that whatever else slows the
machine down slows both.
"""

from __future__ import annotations

import argparse
import multiprocessing
import operator
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.data.augmentation import flip_and_turn
from hamsynth_utils.data.lesion_set import LesionSet, to_uint8, to_unit_range
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.generators.autoencoder.model import Autoencoder, AutoencoderTraining
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.loading import build_generator
from hamsynth_utils.metrics.features import (
    DISTANCE_NAME,
    KERNEL_NAME,
    cached_features,
    extract,
    load_extractor,
)
from hamsynth_utils.metrics.fidelity import (
    Measure,
    distance_with_interval,
    frechet_distance,
    kernel_distance,
    precision_recall,
    real_baseline,
)
from hamsynth_utils.training.batches import ImageData, TrainingData
from hamsynth_utils.training.loop import train
from hamsynth_utils.training.module import TrainableModule

README = Path(__file__).with_name("README.md")
REPEATS = 5
EXTRACTORS = ("vit", "efficientnet_lite0")
"""The judges: the ViT's features are in no loss, lite0's are in that of our autoencoder."""
AUTOENCODER_SHARE = 0.4
"""How much of a latent generator's minutes its autoencoder gets."""
CORES = int(os.environ.get("HAMSYNTH_THREADS") or os.cpu_count() or 1)
SIDE_THREADS = max(1, CORES // 2)
TRIAL_STEPS = 20
"""Steps by which the speed of a training is found before its length is set."""


@dataclass(frozen=True)
class Contestant:
    """What one side came to.

    seconds: how long it trained, without the short trial that sets the number of steps. images: how
    many training images it saw in that time. samples: what it made, uint8 [N, 3, S, S];
    sampling_seconds: how long that took.
    """

    name: str
    seconds: float
    images: int
    samples: np.ndarray
    sampling_seconds: float


Side = Callable[[argparse.Namespace], Contestant]
"""Trains and samples one side, in a process of its own: a function that a module knows by name."""


def arguments(description: str | None, minutes: float) -> argparse.Namespace:
    """The options that all contests share, from the command line."""
    return parser(description, minutes).parse_args()


def parser(description: str | None, minutes: float) -> argparse.ArgumentParser:
    """A parser of them."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("data", help="the folder of HAM10000")
    options.add_argument(
        "--minutes", type=float, default=minutes, help="training time of each side"
    )
    options.add_argument(
        "--samples", type=int, default=2000, help="images of each side that are measured"
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--profile", default="cpu")
    options.add_argument(
        "--keep", action="store_true", help="put the table into benchmarks/README.md"
    )
    return options


def open_run(options: argparse.Namespace, threads: int = SIDE_THREADS) -> Run:
    """Open a run with the images and their split, and set the number of torch's threads."""
    run = Run.open(
        f"benchmark-{Path(options.profile).stem}", options.profile, options.data, options.seed
    )
    torch.set_num_threads(threads)
    return run


def side_by_side(options: argparse.Namespace, *sides: Side) -> list[Contestant]:
    """Run two sides at once, each in its own process; a third starts when one of them ends."""
    open_run(options).images("train")  # read and split once, before both would
    with (
        TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool,
    ):
        options.trained = Path(folder) / "trained"
        return [future.result() for future in [pool.submit(side, options) for side in sides]]


def sampled(
    name: str,
    seconds: float,
    images: int,
    sample: Callable[[Tensor, int], Tensor],
    lesions: LesionSet,
    options: argparse.Namespace,
) -> Contestant:
    """A trained side's contestant: it draws an image for each label of `asked`.

    sample: labels int64 [N] and a seed to images [N, 3, S, S] in [-1, 1].
    """
    began = time.monotonic()
    parts = lesions.labels[asked(lesions, options)].split(50)
    made = torch.cat([to_uint8(sample(part, 1000 * k)).cpu() for k, part in enumerate(parts)])
    return Contestant(name, seconds, images, made.numpy(), time.monotonic() - began)


def asked(lesions: LesionSet, options: argparse.Namespace) -> Tensor:
    """Positions of `options.samples` random real images, whose classes every side must sample."""
    n = options.samples
    draw = np.random.default_rng(options.seed)
    return torch.from_numpy(draw.choice(len(lesions), n, replace=n > len(lesions)))


def train_for(
    module: TrainableModule,
    data: TrainingData,
    settings: TrainingSettings,
    minutes: float,
    seed: int,
) -> tuple[float, int]:
    """Train with the package's loop for about so many minutes; return its seconds and images.

    A short trial tells how many steps fit, since the learning rate must know where training ends.
    """
    start = {key: value.clone() for key, value in module.state_dict().items()}

    def seconds_of(steps: int) -> float:
        with TemporaryDirectory() as folder:
            began = time.monotonic()
            asked = settings.model_copy(update={"steps": steps, "epochs": None})
            train(module, data, asked, Path(folder), seed=seed)
            return time.monotonic() - began

    steps = max(1, round(minutes * 60 * TRIAL_STEPS / seconds_of(TRIAL_STEPS)))
    module.load_state_dict(start)
    return seconds_of(steps), steps * settings.batch_size


def trained_generator(
    title: str, ours: Generator, lesions: LesionSet, options: argparse.Namespace
) -> Contestant:
    """A generator of the package, its autoencoder first if it has one, trained and sampled."""
    seconds, minutes = 0.0, options.minutes
    space = getattr(ours, "representation", None)
    if isinstance(space, Autoencoder):
        training = AutoencoderTraining(ours.settings.autoencoder, lesions.image_size)
        seconds, _ = train_for(
            training,
            ImageData(lesions, flip_and_turn),
            ours.settings.autoencoder.training,
            AUTOENCODER_SHARE * minutes,
            options.seed,
        )
        minutes -= seconds / 60
        space.load_state_dict(training.autoencoder.state_dict())
    began = time.monotonic()
    data = ours.training_data(lesions)
    seconds += time.monotonic() - began
    more, images = train_for(ours, data, ours.settings.training, minutes, options.seed)
    print(f"{title}: {seconds / 60:.1f} min of autoencoder, then {images / more:.1f} images/s")
    options.trained.touch()
    # As many images as the speed of the generator alone would be in all these seconds.
    whole = seconds + more
    return sampled(title, whole, round(images * whole / more), ours.sample, lesions, options)


def trained_side(title: str, name: str, options: argparse.Namespace) -> Contestant:
    """A generator of the package with the profile's settings, trained for the minutes."""
    run = open_run(options)
    torch.manual_seed(options.seed)
    ours = build_generator(name, run.profile, len(run.dataset.classes))
    return trained_generator(title, ours, run.images("train"), options)


def batches_for(
    lesions: LesionSet, size: int, options: argparse.Namespace
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches [N, 3, S, S] in [-1, 1] with labels, as many as the package's side has steps.

    These were to take `options.minutes`; on a machine that others use too they may take more, for
    both sides.
    """
    draw = torch.Generator().manual_seed(options.seed)
    while not options.trained.is_file():
        picked = torch.randint(len(lesions), (size,), generator=draw)
        yield flip_and_turn(to_unit_range(lesions.images[picked]), draw), lesions.labels[picked]


def compare(options: argparse.Namespace, contestants: list[Contestant]) -> pd.DataFrame:
    """One row a contestant, and one for the floor, measured against the real training images."""
    run = open_run(options, CORES)
    n, lesions = options.samples, run.images("train")
    picked = asked(lesions, options).numpy()
    most = int(0.45 * len(lesions))
    rows: list[dict[str, Any]] = [
        {
            "model": one.name,
            "minutes": one.seconds / 60,
            "training images/s": one.images / one.seconds,
            "samples/s": n / one.sampling_seconds,
        }
        for one in contestants
    ]
    floor: dict[str, Any] = {"model": f"real against real, n = {min(n, most)}"}
    for name in EXTRACTORS:
        with run.stage_dir("features") as folder:
            real = cached_features(
                lesions.images,
                name,
                folder / f"{name}.npz",
                run.device,
                classifier=run.profile.classifier,
            )
        extractor = load_extractor(name, run.device, classifier=run.profile.classifier)
        for one, row in zip(contestants, rows, strict=True):
            features = extract(torch.from_numpy(one.samples), extractor)

            def against_real(measure: Measure, real=real, features=features) -> dict[str, float]:
                return distance_with_interval(real, features, n, REPEATS, options.seed, measure)

            row |= _columns(name, against_real)
            if name == EXTRACTORS[0]:
                row |= precision_recall(real[picked], features)
        floor |= _columns(
            name,
            lambda measure, real=real: real_baseline(
                real, lesions.table["lesion_id"], min(n, most), REPEATS, options.seed, measure
            ),
        )
    return pd.DataFrame([*rows, floor])


def _columns(
    extractor: str, value_of: Callable[[Measure], dict[str, float]]
) -> dict[str, float | str]:
    columns: dict[str, float | str] = {}
    for name, measure, digits in (
        (DISTANCE_NAME[extractor], frechet_distance, 1),
        (KERNEL_NAME[extractor], kernel_distance, 3),
    ):
        found = value_of(measure)
        columns[name] = found["mean"]
        columns[f"{name}, 95 %"] = f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"
    return columns


def report(
    name: str,
    table: pd.DataFrame,
    options: argparse.Namespace,
    verdicts: dict[str, tuple[float, str, float]],
    remark: str = "",
    counted: str = "samples each, intervals: 95 %, one more draw of real images",
    run_as: str = f"{SIDE_THREADS} thread(s) a side, both at the same time",
) -> None:
    """Print the table in Markdown, and whether each target `what: (measured, sign, bound)` is met.

    With `--keep` the same text replaces the part of benchmarks/README.md between the marks of
    `name`, and the table is written to benchmarks/<name>.csv, for a chapter to show.
    """
    shown = table.round(3).astype(object).where(table.notna(), "")
    lines = [shown.columns.tolist(), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    text = [
        f"{datetime.now(UTC).date()}, {_machine()}, {run_as}, torch {torch.__version__}; "
        f"{options.samples} {counted}"
        + (f"; {options.minutes:g} minutes each" if options.minutes else "")
        + f"; seed {options.seed}.",
        "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines),
        "\n".join(_verdict(what, *target) for what, target in verdicts.items()),
        remark,
    ]
    whole = "\n\n".join(part for part in text if part)
    print(f"\n{whole}")
    if options.keep:
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = README.read_text(encoding="utf-8").split(begin)
        after = rest.split(end)[1]
        with atomic_path(README.with_name(f"{name}.csv")) as path:
            table.assign(
                date=datetime.now(UTC).date(),
                machine=_machine(),
                threads=SIDE_THREADS,
                samples=options.samples,
                seed=options.seed,
            ).to_csv(path, index=False)
        with atomic_path(README) as path:
            path.write_text(f"{before}{begin}{whole}\n{end}{after}", encoding="utf-8")


def _verdict(what: str, measured: float, sign: str, bound: float) -> str:
    met = {">=": operator.ge, ">": operator.gt, "<=": operator.le}[sign](measured, bound)
    return f"- {what}: {measured:.2f}, target {sign} {bound:g}: {'met' if met else '**not met**'}"


def _machine() -> str:
    """The processor's name, where the system tells it."""
    names = (
        re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if platform.system() == "Linux"
        else []
    )
    return f"{len(names)} x {names[0]}" if names else platform.processor()
