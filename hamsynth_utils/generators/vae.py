"""A class-conditional variational autoencoder in two stages (Dai & Wipf 2019).

A VAE's samples are as good as its prior fits the codes of the images. A standard normal prior never
fits well. Here the autoencoder is trained first, and then the prior is learned, for codes that no
longer change: a flow, as in VLAE (Chen et al. 2017).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from hamsynth_utils.core.generator_settings import VAESettings
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.generators.autoregressive_flow import AutoregressiveFlow
from hamsynth_utils.generators.base import seeded_noise
from hamsynth_utils.generators.latent import LatentGenerator


class VAE(LatentGenerator):
    """The posterior is N(encoder(x), posterior_std^2), and a flow is the prior of each class.

    The evidence lower bound has two terms (Kingma & Welling 2014). The reconstruction depends on
    encoder and decoder only, which are trained first. What is left is the KL divergence between
    posterior and prior. The prior minimises it by maximum likelihood on codes that are drawn from
    the posteriors of the training images.

    The flow is invertible: every image has its noise, see `encode_noise`, and the density of every
    code is known.

    Args:
        image_size: S, height and width in pixels.
        settings: the profile's section `vae`.
        n_classes: K, the number of classes.
    """

    name: ClassVar[str] = "vae"
    settings_class: ClassVar[type[Settings]] = VAESettings
    membership_statistic: ClassVar[str] = "kl"
    sampling_options: ClassVar[tuple[str, ...]] = ("temperature",)
    betas: ClassVar[tuple[float, float]] = (0.9, 0.95)

    def __init__(self, image_size: int, settings: VAESettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        self.noise_shape = self.shape
        self.prior = AutoregressiveFlow(
            self.shape, n_classes, settings.blocks, settings.layers, settings.width
        )

    def training_step(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the KL divergence between the posterior and the prior.

        Args:
            x: of the training images, [N, *shape].
            labels: int64 [N].

        Returns:
            `loss` in nats per number of the code; `kl` in nats per image.
        """
        kl = self.kl(x, self.shard.randn(*x.shape, device=x.device), labels).mean()
        return {"loss": kl / x[0].numel(), "kl": kl.detach()}

    def kl(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """The KL divergence between the posterior and the prior, estimated with one code per image.

        It is the mean of -log p(code | y) minus the entropy of the posterior, which is known.

        Args:
            x: means of the posteriors, [N, *shape].
            noise: standard normal, [N, *shape] or [1, *shape].
            labels: int64 [N].

        Returns:
            Nats per image, [N].
        """
        deviation = self.settings.posterior_std
        entropy = x[0].numel() * (0.5 * math.log(2 * math.pi * math.e) + math.log(deviation))
        return self.prior.negative_log_likelihood(x + deviation * noise, labels) - entropy

    def decode_noise(
        self, noise: Tensor, labels: Tensor, temperature: float | None = None
    ) -> Tensor:
        """As `Generator.decode_noise`, with the noise scaled by `temperature`.

        Args:
            noise: standard normal, [N, *shape].
            labels: int64 [N].
            temperature: None for the settings'. Below 1, images are more typical and vary less.
        """
        scale = self.settings.temperature if temperature is None else temperature
        code = self.prior.to_x(scale * noise, labels)
        limit = self.representation.limit
        return self.decode_images(code.clamp(-limit, limit))

    @torch.no_grad()
    def encode_noise(self, images: Tensor, labels: Tensor) -> Tensor:
        """The noise from which `decode_noise` makes the reconstructions of images.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].

        Returns:
            [N, *shape].
        """
        noise, _ = self.prior.to_noise(self.representation.encode(images), labels)
        return noise / self.settings.temperature

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """`kl`, averaged over codes with the same noises for all, and `representation_losses`.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].
            seed: of the noises.
            noise_levels: how many codes per image.

        Returns:
            `kl` in nats [N], and the others by name.
        """
        x = self.representation.encode(images)
        noises = seeded_noise(self.shape, seed, noise_levels, self.device)
        kl = torch.stack([self.kl(x, noise[None], labels) for noise in noises]).mean(0)
        return {"kl": kl, **self.representation_losses(images, x)}
