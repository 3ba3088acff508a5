"""A small autoencoder, in whose latents the generators work (Rombach et al. 2022)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

from hamsynth_utils.core.generator_settings import AutoencoderSettings
from hamsynth_utils.generators.autoencoder.critic import (
    ProjectedDiscriminator,
    discriminator_inputs,
    pairing_game,
)
from hamsynth_utils.generators.autoencoder.perceptual import perceptual_difference, shift_pair
from hamsynth_utils.generators.autoencoder.representation import Representation
from hamsynth_utils.generators.layers import ResidualBlock
from hamsynth_utils.training.module import TrainableModule


class Autoencoder(Representation):
    """Images [N, 3, S, S] in [-1, 1] to latents [N, channels, S / factor, S / factor], and back.

    Each channel of the latents is normalised to mean 0 and variance 1 over the images, so that a
    generator needs no scale of its own.

    Args:
        settings: the section `autoencoder` of a generator's settings.
    """

    limit = 5.0

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__()
        self.factor, self.channels = settings.factor, settings.channels
        # No normalisation before an output: it would remove how dark and how red an image is.
        self.encoder = _encoder(settings)  # [N, 3, S, S] -> [N, channels, S / factor, S / factor]
        # The mean colour of a position, encoded and decoded.
        self.colour_in = nn.Conv2d(3, settings.channels, 1)
        self.colour_out = nn.Conv2d(settings.channels, 3, 1)
        self.normalise = Normalisation(settings.channels)
        self.decoder = _decoder(settings)  # [N, channels, S / factor, S / factor] -> [N, 3, S, S]

    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> normalised latents [N, channels, S / factor, S / factor]."""
        coarse = F.avg_pool2d(images, self.factor)  # [N, 3, S / factor, S / factor]
        return self.normalise((self.encoder(images) + self.colour_in(coarse)).float())

    def decode(self, latents: Tensor) -> Tensor:
        """[N, channels, S / factor, S / factor] -> images [N, 3, S, S], roughly in [-1, 1]."""
        coarse = F.interpolate(self.colour_out(latents), scale_factor=self.factor, mode="bilinear")
        return (self.decoder(latents) + coarse).float()


class AutoencoderTraining(TrainableModule):
    """An autoencoder and the critic that it is trained against.

    The decoder gets the latents with noise of standard deviation `latent_noise_std`: a generator's
    latents are never exact, and the decoder must tolerate the errors. The noise has the effect of
    the KL term in Rombach et al.: neighbouring latents come to mean similar images.

    The loss is the mean absolute error, plus `perceptual_weight` times the perceptual distance,
    plus, once `critic_from` of the training is done, `critic_weight` times the loss against the
    critic (VQGAN, Esser et al. 2021). Absolute error and perceptual distance both accept an image
    that is smoother than the real one, because the average of all likely details is never far off.
    The critic compares the decoded image with the real one and sees that the details are missing.

    Args:
        settings: the section `autoencoder` of a generator's settings.
        image_size: S, height and width in pixels.

    Attributes:
        autoencoder: what generators use.
        critic: needed in training only.
    """

    betas: ClassVar[tuple[float, float]] = (0.5, 0.99)
    loss_floors: ClassVar[dict[str, float]] = {"discriminator": 0.05}

    def __init__(self, settings: AutoencoderSettings, image_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.autoencoder = Autoencoder(settings)
        self.critic = ProjectedDiscriminator(image_size, n_classes=1)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute `loss` and its parts.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: not used.

        Returns:
            Scalars by name: `absolute_error` per value, `perceptual`, a distance, and the
            `generator`, `discriminator` and `gradient_penalty` of `pairing_game`. Before the critic
            begins they are those of a critic that gives every image the same score.
        """
        settings = self.settings
        latents = self.autoencoder.encode(images)
        noise = self.shard.randn(*latents.shape, device=latents.device)
        decoded = self.autoencoder.decode(latents + settings.latent_noise_std * noise)
        error = F.l1_loss(decoded, images)
        shifted, shifted_decoded = shift_pair(images, decoded)
        with torch.no_grad():
            real = discriminator_inputs(shifted)
        fake = discriminator_inputs(shifted_decoded)
        difference = perceptual_difference(real[:-1], fake[:-1]).mean()
        loss = error + settings.perceptual_weight * difference
        undecided = torch.tensor(math.log(2), device=images.device)  # softplus(0)
        game = {"generator": undecided, "discriminator": undecided}
        game["gradient_penalty"] = torch.zeros((), device=images.device)
        if settings.critic_weight > 0 and self.progress >= settings.critic_from:
            game = pairing_game(self.critic, real, fake, torch.zeros_like(labels), self.shard)
            penalty = 0.5 * settings.critic_gamma * game["gradient_penalty"]
            loss = loss + settings.critic_weight * game["generator"]
            loss = loss + game["discriminator"] + penalty
        return {
            "loss": loss,
            "absolute_error": error.detach(),
            "perceptual": difference.detach(),
            **{name: value.detach() for name, value in game.items()},
        }

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The critic has `critic_rate_factor` times the rate of the autoencoder."""
        factor = self.settings.critic_rate_factor
        return [
            {"params": list(self.autoencoder.parameters()), "lr": learning_rate},
            {"params": list(self.critic.parameters()), "lr": learning_rate * factor},
        ]


def _encoder(settings: AutoencoderSettings) -> nn.Sequential:
    """[N, 3, S, S] -> [N, channels, S / factor, S / factor]."""
    width = settings.width
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(4),  # [N, 3, S, S] -> [N, 48, S/4, S/4]
        nn.Conv2d(48, 2 * width, 3, padding=1),  # -> [N, 2 width, S/4, S/4]
        ResidualBlock(2 * width),
    ]
    wide = 2 * width
    for _ in range(_halvings(settings)):
        # [N, C, h, h] -> [N, 4 width, h/2, h/2]
        layers += [nn.Conv2d(wide, 4 * width, 4, stride=2, padding=1), ResidualBlock(4 * width)]
        wide = 4 * width
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(wide, settings.channels, 1))


