"""A class-conditional flow-matching model (Lipman et al. 2023; Liu et al. 2023), on latents or folded pixels.

A straight line leads from each noise x_0 to an x_1 of the data, and a network learns the mean velocity of the
lines that pass through a point at a time. A sample is where a noise arrives that follows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hamsynth_utils.errors import InputError
from hamsynth_utils.generators.base import seeded_noise
from hamsynth_utils.generators.latent import LatentGenerator, LatentSettings, guided
from hamsynth_utils.settings import Count, Settings, TrainingSettings

SOLVERS = ("euler", "midpoint")
TIME_SCALE = 1000
"""The U-Net's embedding of time tells numbers up to about so many apart."""


class FlowSettings(LatentSettings):
    class_drop: Annotated[float, Field(ge=0, le=1)] = 0.15
    guidance: Annotated[float, Field(ge=1)] = 1.5
    sampling_steps: Count = 6
    solver: Literal["euler", "midpoint"] = "midpoint"
    """Of second order, midpoint asks the network twice a step."""
    training: TrainingSettings


class Flow(LatentGenerator):
    """`network(x_t, 1000 t, y)` is the velocity; trained with classes dropped, sampled with guidance."""

    name: ClassVar[str] = "flow"
    settings_class: ClassVar[type[Settings]] = FlowSettings
    main_loss: ClassVar[str] = "velocity"
    sampling_options: ClassVar[tuple[str, ...]] = ("guidance", "steps", "solver")
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)

    def __init__(self, image_size: int, settings: FlowSettings) -> None:
        super().__init__(image_size, settings)
        self.network = self.new_network()

    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the velocity at random times, per value (Lipman et al. 2023, eq. 23)."""
        with torch.no_grad():
            x = self.representation.encode(images)
        times = self.share.uniform(len(x), device=x.device)
        noise = self.share.normal(*x.shape, device=x.device)
        told = self.share.uniform(len(x), device=x.device) >= self.settings.class_drop
        return {"loss": self.velocity_error(x, times, noise, labels, cond_keep_mask=told).mean()}

    def velocity_error(self, x: Tensor, times: Tensor, noise: Tensor, labels: Tensor, **told: Any) -> Tensor:
        """Squared error [N] of the velocity on the lines from noise to x, at times [N] in [0, 1].

        told: which of the labels the network is told, see denoising-diffusion-pytorch's Unet.
        """
        t = times.view(-1, 1, 1, 1)
        velocity = self.network((1 - t) * noise + t * x, TIME_SCALE * times, labels, **told).float()
        return (velocity - (x - noise)).square().mean((1, 2, 3))

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int, **how: Any) -> Tensor:
        """As `Generator.sample`; `how` may name guidance, steps and solver, see `path`."""
        return self.images_of(deque(self.path(labels, seed, **how), maxlen=1).pop())

    @torch.no_grad()
    def path(
        self,
        labels: Tensor,
        seed: int,
        guidance: float | None = None,
        steps: int | None = None,
        solver: str | None = None,
    ) -> Iterator[Tensor]:
        """The noise, then x after each of `steps` equal steps of time: [N, *shape].

        `guidance`, `steps` and `solver` replace those of the settings. euler goes on as it sets out; midpoint
        asks again half way, and takes the whole step with the velocity found there.
        """
        guidance, steps, solver = self.chosen(guidance, steps, solver, SOLVERS)
        if steps < 1:
            raise InputError(f"steps must be a number from 1 up, but is {steps}")
        labels = self.checked(labels)
        x = seeded_noise(self.shape, seed, len(labels), self.device)
        yield x
        for step in range(steps):
            velocity = self.velocity(x, step / steps, labels, guidance)
            if solver == "midpoint":
                velocity = self.velocity(x + velocity / (2 * steps), (step + 0.5) / steps, labels, guidance)
            x = x + velocity / steps
            yield x

    def velocity(self, x: Tensor, time: float, labels: Tensor, guidance: float) -> Tensor:
        """The network's velocity at x and a time in [0, 1], with guidance."""
        times = torch.full((len(x),), TIME_SCALE * time, device=x.device)
        return guided(self.network, x, times, labels, guidance).float()

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """`velocity`, the error it was trained by, at `noise_levels` fixed times and noises; and
        `autoencoder`, if it has one, see there."""
        x = self.representation.encode(images)
        noises = seeded_noise(self.shape, seed, noise_levels, self.device)
        errors = [
            self.velocity_error(x, torch.full((len(x),), (k + 0.5) / noise_levels, device=x.device),
                                noise.expand_as(x), labels, cond_drop_prob=0.0)
            for k, noise in enumerate(noises)
        ]  # fmt: skip
        return {"velocity": torch.stack(errors).mean(0), **self.representation_losses(images, x)}
