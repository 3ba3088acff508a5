"""The package's sampler against 1,000 steps of DDPM with the same network.

    python benchmarks/sampling.py path/to/ham10000 --checkpoint WEIGHTS.safetensors

With guidance, 1,000 steps are 2,000 passes of the network for an image: 2,000 images take hours on
two cores.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import contest
import torch
from torch import Tensor

from hamsynth_utils.core.paths import checkpoint_of
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.generators.diffusion import Diffusion
from hamsynth_utils.generators.loading import load_generator


@torch.no_grad()
def ddpm(diffusion: Diffusion, labels: Tensor, seed: int) -> Tensor:
    """Ancestral sampling at every time (Ho et al. 2020, algorithm 2), with the same guidance."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(len(labels), *diffusion.shape, generator=draw)
    for time in reversed(range(diffusion.settings.timesteps)):
        t = torch.full_like(labels, time)
        clean = diffusion.predict(x, t, labels, diffusion.settings.guidance)
        mean, _, log_variance = diffusion.process.q_posterior(clean, x, t)
        x = mean
        if time:
            x = x + (0.5 * log_variance).exp() * torch.randn(x.shape, generator=draw)
    return diffusion.representation.decode(x).clamp(-1, 1)


def few_steps(options: argparse.Namespace) -> contest.Contestant:
    diffusion, lesions = opened(options)
    name = f"{diffusion.settings.solver}, {diffusion.settings.sampling_steps} steps"
    return contest.sampled(name, 1, 0, diffusion.sample, lesions, options)


def many_steps(options: argparse.Namespace) -> contest.Contestant:
    diffusion, lesions = opened(options)
    return contest.sampled("DDPM, 1,000 steps", 1, 0, partial(ddpm, diffusion), lesions, options)


def opened(options: argparse.Namespace) -> tuple[Diffusion, LesionSet]:
    run = contest.open_run(options)
    diffusion = load_generator(options.checkpoint, "diffusion")
    assert isinstance(diffusion, Diffusion)
    return diffusion, run.images("train")


def main() -> None:
    parser = contest.parser(__doc__, minutes=0)
    parser.add_argument("--checkpoint", type=Path, default=checkpoint_of("diffusion"))
    options = parser.parse_args()
    table = contest.compare(options, contest.side_by_side(options, few_steps, many_steps))
    table = table.drop(columns=["minutes", "training images/s"])
    speed, distance = table["samples/s"], table["FD-lite0"]
    contest.report(
        "sampling",
        table,
        options,
        {
            "samples/s, ours over DDPM": (speed[0] / speed[1], ">=", 10),
            "FD-lite0, ours over DDPM": (distance[0] / distance[1], "<=", 1.1),
        },
    )


if __name__ == "__main__":
    main()
