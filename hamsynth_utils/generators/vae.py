"""A class-conditional variational autoencoder in two stages (Dai & Wipf 2019).

A VAE's samples are as good as its prior fits the codes of the images. A standard normal prior never
fits well. Here the autoencoder is trained first, and then the prior is learned, for codes that no
longer change: a flow, as in VLAE (Chen et al. 2017).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.generator_settings import VAESettings
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.generators.autoencoder.latent_data import LatentData
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

    A class says little about an image, so that maximum likelihood alone teaches the prior too small
    a difference between classes. Sampling enlarges it: `guidance` moves the embedding of a class
    away from the mean embedding of the training images. Its cousin is the classifier-free guidance
    of diffusion models (Ho & Salimans 2022), which moves the network's output.

    Attributes:
        class_frequencies: [K], of the training images.

    Args:
        image_size: S, height and width in pixels.
        settings: the profile's section `vae`.
        n_classes: K, the number of classes.
    """

    name: ClassVar[str] = "vae"
    settings_class: ClassVar[type[Settings]] = VAESettings
    membership_statistic: ClassVar[str] = "kl"
    sampling_options: ClassVar[tuple[str, ...]] = ("guidance",)
    betas: ClassVar[tuple[float, float]] = (0.9, 0.95)
    class_frequencies: Tensor

    def __init__(self, image_size: int, settings: VAESettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        self.noise_shape = self.shape
        self.prior = AutoregressiveFlow(
            self.shape, n_classes, settings.blocks, settings.layers, settings.width
        )
        self.register_buffer("class_frequencies", torch.full((n_classes,), 1 / n_classes))

    def training_data(self, lesions: LesionSet, cache: Path | None = None) -> LatentData:
        """As `LatentGenerator.training_data`; the frequencies of the classes are noted."""
        counts = torch.bincount(lesions.labels, minlength=self.n_classes)
        self.class_frequencies.copy_(counts / counts.sum())
        return super().training_data(lesions, cache)

    def class_weights(self, labels: Tensor, guidance: float = 1.0) -> Tensor:
        """How much of each class's embedding the prior uses.

        mean + guidance * (embedding of the class - mean), with the mean of the training images.

        Args:
            labels: int64 [N].
            guidance: 1 for none.

        Returns:
            [N, K].
        """
        own = F.one_hot(labels, self.n_classes).float()
        return guidance * own + (1 - guidance) * self.class_frequencies

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
        code = x + deviation * noise
        return self.prior.negative_log_likelihood(code, self.class_weights(labels)) - entropy

    def decode_noise(self, noise: Tensor, labels: Tensor, guidance: float | None = None) -> Tensor:
        """As `Generator.decode_noise`, with guidance.

        Args:
            noise: standard normal, [N, *shape].
            labels: int64 [N].
            guidance: 1 (none) or more; None for the settings'.

        Raises:
            InputError: guidance is out of range.
        """
        guidance = self.settings.guidance if guidance is None else guidance
        if not 1 <= guidance < math.inf:
            raise InputError(f"guidance must be a number from 1 (none) up, but is {guidance}")
        code = self.prior.to_x(noise, self.class_weights(labels, guidance))
        limit = self.representation.limit
        return self.decode_images(code.clamp(-limit, limit))

    @torch.no_grad()
    def encode_noise(self, images: Tensor, labels: Tensor) -> Tensor:
        """The noise from which `decode_noise`, as set, makes the reconstructions of images.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].

        Returns:
            [N, *shape].
        """
        classes = self.class_weights(labels, self.settings.guidance)
        noise, _ = self.prior.to_noise(self.representation.encode(images), classes)
        return noise

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
