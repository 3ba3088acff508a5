"""What generators have in common that work on an autoencoder's latents, or on folded pixels.

Both have fewer positions of more channels than an image has pixels, where the same network is many times
cheaper. The U-Net is denoising-diffusion-pytorch's.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from denoising_diffusion_pytorch.classifier_free_guidance import Unet
from torch import Tensor, nn

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.generators.autoencoder import Autoencoder, AutoencoderSettings
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.settings import Count, Settings


class LatentSettings(Settings):
    width: Count = 64
    width_factors: tuple[Count, ...] = (1, 2, 4)
    autoencoder: AutoencoderSettings | None = None
    """Whose latents the U-Net works on; without one it works on the pixels, folded by `patch`."""
    patch: Literal[1, 2, 4] = 4
    """Space-to-depth: the U-Net sees image_size / patch pixels of 3 * patch**2 channels."""


class FoldedPixels(nn.Module):
    """Space to depth: every block of factor x factor pixels becomes the channels of one position.

    The same interface as `Autoencoder`, with nothing to learn and nothing lost.
    """

    limit = 1.0

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor, self.channels = factor, 3 * factor**2

    def encode(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images, self.factor)

    def decode(self, folded: Tensor) -> Tensor:
        return F.pixel_shuffle(folded, self.factor)


class LatentGenerator(Generator):
    """A generator of x, which an autoencoder or folding decodes to images.

    representation: what x is, an `Autoencoder`'s latents or `FoldedPixels`. An autoencoder is trained before
    (see `rooms.train_generator`) and held fixed here; its weights are saved with the others.
    shape: [channels, side, side] of x.
    """

    def __init__(self, image_size: int, settings: LatentSettings) -> None:
        super().__init__(image_size, settings)
        self.representation = (
            FoldedPixels(settings.patch)
            if settings.autoencoder is None
            else Autoencoder(settings.autoencoder)
        )
        side = image_size // self.representation.factor
        self.shape = (self.representation.channels, side, side)

    def new_network(self) -> Unet:
        """An untrained U-Net (x, t, y) -> output of x's shape; `class_drop` of the labels are not told."""
        return Unet(
            dim=self.settings.width,
            dim_mults=self.settings.width_factors,
            channels=self.representation.channels,
            num_classes=len(CLASSES),
            cond_drop_prob=self.settings.class_drop,
        )

    def train(self, mode: bool = True) -> Self:
        """As torch's, but the representation does not learn any more."""
        super().train(mode)
        self.representation.eval().requires_grad_(False)
        return self

    def images_of(self, x: Tensor) -> Tensor:
        """The images [N, 3, S, S] in [-1, 1] that x stands for."""
        return self.representation.decode(x).clamp(-1, 1)

    def chosen(
        self, guidance: float | None, steps: int | None, solver: str | None, solvers: tuple[str, ...]
    ) -> tuple[float, int, str]:
        """How to sample: the settings' guidance, steps and solver in place of those that are None.

        Raises InputError for a guidance below 1, or a solver that is none of `solvers`.
        """
        guidance = self.settings.guidance if guidance is None else guidance
        steps = self.settings.sampling_steps if steps is None else steps
        solver = self.settings.solver if solver is None else solver
        if not 1 <= guidance < float("inf"):
            raise InputError(f"guidance must be a number from 1 (none) up, but is {guidance}")
        if solver not in solvers:
            raise InputError(f"no solver is called {solver!r}; there are {', '.join(solvers)}")
        return guidance, steps, solver

    def representation_losses(self, images: Tensor, x: Tensor) -> dict[str, Tensor]:
        """`autoencoder`, its mean absolute error [N] on images whose latents are x; nothing without one."""
        if isinstance(self.representation, FoldedPixels):
            return {}
        return {"autoencoder": (self.representation.decode(x) - images).abs().mean((1, 2, 3))}


def guided(network: Unet, x: Tensor, t: Tensor, labels: Tensor, guidance: float) -> Tensor:
    """The U-Net's output with classifier-free guidance; 1 is none (Ho & Salimans 2022):

    output = without class + guidance * (with class - without class).
    """
    if guidance == 1:
        return network(x, t, labels, cond_drop_prob=0.0)
    # One pass over both halves is faster than two passes.
    keep = torch.arange(2 * len(x), device=x.device) < len(x)
    both = network(x.repeat(2, 1, 1, 1), t.repeat(2), labels.repeat(2), cond_keep_mask=keep)
    with_class, without_class = both.chunk(2)
    return without_class + guidance * (with_class - without_class)