def _decoder(settings: AutoencoderSettings) -> nn.Sequential:
    """[N, channels, S / factor, S / factor] -> [N, 3, S, S].

    An enlargement is smooth: a repeated pixel leaves a grid that later layers must remove.
    """
    width = settings.width
    wide = 4 * width
    layers: list[nn.Module] = [nn.Conv2d(settings.channels, wide, 3, padding=1)]
    layers += [ResidualBlock(wide) for _ in range(settings.decoder_blocks)]
    for level in range(_halvings(settings) + 1):
        narrow = max(width, 4 * width // 2 ** (level + 1))
        layers += [
            nn.Upsample(scale_factor=2, mode="bilinear"),  # [N, C, h, h] -> [N, C, 2h, 2h]
            nn.Conv2d(wide, narrow, 3, padding=1),  # -> [N, C', 2h, 2h]
            *(ResidualBlock(narrow) for _ in range(settings.decoder_blocks)),
        ]
        wide = narrow
    layers += [
        nn.SiLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),  # -> [N, C, S, S]
        nn.Conv2d(wide, width // 2, 3, padding=1),  # -> [N, width / 2, S, S]
        nn.SiLU(),
        nn.Conv2d(width // 2, 3, 3, padding=1),  # -> [N, 3, S, S]
    ]
    return nn.Sequential(*layers)


def _halvings(settings: AutoencoderSettings) -> int:
    """How often the latents' side is half of the side before, from a quarter of the image's on."""
    return {4: 0, 8: 1, 16: 2}[settings.factor]


class Normalisation(nn.Module):
    """Normalise the channels of x [N, C, H, W] over the batches of all processes.

    This is torch's BatchNorm2d without weights. torch's SyncBatchNorm also covers all processes,
    but works on GPUs only.

    Args:
        channels: C.
        momentum: how much of a new batch enters the running mean and variance, which evaluation
            uses.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [N, C, H, W]; in training the running mean and variance follow the batch."""
        mean, variance = self.mean, self.variance  # [C] each
        if self.training:
            moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])  # [2, C]
            if distributed.is_initialized():
                moments = all_reduce(moments) / distributed.get_world_size()
            mean, variance = moments[0], (moments[1] - moments[0].square()).clamp(min=0)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        return (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + 1e-5).sqrt()
