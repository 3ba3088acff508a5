"""A class-conditional flow-matching model (Lipman et al. 2023; Liu et al. 2023).

A straight line connects each noise x_0 with an x_1 of the data. A network learns the mean velocity
of the lines that pass through a point at a time. A sample is the end of the path that follows this
velocity.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.generator_settings import FlowSettings
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.generators.base import seeded_noise
from hamsynth_utils.generators.latent import Prediction, SolverGenerator, guided

SOLVERS = ("euler", "midpoint")


TIME_SCALE = 1000
"""The U-Net's embedding of time can distinguish numbers up to about this size."""


class Flow(SolverGenerator):
    """`network(x_t, 1000 t, y)` is the velocity; classes are dropped in training.

    Args:
        image_size: S, height and width in pixels.
        settings: the profile's section `flow`.
        n_classes: K, the number of classes.
    """

    name: ClassVar[str] = "flow"
    settings_class: ClassVar[type[Settings]] = FlowSettings
    membership_statistic: ClassVar[str] = "velocity"
    solvers: ClassVar[tuple[str, ...]] = SOLVERS
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)

    def __init__(self, image_size: int, settings: FlowSettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        self.network = self.new_network()

    def training_step(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the squared error of the velocity at random times (Lipman et al. 2023, eq. 23).

        Args:
            x: of the training images, [N, *shape].
            labels: int64 [N].

        Returns:
            `loss`, the mean over images and values.
        """
        times = self.shard.rand(len(x), device=x.device)
        noise = self.shard.randn(*x.shape, device=x.device)
        condition_mask = self.shard.rand(len(x), device=x.device) >= self.settings.cond_drop_prob
        errors = self.velocity_error(x, times, noise, labels, cond_keep_mask=condition_mask)
        return {"loss": errors.mean()}

    def velocity_error(
        self, x: Tensor, times: Tensor, noise: Tensor, labels: Tensor, **conditioning: Any
    ) -> Tensor:
        """Squared error of the velocity on the lines from noise to x.

        Args:
            x: data [N, *shape].
            times: [N] in [0, 1].
            noise: [N, *shape].
            labels: int64 [N].
            conditioning: which labels the network sees, as denoising-diffusion-pytorch's Unet takes
                it.

        Returns:
            The mean over the values of each x, [N].
        """
        t = times.view(-1, 1, 1, 1)
        x_t = (1 - t) * noise + t * x
        velocity = self.network(x_t, TIME_SCALE * times, labels, **conditioning).float()
        return (velocity - (x - noise)).square().mean((1, 2, 3))

    def solver_steps(
        self, x: Tensor, predict: Prediction, steps: int, solver: str
    ) -> Iterator[Tensor]:
        """The noise x, then x after each of `steps` equal steps of time.

        `euler` follows the velocity at the start of a step. `midpoint` evaluates the network again
        in the middle of the step and follows the velocity there for the whole step.

        Args:
            x: the noise [N, *shape].
            predict: the velocity at (x, time), time in [0, 1].
            steps: 1 or more.
            solver: `euler` or `midpoint`.

        Raises:
            InputError: `steps` is less than 1.
        """
        if steps < 1:
            raise InputError(f"steps must be a number from 1 up, but is {steps}")
        yield x
        for step in range(steps):
            velocity = predict(x, step / steps)
            if solver == "midpoint":
                velocity = predict(x + velocity / (2 * steps), (step + 0.5) / steps)
            x = x + velocity / steps
            yield x

    @property
    def offered_steps(self) -> tuple[int, ...]:
        """With one step the path is a straight line."""
        return tuple(sorted({1, 2, self.settings.sampling_steps, 2 * self.settings.sampling_steps}))

    def predict(self, x: Tensor, time: float | Tensor, labels: Tensor, guidance: float) -> Tensor:
        """As `SolverGenerator.predict`: the velocity; times lie in [0, 1]."""
        times = torch.as_tensor(TIME_SCALE * time, device=x.device).expand(len(x))
        return guided(self.network, x, times, labels, guidance).float()

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """`velocity`, the training error at fixed times and noises, and `representation_losses`.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].
            seed: of the noises.
            noise_levels: how many pairs of a time and a noise.

        Returns:
            Errors [N] by name.
        """
        x = self.representation.encode(images)
        noises = seeded_noise(self.shape, seed, noise_levels, self.device)
        errors = [
            self.velocity_error(
                x,
                torch.full((len(x),), (k + 0.5) / noise_levels, device=x.device),
                noise.expand_as(x),
                labels,
                cond_drop_prob=0.0,
            )
            for k, noise in enumerate(noises)
        ]
        return {"velocity": torch.stack(errors).mean(0), **self.representation_losses(images, x)}
