"""A class-conditional generative adversarial network whose discriminator uses pretrained features.

The textbook minimax game (Goodfellow et al. 2014) is replaced by the relativistic pairing loss with
zero-centred gradient penalties on real and on generated images (R3GAN, Huang et al. 2024), for
which the game converges locally. The discriminator judges feature maps of a frozen pretrained
network (Projected GAN, Sauer et al. 2021). These maps hardly show how dark and how red an image is,
so the discriminator judges the image itself as well (Kumari et al. 2022). All images reach it
through differentiable augmentation (Zhao et al. 2020), so that it cannot memorise a small data set.
A mode-seeking term (Mao et al. 2019) penalises a generator that answers every latent with the same
image.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamsynth_utils.core.generator_settings import GANSettings
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.perceptual import MAP_CHANNELS, feature_maps

FINITE_DIFFERENCE_SIGMA = 0.1
"""Standard deviation of the perturbation over which the discriminator's gradient is measured, where
a feature map's mean square is one."""


PIXEL_SCALE = 2.0
"""Brings the pixels' mean square, about a quarter, to that of a feature map."""


class GAN(Generator):
    """`synthesis` maps (z, y) to an image; `discriminator` scores (inputs of it, y).

    Args:
        image_size: S, height and width in pixels.
        settings: the profile's section `gan`.
        n_classes: K, the number of classes.
    """

    name: ClassVar[str] = "gan"
    settings_class: ClassVar[type[Settings]] = GANSettings
    membership_statistic: ClassVar[str] = "discriminator"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)

    def __init__(self, image_size: int, settings: GANSettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        self.noise_shape = (settings.latent_size,)
        self.synthesis = SynthesisNetwork(
            image_size, settings.latent_size, settings.width, n_classes
        )
        self.discriminator = ProjectedDiscriminator(image_size, n_classes)

    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses of both players, from the same generated batch of the same classes.

        L_G = E[softplus(D(x) - D(G(z)))] + mode_seeking * M
        L_D = E[softplus(D(G(z)) - D(x))] + r1_r2_gamma / 2 * (R1 + R2)

        See Huang et al. 2024, eq. 2 and 4. Every D(., y) is given the class and is averaged over an
        image's parts. Each player's parameters get the gradient of that player's loss only, so that
        one optimizer can minimise the sum (simultaneous gradient descent).

        Args:
            images: real images, float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].

        Returns:
            `loss` is the sum L_G + L_D; `generator`, `discriminator`, `gradient_penalty` and
            `mode_seeking` are its terms, without weights and without gradients.
        """
        latent = self.noise(len(images))  # [N, latent]
        fake = self.synthesis(latent, labels)  # [N, 3, S, S]
        with torch.no_grad():
            real_inputs = self.augmented_inputs(images)
        fake_inputs = self.augmented_inputs(fake)

        score, penalty = self.scores_and_penalty(real_inputs, fake_inputs, labels)
        real_score, fake_score = score.chunk(2)  # [N, P] each
        discriminator_loss = F.softplus(fake_score - real_score).mean()

        self.discriminator.requires_grad_(False)
        fooling_score = self.discriminator(fake_inputs, labels)  # [N, P]
        self.discriminator.requires_grad_(True)
        generator_loss = F.softplus(real_score.detach() - fooling_score).mean()
        mode_seeking = self.mode_seeking_loss(latent, fake, labels)
        return {
            "loss": generator_loss
            + self.settings.mode_seeking * mode_seeking
            + discriminator_loss
            + 0.5 * self.settings.r1_r2_gamma * penalty,
            "generator": generator_loss.detach(),
            "discriminator": discriminator_loss.detach(),
            "gradient_penalty": penalty.detach(),
            "mode_seeking": mode_seeking.detach(),
        }

    def noise(self, count: int) -> Tensor:
        """Latents for `count` images: [count, latent_size]."""
        return self.shard.randn(count, self.settings.latent_size, device=self.device)

    def augmented_inputs(self, images: Tensor) -> list[Tensor]:
        """`discriminator_inputs` of randomly augmented images [N, 3, S, S]."""
        uniforms = self.shard.rand(len(images), 5, device=images.device)
        return discriminator_inputs(augment_differentiably(images, uniforms))

    def scores_and_penalty(
        self, real_inputs: list[Tensor], fake_inputs: list[Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score real and generated images, and measure the gradient penalty R1 + R2.

        R1 and R2 are the mean squared gradients of D at the inputs of real and of generated images.
        They are measured by finite differences, E[(D(f + s n) - D(f))^2] / s^2 with n ~ N(0, I)
        (Lin et al. 2025), which need no second derivative.

        Args:
            real_inputs, fake_inputs: `discriminator_inputs` of N images each.
            labels: int64 [N].

        Returns:
            The scores [2N, P], real images first, and the penalty, a scalar.
        """
        inputs = [
            torch.cat([real, fake.detach()])  # [2N, C, H, H]
            for real, fake in zip(real_inputs, fake_inputs, strict=True)
        ]
        perturbed = [
            each + FINITE_DIFFERENCE_SIGMA * self.shard.randn(*each.shape, device=each.device)
            for each in inputs
        ]
        score = self.discriminator(inputs, labels.repeat(2))  # [2N, P]
        perturbed_score = self.discriminator(perturbed, labels.repeat(2))
        # Twice the mean over 2N images is the sum of the two means over N.
        penalty = 2 * ((perturbed_score - score) ** 2).mean() / FINITE_DIFFERENCE_SIGMA**2
        return score, penalty

    def mode_seeking_loss(self, latent: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """M = E[|z - z'| / (|G(z, y) - G(z', y)| + 0.02)] (Mao et al. 2019).

        The first half of the batch gets a second latent z' each. Images are compared at a quarter
        of their size, where grain does not count as variety. The constant 0.02 keeps the quotient
        finite.

        Args:
            latent: [N, latent_size].
            fake: the images of these latents, [N, 3, S, S].
            labels: int64 [N].

        Returns:
            A scalar, large where different latents give the same image.
        """
        half = (len(fake) + 1) // 2
        other = self.noise(half)  # [N / 2, latent]
        difference = F.avg_pool2d(self.synthesis(other, labels[:half]) - fake[:half], 4)
        image_distance = difference.abs().mean((1, 2, 3))  # [N / 2]
        latent_distance = (other - latent[:half]).abs().mean(1)  # [N / 2]
        return (latent_distance / (image_distance + 0.02)).mean()

    def decode_noise(self, noise: Tensor, labels: Tensor) -> Tensor:
        """As `Generator.decode_noise`, by the synthesis network."""
        return self.synthesis(noise, labels)

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """`discriminator`, the negative score of the discriminator (LOGAN, Hayes et al. 2019).

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].
            seed: not used, because the discriminator needs no noise.
            noise_levels: not used.

        Returns:
            The mean over the parts of each image, [N].
        """
        return {"discriminator": -self.discriminator(discriminator_inputs(images), labels).mean(1)}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The discriminator has `discriminator_rate_factor` times the rate (Heusel et al. 2017)."""
        factor = self.settings.discriminator_rate_factor
        return [
            {"params": list(self.synthesis.parameters()), "lr": learning_rate},
            {"params": list(self.discriminator.parameters()), "lr": learning_rate * factor},
        ]


class SynthesisNetwork(nn.Module):
    """(z [N, latent], y [N]) -> images [N, 3, S, S] in [-1, 1].

    The latent and the class make the first 4x4 feature maps. They also set the scale and shift of
    every later map up to S/2 (Perez et al. 2018). Two thin convolutions after a smooth enlargement
    make the image.

    Args:
        image_size: S, height and width in pixels.
        latent_size: length of z.
        width: channels of the last feature map.
        n_classes: K, the number of classes.
    """

    def __init__(self, image_size: int, latent_size: int, width: int, n_classes: int) -> None:
        super().__init__()
        channels = _channels(image_size // 2, width)[::-1]
        self.class_embedding = nn.Embedding(n_classes, latent_size)  # [N] -> [N, latent]
        self.style = nn.Sequential(
            nn.Linear(2 * latent_size, 256),  # [N, 2 latent] -> [N, 256]
            nn.LeakyReLU(0.2),
            nn.Linear(256, 256),
            nn.LeakyReLU(0.2),
        )
        self.start = nn.Linear(2 * latent_size, channels[0] * 4 * 4)  # [N, 2 latent] -> [N, C * 16]
        self.blocks = nn.ModuleList(  # each but the first: [N, C, h, h] -> [N, C', 2h, 2h]
            ModulatedBlock(before, after, 256)
            for before, after in zip([channels[0], *channels], channels, strict=False)
        )
        self.to_rgb = nn.Sequential(
            nn.Upsample(
                scale_factor=2, mode="bilinear"
            ),  # [N, width, S/2, S/2] -> [N, width, S, S]
            nn.Conv2d(width, width // 2, 3, padding=1),  # -> [N, width / 2, S, S]
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, 3, 3, padding=1),  # -> [N, 3, S, S]
        )

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Generate images.

        Args:
            latent: z [N, latent].
            labels: y, int64 [N].

        Returns:
            [N, 3, S, S] in [-1, 1].
        """
        code = torch.cat([latent, self.class_embedding(labels)], dim=1)  # [N, 2 latent]
        style = self.style(code)  # [N, 256]
        x = self.start(code).view(len(latent), -1, 4, 4)  # [N, C * 16] -> [N, C, 4, 4]
        x = self.blocks[0](x, style)
        for block in self.blocks[1:]:
            x = block(F.interpolate(x, scale_factor=2.0, mode="nearest"), style)  # size doubled
        return torch.tanh(self.to_rgb(x).float())  # [N, width, S/2, S/2] -> [N, 3, S, S]


class ModulatedBlock(nn.Module):
    """A 3x3 convolution whose normalised output is scaled and shifted by the style.

    Args:
        channels_in: C.
        channels_out: C'.
        style_size: length of the style.
    """

    def __init__(self, channels_in: int, channels_out: int, style_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.GroupNorm(8, channels_out, affine=False)
        self.to_scale_and_shift = nn.Linear(style_size, 2 * channels_out)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Convolve, normalise and modulate feature maps.

        Args:
            x: [N, C, h, h].
            style: [N, style_size].

        Returns:
            [N, C', h, h].
        """
        modulation = self.to_scale_and_shift(style)[:, :, None, None]  # [N, 2C', 1, 1]
        scale, shift = modulation.chunk(2, dim=1)  # [N, C', 1, 1] each
        # [N, C, h, h] -> [N, C', h, h]
        return F.leaky_relu(self.norm(self.convolution(x)) * (1 + scale) + shift, 0.2)


class ProjectedDiscriminator(nn.Module):
    """(`discriminator_inputs` of N images, y [N]) -> scores [N, P] of parts and scales.

    Random, fixed 1x1 convolutions mix the channels of a map and add the coarser maps to it, so that
    the generator cannot win by imitating a few prominent features (Sauer et al. 2021, sec. 3.2).
    Each scale and the pixels have a small critic of their own.

    Args:
        image_size: S, height and width in pixels.
        n_classes: K, the number of classes.
    """

    mixed = 64
    width = 64

    def __init__(self, image_size: int, n_classes: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        for level, channels in enumerate(MAP_CHANNELS):
            mixing = torch.randn(self.mixed, channels, 1, 1, generator=rng) / channels**0.5
            self.register_buffer(f"mixing_{level}", mixing, persistent=False)
        sizes = [max(1, math.ceil(image_size / stride)) for stride in (4, 8, 16, 32)]
        self.critics = nn.ModuleList(
            Critic(self.mixed, self.width, size, n_classes) for size in sizes
        )
        self.pixel_critic = Critic(3, self.width, image_size // 2, n_classes)

    def forward(self, inputs: list[Tensor], labels: Tensor) -> Tensor:
        """Score images.

        Args:
            inputs: `discriminator_inputs` of N images.
            labels: y, int64 [N].

        Returns:
            [N, P], the scores of P parts of all scales; high for images that look real.
        """
        *maps, pixels = inputs  # [N, C, S/4, S/4] to [N, C, S/32, S/32], and [N, 3, S/2, S/2]
        scores = [self.pixel_critic(pixels, labels)]
        mixed: Tensor | None = None
        for level in reversed(range(len(maps))):  # coarsest first
            own = F.conv2d(maps[level], self.get_buffer(f"mixing_{level}"))  # -> [N, 64, h, h]
            if mixed is not None:  # [N, 64, h/2, h/2] -> [N, 64, h, h]
                own = (own + F.interpolate(mixed, size=own.shape[-2:], mode="bilinear")) / 2**0.5
            mixed = own
            scores.append(self.critics[level](mixed, labels))
        return torch.cat(scores, dim=1)  # [N, P], P parts of all scales


class Critic(nn.Module):
    """(map [N, C, H, H], y [N]) -> scores [N, P] of P = 4 x 4 parts, or of H x H if H is less.

    Each part scores psi(phi) + <embedding(y), phi> (Miyato & Koyama 2018).

    Args:
        channels: C.
        width: channels of the hidden layers.
        size: H.
        n_classes: K, the number of classes.
    """

    def __init__(self, channels: int, width: int, size: int, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while size > 4:
            layers += [
                nn.Conv2d(
                    channels, width, 4, stride=2, padding=1
                ),  # [N, C, h, h] -> [N, width, h/2, h/2]
                nn.GroupNorm(8, width),
                nn.LeakyReLU(0.2),
            ]
            channels, size = width, size // 2
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)  # [N, C, H, H] -> [N, width, 4, 4]
        self.score = nn.Conv2d(width, 1, 1)  # [N, width, 4, 4] -> [N, 1, 4, 4]
        self.class_embedding = nn.Embedding(n_classes, width)  # [N] -> [N, width]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Score the parts of a map.

        Args:
            x: [N, C, H, H].
            labels: y, int64 [N].

        Returns:
            [N, P].
        """
        features = self.features(x).float()  # [N, width, 4, 4]
        direction = self.class_embedding(labels)[:, :, None, None]  # [N, width, 1, 1]
        direction = direction / features.shape[1] ** 0.5
        projection = (features * direction).sum(1, keepdim=True)  # [N, 1, 4, 4]
        return (self.score(features) + projection).flatten(1)  # [N, 1, 4, 4] -> [N, 16]


def discriminator_inputs(images: Tensor) -> list[Tensor]:
    """What a `ProjectedDiscriminator` judges: feature maps, and pixels at half size.

    Args:
        images: float [N, 3, S, S] in [-1, 1].

    Returns:
        The four `feature_maps`, then pixels [N, 3, S/2, S/2].
    """
    return [*feature_maps(images), PIXEL_SCALE * F.avg_pool2d(images, 2)]


def augment_differentiably(images: Tensor, uniforms: Tensor) -> Tensor:
    """DiffAugment (Zhao et al. 2020): brightness, saturation, contrast and translation.

    Args:
        images: float [N, 3, S, S] in [-1, 1].
        uniforms: [N, 5] in [0, 1), the strength of each change; the last two are the translation
            down and to the right.

    Returns:
        Images [N, 3, S, S]; brightness and contrast may take them out of [-1, 1].
    """
    n, _, size, _ = images.shape
    strength = uniforms.T.view(5, n, 1, 1, 1)
    images = images + 0.4 * (strength[0] - 0.5)
    grey = images.mean(dim=1, keepdim=True)  # [N, 1, S, S]
    images = (images - grey) * (0.5 + strength[1]) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)  # [N, 1, 1, 1]
    images = (images - mean) * (0.75 + 0.5 * strength[2]) + mean

    shift = ((2 * uniforms.T[3:5] - 1) * (size // 8)).round().long()  # [2, N]
    position = torch.arange(size, device=images.device)
    # Where each pixel comes from, [N, S] each; edges are repeated, so that no black border shows.
    rows, columns = ((position + s[:, None]).clamp(0, size - 1) for s in shift)
    image = torch.arange(n, device=images.device)[:, None, None]
    shifted = images[image, :, rows[:, :, None], columns[:, None, :]]  # [N, S, S, 3]
    return shifted.permute(0, 3, 1, 2)  # -> [N, 3, S, S]


def _channels(size: int, width: int) -> list[int]:
    """Feature channels from size x size down to 4x4: width, then doubled up to 8 * width."""
    return [width * min(2**level, 8) for level in range(size.bit_length() - 2)]
