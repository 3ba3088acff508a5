"""Critics that judge images by the feature maps of a pretrained network, and the game they play.

The loss is the relativistic pairing loss with zero-centred gradient penalties on real and on
generated inputs (R3GAN, Huang et al. 2024), for which the game converges locally.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamsynth_utils.generators.autoencoder.perceptual import MAP_CHANNELS, feature_maps
from hamsynth_utils.training.module import BatchShard

FINITE_DIFFERENCE_SIGMA = 0.1
"""Standard deviation of the perturbation over which the discriminator's gradient is measured, where
a feature map's mean square is one."""


PIXEL_SCALE = 2.0
"""Brings the pixels' mean square, about a quarter, to that of a feature map."""


DETAIL_SCALE = 25.0
"""The same for the finest octave, whose standard deviation on skin is about 0.04."""


def pairing_game(
    discriminator: nn.Module,
    real: list[Tensor],
    fake: list[Tensor],
    labels: Tensor,
    shard: BatchShard,
    penalty_fraction: float = 1.0,
    wrong_labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """The losses of both players of the relativistic pairing game (Huang et al. 2024, eq. 2 and 4).

        generator = E[softplus(D(x) - D(G))]
        discriminator = E[softplus(D(G) - D(x))]
        gradient_penalty = R1 + R2

    R1 and R2 are the mean squared gradients of D at real and at generated inputs. They are measured
    by finite differences, E[(D(f + s n) - D(f))^2] / s^2 with n ~ N(0, I) (Lin et al. 2025), which
    need no second derivative. With wrong labels y' the discriminator also learns to tell them from
    the right ones (the matching-aware discriminator of Reed et al. 2016, in pairs):

        mismatch = E[softplus(D(x, y') - D(x, y))]

    Each player's parameters get the gradient of that player's loss only,
    so that one optimizer can minimise the sum (simultaneous gradient descent).

    Args:
        discriminator: (inputs, y [N]) -> scores [N, P] of an image's parts.
        real: the inputs of N real images, [N, ...] each; without gradient.
        fake: the inputs of N generated ones, with the gradient of the generator.
        labels: y, int64 [N].
        shard: draws the noise of the penalty.
        penalty_fraction: the part of the images on which the penalty is measured, in (0, 1]. A
            small part makes a step cheaper and the penalty noisier.
        wrong_labels: y', int64 [N], another class than y for each real image; None for none.

    Returns:
        The scalars by name; `mismatch` is among them only with wrong labels.
    """
    both = [torch.cat([x, y.detach()]) for x, y in zip(real, fake, strict=True)]  # [2N, ...]
    measured = max(1, round(penalty_fraction * len(labels)))  # M
    some = [  # [2M, ...]
        torch.cat([x[:measured], y[:measured].detach()]) for x, y in zip(real, fake, strict=True)
    ]
    perturbed = [
        each + FINITE_DIFFERENCE_SIGMA * shard.randn(*each.shape, device=each.device)
        for each in some
    ]
    score = discriminator(both, labels.repeat(2))  # [2N, P]
    perturbed_score = discriminator(perturbed, labels[:measured].repeat(2))  # [2M, P]
    real_score, fake_score = score.chunk(2)  # [N, P] each
    same_score = torch.cat([real_score[:measured], fake_score[:measured]])
    # Twice the mean over 2M images is the sum of the two means over M.
    penalty = 2 * ((perturbed_score - same_score) ** 2).mean() / FINITE_DIFFERENCE_SIGMA**2
    discriminator.requires_grad_(False)
    fooling_score = discriminator(fake, labels)  # [N, P]
    discriminator.requires_grad_(True)
    losses = {
        "generator": F.softplus(real_score.detach() - fooling_score).mean(),
        "discriminator": F.softplus(fake_score - real_score).mean(),
        "gradient_penalty": penalty,
    }
    if wrong_labels is not None:
        wrong_score = discriminator(real, wrong_labels)  # [N, P]
        losses["mismatch"] = F.softplus(wrong_score - real_score).mean()
    return losses


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
        self.pixel_critic = TextureCritic(6, self.width // 2, n_classes)

    def forward(self, inputs: list[Tensor], labels: Tensor) -> Tensor:
        """Score images.

        Args:
            inputs: `discriminator_inputs` of N images.
            labels: y, int64 [N].

        Returns:
            [N, P], the scores of P parts of all scales; high for images that look real.
        """
        *maps, pixels = inputs  # [N, C, S/4, S/4] to [N, C, S/32, S/32], and [N, 6, S, S]
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


class TextureCritic(nn.Module):
    """(pixels [N, C, S, S], y [N]) -> scores [N, 16] of a picture's parts, from small patches.

    Every position of a grid of S/4 x S/4 sees a patch of 18 pixels and scores it as `Critic` does;
    the scores of a part are averaged. Texture repeats: it can be judged in a patch, and a critic
    that saw more would judge shapes instead (PatchGAN, Isola et al. 2017).

    Args:
        channels: C.
        width: channels of the first hidden layer; the next have twice as many.
        n_classes: K, the number of classes.
    """

    def __init__(self, channels: int, width: int, n_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),  # -> [N, width, S/2, S/2]
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # -> [N, 2 width, S/4, S/4]
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.LeakyReLU(0.2),
        )
        self.score = nn.Conv2d(2 * width, 1, 1)  # -> [N, 1, S/4, S/4]
        self.class_embedding = nn.Embedding(n_classes, 2 * width)  # [N] -> [N, 2 width]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Score the parts of pictures.

        Args:
            x: [N, C, S, S].
            labels: y, int64 [N].

        Returns:
            [N, 16].
        """
        features = self.features(x).float()  # [N, 2 width, S/4, S/4]
        direction = self.class_embedding(labels)[:, :, None, None] / features.shape[1] ** 0.5
        scores = self.score(features) + (features * direction).sum(1, keepdim=True)
        return F.adaptive_avg_pool2d(scores, 4).flatten(1)  # [N, 1, S/4, S/4] -> [N, 16]


def discriminator_inputs(images: Tensor) -> list[Tensor]:
    """What a `ProjectedDiscriminator` judges: feature maps, pixels, and the pixels' finest octave.

    The finest octave is what is left of an image when the image at half size is enlarged and
    subtracted. It is a twentieth of the image's contrast. Next to the image itself it would be lost
    in the noise of the gradient penalty, and nobody would see whether it is there.

    Args:
        images: float [N, 3, S, S] in [-1, 1].

    Returns:
        The four `feature_maps`, then pixels and detail [N, 6, S, S].
    """
    coarse = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    pixels = torch.cat([PIXEL_SCALE * images, DETAIL_SCALE * (images - coarse)], dim=1)
    return [*feature_maps(images), pixels]
