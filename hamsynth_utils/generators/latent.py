"""What generators have in common that work on an autoencoder's latents, or on folded pixels.

Both have fewer positions of more channels than an image has pixels, where the same network is many times
cheaper. The U-Net is denoising-diffusion-pytorch's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from denoising_diffusion_pytorch.classifier_free_guidance import Unet
from torch import Tensor, nn

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.generator_settings import LatentSettings
from hamsynth_utils.data.lesion_set import CLASSES
from hamsynth_utils.generators.autoencoder import Autoencoder
from hamsynth_utils.generators.base import Generator, seeded_noise

Prediction = Callable[[Tensor, float], Tensor]
"""(x, time) -> what a network says of it."""


class PixelUnshuffle(nn.Module):
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
    """A generator of x, which an autoencoder or folding decodes to images; a solver leads x there from noise.

    representation: what x is, an `Autoencoder`'s latents or `PixelUnshuffle`. An autoencoder is trained before
    (see `rooms.train_generator`) and held fixed here; its weights are saved with the others.
    shape: [channels, side, side] of x, and of the noise.
    solvers: those that `solve` knows.
    """

    sampling_options: ClassVar[tuple[str, ...]] = ("guidance", "steps", "solver")
    solvers: ClassVar[tuple[str, ...]]

    def __init__(self, image_size: int, settings: LatentSettings) -> None:
        super().__init__(image_size, settings)
        self.representation = (
            PixelUnshuffle(settings.patch)
            if settings.autoencoder is None
            else Autoencoder(settings.autoencoder)
        )
        side = image_size // self.representation.factor
        self.shape = self.noise_shape = (self.representation.channels, side, side)

    def new_network(self) -> Unet:
        """An untrained U-Net (x, t, y) -> output of x's shape; `cond_drop_prob` of the labels are not told."""
        return Unet(
            dim=self.settings.width,
            dim_mults=self.settings.dim_mults,
            channels=self.representation.channels,
            num_classes=len(CLASSES),
            cond_drop_prob=self.settings.cond_drop_prob,
        )

    def train(self, mode: bool = True) -> Self:
        """As torch's, but the representation does not learn any more."""
        super().train(mode)
        self.representation.eval().requires_grad_(False)
        return self

    def decode_images(self, x: Tensor) -> Tensor:
        """The images [N, 3, S, S] in [-1, 1] that x stands for."""
        return self.representation.decode(x).clamp(-1, 1)

    @abstractmethod
    def predict(self, x: Tensor, time: float | Tensor, labels: Tensor, guidance: float) -> Tensor:
        """What the network, with guidance, says of x at a time, or at times [N]; of x's shape."""

    @abstractmethod
    def solve(self, x: Tensor, predict: Prediction, steps: int, solver: str) -> Iterator[Tensor]:
        """What there is to see while a solver leads x from noise to the data, the sample last.

        Linear in x and in what `predict` says, from which a report's page learns how to do the same.
        """

    @property
    def offered_steps(self) -> tuple[int, ...]:
        """Numbers of steps that a report's page offers."""
        return (self.settings.sampling_steps,)

    def draw(self, noise: Tensor, labels: Tensor, **how: Any) -> Tensor:
        """As `Generator.draw`; for `how` see `solved`."""
        return self.decode_images(deque(self.solved(noise, labels, **how), maxlen=1).pop())

    @torch.no_grad()
    def path(self, labels: Tensor, seed: int, **how: Any) -> Iterator[Tensor]:
        """What `solve` yields, each [N, *shape], on the way to a sample; for `how` see `solved`."""
        labels = self.checked(labels)
        yield from self.solved(
            seeded_noise(self.shape, seed, len(labels), self.device), labels, **how
        )

    def solved(
        self,
        noise: Tensor,
        labels: Tensor,
        guidance: float | None = None,
        steps: int | None = None,
        solver: str | None = None,
    ) -> Iterator[Tensor]:
        """What `solve` yields from noise; `guidance`, `steps` and `solver` replace those of the settings.

        Raises InputError for a guidance below 1, or a solver that is none of `solvers`.
        """
        guidance = self.settings.guidance if guidance is None else guidance
        steps = self.settings.sampling_steps if steps is None else steps
        solver = self.settings.solver if solver is None else solver
        if not 1 <= guidance < float("inf"):
            raise InputError(f"guidance must be a number from 1 (none) up, but is {guidance}")
        if solver not in self.solvers:
            raise InputError(f"no solver is called {solver!r}; there are {', '.join(self.solvers)}")
        return self.solve(
            noise, lambda x, time: self.predict(x, time, labels, guidance), steps, solver
        )

    def representation_losses(self, images: Tensor, x: Tensor) -> dict[str, Tensor]:
        """`autoencoder`, its mean absolute error [N] on images whose latents are x; nothing without one."""
        if isinstance(self.representation, PixelUnshuffle):
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
