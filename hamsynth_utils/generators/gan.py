"""A class-conditional generative adversarial network in the latents of an autoencoder.

The textbook minimax game (Goodfellow et al. 2014) is replaced by the relativistic pairing loss with
zero-centred gradient penalties on real and on generated latents (R3GAN, Huang et al. 2024), for
which the game converges locally. Both networks see latents only, as in GAT (Hyun et al. 2025):
these are much smaller than images, and the decoder supplies the texture. The class reaches the
discriminator by a projection (Miyato & Koyama 2018). Noise on all latents that it sees keeps the
discriminator from recognising the few real ones.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamsynth_utils.core.generator_settings import GANSettings
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.generators.autoencoder.critic import pairing_game
from hamsynth_utils.generators.autoencoder.latent_data import LatentData
from hamsynth_utils.generators.latent import LatentGenerator
from hamsynth_utils.generators.layers import ResidualBlock

PARTS = 4
"""Parts a side of x that the discriminator scores, unless x has fewer positions."""


START_SAMPLES = 8192
"""The synthesis network's start is fitted to so many latents at most."""


class GAN(LatentGenerator):
    """`synthesis` maps (z, y) to x; `discriminator` scores (x, y); x are latents.

    Args:
        image_size: S, height and width in pixels.
        settings: the profile's section `gan`.
        n_classes: K, the number of classes.
    """

    name: ClassVar[str] = "gan"
    settings_class: ClassVar[type[Settings]] = GANSettings
    membership_statistic: ClassVar[str] = "discriminator"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)
    loss_floors: ClassVar[dict[str, float]] = {"discriminator": 0.05}

    def __init__(self, image_size: int, settings: GANSettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        self.noise_shape = (settings.latent_size,)
        self.synthesis = SynthesisNetwork(
            self.shape, settings.latent_size, settings.width, n_classes
        )
        self.discriminator = LatentDiscriminator(
            self.shape, settings.discriminator_width, n_classes
        )

    def training_data(self, lesions: LesionSet, cache: Path | None = None) -> LatentData:
        """As `LatentGenerator.training_data`; the synthesis network's start is fitted to it."""
        data = super().training_data(lesions, cache)
        self.fit_start(data)
        return data

    def fit_start(self, data: LatentData) -> None:
        """Fit the distribution from which the synthesis network starts."""
        latents = data.latents.flatten(0, 1)  # [N, 8, *shape] -> [8N, *shape]
        labels = data.lesions.labels.repeat_interleave(data.latents.shape[1])
        rng = torch.Generator().manual_seed(0)
        some = torch.randperm(len(latents), generator=rng)[:START_SAMPLES]
        self.synthesis.fit_start(latents[some].to(self.device), labels[some].to(self.device))

    def training_step(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses of both players, from the same generated batch of the same classes.

        L_G = E[softplus(D(x) - D(G(z)))]
        L_D = E[softplus(D(G(z)) - D(x))] + r1_r2_gamma / 2 * (R1 + R2) + mismatch_weight * M

        See `pairing_game`. Every D(., y) is given the class and is averaged over its parts. M is
        the loss on real latents with a wrong class: whether x looks real can mostly be seen without
        the class, so that the discriminator would hardly look at it.

        Args:
            x: real latents, float [N, *shape].
            labels: int64 [N].

        Returns:
            `loss` is the sum L_G + L_D; `generator`, `discriminator`, `gradient_penalty` and
            `mismatch` are its terms, without weights and without gradients.
        """
        fake = self.synthesis(self.noise(len(x)), labels)  # [N, *shape]
        real, fake = self.augmented(x), self.augmented(fake)
        game = pairing_game(
            self.discriminator,
            [real],
            [fake],
            labels,
            self.shard,
            self.settings.penalty_fraction,
            self.wrong_labels(labels),
        )
        penalty = 0.5 * self.settings.r1_r2_gamma * game["gradient_penalty"]
        mismatch = self.settings.mismatch_weight * game["mismatch"]
        return {
            "loss": game["generator"] + game["discriminator"] + penalty + mismatch,
            **{name: value.detach() for name, value in game.items()},
        }

    def wrong_labels(self, labels: Tensor) -> Tensor:
        """For each of the labels [N] one of the other classes, at random."""
        others = max(1, self.n_classes - 1)
        step = 1 + (self.shard.rand(len(labels), device=labels.device) * others).long()
        return (labels + step) % self.n_classes

    def noise(self, count: int) -> Tensor:
        """z for `count` latents: [count, latent_size]."""
        return self.shard.randn(count, self.settings.latent_size, device=self.device)

    def augmented(self, x: Tensor) -> Tensor:
        """x [N, *shape] with `augmentation_noise`, which makes exact values unrecognisable."""
        return x + self.settings.augmentation_noise * self.shard.randn(*x.shape, device=x.device)

    def decode_noise(self, noise: Tensor, labels: Tensor) -> Tensor:
        """As `Generator.decode_noise`: `synthesis` makes x, which the representation decodes."""
        limit = self.representation.limit
        return self.decode_images(self.synthesis(noise, labels).clamp(-limit, limit))

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
            The mean over the parts of each image, [N], and `representation_losses`.
        """
        x = self.representation.encode(images)
        score = self.discriminator([x], labels).mean(1)  # [N, P] -> [N]
        return {"discriminator": -score, **self.representation_losses(images, x)}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The discriminator has `discriminator_rate_factor` times the rate (Heusel et al. 2017)."""
        factor = self.settings.discriminator_rate_factor
        return [
            {"params": list(self.synthesis.parameters()), "lr": learning_rate},
            {"params": list(self.discriminator.parameters()), "lr": learning_rate * factor},
        ]


class SynthesisNetwork(nn.Module):
    """(z [N, latent], y [N]) -> x [N, C, h, h].

    z first makes a sample of a normal distribution with the mean of the class and the principal
    components of real x, which `fit_start` measures. This sample has the right colours and sizes,
    but not the right shapes. A small U-Net (Ronneberger et al. 2015) turns it into x. Its last
    convolution begins with zeros, so the game starts from the normal distribution and not from
    nothing. z and the class scale and shift all feature maps (Perez et al. 2018).

    Args:
        shape: [C, h, h] of x; h is a power of two.
        latent_size: length of z, and the largest number of principal components.
        width: channels of the maps of full size; the maps of half the size have twice as many.
        n_classes: K, the number of classes.

    Attributes:
        means: of each class, [K, C * h * h].
        components: the principal directions, each as long as the deviation along it,
            [latent, C * h * h].
    """

    style_size = 256
    means: Tensor
    components: Tensor

    def __init__(
        self, shape: tuple[int, int, int], latent_size: int, width: int, n_classes: int
    ) -> None:
        super().__init__()
        self.shape, wide, values = shape, 2 * width, math.prod(shape)
        self.register_buffer("means", torch.zeros(n_classes, values))
        self.register_buffer("components", torch.randn(latent_size, values) / latent_size**0.5)
        self.class_embedding = nn.Embedding(n_classes, self.style_size)  # [N] -> [N, 256]
        self.from_latent = nn.Linear(latent_size, self.style_size)  # [N, latent] -> [N, 256]
        self.style = nn.Sequential(
            nn.SiLU(), nn.Linear(self.style_size, self.style_size), nn.SiLU()
        )
        style = self.style_size
        self.enter = nn.Conv2d(shape[0], width, 3, padding=1)  # [N, C, h, h] -> [N, width, h, h]
        self.before = ModulatedBlock(width, style)
        self.down = nn.Conv2d(width, wide, 4, stride=2, padding=1)  # -> [N, 2 width, h/2, h/2]
        self.middle = ModulatedBlock(wide, style)
        # The enlargement is smooth: a repeated position leaves a grid.
        self.up = nn.Sequential(  # -> [N, width, h, h]
            nn.Conv2d(wide, width, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear")
        )
        self.after = ModulatedBlock(width, style)
        self.leave = nn.Sequential(  # -> [N, C, h, h]
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, shape[0], 3, padding=1)
        )
        for parameter in self.leave[-1].parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit_start(self, x: Tensor, labels: Tensor) -> None:
        """Measure the means of the classes and the principal components around them.

        Args:
            x: real ones, [N, C, h, h].
            labels: y, int64 [N]; a class that does not occur gets the mean of all.
        """
        flat = x.flatten(1).float()  # [N, C * h * h]
        self.means.copy_(flat.mean(0))
        for label in labels.unique():
            self.means[label] = flat[labels == label].mean(0)
        rest = flat - self.means[labels]
        n_components = min(len(self.components), *rest.shape)
        with torch.random.fork_rng([]):  # the decomposition draws random directions
            torch.manual_seed(0)
            _, deviations, directions = torch.svd_lowrank(rest, n_components, niter=2)
        scaled = (directions * (deviations / len(rest) ** 0.5)).T  # [n_components, C * h * h]
        self.components.zero_()
        self.components[:n_components] = scaled

    def start(self, latent: Tensor, labels: Tensor) -> Tensor:
        """The sample of the fitted normal distributions that z stands for.

        Args:
            latent: z [N, latent].
            labels: y, int64 [N].

        Returns:
            [N, C, h, h].
        """
        flat = self.means[labels] + latent @ self.components  # [N, C * h * h]
        return flat.view(-1, *self.shape)

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Generate x.

        Args:
            latent: z [N, latent].
            labels: y, int64 [N].

        Returns:
            [N, C, h, h].
        """
        style = self.style(self.from_latent(latent) + self.class_embedding(labels))  # [N, 256]
        start = self.start(latent, labels)  # [N, C, h, h]
        fine = self.before(self.enter(start), style)  # [N, width, h, h]
        coarse = self.middle(self.down(fine), style)  # [N, 2 width, h/2, h/2]
        x = self.after(fine + self.up(coarse), style)  # [N, width, h, h]
        return (start + self.leave(x)).float()  # -> [N, C, h, h]


class ModulatedBlock(nn.Module):
    """A residual block of two 3x3 convolutions, whose inputs are scaled and shifted by the style.

    Args:
        channels: C, a multiple of 8.
        style_size: length of the style.
    """

    def __init__(self, channels: int, style_size: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels, affine=False)
        self.modulations = nn.ModuleList(nn.Linear(style_size, 2 * channels) for _ in range(2))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)
        )

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Transform feature maps.

        Args:
            x: [N, C, h, h].
            style: [N, style_size].

        Returns:
            [N, C, h, h].
        """
        hidden = x
        for modulation, convolution in zip(self.modulations, self.convolutions, strict=True):
            scale, shift = modulation(style)[:, :, None, None].chunk(2, dim=1)  # [N, C, 1, 1] each
            hidden = convolution(F.silu(self.norm(hidden) * (1 + scale) + shift))
        return x + hidden


class LatentDiscriminator(nn.Module):
    """(x [N, C, h, h], y [N]) -> scores [N, P] of the whole x and of its 16 parts.

    A score is psi(phi) + <embedding(y), phi> (Miyato & Koyama 2018).

    Args:
        shape: [C, h, h] of x; h is a power of two.
        width: channels of the maps of full size; the maps after have twice as many.
        n_classes: K, the number of classes.
    """

    def __init__(self, shape: tuple[int, int, int], width: int, n_classes: int) -> None:
        super().__init__()
        channels, side, _ = shape
        wide = 2 * width
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, padding=1),  # [N, C, h, h] -> [N, width, h, h]
            ResidualBlock(width),
        ]
        current = width
        while side > PARTS:
            # -> [N, 2 width, h/2, h/2]
            layers += [nn.Conv2d(current, wide, 4, stride=2, padding=1), ResidualBlock(wide)]
            current, side = wide, side // 2
        self.features = nn.Sequential(*layers, nn.SiLU())  # [N, C, h, h] -> [N, 2 width, 4, 4]
        self.whole = nn.Sequential(  # [N, 2 width, 4, 4] -> [N, 2 width, 1, 1]
            nn.Conv2d(current, current, side), nn.SiLU()
        )
        self.scores = nn.ModuleList(Projection(current, n_classes) for _ in range(2))

    def forward(self, inputs: list[Tensor], labels: Tensor) -> Tensor:
        """Score x.

        Args:
            inputs: one tensor, x [N, C, h, h].
            labels: y, int64 [N].

        Returns:
            [N, 17]; high for x that look real.
        """
        (x,) = inputs
        features = self.features(x)  # [N, 2 width, 4, 4]
        whole, parts = self.scores
        return torch.cat([whole(self.whole(features), labels), parts(features, labels)], dim=1)


class Projection(nn.Module):
    """(maps [N, C, h, h], y [N]) -> psi(phi) + <embedding(y), phi> at each position, [N, h * h].

    Args:
        channels: C.
        n_classes: K, the number of classes.
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1)  # [N, C, h, h] -> [N, 1, h, h]
        self.class_embedding = nn.Embedding(n_classes, channels)  # [N] -> [N, C]

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Score each position.

        Args:
            features: [N, C, h, h].
            labels: y, int64 [N].

        Returns:
            [N, h * h].
        """
        direction = self.class_embedding(labels)[:, :, None, None]  # [N, C, 1, 1]
        projection = (features.float() * direction / features.shape[1] ** 0.5).sum(1, keepdim=True)
        return (self.score(features).float() + projection).flatten(1)  # [N, 1, h, h] -> [N, h * h]
