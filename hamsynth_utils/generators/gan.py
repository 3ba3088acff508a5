"""A class-conditional generative adversarial network with a loss that converges locally.

The textbook minimax game (Goodfellow et al. 2014) is replaced by the relativistic pairing loss with
zero-centred gradient penalties on real and on generated images (R3GAN, Huang et al. 2024), for which the
game converges locally. The discriminator sees images only through differentiable augmentation (Zhao et
al. 2020), which keeps it from memorising a small data set.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.generators.base import Generator, seeded_noise
from hamsynth_utils.profile import GANSettings

PENALTY_STEP = 0.02
"""Standard deviation of the perturbation over which the discriminator's gradient is measured."""


class GAN(Generator):
    """`synthesis` maps (z, y) to an image, `discriminator` scores (image, y)."""

    name: ClassVar[str] = "gan"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)

    def __init__(self, image_size: int, settings: GANSettings) -> None:
        super().__init__(image_size)
        self.settings = settings
        self.synthesis = SynthesisNetwork(image_size, settings.latent_size, settings.width)
        self.discriminator = ProjectionDiscriminator(image_size, settings.width)

    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of both players, from the same generated batch of the same classes.

        L_G = E[softplus(D(x) - D(G(z)))],  L_D = E[softplus(D(G(z)) - D(x))] + penalty / 2 * (R1 + R2)
        (Huang et al. 2024, eq. 2 and 4), every D(., y) given the class. R1 and R2, the mean squared
        gradients of D at real and at generated images, are measured by finite differences,
        E[(D(x + s n) - D(x))^2] / s^2 with n ~ N(0, I) (Lin et al. 2025), which costs no second derivative.
        Each player's parameters get the gradient of its own loss only, so that their sum can be
        minimised by one optimizer (simultaneous gradient descent).
        """
        latent = torch.randn(len(images), self.settings.latent_size, device=images.device)
        fake = self.synthesis(latent, labels)

        seen = torch.cat([augment_differentiably(images), augment_differentiably(fake.detach())])
        nudged = seen + PENALTY_STEP * torch.randn_like(seen)
        score, nudged_score = self.discriminator(torch.cat([seen, nudged]), labels.repeat(4)).chunk(2)
        real_score, fake_score = score.chunk(2)
        penalty = 2 * ((nudged_score - score) ** 2).mean() / PENALTY_STEP**2  # R1 + R2
        discriminator_loss = F.softplus(fake_score - real_score).mean()

        self.discriminator.requires_grad_(False)
        faked_score = self.discriminator(augment_differentiably(fake), labels)
        self.discriminator.requires_grad_(True)
        generator_loss = F.softplus(real_score.detach() - faked_score).mean()
        return {
            "loss": generator_loss + discriminator_loss + 0.5 * self.settings.penalty * penalty,
            "generator": generator_loss.detach(),
            "discriminator": discriminator_loss.detach(),
            "gradient_penalty": penalty.detach(),
        }

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int) -> Tensor:
        labels = self.checked(labels)
        latent = seeded_noise((self.settings.latent_size,), seed, len(labels), self.device)
        return self.synthesis(latent, labels)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The discriminator learns `discriminator_rate_factor` times faster (Heusel et al. 2017)."""
        factor = self.settings.discriminator_rate_factor
        return [
            {"params": list(self.synthesis.parameters()), "lr": learning_rate},
            {"params": list(self.discriminator.parameters()), "lr": learning_rate * factor},
        ]


class SynthesisNetwork(nn.Module):
    """(z [N, latent], y [N]) -> images [N, 3, S, S] in [-1, 1].

    The latent and the class set the scale and shift of every feature map (Perez et al. 2018), from 4x4 up
    to S/2; two thin convolutions after a smooth enlargement make the image.
    """

    def __init__(self, image_size: int, latent_size: int, width: int) -> None:
        super().__init__()
        channels = _channels(image_size // 2, width)[::-1]
        self.class_embedding = nn.Embedding(len(CLASSES), latent_size)
        self.style = nn.Sequential(
            nn.Linear(2 * latent_size, 256), nn.LeakyReLU(0.2), nn.Linear(256, 256), nn.LeakyReLU(0.2)
        )
        self.start = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.blocks = nn.ModuleList(
            ModulatedBlock(before, after, 256)
            for before, after in zip([channels[0], *channels], channels, strict=False)
        )
        self.to_rgb = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(width, width // 2, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        style = self.style(torch.cat([latent, self.class_embedding(labels)], dim=1))
        x = self.start.expand(len(latent), -1, -1, -1)
        for number, block in enumerate(self.blocks):
            x = block(x if number == 0 else F.interpolate(x, scale_factor=2.0, mode="nearest"), style)
        return torch.tanh(self.to_rgb(x).float())


class ModulatedBlock(nn.Module):
    """A 3x3 convolution whose normalised output is scaled and shifted by the style."""

    def __init__(self, channels_in: int, channels_out: int, style_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.GroupNorm(8, channels_out, affine=False)
        self.to_scale_and_shift = nn.Linear(style_size, 2 * channels_out)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.to_scale_and_shift(style)[:, :, None, None].chunk(2, dim=1)
        return F.leaky_relu(self.norm(self.convolution(x)) * (1 + scale) + shift, 0.2)


class ProjectionDiscriminator(nn.Module):
    """(images [N, 3, S, S], y [N]) -> scores [N].

    psi(phi(x)) + <embedding(y), phi(x)> (Miyato & Koyama 2018).
    """

    def __init__(self, image_size: int, width: int) -> None:
        super().__init__()
        channels = _channels(image_size // 2, width)
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, channels[0], 3, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        last = channels[-1]
        layers += [nn.Conv2d(last, last, 4, groups=last), nn.Flatten()]  # one number a channel
        self.features = nn.Sequential(*layers)
        self.score = nn.Linear(last, 1)
        self.class_embedding = nn.Embedding(len(CLASSES), last)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.features(images).float()
        projection = (self.class_embedding(labels) * features).sum(1) / features.shape[1] ** 0.5
        return self.score(features).squeeze(1) + projection


def augment_differentiably(images: Tensor) -> Tensor:
    """DiffAugment (Zhao et al. 2020): brightness, saturation, contrast, translation, each image its own."""
    n, _, size, _ = images.shape
    draw = torch.rand(5, n, 1, 1, 1, device=images.device)
    images = images + 0.4 * (draw[0] - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (0.5 + draw[1]) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * (0.75 + 0.5 * draw[2]) + mean

    shift = ((2 * draw[3:5, :, 0, 0, 0] - 1) * (size // 8)).round().long()  # [2, N]
    place = torch.arange(size, device=images.device)
    rows, columns = ((place + s[:, None]).clamp(0, size - 1) for s in shift)  # edges repeated, no black
    image = torch.arange(n, device=images.device)[:, None, None]
    return images[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _channels(size: int, width: int) -> list[int]:
    """Feature channels from size x size down to 4x4: width, then doubled up to 8 * width."""
    return [width * min(2**level, 8) for level in range(size.bit_length() - 2)]
