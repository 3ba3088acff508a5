"""The arms of the experiment: what each one's classifier learns from, and how.

- `real`: the real training images, as they are.
- `weighted`: the same images. The loss weighs an image by the inverse frequency of its class.
- `oversample`: the same images. Every class is drawn equally often.
- `augment`: the same images, each with one more random change of colour, contrast or geometry (TrivialAugment).
- `<generator>`: the same images, and synthetic images of that generator for the rare classes.
- `<generator>_only`: synthetic images of that generator alone.

Everything else is equal: network, first weights, number of optimizer steps, batch size, learning rate and the
averaging of weights. No setting is chosen by the score of an arm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import TrivialAugmentWide

from hamsynth_utils.core.arm_names import generator_of, known_arm
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.data.augmentation import augment
from hamsynth_utils.data.lesion_set import (
    CLASSES,
    LesionSet,
    to_uint8,
    to_unit_range,
)
from hamsynth_utils.training.batches import Augment


def training_set(
    arm: str,
    real: LesionSet,
    synthetic: LesionSet | None,
    minority_fraction: float,
    ratio: float | None = None,
) -> LesionSet:
    """The images that an arm is trained on.

    Args:
        arm: the arm.
        real: the real training images.
        synthetic: the synthetic set of the arm's generator; None for an arm of real images.
        minority_fraction: in [0, 1]. A generator's arm brings every class up to this fraction of the
            largest class.
        ratio: if given, a generator's arm adds this many synthetic images per real image of each class
            below `minority_fraction` instead.

    Returns:
        The real images; for a generator's arm with synthetic images added; for the arm of a generator
        alone its whole synthetic set.

    Raises:
        InputError: if the arm is unknown, its synthetic set is missing, too small or of another image size,
            or one of the real images is synthetic.
    """
    generator = generator_of(known_arm(arm))
    real.require_real("the real training images")
    if generator is None:
        return real
    if synthetic is None:
        raise InputError(
            f"the arm {arm!r} needs the synthetic set of {generator}: run that generator's notebook first"
        )
    if arm != generator:
        if synthetic.image_size != real.image_size:
            raise InputError(
                f"the synthetic images of {generator} have {synthetic.image_size} pixels, "
                f"the real ones {real.image_size}"
            )
        return synthetic
    if ratio is not None:
        return real + first_of_each(synthetic, ratio_counts(real.labels, minority_fraction, ratio))
    return real + first_of_each(synthetic, top_up_counts(real.labels, minority_fraction))


def training_settings(arm: str, settings: TrainingSettings, real_images: int) -> TrainingSettings:
    """The settings of an arm's training; every arm gets the number of steps of the real images alone.

    Args:
        arm: the arm.
        settings: the settings of the profile.
        real_images: the number of real training images.
    """
    changes: dict[str, Any] = {"steps": settings.total_steps(real_images), "epochs": None}
    if arm == "oversample":
        changes["class_balance_power"] = 1.0
    return settings.model_copy(update=changes)


def class_weights(arm: str, labels: Tensor) -> Tensor:
    """[7], how much an image of each class counts in the loss of an arm trained on `labels` [N].

    For `weighted` N / (K n_c) with the n_c images of class c, where K classes have any ("balanced" in
    scikit-learn), so that in all each class counts alike, and 0 for a class without any; otherwise one.
    """
    if arm != "weighted":
        return torch.ones(len(CLASSES))
    counts = torch.bincount(labels, minlength=len(CLASSES)).double()
    return torch.where(
        counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp(min=1)), 0
    ).float()


def augmentation(arm: str) -> Augment:
    """The augmentation of an arm's training images."""
    return augment_with_trivial if arm == "augment" else augment_for_classifier


def augment_for_classifier(images: Tensor, rng: torch.Generator) -> Tensor:
    """Rotate each image by a random angle, flip it at random and enlarge it by up to 20 %.

    Args:
        images: float [N, 3, S, S] in [-1, 1].
        rng: the random source.

    Returns:
        Images of the same shape and range.
    """
    return augment(images, rng, rotation="any", flips=True, zoom=0.2)


def augment_with_trivial(images: Tensor, rng: torch.Generator) -> Tensor:
    """`augment_for_classifier`, then `trivial_augment`; arguments and result as there."""
    return trivial_augment(augment_for_classifier(images, rng), rng)


def trivial_augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Change colour, contrast or geometry of each image once, at random.

    This is torchvision's TrivialAugment (Mueller & Hutter 2021). It draws from torch's global random state.
    The function therefore seeds that state from `rng`, and restores it.

    Args:
        images: float [N, 3, S, S] in [-1, 1].
        rng: the random source.

    Returns:
        Images of the same shape and range.
    """
    transform = TrivialAugmentWide()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=rng, device=rng.device)))
        changed = torch.stack([transform(image) for image in to_uint8(images)])
    return to_unit_range(changed)


def requested_counts(
    labels: Tensor, minority_fraction: float, evaluation_images: int, largest_ratio: float = 0.0
) -> dict[str, int]:
    """How many synthetic images of each class to draw, given the labels of the real training images.

    Enough to bring every class up to `minority_fraction` of the largest one, to draw `evaluation_images` in the
    real proportions of the classes, and to give minority classes `largest_ratio` times their real images.
    """
    counts = np.bincount(labels.numpy(), minlength=len(CLASSES))
    share = np.ceil(evaluation_images * counts / counts.sum()).astype(int)
    wanted = [
        top_up_counts(labels, minority_fraction),
        ratio_counts(labels, minority_fraction, largest_ratio),
    ]
    return {
        name: max(int(share[label]), *(each[name] for each in wanted))
        for label, name in enumerate(CLASSES)
    }


def top_up_counts(labels: Tensor, minority_fraction: float) -> dict[str, int]:
    """Images that each class lacks to have `minority_fraction` of the largest class's number."""
    counts = np.bincount(labels.numpy(), minlength=len(CLASSES))
    target = round(minority_fraction * counts.max())
    return {name: max(0, int(target - counts[label])) for label, name in enumerate(CLASSES)}


def ratio_counts(labels: Tensor, minority_fraction: float, ratio: float) -> dict[str, int]:
    """`ratio` images for each real one of the classes below `minority_fraction` of the largest."""
    counts = np.bincount(labels.numpy(), minlength=len(CLASSES))
    lacking = top_up_counts(labels, minority_fraction)
    return {
        name: round(ratio * counts[label]) if lacking[name] else 0
        for label, name in enumerate(CLASSES)
    }


def first_of_each(synthetic: LesionSet, counts: dict[str, int]) -> LesionSet:
    """The first `counts[dx]` images of each class; raises InputError if the set holds fewer."""
    index = []
    for label, name in enumerate(CLASSES):
        here = np.flatnonzero(synthetic.labels.numpy() == label)
        if len(here) < counts.get(name, 0):
            raise InputError(
                f"the synthetic set holds {len(here)} images of {name}, but {counts[name]} are needed"
            )
        index.append(here[: counts.get(name, 0)])
    return synthetic.subset(np.concatenate(index))


def in_proportion(synthetic: LesionSet, labels: Tensor, images: int) -> LesionSet:
    """About `images` synthetic images in the proportions of the classes in `labels`, none twice."""
    counts = np.bincount(labels.numpy(), minlength=len(CLASSES))
    share = np.floor(images * counts / counts.sum() + 0.5).astype(int)
    return first_of_each(synthetic, dict(zip(CLASSES, share.tolist(), strict=True)))
