"""What every generator is: a class-conditional model that the loop, the sampler and the metrics can use."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.data.lesion_set import CLASSES
from hamsynth_utils.training.module import TrainableModule


class Generator(TrainableModule):
    """A class-conditional generator of images [N, 3, S, S] in [-1, 1].

    Attributes:
        name: the name in profiles, folders and arms, as in `registry.py`.
        settings_class: class of the generator's section in a profile; it has a `training`.
        membership_statistic: the entry of `membership_losses` that the membership attack uses. It was
            chosen before any of them was measured.
        tables: CSV files of the generator's folder that a released checkpoint keeps.
        sampling_options: arguments of `sample` besides labels and seed.
        image_size: S, height and width in pixels.
        noise_shape: shape of the noise of one image; the constructor sets it.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[Settings]]
    membership_statistic: ClassVar[str] = "training"
    tables: ClassVar[tuple[str, ...]] = ("history", "snapshot_distances")
    sampling_options: ClassVar[tuple[str, ...]] = ()
    noise_shape: tuple[int, ...]

    def __init__(self, image_size: int, settings: Any) -> None:
        super().__init__()
        self.image_size, self.settings = image_size, settings

    @abstractmethod
    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of one batch by name; `loss` is the one to minimise, the others are for the record.

        images: float [N, 3, S, S] in [-1, 1]; labels: int64 [N].
        """

    @abstractmethod
    def draw(self, noise: Tensor, labels: Tensor) -> Tensor:
        """The images [N, 3, S, S] in [-1, 1] that standard normal noise [N, *noise_shape] makes of labels.

        Nothing else may be random: a report's page does the same in the reader's browser.
        """

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int, **how: Any) -> Tensor:
        """One image for each label, float [N, 3, S, S] in [-1, 1], on the generator's device.

        Image i is drawn from the seed `seed + i` alone, so that any one of them can be made again.
        how: some of the `sampling_options`. Raises InputError for a label that is no class.
        """
        labels = self.checked(labels)
        return self.draw(
            seeded_noise(self.noise_shape, seed, len(labels), self.device), labels, **how
        )

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """How badly the trained generator knows each image: losses [N] by name, of noise drawn from `seed`.

        The noise must be the same for every image. Here: the loss of the training, of one image at a time,
        averaged over so many draws. Raises InputError if that is no number.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        losses = torch.zeros(len(images), device=self.device)
        with torch.random.fork_rng(devices):
            for i in range(len(images)):
                torch.manual_seed(seed)
                for _ in range(noise_levels):
                    losses[i] += self(images[i : i + 1], labels[i : i + 1])["loss"] / noise_levels
        if not torch.isfinite(losses).all():
            raise InputError(
                f"{self.name}: its training's loss is no number for one image alone, which attacks nobody; "
                f"give {type(self).__name__} a membership_losses of its own"
            )
        return {"training": losses}

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
            raise InputError(
                f"labels must lie in 0 to {len(CLASSES) - 1}, but span "
                f"{int(labels.min())} to {int(labels.max())}"
            )
        return labels.to(self.device)


def seeded_noise(shape: tuple[int, ...], seed: int, count: int, device: torch.device) -> Tensor:
    """Standard normal noise [count, *shape]; row i depends on `seed + i` only, on any device."""
    source = torch.Generator()
    rows = [torch.randn(shape, generator=source.manual_seed(seed + i)) for i in range(count)]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)
