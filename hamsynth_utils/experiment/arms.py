"""The arms of the experiment: what each one's classifier learns from, and how.

- `real`: the real training images, as they are.
- `weighted`: the same images. The loss weighs an image by the inverse frequency of its class.
- `oversample`: the same images. Every class is drawn equally often.
- `augment`: the same images, each with one more random change of colour, contrast or geometry
  (TrivialAugment).
- `<generator>`: the same images, and synthetic images of that generator for the rare classes.
- `<generator>_only`: synthetic images of that generator alone.

Everything else is equal: network, first weights, number of optimizer steps, batch size, learning
rate and the averaging of weights. No setting is chosen by the score of an arm.
"""

from __future__ import annotations

from collections.abc import Callable
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
        minority_fraction: in [0, 1]. A generator's arm brings every class up to this fraction of
            the largest class.
        ratio: if given, a generator's arm adds this many synthetic images per real image of each
            class below `minority_fraction` instead.

    Returns:
        The real images; for a generator's arm with synthetic images added; for the arm of a
        generator alone its whole synthetic set.

    Raises:
        InputError: if the arm is unknown, its synthetic set is missing, too small or of another
            image size, or one of the real images is synthetic.
    """
    generator = generator_of(known_arm(arm))
    real.require_real("the real training images")
    if generator is None:
        return real
    if synthetic is None:
        raise InputError(
            f"the arm {arm!r} needs the synthetic set of {generator}: "
            "run that generator's notebook first"
        )
    if arm != generator:
        if synthetic.image_size != real.image_size:
            raise InputError(
                f"the synthetic images of {generator} have {synthetic.image_size} pixels, "
                f"the real ones {real.image_size}"
            )
        return synthetic
    if ratio is not None:
        return real + first_of_each(synthetic, ratio_counts(real.counts, minority_fraction, ratio))
    return real + first_of_each(synthetic, top_up_counts(real.counts, minority_fraction))


def training_settings(arm: str, settings: TrainingSettings, real_images: int) -> TrainingSettings:
    """The settings of an arm's training; every arm gets the number of steps of the real images
    alone.

    Args:
        arm: the arm.
        settings: the settings of the profile.
        real_images: the number of real training images.
    """
    changes: dict[str, Any] = {"steps": settings.total_steps(real_images), "epochs": None}
    if arm == "oversample":
        changes["class_balance_power"] = 1.0
    return settings.model_copy(update=changes)


def class_weights(arm: str, counts: dict[str, int]) -> Tensor:
    """How much an image of each class counts in the loss of an arm.

    For the arm `weighted` the weight of class c is N / (K n_c), with n_c of the N images, where K
    classes have any image ("balanced" in scikit-learn). So each class counts alike in total.

    Args:
        arm: the arm.
        counts: number of training images of each class, in the order of the labels.

    Returns:
        float32 [K]; ones for every other arm, 0 for a class without images.
    """
    if arm != "weighted":
        return torch.ones(len(counts))
    images = torch.tensor(list(counts.values()), dtype=torch.float64)
    return torch.where(
        images > 0, images.sum() / ((images > 0).sum() * images.clamp(min=1)), 0
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
    """Apply `augment_for_classifier`, then `trivial_augment`.

    Args:
        images: float [N, 3, S, S] in [-1, 1].
        rng: the random source.

    Returns:
        The changed images, in the shape and range of the input.
    """
    return trivial_augment(augment_for_classifier(images, rng), rng)


def trivial_augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Change colour, contrast or geometry of each image once, at random.

    This is torchvision's TrivialAugment (Mueller & Hutter 2021). It draws from torch's global
    random state. The function therefore seeds that state from `rng`, and restores it.

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
    counts: dict[str, int],
    minority_fraction: float,
    evaluation_images: int,
    largest_ratio: float = 0.0,
) -> dict[str, int]:
    """How many synthetic images of each class a run needs.

    Args:
        counts: number of real training images of each class.
        minority_fraction: every class is brought up to this fraction of the largest class.
        evaluation_images: number of images that are drawn in the real proportions of the classes.
        largest_ratio: largest number of synthetic images per real image of a minority class.

    Returns:
        For each class, the largest of the three numbers.
    """
    wanted = [
        _proportional_counts(counts, evaluation_images, np.ceil),
        top_up_counts(counts, minority_fraction),
        ratio_counts(counts, minority_fraction, largest_ratio),
    ]
    return {name: max(each[name] for each in wanted) for name in counts}


def top_up_counts(counts: dict[str, int], minority_fraction: float) -> dict[str, int]:
    """How many images each class lacks.

    Args:
        counts: number of real training images of each class.
        minority_fraction: in [0, 1], of the largest class.

    Returns:
        For each class, the images to add to reach this fraction of the largest class. A class
        without real images lacks none: no generator can learn to draw it.
    """
    target = round(minority_fraction * max(counts.values()))
    return {name: max(0, target - count) if count else 0 for name, count in counts.items()}


def ratio_counts(counts: dict[str, int], minority_fraction: float, ratio: float) -> dict[str, int]:
    """How many images to add at a fixed ratio to the real ones of the minority classes.

    Args:
        counts: number of real training images of each class.
        minority_fraction: a class below this fraction of the largest class is a minority class.
        ratio: synthetic images per real image.

    Returns:
        The images to add, 0 for any class that is not a minority class.
    """
    lacking = top_up_counts(counts, minority_fraction)
    return {name: round(ratio * counts[name]) if lacking[name] else 0 for name in counts}


def first_of_each(synthetic: LesionSet, counts: dict[str, int]) -> LesionSet:
    """Select the first images of each class.

    Args:
        synthetic: the images to select from.
        counts: how many of each class; none of a class that is left out.

    Returns:
        The selected images, class by class.

    Raises:
        InputError: if the set holds fewer.
    """
    index = []
    for label, name in enumerate(synthetic.classes):
        here = np.flatnonzero(synthetic.labels.numpy() == label)
        if len(here) < counts.get(name, 0):
            raise InputError(
                f"the synthetic set holds {len(here)} images of {name}, "
                f"but {counts[name]} are needed"
            )
        index.append(here[: counts.get(name, 0)])
    return synthetic.subset(np.concatenate(index))


def in_proportion(synthetic: LesionSet, counts: dict[str, int], images: int) -> LesionSet:
    """Select synthetic images in the real proportions of the classes.

    Args:
        synthetic: the images to select from.
        counts: number of real images of each class.
        images: about how many to select.

    Returns:
        The selected images, none twice.

    Raises:
        InputError: if the set holds too few of a class.
    """
    return first_of_each(
        synthetic, _proportional_counts(counts, images, lambda share: np.floor(share + 0.5))
    )


def _proportional_counts(
    counts: dict[str, int], images: int, rounded: Callable[[np.ndarray], np.ndarray]
) -> dict[str, int]:
    """`images` distributed over the classes in proportion to `counts`, each share rounded."""
    real = np.array(list(counts.values()))
    shares = rounded(images * real / real.sum()).astype(int)
    return dict(zip(counts, shares.tolist(), strict=True))
