"""The arms of the experiment: what each one's classifier learns from, and how.

- `real`: the real training images, as they are.
- `weighted`: the same images. The loss weighs an image by the inverse frequency of its class.
- `oversample`: the same images. Every class is drawn equally often.
- `augment`: the same images, each with one more random change of colour, contrast or geometry (TrivialAugment).
- `<generator>`: the same images, and synthetic images of that generator for the rare classes.
- `<generator>_only`: synthetic images of that generator alone.

All else is equal: network and first weights, number of optimizer steps, batch size, rates, averaging of
weights. Nothing is chosen by an arm's score.
"""

from __future__ import annotations

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
    """What an arm is trained on.

    The real images; for a generator's arm its images on top, as many as each class lacks to have
    `minority_fraction` of the largest class's, or `ratio` times as many as there are real ones of each class
    that lacks any; for an arm of a generator alone its whole synthetic set. Raises InputError for an unknown
    arm, one whose synthetic set is missing or too small, real images that are not, or synthetic ones of
    another size.
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
    """The settings of an arm's training: as many steps as the real images alone get, whatever the arm has."""
    extra_augment = {"steps": settings.total_steps(real_images), "epochs": None}
    return settings.model_copy(
        update={**extra_augment, **({"class_balance_power": 1.0} if arm == "oversample" else {})}
    )


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


def augment_for_classifier(images: Tensor, generator: torch.Generator) -> Tensor:
    """Any rotation, flips and a zoom of up to a fifth, each image its own."""
    return augment(images, generator, rotation="any", flips=True, zoom=0.2)


def augment_with_trivial(images: Tensor, generator: torch.Generator) -> Tensor:
    """`augment_for_classifier`, then `trivial_augment`."""
    return trivial_augment(augment_for_classifier(images, generator), generator)


def trivial_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """One random change of colour, contrast or geometry, each image its own.

    That is torchvision's TrivialAugment (Mueller & Hutter 2021). It draws from torch's global state, which is
    therefore set from `generator` for the while.
    """
    extra_augment = TrivialAugmentWide()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        )
        changed = torch.stack([extra_augment(image) for image in to_uint8(images)])
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
