"""The arms of the experiment: what each one's classifier learns from, and how.

real            the real training images, as they are
weighted        the same; an image counts in the loss by how rare its class is
oversample      the same; every class is drawn equally often
augment         the same; one random change of colour, contrast or geometry more (TrivialAugment)
<generator>     the same, and that generator's images, which bring the rare classes up
<generator>_only
                that generator's images alone

All else is equal: network and first weights, number of optimizer steps, batch size, rates, averaging of
weights. Nothing is chosen by an arm's score.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import TrivialAugmentWide

from hamsynth_utils.batches import Augment
from hamsynth_utils.classifier import refuse_synthetic
from hamsynth_utils.data.augment import augment
from hamsynth_utils.data.lesions import CLASSES, LesionSet, to_uint8, to_unit_range
from hamsynth_utils.errors import InputError
from hamsynth_utils.profile import generator_of, known_arm
from hamsynth_utils.settings import TrainingSettings
from hamsynth_utils.synthesis import first_of_each, ratio_counts, top_up_counts


def training_set(
    arm: str, real: LesionSet, synthetic: LesionSet | None, minority_share: float, ratio: float | None = None
) -> LesionSet:
    """What an arm is trained on.

    The real images; for a generator's arm its images on top, as many as each class lacks to have
    `minority_share` of the largest class's, or `ratio` times as many as there are real ones of each class
    that lacks any; for an arm of a generator alone its whole synthetic set. Raises InputError for an unknown
    arm, one whose synthetic set is missing or too small, real images that are not, or synthetic ones of
    another size.
    """
    generator = generator_of(known_arm(arm))
    refuse_synthetic(real, "the real training images")
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
        return real + first_of_each(synthetic, ratio_counts(real.labels, minority_share, ratio))
    return real + first_of_each(synthetic, top_up_counts(real.labels, minority_share))


def training_settings(arm: str, settings: TrainingSettings, real_images: int) -> TrainingSettings:
    """The settings of an arm's training: as many steps as the real images alone get, whatever the arm has."""
    change = {"steps": settings.total_steps(real_images), "epochs": None}
    return settings.model_copy(update={**change, **({"class_balance": 1.0} if arm == "oversample" else {})})


def class_weights(arm: str, labels: Tensor) -> Tensor:
    """[7], how much an image of each class counts in the loss of an arm trained on `labels` [N].

    For `weighted` N / (K n_c) with the n_c images of class c, where K classes have any ("balanced" in
    scikit-learn), so that in all each class counts alike, and 0 for a class without any; otherwise one.
    """
    if arm != "weighted":
        return torch.ones(len(CLASSES))
    counts = torch.bincount(labels, minlength=len(CLASSES)).double()
    return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp(min=1)), 0).float()


def augmentation(arm: str) -> Augment:
    """The augmentation of an arm's training images."""
    return augment_more if arm == "augment" else augment_for_classifier


def augment_for_classifier(images: Tensor, generator: torch.Generator) -> Tensor:
    """Any rotation, flips and a zoom of up to a fifth, each image its own."""
    return augment(images, generator, rotation="any", flips=True, zoom=0.2)


def augment_more(images: Tensor, generator: torch.Generator) -> Tensor:
    """`augment_for_classifier`, then `change_once`."""
    return change_once(augment_for_classifier(images, generator), generator)


def change_once(images: Tensor, generator: torch.Generator) -> Tensor:
    """One random change of colour, contrast or geometry, each image its own.

    That is torchvision's TrivialAugment (Mueller & Hutter 2021). It draws from torch's global state, which is
    therefore set from `generator` for the while.
    """
    change = TrivialAugmentWide()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
        changed = torch.stack([change(image) for image in to_uint8(images)])
    return to_unit_range(changed)
