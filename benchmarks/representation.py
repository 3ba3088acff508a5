"""The diffusion model on an autoencoder's latents against the same on folded pixels, in equal minutes.

    python benchmarks/representation.py path/to/ham10000 --minutes 30

The minutes of the latents hold the autoencoder's. Both sides have the same loop, solver and number of steps.
"""

from __future__ import annotations

import contest
import torch
from diffusion import train_ours

from hamsynth_utils.profile import DiffusionSettings
from hamsynth_utils.rooms import part_of


def folded(settings: DiffusionSettings) -> DiffusionSettings:
    """The settings that served folded pixels best: a U-Net of three levels, a perceptual term of its own."""
    change = {"autoencoder": None, "patch": 4, "width": 64, "width_factors": (1, 2, 4), "perceptual": 0.3}
    training = settings.training.model_copy(update={"learning_rate": 6.0e-4})
    return settings.model_copy(update={**change, "noise_shift": 2.0, "training": training})


def main() -> None:
    options = contest.arguments(__doc__, minutes=30)
    run = contest.open_run(options)
    lesions = part_of(run, "train")
    sides = {"latents": run.profile.diffusion, "folded pixels": folded(run.profile.diffusion)}
    trained = []
    for name, settings in sides.items():
        torch.manual_seed(options.seed)
        trained.append(train_ours(name, settings, lesions, options))
    table = contest.compare(run, options, trained)
    distance = table["FD-lite0"]
    contest.report("representation", table, options, {
        "FD-lite0, latents over folded pixels": (distance[0] / distance[1], "<=", 1.0),
    })  # fmt: skip


if __name__ == "__main__":
    main()
