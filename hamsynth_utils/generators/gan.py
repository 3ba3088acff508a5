"""A class-conditional generative adversarial network whose critic sees with pretrained eyes.

The textbook minimax game (Goodfellow et al. 2014) is replaced by the relativistic pairing loss with
zero-centred gradient penalties on real and on generated images (R3GAN, Huang et al. 2024), for which the
game converges locally. The discriminator judges feature maps of a frozen pretrained network (Projected GAN,
Sauer et al. 2021) and, since those hardly tell how dark and how red an image is, the image itself (Kumari et
al. 2022). Images reach it only through differentiable augmentation (Zhao et al. 2020), which keeps it from
memorising a small data set. A mode-seeking term (Mao et al. 2019)
forbids the generator to answer every latent with the same image.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamsynth_utils.core.generator_settings import GANSettings
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.data.lesion_set import CLASSES
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.perceptual import MAP_CHANNELS, feature_maps

FINITE_DIFFERENCE_SIGMA = 0.1
"""Standard deviation of the perturbation over which the discriminator's gradient is measured, where a feature
map's mean square is one."""


PIXEL_SCALE = 2.0
"""Brings the pixels' mean square, about a quarter, to that of a feature map."""


class GAN(Generator):
    """`synthesis` maps (z, y) to an image, `discriminator` scores (feature maps of an image, y)."""

    name: ClassVar[str] = "gan"
    settings_class: ClassVar[type[Settings]] = GANSettings
    membership_statistic: ClassVar[str] = "discriminator"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)

    def __init__(self, image_size: int, settings: GANSettings) -> None:
        super().__init__(image_size, settings)
        self.noise_shape = (settings.latent_size,)
        self.synthesis = SynthesisNetwork(image_size, settings.latent_size, settings.width)
        self.discriminator = ProjectedDiscriminator(image_size)

    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of both players, from the same generated batch of the same classes.

        L_G = E[softplus(D(x) - D(G(z)))] + mode_seeking * M,
        L_D = E[softplus(D(G(z)) - D(x))] + penalty / 2 * (R1 + R2)
        (Huang et al. 2024, eq. 2 and 4), every D(., y) given the class, averaged over an image's parts.
        R1 and R2, the mean squared gradients of D at the feature maps of real and of generated images, are
        measured by finite differences, E[(D(f + s n) - D(f))^2] / s^2 with n ~ N(0, I) (Lin et al. 2025),
        which costs no second derivative. Each player's parameters get the gradient of its own loss only, so
        that their sum can be minimised by one optimizer (simultaneous gradient descent).
        """
        latent = self.noise(len(images))
        fake = self.synthesis(latent, labels)
        with torch.no_grad():
            real_maps = self.seen(images)
        fake_maps = self.seen(fake)

        seen = [
            torch.cat([real, made.detach()])
            for real, made in zip(real_maps, fake_maps, strict=True)
        ]
        nudged = [
            each + FINITE_DIFFERENCE_SIGMA * self.shard.randn(*each.shape, device=each.device)
            for each in seen
        ]
        score = self.discriminator(seen, labels.repeat(2))
        nudged_score = self.discriminator(nudged, labels.repeat(2))
        real_score, fake_score = score.chunk(2)
        penalty = 2 * ((nudged_score - score) ** 2).mean() / FINITE_DIFFERENCE_SIGMA**2  # R1 + R2
        discriminator_loss = F.softplus(fake_score - real_score).mean()

        self.discriminator.requires_grad_(False)
        fooling_score = self.discriminator(fake_maps, labels)
        self.discriminator.requires_grad_(True)
        generator_loss = F.softplus(real_score.detach() - fooling_score).mean()
        sameness = self.sameness(latent, fake, labels)
        return {
            "loss": generator_loss
            + self.settings.mode_seeking * sameness
            + discriminator_loss
            + 0.5 * self.settings.r1_r2_gamma * penalty,
            "generator": generator_loss.detach(),
            "discriminator": discriminator_loss.detach(),
            "gradient_penalty": penalty.detach(),
            "sameness": sameness.detach(),
        }

    def noise(self, count: int) -> Tensor:
        """So many latents [count, latent_size]."""
        return self.shard.randn(count, self.settings.latent_size, device=self.device)

    def seen(self, images: Tensor) -> list[Tensor]:
        """What the discriminator sees of images, augmented: their feature maps, and themselves, halved."""
        return discriminator_inputs(
            augment_differentiably(images, self.shard.rand(len(images), 5, device=images.device))
        )

    def sameness(self, latent: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """M = E[|z - z'| / (|G(z, y) - G(z', y)| + 0.02)], mean absolute differences (Mao et al. 2019).

        For the first half of a batch, a second latent each. Images are compared at a quarter of their size,
        where grain does not pass for variety; the constant keeps the quotient finite.
        """
        half = (len(fake) + 1) // 2
        other = self.noise(half)
        apart = F.avg_pool2d(self.synthesis(other, labels[:half]) - fake[:half], 4)
        between = (other - latent[:half]).abs().mean(1)
        return (between / (apart.abs().mean((1, 2, 3)) + 0.02)).mean()

    def draw(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.synthesis(noise, labels)

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """`discriminator`, the negative score of the discriminator (LOGAN, Hayes et al. 2019)."""
        return {"discriminator": -self.discriminator(discriminator_inputs(images), labels).mean(1)}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The discriminator learns `discriminator_rate_factor` times faster (Heusel et al. 2017)."""
        factor = self.settings.discriminator_rate_factor
        return [
            {"params": list(self.synthesis.parameters()), "lr": learning_rate},
            {"params": list(self.discriminator.parameters()), "lr": learning_rate * factor},
        ]


