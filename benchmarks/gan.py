"""The package's GAN against a DCGAN with the minimax loss.

python benchmarks/gan.py path/to/ham10000 --minutes 20
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import contest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT = 100


def dcgan() -> tuple[nn.Sequential, nn.Sequential]:
    """Generator and discriminator of Radford et al. (2016) for 64 pixels, initialised as there."""
    up: list[nn.Module] = [nn.ConvTranspose2d(LATENT, 512, 4), nn.BatchNorm2d(512), nn.ReLU()]
    down: list[nn.Module] = []
    for more, less in pairwise([512, 256, 128, 64]):
        up += [nn.ConvTranspose2d(more, less, 4, 2, 1), nn.BatchNorm2d(less), nn.ReLU()]
        down = [nn.Conv2d(less, more, 4, 2, 1), nn.BatchNorm2d(more), nn.LeakyReLU(0.2), *down]
    generator = nn.Sequential(*up, nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh())
    discriminator = nn.Sequential(
        nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2), *down, nn.Conv2d(512, 1, 4), nn.Flatten()
    )
    for layer in (*generator, *discriminator):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)
    return generator, discriminator


def dcgan_side(options: argparse.Namespace) -> contest.Contestant:
    lesions = contest.open_run(options).images("train")
    torch.manual_seed(options.seed)
    generator, discriminator = (net.to(memory_format=torch.channels_last) for net in dcgan())
    generator_optimizer, discriminator_optimizer = (
        torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for net in (generator, discriminator)
    )
    began, seen = time.monotonic(), 0
    for images, _ in contest.batches_for(lesions, 64, options):
        fake = generator(torch.randn(len(images), LATENT, 1, 1))
        discriminator_optimizer.zero_grad()
        (
            F.softplus(-discriminator(images)) + F.softplus(discriminator(fake.detach()))
        ).mean().backward()
        discriminator_optimizer.step()
        generator_optimizer.zero_grad()
        (-F.softplus(discriminator(fake))).mean().backward()  # log(1 - D(G(z))), to be made small
        generator_optimizer.step()
        seen += len(images)

    @torch.no_grad()
    def sample(labels: Tensor, seed: int) -> Tensor:
        """With batch statistics, as in training: running statistics lag in a short training."""
        draw = torch.Generator().manual_seed(seed)
        return generator(torch.randn(len(labels), LATENT, 1, 1, generator=draw))

    return contest.sampled(
        "minimax DCGAN", time.monotonic() - began, seen, sample, lesions, options
    )


def our_side(options: argparse.Namespace) -> contest.Contestant:
    return contest.trained_side("HamSynth GAN", "gan", options)


def main() -> None:
    options = contest.arguments(__doc__, minutes=20)
    table = contest.compare(options, contest.side_by_side(options, our_side, dcgan_side))
    distance, recall = table["FD-lite0"], table["recall"]
    contest.report(
        "gan",
        table,
        options,
        {
            "FD-lite0, ours over DCGAN": (distance[0] / distance[1], "<=", 0.5),
            "recall, ours minus DCGAN": (recall[0] - recall[1], ">", 0.0),
        },
    )


if __name__ == "__main__":
    main()
