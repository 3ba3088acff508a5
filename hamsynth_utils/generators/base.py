"""The interface of all generators, which the loop, the sampler and the metrics use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.data.augmentation import flip_and_turn
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.training.batches import ImageData, TrainingData
from hamsynth_utils.training.module import TrainableModule

ExportPart = tuple[Callable[..., Tensor], dict[str, Tensor]]
"""A function of a generator, and an example of each of its arguments by name."""


class Generator(TrainableModule):
    """A class-conditional generator of images [N, 3, S, S] in [-1, 1].

    Attributes:
        name: used in profiles, folders and arms, as in `core/registry.py`.
        settings_class: the generator's section of a profile; it has a field `training`.
        membership_statistic: the one of `membership_losses` that an attack is judged by. This is
            the loss of the training, chosen before any was measured.
        tables: CSV files of the generator's stage that a released checkpoint keeps.
        sampling_options: what `sample` takes besides labels and seed.
        image_size: S, height and width in pixels.
        n_classes: K, the number of classes; labels lie in 0 to K - 1.
        noise_shape: the shape of the noise for one image; the constructor sets it.

    Args:
        image_size: S.
        settings: of the type `settings_class`.
        n_classes: K.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[Settings]]
    membership_statistic: ClassVar[str] = "training"
    tables: ClassVar[tuple[str, ...]] = ("history", "snapshot_distances")
    sampling_options: ClassVar[tuple[str, ...]] = ()
    noise_shape: tuple[int, ...]

    def __init__(self, image_size: int, settings: Any, n_classes: int) -> None:
        super().__init__()
        self.image_size, self.settings, self.n_classes = image_size, settings, n_classes

    def training_data(self, lesions: LesionSet, cache: Path | None = None) -> TrainingData:
        """What the loop trains on: here the images themselves, flipped and turned at random.

        Args:
            lesions: the training images.
            cache: where a generator that encodes its images may keep them; not used here.
        """
        return ImageData(lesions, flip_and_turn)

    @abstractmethod
    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            images: float [N, 3, S, S] in [-1, 1], or what else `training_data` gives.
            labels: int64 [N].

        Returns:
            Scalars by name. `loss` is minimised; the others are logged.
        """

    @abstractmethod
    def decode_noise(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Turn noise into images; nothing else may be random, since a web page does the same.

        Args:
            noise: standard normal, [N, *noise_shape].
            labels: int64 [N].

        Returns:
            Images [N, 3, S, S] in [-1, 1].
        """

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int, **sampling_kwargs: Any) -> Tensor:
        """Sample one image for each label.

        Image i depends on the seed `seed + i` alone, so that each image can be sampled again by
        itself.

        Args:
            labels: int64 [N].
            seed: of the first image.
            sampling_kwargs: some of the `sampling_options`.

        Returns:
            Images float [N, 3, S, S] in [-1, 1], on the generator's device.

        Raises:
            InputError: a label is no class.
        """
        labels = self.valid_labels(labels)
        noise = seeded_noise(self.noise_shape, seed, len(labels), self.device)
        return self.decode_noise(noise, labels, **sampling_kwargs)

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """How badly the trained generator fits each image, for a membership inference attack.

        The noise must be the same for every image. This default is the training loss of one image
        at a time, averaged over draws of noise.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].
            seed: of the noise.
            noise_levels: over how many draws of noise the loss is averaged.

        Returns:
            Losses [N] by name.

        Raises:
            InputError: the training loss of one image alone is not a finite number.
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
                f"{self.name}: its training's loss is no number for one image alone, which attacks "
                f"nobody; give {type(self).__name__} a membership_losses of its own"
            )
        return {"training": losses}

    def export_parts(self) -> dict[str, ExportPart]:
        """The functions that make one image, by name, each with example arguments.

        A report's page runs these functions in the reader's browser.
        """
        noise = torch.zeros(1, *self.noise_shape)
        return {"draw": (self.decode_noise, {"noise": noise, "label": torch.tensor([0])})}

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """As `training_step`, under the name that distributed training wraps."""
        return self.training_step(images, labels)

    @property
    def device(self) -> torch.device:
        """Where the generator's weights are."""
        return next(self.parameters()).device

    def valid_labels(self, labels: Tensor) -> Tensor:
        """The labels on the generator's device.

        Args:
            labels: int64 [N].

        Raises:
            InputError: the labels have another type or shape, or one of them is no class.
        """
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise InputError(f"labels must be int64 [N], not {labels.dtype} {tuple(labels.shape)}")
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < self.n_classes):
            raise InputError(
                f"labels must lie in 0 to {self.n_classes - 1}, but span "
                f"{int(labels.min())} to {int(labels.max())}"
            )
        return labels.to(self.device)


def seeded_noise(shape: tuple[int, ...], seed: int, count: int, device: torch.device) -> Tensor:
    """Standard normal noise; row i depends on `seed + i` only, on any device.

    Args:
        shape: of one row.
        seed: of the first row.
        count: how many rows.
        device: where the noise goes; it is drawn on the CPU.

    Returns:
        float32 [count, *shape].
    """
    rng = torch.Generator()
    rows = [torch.randn(shape, generator=rng.manual_seed(seed + i)) for i in range(count)]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, device=device)
