"""The diffusion model on an autoencoder's latents against folded pixels, in equal minutes.

    python benchmarks/representation.py path/to/ham10000 --minutes 30

The minutes of the latents hold the autoencoder's. Both sides have the same loop, solver and number
of steps.
"""

from __future__ import annotations

import argparse

import contest
import torch

from hamsynth_utils.core.generator_settings import DiffusionSettings
from hamsynth_utils.generators.diffusion import Diffusion


def folded(settings: DiffusionSettings) -> DiffusionSettings:
    """The best settings for folded pixels: a U-Net of three levels and a perceptual term."""
    change = {
        "autoencoder": None,
        "patch": 4,
        "width": 64,
        "dim_mults": (1, 2, 4),
        "perceptual_weight": 0.3,
    }
    training = settings.training.model_copy(update={"learning_rate": 6.0e-4})
    return settings.model_copy(update={**change, "schedule_shift": 2.0, "training": training})


def side(title: str, options: argparse.Namespace, folds: bool) -> contest.Contestant:
    run = contest.open_run(options)
    settings = folded(run.profile.diffusion) if folds else run.profile.diffusion
    torch.manual_seed(options.seed)
    model = Diffusion(run.profile.data.image_size, settings, len(run.dataset.classes))
    return contest.trained_generator(title, model, run.images("train"), options)


def latent_side(options: argparse.Namespace) -> contest.Contestant:
    return side("latents", options, folds=False)


def folded_side(options: argparse.Namespace) -> contest.Contestant:
    return side("folded pixels", options, folds=True)


def main() -> None:
    options = contest.arguments(__doc__, minutes=30)
    table = contest.compare(options, contest.side_by_side(options, latent_side, folded_side))
    distance = table["FD-lite0"]
    contest.report(
        "representation",
        table,
        options,
        {
            "FD-lite0, latents over folded pixels": (distance[0] / distance[1], "<=", 1.0),
        },
    )


if __name__ == "__main__":
    main()
