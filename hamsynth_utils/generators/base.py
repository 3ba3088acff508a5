"""What every generator is: a class-conditional model that the loop, the sampler and the metrics can use."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.trainable import Trainable


class Generator(Trainable):
    """A class-conditional generator of images [N, 3, S, S] in [-1, 1].

    name: what it is called in profiles, folders and arms.
    image_size: S, height and width in pixels.
    settings: its own kind of Settings, see profile.py.
    """

    name: ClassVar[str]
    settings: Any

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size

    @abstractmethod
    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of one batch by name; `loss` is the one to minimise, the others are for the record.

        images: float [N, 3, S, S] in [-1, 1]; labels: int64 [N].
        """

    @abstractmethod
    def sample(self, labels: Tensor, seed: int) -> Tensor:
        """One image for each label, float [N, 3, S, S] in [-1, 1], on the generator's device.

        Image i is drawn from the seed `seed + i` alone, so that any one of them can be made again.
        Raises InputError for a label that is no class.
        """

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`training_step`, under the name that distributed training wraps."""
        return self.training_step(images, labels)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def checked(self, labels: Tensor) -> Tensor:
        """The labels on the generator's device; raises InputError for one that is no class."""
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise InputError(f"labels must be int64 [N], not {labels.dtype} {tuple(labels.shape)}")
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < len(CLASSES)):
            raise InputError(f"labels must lie in 0 to {len(CLASSES) - 1}, but span "
                             f"{int(labels.min())} to {int(labels.max())}")  # fmt: skip
        return labels.to(self.device)


def seeded_noise(shape: tuple[int, ...], seed: int, count: int, device: torch.device) -> Tensor:
    """Standard normal noise [count, *shape]; row i depends on `seed + i` only, on any device."""
    source = torch.Generator()
    rows = [torch.randn(shape, generator=source.manual_seed(seed + i)) for i in range(count)]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)
