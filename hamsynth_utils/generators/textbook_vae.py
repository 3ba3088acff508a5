"""The textbook's class-conditional variational autoencoder, on pixels (Kingma & Welling 2014).

Chapter 2 shows with it why a VAE's samples are blurred. The training with differential privacy uses
a small one. The generator of the experiment is `vae.VAE`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hamsynth_utils.core.generator_settings import TextbookVAESettings
from hamsynth_utils.core.profile_sections import DPSettings
from hamsynth_utils.core.settings import Settings, TrainingSettings
from hamsynth_utils.generators.base import Generator, seeded_noise
from hamsynth_utils.generators.layers import ResidualBlock


class TextbookVAE(Generator):
    """q(z | x, y) and p(x | z, y) are convolutional networks; the prior p(z) is N(0, I).

    Each class has a prior of its own (Sohn et al. 2015), a normal distribution with a learned mean
    and deviation. The decoder scales and shifts z by them, and the encoder's output is standardised
    by them. In these coordinates the prior is N(0, I) for every class.

    The likelihood is Gaussian with one learned standard deviation for all pixels (sigma-VAE, Rybkin
    et al. 2021), so reconstruction and KL are both in nats and need no weight. The KL term is
    warmed up from 0 to 1 over the first `kl_warmup_fraction` of the training. It does not push a
    latent dimension below its part of `free_nats` (free bits, Kingma et al. 2016).

    Args:
        image_size: S, height and width in pixels.
        settings: the networks and the loss.
        n_classes: K, the number of classes.
    """

    name: ClassVar[str] = "textbook_vae"
    settings_class: ClassVar[type[Settings]] = TextbookVAESettings
    membership_statistic: ClassVar[str] = "elbo"

    def __init__(self, image_size: int, settings: TextbookVAESettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        width, latent = settings.width, settings.latent_size
        self.noise_shape = (latent,)
        channels = [width, 2 * width, 4 * width, 4 * width]  # after each halving of the size
        self.grid = image_size // 2 ** len(channels)
        features = channels[-1] * self.grid**2

        encoder: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]  # -> [N, width, S, S]
        for before, after in zip([width, *channels], channels, strict=False):
            # [N, C, h, h] -> [N, C', h/2, h/2]
            encoder += [nn.Conv2d(before, after, 4, stride=2, padding=1), ResidualBlock(after)]
        self.encoder = nn.Sequential(  # [N, 3, S, S] -> [N, 4 width * (S/16)^2]
            *encoder, nn.GroupNorm(8, channels[-1]), nn.SiLU(), nn.Flatten()
        )
        # [N, features + classes] -> [N, 2 latent], mean and log variance
        self.to_posterior = nn.Linear(features + n_classes, 2 * latent)

        self.class_mean = nn.Parameter(torch.zeros(n_classes, latent))
        self.class_log_deviation = nn.Parameter(torch.zeros(n_classes, latent))
        # [N, latent + classes] -> [N, 4 width * (S/16)^2]
        self.from_latent = nn.Linear(latent + n_classes, features)
        decoder: list[nn.Module] = []
        for before, after in zip(channels[::-1], [*channels[-2::-1], width], strict=True):
            decoder += [
                ResidualBlock(before),
                nn.Upsample(scale_factor=2),  # [N, C, h, h] -> [N, C, 2h, 2h]
                nn.Conv2d(before, after, 3, padding=1),  # -> [N, C', 2h, 2h]
            ]
        self.decoder = nn.Sequential(  # [N, 4 width, S/16, S/16] -> [N, 3, S, S]
            *decoder, nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)
        )
        self.log_sigma = nn.Parameter(torch.tensor(-1.0))

    def encode(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior q(z | x, y).

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].

        Returns:
            Mean and log variance, each [N, latent_size].
        """
        features = torch.cat([self.encoder(images), _one_hot(labels, self.n_classes)], dim=1)
        mean, log_variance = self.to_posterior(features).float().chunk(2, dim=1)  # [N, latent] each
        log_deviation = self.class_log_deviation[labels]
        whitened = (mean - self.class_mean[labels]) / log_deviation.exp()
        return whitened, log_variance.clamp(-14, 6) - 2 * log_deviation

    def decode(self, latent: Tensor, labels: Tensor) -> Tensor:
        """The mean of p(x | z, y).

        Args:
            latent: z [N, latent_size].
            labels: int64 [N].

        Returns:
            Images [N, 3, S, S], in [-1, 1] up to the network's error.
        """
        latent = self.class_mean[labels] + self.class_log_deviation[labels].exp() * latent
        features = self.from_latent(torch.cat([latent, _one_hot(labels, self.n_classes)], dim=1))
        maps = features.view(len(latent), -1, self.grid, self.grid)  # [N, 4 width, S/16, S/16]
        return self.decoder(maps).float()

    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the negative evidence lower bound.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].

        Returns:
            `loss` in nats per value; `reconstruction` and `kl` in nats per image.
        """
        mean, log_variance = self.encode(images, labels)
        latent = mean + (0.5 * log_variance).exp() * self.shard.randn(
            *mean.shape, device=mean.device
        )
        decoded = self.decode(latent, labels)
        reconstruction = gaussian_negative_log_likelihood(images, decoded, self.log_sigma).mean()
        kl_per_dimension = kl_to_standard_normal(mean, log_variance).mean(0)  # [latent_size]
        free = self.settings.free_nats / self.settings.latent_size
        warmup = min(1.0, self.progress / max(self.settings.kl_warmup_fraction, 1e-9))
        loss = reconstruction + warmup * kl_per_dimension.clamp(min=free).sum()
        return {
            "loss": loss / images[0].numel(),
            "reconstruction": reconstruction.detach(),
            "kl": kl_per_dimension.sum().detach(),
        }

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The priors must follow the posteriors, so they learn ten times faster."""
        priors = [self.class_mean, self.class_log_deviation]
        networks = [p for p in self.parameters() if all(p is not prior for prior in priors)]
        return [
            {"params": networks, "lr": learning_rate},
            {"params": priors, "lr": 10 * learning_rate, "weight_decay": 0.0},
        ]

    def decode_noise(self, noise: Tensor, labels: Tensor) -> Tensor:
        """As `Generator.decode_noise`: the mean of p(x | z, y), clamped."""
        return self.decode(noise, labels).clamp(-1, 1)

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """`reconstruction` and `elbo`, both in nats (Hayes et al. 2019; Hilprecht et al. 2019).

        `reconstruction` is -log p(x | z) at the posterior's mean. `elbo` is the negative evidence
        lower bound at one sample of z.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].
            seed: of the noise of z.
            noise_levels: not used.

        Returns:
            Both losses [N] by name.
        """
        mean, log_variance = self.encode(images, labels)
        noise = seeded_noise((mean.shape[1],), seed, 1, self.device)

        def error(latent: Tensor) -> Tensor:
            """The negative log likelihood [N] of the images at z [N, latent_size]."""
            return gaussian_negative_log_likelihood(
                images, self.decode(latent, labels), self.log_sigma
            )

        sampled = error(mean + (0.5 * log_variance).exp() * noise)
        return {
            "reconstruction": error(mean),
            "elbo": sampled + kl_to_standard_normal(mean, log_variance).sum(1),
        }


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) of each entry (Kingma & Welling 2014, app. B).

    Args:
        mean: any shape.
        log_variance: the same shape.

    Returns:
        Nats, of the same shape.
    """
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance)


def gaussian_negative_log_likelihood(images: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """-log N(images; mean, exp(log_sigma)^2), summed over the values of each image.

    Args:
        images: [N, 3, S, S].
        mean: [N, 3, S, S].
        log_sigma: a scalar, the log of the standard deviation of all values.

    Returns:
        Nats per image, [N].
    """
    per_value = (
        0.5 * ((images - mean) / log_sigma.exp()) ** 2 + log_sigma + 0.5 * math.log(2 * math.pi)
    )
    return per_value.flatten(1).sum(1)


def _one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """[N] -> float [N, classes]."""
    return nn.functional.one_hot(labels, n_classes).float()


def private_vae(image_size: int, settings: DPSettings, n_classes: int) -> TextbookVAE:
    """A small VAE for private training: it consists of convolutions, linear layers and GroupNorm.

    The priors of the classes stay N(0, I), and the deviation of p(x | z) is fixed. No term of the
    loss is computed over a batch, so the gradient of a photograph depends on no other photograph.

    Args:
        image_size: S, height and width in pixels.
        settings: the profile's section `dp`.
        n_classes: K, the number of classes.

    Returns:
        The untrained VAE.
    """
    length = TrainingSettings(
        steps=settings.steps,
        batch_size=settings.micro_batch_size,
        learning_rate=settings.learning_rate,
    )
    vae = TextbookVAE(
        image_size,
        TextbookVAESettings(
            latent_size=settings.latent_size, width=settings.width, training=length
        ),
        n_classes,
    )
    for fixed in (vae.class_mean, vae.class_log_deviation, vae.log_sigma):
        fixed.requires_grad_(False)
    vae.log_sigma.fill_(math.log(settings.decoder_sigma))
    return vae
