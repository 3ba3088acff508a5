"""A small autoencoder, in whose latents a diffusion model can work (Rombach et al. 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

from hamsynth_utils.core.generator_settings import AutoencoderSettings
from hamsynth_utils.generators.perceptual import perceptual_distance
from hamsynth_utils.generators.vae import ResidualBlock
from hamsynth_utils.training.module import TrainableModule


class Autoencoder(TrainableModule):
    """Images [N, 3, S, S] in [-1, 1] to latents [N, channels, S / factor, S / factor], and back.

    Each channel of the latents is normalised to mean 0 and variance 1 over the images, so that a
    diffusion model needs no scale of its own. In training the decoder gets the latents with noise
    of standard deviation `latent_noise_std`: a diffusion model's latents are never exact, and the
    decoder must tolerate the errors. The noise has the effect of the KL term in Rombach et al.:
    neighbouring latents come to mean similar images. The loss is the mean absolute error plus
    `perceptual_weight` times the perceptual distance.

    Args:
        settings: the section `autoencoder` of a generator's settings.

    Attributes:
        limit: sampled latents are clipped to [-limit, limit].
        factor: how many pixels a side one latent position stands for, 4 or 8.
        channels: how many numbers a latent position has.
    """

    limit = 5.0

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.factor, self.channels = settings.factor, settings.channels
        # No normalisation before an output: it would remove how dark and how red an image is.
        encoder, decoder = _networks(settings)
        self.encoder = encoder  # [N, 3, S, S] -> [N, channels, S / factor, S / factor]
        self.colour_in = nn.Conv2d(
            3, settings.channels, 1
        )  # the mean colour of a position, encoded
        self.colour_out = nn.Conv2d(settings.channels, 3, 1)  # and decoded
        self.normalise = Normalisation(settings.channels)
        self.decoder = decoder  # [N, channels, S / factor, S / factor] -> [N, 3, S, S]

    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> normalised latents [N, channels, S / factor, S / factor]."""
        coarse = F.avg_pool2d(images, self.factor)  # [N, 3, S / factor, S / factor]
        return self.normalise((self.encoder(images) + self.colour_in(coarse)).float())

    def decode(self, latents: Tensor) -> Tensor:
        """[N, channels, S / factor, S / factor] -> images [N, 3, S, S], roughly in [-1, 1]."""
        coarse = F.interpolate(self.colour_out(latents), scale_factor=self.factor, mode="bilinear")
        return (self.decoder(latents) + coarse).float()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute `loss` and its parts: `absolute_error` per value and `perceptual`, a distance.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: not used.

        Returns:
            Scalars by name.
        """
        latents = self.encode(images)
        noise = self.shard.randn(*latents.shape, device=latents.device)
        decoded = self.decode(latents + self.settings.latent_noise_std * noise)
        error = F.l1_loss(decoded, images)
        difference = perceptual_distance(images, decoded).mean()
        return {
            "loss": error + self.settings.perceptual_weight * difference,
            "absolute_error": error.detach(),
            "perceptual": difference.detach(),
        }


def _networks(settings: AutoencoderSettings) -> tuple[nn.Sequential, nn.Sequential]:
    """The encoder and the decoder.

    The order in which layers are made decides which random numbers they start from: it must not
    change.
    """
    width, deep, channels = settings.width, 4 * settings.width, settings.channels
    encoder: list[nn.Module] = [
        nn.PixelUnshuffle(4),  # [N, 3, S, S] -> [N, 48, S/4, S/4]
        nn.Conv2d(48, 2 * width, 3, padding=1),  # -> [N, 2 width, S/4, S/4]
        ResidualBlock(2 * width),
    ]
    decoder: list[nn.Module] = [
        nn.Conv2d(channels, deep, 3, padding=1),  # [N, channels, h, h] -> [N, 4 width, h, h]
        ResidualBlock(deep),
    ]
    if settings.factor == 8:
        encoder += [nn.Conv2d(2 * width, deep, 4, stride=2, padding=1)]  # -> [N, 4 width, S/8, S/8]
    else:
        encoder += [nn.Conv2d(2 * width, deep, 1)]  # -> [N, 4 width, S/4, S/4]
    encoder += [ResidualBlock(deep)]
    if settings.factor == 8:
        decoder += [
            nn.Upsample(scale_factor=2),  # [N, 4 width, S/8, S/8] -> [N, 4 width, S/4, S/4]
            nn.Conv2d(deep, deep, 3, padding=1),
        ]
    decoder += [ResidualBlock(deep)]
    encoder += [nn.SiLU(), nn.Conv2d(deep, channels, 1)]  # -> [N, channels, h, h]
    decoder += [
        nn.Upsample(scale_factor=2),  # [N, 4 width, S/4, S/4] -> [N, 4 width, S/2, S/2]
        nn.Conv2d(deep, width, 3, padding=1),  # -> [N, width, S/2, S/2]
        ResidualBlock(width),
        nn.SiLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),  # -> [N, width, S, S]
        nn.Conv2d(width, width // 2, 3, padding=1),  # -> [N, width / 2, S, S]
        nn.SiLU(),
        nn.Conv2d(width // 2, 3, 3, padding=1),  # -> [N, 3, S, S]
    ]
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


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
