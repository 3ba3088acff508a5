"""The package's VAE against a plain convolutional one with squared error and KL.

python benchmarks/vae.py path/to/ham10000 --minutes 15
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import contest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainVAE(nn.Module):
    """The textbook VAE: four strided convolutions each way, mean squared error and KL, no class."""

    latent = 128

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, 32, 64, 128, 256]
        down = [(nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()) for a, b in pairwise(sizes)]
        up = [
            (nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU() if b > 3 else nn.Tanh())
            for a, b in pairwise(sizes[::-1])
        ]
        self.encoder = nn.Sequential(*(layer for pair in down for layer in pair), nn.Flatten())
        self.to_posterior = nn.Linear(256 * 4 * 4, 2 * self.latent)
        self.from_latent = nn.Linear(self.latent, 256 * 4 * 4)
        self.decoder = nn.Sequential(*(layer for pair in up for layer in pair))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.from_latent(z).view(-1, 256, 4, 4))

    def loss(self, images: Tensor) -> Tensor:
        mean, log_variance = self.to_posterior(self.encoder(images)).chunk(2, dim=1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = F.mse_loss(self.decode(z), images, reduction="none").flatten(1).sum(1)
        return (error + 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)).mean()


def plain_side(options: argparse.Namespace) -> contest.Contestant:
    lesions = contest.open_run(options).images("train")
    torch.manual_seed(options.seed)
    vae = PlainVAE().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    began, seen = time.monotonic(), 0
    for images, _ in contest.batches_for(lesions, 64, options):
        optimizer.zero_grad()
        vae.loss(images).backward()
        optimizer.step()
        seen += len(images)
    vae.eval()

    @torch.no_grad()
    def sample(labels: Tensor, seed: int) -> Tensor:
        return vae.decode(
            torch.randn(len(labels), vae.latent, generator=torch.Generator().manual_seed(seed))
        )

    return contest.sampled("plain VAE", time.monotonic() - began, seen, sample, lesions, options)


def our_side(options: argparse.Namespace) -> contest.Contestant:
    return contest.trained_side("HamSynth VAE", "vae", options)


def main() -> None:
    options = contest.arguments(__doc__, minutes=15)
    table = contest.compare(options, contest.side_by_side(options, our_side, plain_side))
    distance = table["FD-lite0"]
    contest.report(
        "vae", table, options, {"FD-lite0, ours over plain": (distance[0] / distance[1], "<=", 0.7)}
    )


if __name__ == "__main__":
    main()
