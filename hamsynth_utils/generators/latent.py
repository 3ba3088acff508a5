"""What generators in latents share, and what diffusion and flow matching share beside.

The representation is an autoencoder's latents, or pixels rearranged to channels. Both have fewer
positions of more channels than an image has pixels, where the same network is many times cheaper.
The U-Net is denoising-diffusion-pytorch's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from denoising_diffusion_pytorch.classifier_free_guidance import Unet
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.generator_settings import LatentSettings, UNetSettings
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.generators.autoencoder.latent_data import LatentData, encoded
from hamsynth_utils.generators.autoencoder.model import Autoencoder
from hamsynth_utils.generators.autoencoder.representation import PixelUnshuffle, Representation
from hamsynth_utils.generators.base import ExportPart, Generator, seeded_noise

Prediction = Callable[[Tensor, float], Tensor]
"""(x, time) -> what the network predicts there, of x's shape."""


class LinearStep(NamedTuple):
    """One instruction of a solver: evaluate the network at a weighted sum, or show it.

    Attributes:
        weights: of the noise, and of every network output so far.
        time: where the network is evaluated at the sum; None if the sum is shown instead.
    """

    weights: list[float]
    time: float | None


class LatentGenerator(Generator):
    """A generator of x, which the representation decodes to images.

    It is trained on x, not on images: `training_data` encodes every image once.

    Attributes:
        representation: what x is, an `Autoencoder`'s latents or `PixelUnshuffle`. The autoencoder
            is trained before (see `experiment.stages.train_generator`) and frozen here; its weights
            are saved with the others.
        shape: [channels, side, side] of x.

    Args:
        image_size: S, height and width in pixels.
        settings: of the type `settings_class`.
        n_classes: K, the number of classes.
    """

    def __init__(self, image_size: int, settings: LatentSettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        self.representation: Representation = (
            PixelUnshuffle(settings.patch)
            if settings.autoencoder is None
            else Autoencoder(settings.autoencoder)
        )
        # A new module is in training mode, in which encoding would move the latents' statistics.
        self.representation.eval().requires_grad_(False)
        side = image_size // self.representation.factor
        self.shape = (self.representation.channels, side, side)

    def train(self, mode: bool = True) -> Self:
        """As torch's, but the representation stays frozen and in evaluation mode."""
        super().train(mode)
        self.representation.eval().requires_grad_(False)
        return self

    def training_data(self, lesions: LesionSet, cache: Path | None = None) -> LatentData:
        """x of every image in all eight flips and quarter turns, encoded once.

        Args:
            lesions: the training images.
            cache: a file that keeps them for the next generator on the same autoencoder; None for
                none.

        Raises:
            InputError: the file holds the latents of other images or of another autoencoder.
        """
        return encoded(lesions, self.representation, cache)

    def decode_images(self, x: Tensor) -> Tensor:
        """The images [N, 3, S, S] in [-1, 1] of x [N, *shape]."""
        return self.representation.decode(x).clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] encoded and decoded: what is left of an image that x is right for."""
        return self.decode_images(self.representation.encode(images))

    def representation_losses(self, images: Tensor, x: Tensor) -> dict[str, Tensor]:
        """How badly the autoencoder fits each image, for a membership inference attack.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            x: their latents [N, *shape].

        Returns:
            `autoencoder`, the mean absolute error [N]; nothing without an autoencoder.
        """
        if isinstance(self.representation, PixelUnshuffle):
            return {}
        return {"autoencoder": (self.representation.decode(x) - images).abs().mean((1, 2, 3))}


class SolverGenerator(LatentGenerator):
    """A generator whose x a solver computes from noise, with a U-Net that knows the way.

    Attributes:
        solvers: the names that `solver_steps` knows.
        time_dtype: the type of the times that the network is given.

    Args:
        image_size: S, height and width in pixels.
        settings: of the type `settings_class`.
        n_classes: K, the number of classes.
    """

    sampling_options: ClassVar[tuple[str, ...]] = ("guidance", "steps", "solver")
    solvers: ClassVar[tuple[str, ...]]
    time_dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, image_size: int, settings: UNetSettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        self.noise_shape = self.shape

    def new_network(self) -> Unet:
        """An untrained U-Net: (x [N, *shape], t [N], y [N]) -> [N, *shape].

        In training it sees a label with probability 1 - `cond_drop_prob`.
        """
        return Unet(
            dim=self.settings.width,
            dim_mults=self.settings.dim_mults,
            channels=self.representation.channels,
            num_classes=self.n_classes,
            cond_drop_prob=self.settings.cond_drop_prob,
        )

    @abstractmethod
    def predict(self, x: Tensor, time: float | Tensor, labels: Tensor, guidance: float) -> Tensor:
        """Evaluate the network with guidance.

        Args:
            x: [N, *shape].
            time: one time for all, or [N].
            labels: int64 [N].
            guidance: strength of classifier-free guidance; 1 is none.

        Returns:
            The prediction [N, *shape].
        """

    @abstractmethod
    def solver_steps(
        self, x: Tensor, predict: Prediction, steps: int, solver: str
    ) -> Iterator[Tensor]:
        """Compute a sample from noise, step by step.

        Every x must be a weighted sum of the noise and of the predictions before it, with weights
        that do not depend on them: `trace_solver` relies on this.

        Args:
            x: the noise.
            predict: what the network predicts at (x, time).
            steps: how many steps to take.
            solver: one of `solvers`.

        Yields:
            What is worth showing after each step; the last one is the sample.

        Raises:
            InputError: the number of steps is out of range.
        """

    @property
    def offered_steps(self) -> tuple[int, ...]:
        """The numbers of steps that a report's page offers."""
        return (self.settings.sampling_steps,)

    def decode_noise(self, noise: Tensor, labels: Tensor, **sampling_kwargs: Any) -> Tensor:
        """As `Generator.decode_noise`; `sampling_kwargs` as for `guided_trajectory`."""
        trajectory = self.guided_trajectory(noise, labels, **sampling_kwargs)
        return self.decode_images(deque(trajectory, maxlen=1).pop())

    @torch.no_grad()
    def seeded_trajectory(
        self, labels: Tensor, seed: int, **sampling_kwargs: Any
    ) -> Iterator[Tensor]:
        """What `solver_steps` yields on the way to `sample(labels, seed)`, each [N, *shape].

        Args:
            labels: int64 [N].
            seed: of the first image.
            sampling_kwargs: as for `guided_trajectory`.

        Yields:
            What is worth showing after each step; the last x is the sample.
        """
        labels = self.valid_labels(labels)
        noise = seeded_noise(self.shape, seed, len(labels), self.device)
        yield from self.guided_trajectory(noise, labels, **sampling_kwargs)

    def guided_trajectory(
        self,
        noise: Tensor,
        labels: Tensor,
        guidance: float | None = None,
        steps: int | None = None,
        solver: str | None = None,
    ) -> Iterator[Tensor]:
        """What `solver_steps` yields from noise, with guidance.

        Args:
            noise: [N, *shape].
            labels: int64 [N].
            guidance: strength of classifier-free guidance, 1 (none) or more; None for the
                settings'.
            steps: how many steps; None for the settings'.
            solver: one of `solvers`; None for the settings'.

        Returns:
            An iterator over x, [N, *shape] each; the last x is the sample.

        Raises:
            InputError: the guidance is below 1, or the solver is none of `solvers`.
        """
        guidance = self.settings.guidance if guidance is None else guidance
        steps = self.settings.sampling_steps if steps is None else steps
        solver = self.settings.solver if solver is None else solver
        if not 1 <= guidance < float("inf"):
            raise InputError(f"guidance must be a number from 1 (none) up, but is {guidance}")
        if solver not in self.solvers:
            raise InputError(f"no solver is called {solver!r}; there are {', '.join(self.solvers)}")
        return self.solver_steps(
            noise, lambda x, time: self.predict(x, time, labels, guidance), steps, solver
        )

    def trace_solver(self, steps: int) -> list[LinearStep]:
        """The path of the settings' solver as a list of instructions, which a web page can follow.

        A solver's x is a weighted sum of the noise and of the network's outputs so far. Unit
        vectors in their place make the weights visible: the solver computes with them as it does
        with images.

        Args:
            steps: how many steps the solver takes.

        Returns:
            One instruction per evaluation of the network and per shown x, in their order.
        """
        instructions: list[LinearStep] = []
        outputs = 0
        # At most two evaluations per step, and the noise: [unit, 1, 1, 1, unit].
        units = torch.eye(1 + 2 * steps, dtype=torch.float64)[:, None, None, None]

        def record(x: Tensor, time: float | None) -> None:
            """Append the weights of x, and the time of the next evaluation of the network."""
            weights = x.flatten()[: 1 + outputs].tolist()
            instructions.append(LinearStep([float(f"{w:.9g}") for w in weights], time))

        def predict(x: Tensor, time: float) -> Tensor:
            """The unit vector in place of the network's next output."""
            nonlocal outputs
            record(x, time)
            outputs += 1
            return units[outputs]

        for x in self.solver_steps(units[0], predict, steps, self.settings.solver):
            record(x, time=None)
        return instructions

    def export_parts(self) -> dict[str, ExportPart]:
        """`predict`, one evaluation of the network for one image, and `decode`, x to an image."""
        x = torch.zeros(1, *self.shape)

        def predict(x: Tensor, time: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
            """`predict` for one image, with tensors in place of numbers."""
            time = time.to(self.time_dtype)
            return self.predict(x, time, label, guidance)  # type: ignore[arg-type]

        inputs = {
            "x": x,
            "time": torch.zeros(1),
            "label": torch.tensor([0]),
            "guidance": torch.tensor(2.0),
        }
        return {"predict": (predict, inputs), "decode": (self.decode_images, {"x": x})}


def guided(network: Unet, x: Tensor, t: Tensor, labels: Tensor, guidance: float) -> Tensor:
    """The U-Net's output with classifier-free guidance (Ho & Salimans 2022).

    output = without class + guidance * (with class - without class).

    Args:
        network: (x, t, y) -> output.
        x: [N, C, H, W].
        t: times [N].
        labels: int64 [N].
        guidance: 1 for none.

    Returns:
        [N, C, H, W].
    """
    if guidance == 1:
        return network(x, t, labels, cond_drop_prob=0.0)
    # One pass over both halves is faster than two passes: [2N, C, H, W].
    keep = torch.arange(2 * len(x), device=x.device) < len(x)
    both = network(x.repeat(2, 1, 1, 1), t.repeat(2), labels.repeat(2), cond_keep_mask=keep)
    with_class, without_class = both.chunk(2)  # [N, C, H, W] each
    return without_class + guidance * (with_class - without_class)
