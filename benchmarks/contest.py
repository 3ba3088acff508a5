"""Two models side by side in one run: equal minutes, the same real images, the same measure at the same n."""

from __future__ import annotations

import argparse
import operator
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.data.lesions import LesionSet, to_uint8, to_unit_range
from hamsynth_utils.metrics.features import extract, load_extractor
from hamsynth_utils.metrics.fidelity import (
    Measure,
    distance_with_interval,
    floor,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from hamsynth_utils.profile import TrainingSettings
from hamsynth_utils.rooms import flip_and_turn, part_of
from hamsynth_utils.run import Run
from hamsynth_utils.trainable import Trainable
from hamsynth_utils.training import train

REPEATS = 5
TRIAL_STEPS = 20
"""Steps by which the speed of a training is found before its length is set."""


@dataclass(frozen=True)
class Contestant:
    """A trained model.

    seconds: how long it trained. images: how many training images it saw in that time.
    sample: labels int64 [N] and a seed to images [N, 3, S, S] in [-1, 1].
    """

    name: str
    seconds: float
    images: int
    sample: Callable[[Tensor, int], Tensor]


def arguments(description: str | None, minutes: float) -> argparse.Namespace:
    """The options that all contests share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", help="the folder of HAM10000")
    parser.add_argument("--minutes", type=float, default=minutes, help="training time of each side")
    parser.add_argument("--samples", type=int, default=2000, help="images of each side that are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default="cpu")
    return parser.parse_args()


def open_run(options: argparse.Namespace) -> Run:
    """A run that holds the images and their split; it computes on the profile's threads."""
    run = Run.open(f"benchmark-{Path(options.profile).stem}", options.profile, options.data, options.seed)
    torch.manual_seed(options.seed)
    return run


def train_for(
    module: Trainable, lesions: LesionSet, settings: TrainingSettings, minutes: float, seed: int
) -> tuple[float, int]:
    """Train by the package's own loop for about so many minutes; the seconds and images that it took.

    A short trial tells how many steps fit, since the learning rate must know where training ends.
    """
    start = {key: value.clone() for key, value in module.state_dict().items()}
    seconds = 0.0
    for steps in (TRIAL_STEPS, None):
        if steps is None:
            steps = max(1, round(minutes * 60 / (seconds / TRIAL_STEPS)))
            module.load_state_dict(start)
        with TemporaryDirectory() as folder:
            began = time.monotonic()
            asked = settings.model_copy(update={"steps": steps, "epochs": None})
            train(module, lesions, asked, Path(folder), seed=seed, augment=flip_and_turn)
            seconds = time.monotonic() - began
    return seconds, steps * settings.batch_size


def batches_for(lesions: LesionSet, size: int, minutes: float, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches [N, 3, S, S] in [-1, 1] with labels, until the minutes are over."""
    draw = torch.Generator().manual_seed(seed)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        picked = torch.randint(len(lesions), (size,), generator=draw)
        yield flip_and_turn(to_unit_range(lesions.images[picked]), draw), lesions.labels[picked]


def compare(run: Run, options: argparse.Namespace, contestants: list[Contestant]) -> pd.DataFrame:
    """One row a contestant, and one for the floor, measured against the real training images."""
    n, lesions = options.samples, part_of(run, "train")
    extractor = load_extractor("efficientnet_lite0", run.device)
    real = extract(lesions.images, extractor)
    picked = np.random.default_rng(options.seed).choice(len(lesions), n, replace=n > len(lesions))
    labels = lesions.labels[torch.from_numpy(picked)]
    rows = []
    for one in contestants:
        began = time.monotonic()
        parts = [one.sample(part, 1000 * k).cpu() for k, part in enumerate(labels.split(50))]
        sampling = time.monotonic() - began
        features = extract(to_uint8(torch.cat(parts)), extractor)

        def against_real(measure: Measure, features: np.ndarray = features) -> dict[str, float]:
            return distance_with_interval(real, features, n, REPEATS, options.seed, measure)

        shares = precision_recall(real[picked], features)
        rows.append({
            "model": one.name, "minutes": one.seconds / 60, "training images/s": one.images / one.seconds,
            "samples/s": n / sampling, **_columns(against_real), **shares,
        })  # fmt: skip
    most = int(0.45 * len(lesions))
    rows.append({
        "model": f"real against real, n = {min(n, most)}",
        **_columns(lambda measure: floor(
            real, lesions.table["lesion_id"], min(n, most), REPEATS, options.seed, measure
        )),
    })  # fmt: skip
    return pd.DataFrame(rows)


def _columns(value_of: Callable[[Measure], dict[str, float]]) -> dict[str, float | str]:
    columns: dict[str, float | str] = {}
    for name, measure, digits in (("FD-lite0", frechet_distance, 1), ("KD-lite0", kernel_distance, 3)):
        found = value_of(measure)
        columns[name] = found["mean"]
        columns[f"{name}, 95 %"] = f"{found['low']:.{digits}f} to {found['high']:.{digits}f}"
    return columns


def report(
    table: pd.DataFrame, options: argparse.Namespace, verdicts: dict[str, tuple[float, str, float]]
) -> None:
    """Print the table in Markdown, and for each target `name: (measured, sign, bound)` whether it is met."""
    print(f"\n{options.samples} samples each, {options.minutes:g} minutes each, seed {options.seed}, "
          f"{torch.get_num_threads()} threads; intervals: one more draw of real images\n")  # fmt: skip
    shown = table.round(3).astype(object).where(table.notna(), "")
    lines = [shown.columns.tolist(), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    print("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines), "\n")
    for name, (measured, sign, bound) in verdicts.items():
        met = {">=": operator.ge, ">": operator.gt, "<=": operator.le}[sign](measured, bound)
        print(f"{name}: {measured:.2f}, target {sign} {bound:g}: {'met' if met else 'NOT met'}")