class SynthesisNetwork(nn.Module):
    """(z [N, latent], y [N]) -> images [N, 3, S, S] in [-1, 1].

    The latent and the class make the first 4x4 feature maps, and set the scale and shift of every later one
    (Perez et al. 2018) up to S/2; two thin convolutions after a smooth enlargement make the image.
    """

    def __init__(self, image_size: int, latent_size: int, width: int) -> None:
        super().__init__()
        channels = _channels(image_size // 2, width)[::-1]
        self.class_embedding = nn.Embedding(len(CLASSES), latent_size)
        self.style = nn.Sequential(
            nn.Linear(2 * latent_size, 256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, 256),
            nn.LeakyReLU(0.2),
        )
        self.start = nn.Linear(2 * latent_size, channels[0] * 4 * 4)
        self.blocks = nn.ModuleList(
            ModulatedBlock(before, after, 256)
            for before, after in zip([channels[0], *channels], channels, strict=False)
        )
        self.to_rgb = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, 3, 3, padding=1),
        )

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        code = torch.cat([latent, self.class_embedding(labels)], dim=1)
        style = self.style(code)
        x = self.start(code).view(len(latent), -1, 4, 4)
        for number, block in enumerate(self.blocks):
            x = block(
                x if number == 0 else F.interpolate(x, scale_factor=2.0, mode="nearest"), style
            )
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


class ProjectedDiscriminator(nn.Module):
    """(what `GAN.seen` gives, y [N]) -> scores [N, P], each of one part of the image at one scale.

    Random, fixed 1x1 convolutions mix the channels of a map and add the coarser maps to it, so that the
    generator cannot win by pleasing a few prominent features (Sauer et al. 2021, sec. 3.2). Then each scale
    has a small critic of its own, and so have the pixels.
    """

    mixed = 64
    width = 64

    def __init__(self, image_size: int) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        for level, channels in enumerate(MAP_CHANNELS):
            mixing = torch.randn(self.mixed, channels, 1, 1, generator=source) / channels**0.5
            self.register_buffer(f"mixing_{level}", mixing, persistent=False)
        sizes = [max(1, math.ceil(image_size / stride)) for stride in (4, 8, 16, 32)]
        self.critics = nn.ModuleList(Critic(self.mixed, self.width, size) for size in sizes)
        self.pixel_critic = Critic(3, self.width, image_size // 2)

    def forward(self, seen: list[Tensor], labels: Tensor) -> Tensor:
        *maps, pixels = seen
        scores = [self.pixel_critic(pixels, labels)]
        mixed: Tensor | None = None
        for level in reversed(range(len(maps))):
            own = F.conv2d(maps[level], self.get_buffer(f"mixing_{level}"))
            if mixed is not None:
                own = (own + F.interpolate(mixed, size=own.shape[-2:], mode="bilinear")) / 2**0.5
            mixed = own
            scores.append(self.critics[level](mixed, labels))
        return torch.cat(scores, dim=1)


class Critic(nn.Module):
    """(map [N, C, H, H], y [N]) -> scores [N, P] of P = 4 x 4 parts, or of H x H if H is less.

    At each part psi(phi) + <embedding(y), phi> (Miyato & Koyama 2018).
    """

    def __init__(self, channels: int, width: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while size > 4:
            layers += [
                nn.Conv2d(channels, width, 4, stride=2, padding=1),
                nn.GroupNorm(8, width),
                nn.LeakyReLU(0.2),
            ]
            channels, size = width, size // 2
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.score = nn.Conv2d(width, 1, 1)
        self.class_embedding = nn.Embedding(len(CLASSES), width)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        features = self.features(x).float()
        direction = self.class_embedding(labels)[:, :, None, None] / features.shape[1] ** 0.5
        return (self.score(features) + (features * direction).sum(1, keepdim=True)).flatten(1)


def discriminator_inputs(images: Tensor) -> list[Tensor]:
    """What a `ProjectedDiscriminator` judges of images: their feature maps, and themselves, halved."""
    return [*feature_maps(images), PIXEL_SCALE * F.avg_pool2d(images, 2)]


def augment_differentiably(images: Tensor, draws: Tensor) -> Tensor:
    """DiffAugment (Zhao et al. 2020): brightness, saturation, contrast, translation, each image its own.

    draws: [N, 5] in [0, 1), how much of each; the last two are the translation down and to the right.
    """
    n, _, size, _ = images.shape
    draw = draws.T.view(5, n, 1, 1, 1)
    images = images + 0.4 * (draw[0] - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (0.5 + draw[1]) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * (0.75 + 0.5 * draw[2]) + mean

    shift = ((2 * draw[3:5, :, 0, 0, 0] - 1) * (size // 8)).round().long()  # [2, N]
    place = torch.arange(size, device=images.device)
    rows, columns = (
        (place + s[:, None]).clamp(0, size - 1) for s in shift
    )  # edges repeated, no black
    image = torch.arange(n, device=images.device)[:, None, None]
    return images[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _channels(size: int, width: int) -> list[int]:
    """Feature channels from size x size down to 4x4: width, then doubled up to 8 * width."""
    return [width * min(2**level, 8) for level in range(size.bit_length() - 2)]
