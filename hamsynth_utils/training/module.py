"""What the training loop trains, and which part of a batch is a process's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate.utils import reduce
from torch import Tensor, nn


@dataclass(frozen=True)
class BatchShard:
    """Which images of every batch are this process's: image i belongs to process i mod `processes`.

    Noise is drawn for the whole batch by every process, which keeps the rows of its own images: several
    processes so train on the very numbers that one process would have drawn.
    """

    process: int = 0
    processes: int = 1

    def of(self, whole: Tensor) -> Tensor:
        """This process's rows of something that has one row an image of the whole batch."""
        return whole[self.process :: self.processes]

    def normal(self, *shape: int, device: torch.device) -> Tensor:
        """Standard normal noise [N, ...] for N images of this process."""
        return self.of(torch.randn(shape[0] * self.processes, *shape[1:], device=device))

    def uniform(self, *shape: int, device: torch.device) -> Tensor:
        """Even draws [N, ...] from [0, 1) for N images of this process."""
        return self.of(torch.rand(shape[0] * self.processes, *shape[1:], device=device))

    def mean(self, own: Tensor) -> Tensor:
        """The mean of a number that each process has, without a gradient."""
        return own if self.processes == 1 else reduce(own.detach(), "mean")


class TrainableModule(nn.Module, ABC):
    """What the loop trains: `forward(images, labels)` gives the losses by name, `loss` the one to minimise.

    progress: how far its training is, from 0 to 1; set by the loop before each step.
    share: which images of a batch it is given; set by the loop. Noise in `forward` is to be drawn by it.
    betas: Adam's decay rates for this model.
    """

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    progress: float = 1.0
    share: BatchShard = BatchShard()

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of a batch of images [N, 3, H, W] in [-1, 1] with labels [N]."""

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameters with their learning rates, for the optimizer."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]
