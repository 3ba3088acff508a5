"""What the training loop trains, and which part of a batch belongs to a process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate.utils import reduce
from torch import Tensor, nn


@dataclass(frozen=True)
class BatchShard:
    """Which images of every batch belong to this process: image i to process i mod `processes`.

    Every process draws the noise of the whole batch and keeps the rows of its own images. Several
    processes therefore train on the same numbers as one process.

    Attributes:
        process: the number of this process, from 0.
        processes: how many processes train together.
    """

    process: int = 0
    processes: int = 1

    def take(self, batch: Tensor) -> Tensor:
        """This process's rows of a tensor with one row per image of the whole batch."""
        return batch[self.process :: self.processes]

    def randn(self, *shape: int, device: torch.device) -> Tensor:
        """Standard normal noise of this shape [N, ...] for N images of this process."""
        return self.take(torch.randn(shape[0] * self.processes, *shape[1:], device=device))

    def rand(self, *shape: int, device: torch.device) -> Tensor:
        """Uniform numbers in [0, 1) of this shape [N, ...] for N images of this process."""
        return self.take(torch.rand(shape[0] * self.processes, *shape[1:], device=device))

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over all processes; with several, without a gradient."""
        return value if self.processes == 1 else reduce(value.detach(), "mean")


class TrainableModule(nn.Module, ABC):
    """What the training loop trains: `forward(images, labels)` returns losses by name.

    Attributes:
        betas: Adam's decay rates for this model.
        loss_floors: by name, what a loss must not stay below, such as that of a discriminator
            that always wins; see `diagnostics.is_above_floors`.
        progress: how much of the training is done, from 0 to 1; the loop sets it before each step.
        shard: which images of a batch this process has; the loop sets it. `forward` must draw its
            noise with `shard.randn` and `shard.rand`.
    """

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    loss_floors: ClassVar[dict[str, float]] = {}
    progress: float = 1.0
    shard: BatchShard = BatchShard()

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            images: float [N, 3, H, W] in [-1, 1], or what else the training data gives.
            labels: int64 [N].

        Returns:
            Scalars by name. `loss` is minimised; the others are logged.
        """

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameters with their learning rates, as torch's optimizers take them."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]
