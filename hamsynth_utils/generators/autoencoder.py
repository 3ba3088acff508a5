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

    Each channel of the latents is normalised to mean 0 and variance 1 over the images, so that a diffusion
    model needs no scale of its own. In training the decoder gets them with `noise` added: what a diffusion
    model makes is never quite right, and must not fall apart when decoded. The noise does what the KL term
    does in Rombach et al.: neighbouring latents come to mean similar images. The loss is the mean absolute
    error plus `perceptual` times the perceptual distance.

    limit: latents beyond it are cut off when an image is sampled.
    """

    limit = 5.0

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.factor, self.channels = settings.factor, settings.channels
        # No normalisation stands before an output: it would take away how dark and how red an image is.
        width, deep = settings.width, 4 * settings.width

        encoder: list[nn.Module] = [nn.PixelUnshuffle(4), nn.Conv2d(48, 2 * width, 3, padding=1)]
        encoder += [ResidualBlock(2 * width)]
        decoder: list[nn.Module] = [
            nn.Conv2d(settings.channels, deep, 3, padding=1),
            ResidualBlock(deep),
        ]
        if settings.factor == 8:
            encoder += [nn.Conv2d(2 * width, deep, 4, stride=2, padding=1), ResidualBlock(deep)]
            decoder += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(deep, deep, 3, padding=1),
                ResidualBlock(deep),
            ]
        else:
            encoder += [nn.Conv2d(2 * width, deep, 1), ResidualBlock(deep)]
            decoder += [ResidualBlock(deep)]
        encoder += [nn.SiLU(), nn.Conv2d(deep, settings.channels, 1)]
        decoder += [
            nn.Upsample(scale_factor=2),
            nn.Conv2d(deep, width, 3, padding=1),
            ResidualBlock(width),
            nn.SiLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width // 2, 3, 3, padding=1),
        ]
        self.encoder = nn.Sequential(*encoder)
        self.colour_in = nn.Conv2d(3, settings.channels, 1)
        self.colour_out = nn.Conv2d(settings.channels, 3, 1)
        self.normalise = Normalisation(settings.channels)
        self.decoder = nn.Sequential(*decoder)

    def encode(self, images: Tensor) -> Tensor:
        """The latents of images."""
        coarse = F.avg_pool2d(images, self.factor)
        return self.normalise((self.encoder(images) + self.colour_in(coarse)).float())

    def decode(self, latents: Tensor) -> Tensor:
        """The images that latents stand for, about in [-1, 1]."""
        coarse = F.interpolate(self.colour_out(latents), scale_factor=self.factor, mode="bilinear")
        return (self.decoder(latents) + coarse).float()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`absolute_error` per pixel value, `perceptual` a distance; the labels are not looked at."""
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


class Normalisation(nn.Module):
    """Channels of x [N, C, H, W] to mean 0 and variance 1 over the batches of all processes.

    As torch's BatchNorm2d without weights; its SyncBatchNorm, which looks at all processes, is for GPUs only.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.mean, self.variance
        if self.training:
            moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
            if distributed.is_initialized():
                moments = all_reduce(moments) / distributed.get_world_size()
            mean, variance = moments[0], (moments[1] - moments[0].square()).clamp(min=0)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        return (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + 1e-5).sqrt()
