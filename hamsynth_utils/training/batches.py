"""What the steps of a training are given: which images, in which order, and what is made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range

Augment = Callable[[Tensor, torch.Generator], Tensor]


Batch = Callable[[Tensor, torch.Generator], Tensor]
"""Indices [B] and the source of all draws to what the module is given, [B, ...]."""


@dataclass(frozen=True)
class TrainingData(ABC):
    """What a module is trained on: N labelled images, or something computed from them."""

    lesions: LesionSet

    @abstractmethod
    def on(self, device: torch.device) -> Batch:
        """How batches come about on `device`."""


@dataclass(frozen=True)
class ImageData(TrainingData):
    """Images as they are, in [-1, 1], augmented batch by batch."""

    augment: Augment | None

    def on(self, device: torch.device) -> Batch:
        """Batches float32 [B, 3, H, W] of images that lie on `device` as a whole."""
        images = self.lesions.images.to(device)

        def batch(index: Tensor, generator: torch.Generator) -> Tensor:
            picked = to_unit_range(images[index])
            return picked if self.augment is None else self.augment(picked, generator)

        return batch


def batch_indices(
    lesions: LesionSet, settings: TrainingSettings, seed: int, start: int, total: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(step, image indices) from `start` on; what a step draws does not depend on where one started."""
    n, size = len(lesions), settings.batch_size
    labels = lesions.labels.numpy()
    weights = np.bincount(labels)[labels] ** -float(settings.class_balance_power)
    epoch, order = -1, np.empty(0, dtype=np.int64)
    for step in range(start, total):
        if settings.class_balance_power > 0:
            draws = np.random.default_rng([seed, step])
            yield step, draws.choice(n, size=size, p=weights / weights.sum())
            continue
        places = np.arange(step * size, (step + 1) * size)
        index = np.empty(size, dtype=np.int64)
        for number in np.unique(places // n):
            if number != epoch:
                epoch, order = (
                    int(number),
                    np.random.default_rng([seed, int(number)]).permutation(n),
                )
            here = places // n == number
            index[here] = order[places[here] % n]
        yield step, index
