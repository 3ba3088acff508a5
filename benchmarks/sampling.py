"""The package's sampler against 1,000 steps of DDPM with the same network.

    python benchmarks/sampling.py path/to/ham10000 --checkpoint WEIGHTS.safetensors

With guidance, 1,000 steps are 2,000 passes of the network for an image: 2,000 images take hours on two cores.
"""

from __future__ import annotations

from pathlib import Path

import contest
import torch
from torch import Tensor

from hamsynth_utils.generators import load_generator
from hamsynth_utils.generators.diffusion import Diffusion


@torch.no_grad()
def ddpm(diffusion: Diffusion, labels: Tensor, seed: int) -> Tensor:
    """Ancestral sampling through every time (Ho et al. 2020, algorithm 2), with the same guidance."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(len(labels), *diffusion.shape, generator=draw)
    for time in reversed(range(diffusion.settings.timesteps)):
        t = torch.full_like(labels, time)
        clean = diffusion.predict_clean(x, t, labels, diffusion.settings.guidance)
        mean, _, log_variance = diffusion.process.q_posterior(clean, x, t)
        x = mean
        if time:
            x = x + (0.5 * log_variance).exp() * torch.randn(x.shape, generator=draw)
    return diffusion.representation.decode(x).clamp(-1, 1)


def main() -> None:
    parser = contest.parser(__doc__, minutes=0)
    parser.add_argument("--checkpoint", type=Path, required=True)
    options = parser.parse_args()
    run = contest.open_run(options)
    diffusion = load_generator(options.checkpoint, "diffusion")
    assert isinstance(diffusion, Diffusion)
    steps = diffusion.settings.sampling_steps
    table = contest.compare(run, options, [
        contest.Contestant(f"{diffusion.settings.solver}, {steps} steps", 1, 0, diffusion.sample),
        contest.Contestant("DDPM, 1,000 steps", 1, 0, lambda labels, seed: ddpm(diffusion, labels, seed)),
    ]).drop(columns=["minutes", "training images/s"])  # fmt: skip
    speed, distance = table["samples/s"], table["FD-lite0"]
    contest.report("sampling", table, options, {
        "samples/s, ours over DDPM": (speed[0] / speed[1], ">=", 10),
        "FD-lite0, ours over DDPM": (distance[0] / distance[1], "<=", 1.1),
    })  # fmt: skip


if __name__ == "__main__":
    main()
