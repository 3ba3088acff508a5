"""The batches of a training: which images, in which order, and what is computed from them."""

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
"""(images [B, 3, H, W] in [-1, 1], rng) -> augmented images of the same shape."""


BatchFn = Callable[[Tensor, torch.Generator], Tensor]
"""(image indices [B], rng) -> what the module takes, [B, ...]."""


@dataclass(frozen=True)
class TrainingData(ABC):
    """What a module is trained on: N labelled images, or something computed from them.

    Attributes:
        lesions: the images with their labels.
    """

    lesions: LesionSet

    @abstractmethod
    def batch_fn(self, device: torch.device) -> BatchFn:
        """The function that makes batches on `device`."""


@dataclass(frozen=True)
class ImageData(TrainingData):
    """The images themselves, in [-1, 1], augmented batch by batch.

    Attributes:
        augment: changes a batch of images; None for none.
    """

    augment: Augment | None

    def batch_fn(self, device: torch.device) -> BatchFn:
        """The function that makes batches float32 [B, 3, H, W] on `device`."""
        images = self.lesions.images.to(device)

        def make_batch(index: Tensor, rng: torch.Generator) -> Tensor:
            """The images at `index`, float [N, 3, H, W] in [-1, 1], augmented."""
            batch = to_unit_range(images[index])
            return batch if self.augment is None else self.augment(batch, rng)

        return make_batch


def batch_indices(
    lesions: LesionSet, settings: TrainingSettings, seed: int, start: int, total: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The image indices of every step from `start` on.

    Without class balance every epoch visits every image once. With it, each step draws images with
    a probability proportional to (images of their class)^-class_balance_power. A step's indices do
    not depend on `start`.

    Args:
        lesions: the training images.
        settings: `batch_size` and `class_balance_power`.
        seed: of the order.
        start: the first step, from 0.
        total: how many steps the training has.

    Yields:
        The step and its indices, int64 [batch_size].
    """
    if settings.class_balance_power > 0:
        yield from _balanced_indices(lesions, settings, seed, start, total)
        return
    n, size = len(lesions), settings.batch_size
    epoch, order = -1, np.empty(0, dtype=np.int64)
    for step in range(start, total):
        positions = np.arange(step * size, (step + 1) * size)  # in the endless sequence of epochs
        index = np.empty(size, dtype=np.int64)
        for number in np.unique(positions // n):
            if number != epoch:
                epoch = int(number)
                order = np.random.default_rng([seed, epoch]).permutation(n)
            in_epoch = positions // n == number
            index[in_epoch] = order[positions[in_epoch] % n]
        yield step, index


def _balanced_indices(
    lesions: LesionSet, settings: TrainingSettings, seed: int, start: int, total: int
) -> Iterator[tuple[int, np.ndarray]]:
    """As `batch_indices`, drawn with class balance."""
    labels = lesions.labels.numpy()
    weights = np.bincount(labels)[labels] ** -float(settings.class_balance_power)
    for step in range(start, total):
        rng = np.random.default_rng([seed, step])
        yield step, rng.choice(len(lesions), size=settings.batch_size, p=weights / weights.sum())
