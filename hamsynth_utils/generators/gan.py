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
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamsynth_utils.core.generator_settings import GANSettings
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.generators.critic import pairing_game
from hamsynth_utils.generators.latent import LatentGenerator
from hamsynth_utils.generators.layers import ResidualBlock

START = 4
"""Positions a side of the synthesis network's first map and of the discriminator's last, unless x
has fewer."""


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
        self.synthesis = SynthesisNetwork(
            self.shape, settings.latent_size, settings.noise_channels, settings.width, n_classes
        )
        self.noise_shape = (self.synthesis.noise_size,)
        self.discriminator = LatentDiscriminator(
            self.shape, settings.discriminator_width, n_classes
        )

    def training_step(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses of both players, from the same generated batch of the same classes.

        L_G = E[softplus(D(x) - D(G(z)))]
        L_D = E[softplus(D(G(z)) - D(x))] + r1_r2_gamma / 2 * (R1 + R2)

        See `pairing_game`. Every D(., y) is given the class and is averaged over its parts.

        Args:
            x: real latents, float [N, *shape].
            labels: int64 [N].

        Returns:
            `loss` is the sum L_G + L_D; `generator`, `discriminator` and `gradient_penalty` are its
            terms, without weights and without gradients.
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
        )
        penalty = 0.5 * self.settings.r1_r2_gamma * game["gradient_penalty"]
        return {
            "loss": game["generator"] + game["discriminator"] + penalty,
            **{name: value.detach() for name, value in game.items()},
        }

    def noise(self, count: int) -> Tensor:
        """z for `count` latents: [count, noise_size]."""
        return self.shard.randn(count, *self.noise_shape, device=self.device)

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

    z and the class make the first 4x4 feature maps. They also set the scale and shift of every
    later map (Perez et al. 2018).

    Args:
        shape: [C, h, h] of x; h is a power of two.
        latent_size: length of z.
        width: channels of the maps of full size; the maps before have twice as many.
        n_classes: K, the number of classes.
    """

    style_size = 256

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_size: int,
        noise_channels: int,
        width: int,
        n_classes: int,
    ) -> None:
        super().__init__()
        channels, side, _ = shape
        self.latent_size, self.noise_channels, self.side = latent_size, noise_channels, side
        self.noise_size = latent_size + noise_channels * side**2
        self.start_side = min(START, side)
        doublings = round(math.log2(side / self.start_side))
        wide = 2 * width
        self.class_embedding = nn.Embedding(n_classes, latent_size)  # [N] -> [N, latent]
        self.style = nn.Sequential(
            nn.Linear(2 * latent_size, self.style_size),  # [N, 2 latent] -> [N, 256]
            nn.SiLU(),
            nn.Linear(self.style_size, self.style_size),
            nn.SiLU(),
        )
        # [N, 2 latent] -> [N, 2 width * 16]
        self.start = nn.Linear(2 * latent_size, wide * self.start_side**2)
        self.coarse = ModulatedBlock(wide, wide, self.style_size)  # 4x4
        self.growing = nn.ModuleList(  # [N, C, h, h] -> [N, C', 2h, 2h]
            ModulatedBlock(
                wide, width if i == doublings - 1 else wide, self.style_size, enlarge=True
            )
            for i in range(doublings)
        )
        fine = width if doublings else wide
        if noise_channels:
            self.grain = nn.Conv2d(noise_channels, fine, 3, padding=1)  # -> [N, width, h, h]
        self.fine = ModulatedBlock(fine, fine, self.style_size)
        self.to_x = nn.Sequential(
            nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, channels, 3, padding=1)
        )

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Generate x.

        Args:
            latent: z [N, latent].
            labels: y, int64 [N].

        Returns:
            [N, C, h, h].
        """
        latent, grain = latent.split([self.latent_size, self.noise_size - self.latent_size], dim=1)
        code = torch.cat([latent, self.class_embedding(labels)], dim=1)  # [N, 2 latent]
        style = self.style(code)  # [N, 256]
        side = self.start_side
        x = self.start(code).view(len(latent), -1, side, side)  # -> [N, 2 width, 4, 4]
        x = self.coarse(x, style)
        for block in self.growing:
            x = block(x, style)  # size doubled
        if self.noise_channels:
            x = x + self.grain(grain.view(len(x), self.noise_channels, self.side, self.side))
        return self.to_x(self.fine(x, style)).float()  # [N, width, h, h] -> [N, C, h, h]


class ModulatedBlock(nn.Module):
    """A residual block of two 3x3 convolutions, whose inputs are scaled and shifted by the style.

    Args:
        channels_in: C, a multiple of 8.
        channels_out: C', a multiple of 8.
        style_size: length of the style.
        enlarge: whether the side is doubled between the convolutions. The enlargement is smooth: a
            repeated position leaves a grid that later layers must remove.
    """

    def __init__(
        self, channels_in: int, channels_out: int, style_size: int, enlarge: bool = False
    ) -> None:
        super().__init__()
        self.modulations = nn.ModuleList(
            nn.Linear(style_size, 2 * channels) for channels in (channels_in, channels_out)
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(8, channels, affine=False) for channels in (channels_in, channels_out)
        )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels_out, 3, padding=1)
            for channels in (channels_in, channels_out)
        )
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear") if enlarge else nn.Identity()
        self.skip = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1)
        )

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Transform feature maps.

        Args:
            x: [N, C, h, h].
            style: [N, style_size].

        Returns:
            [N, C', h, h], or [N, C', 2h, 2h] if it enlarges.
        """
        hidden = self.enlarge(self._transformed(0, x, style))  # -> [N, C', h', h']
        return self.enlarge(self.skip(x)) + self._transformed(1, hidden, style)

    def _transformed(self, number: int, x: Tensor, style: Tensor) -> Tensor:
        """One normalisation, modulation and convolution: [N, C, h, h] -> [N, C', h, h]."""
        modulation = self.modulations[number](style)[:, :, None, None]  # [N, 2C, 1, 1]
        scale, shift = modulation.chunk(2, dim=1)  # [N, C, 1, 1] each
        return self.convolutions[number](F.silu(self.norms[number](x) * (1 + scale) + shift))


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
        while side > START:
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
        """[N, C, h, h] and [N] -> [N, h * h]."""
        direction = self.class_embedding(labels)[:, :, None, None]  # [N, C, 1, 1]
        projection = (features.float() * direction / features.shape[1] ** 0.5).sum(1, keepdim=True)
        return (self.score(features).float() + projection).flatten(1)  # [N, 1, h, h] -> [N, h * h]
