"""The autoencoder with its critic against the same one without, in equal minutes.

    python benchmarks/autoencoder.py path/to/ham10000 --minutes 30

Not samples are compared but test images, encoded and decoded: no generator can do better on these
latents.
"""

from __future__ import annotations

import argparse
import time

import contest
import numpy as np
import torch

from hamsynth_utils.data.augmentation import flip_and_turn
from hamsynth_utils.data.lesion_set import to_uint8, to_unit_range
from hamsynth_utils.generators.autoencoder.model import AutoencoderTraining
from hamsynth_utils.metrics.power_spectrum import fine_power
from hamsynth_utils.training.batches import ImageData


def side(
    title: str, critic_weight: float | None, options: argparse.Namespace
) -> contest.Contestant:
    run = contest.open_run(options)
    lesions, settings = run.images("train"), run.profile.autoencoder
    assert settings is not None, "the profile has no autoencoder"
    if critic_weight is not None:
        settings = settings.model_copy(update={"critic_weight": critic_weight})
    torch.manual_seed(options.seed)
    training = AutoencoderTraining(settings, lesions.image_size)
    seconds, images = contest.train_for(
        training,
        ImageData(lesions, flip_and_turn),
        settings.training,
        options.minutes,
        options.seed,
    )
    began, autoencoder = time.monotonic(), training.autoencoder
    with torch.no_grad():
        decoded = [
            to_uint8(autoencoder.decode(autoencoder.encode(to_unit_range(part)))).numpy()
            for part in run.images("test").images[: options.samples].split(50)
        ]
    return contest.Contestant(
        title, seconds, images, np.concatenate(decoded), time.monotonic() - began
    )


def with_critic(options: argparse.Namespace) -> contest.Contestant:
    return side("with critic", None, options)


def without_critic(options: argparse.Namespace) -> contest.Contestant:
    return side("without critic", 0.0, options)


def main() -> None:
    options = contest.arguments(__doc__, minutes=30)
    options.samples = min(options.samples, len(contest.open_run(options).images("test")))
    contestants = contest.side_by_side(options, with_critic, without_critic)
    table = contest.compare(options, contestants)
    real = fine_power(contest.open_run(options).images("test").images[: options.samples])
    fine = [fine_power(torch.from_numpy(one.samples)) / real for one in contestants]
    table["finer half of the spectrum"] = [*fine, 1.0]
    distance = table["FD-ViT"]
    contest.report(
        "autoencoder",
        table,
        options,
        {
            "FD-ViT, with over without": (distance[0] / distance[1], "<=", 0.5),
            "finer half of the spectrum, with critic": (fine[0], ">=", 0.7),
        },
        counted="test images, encoded and decoded, intervals: 95 %, one more draw of real images",
    )


if __name__ == "__main__":
    main()
