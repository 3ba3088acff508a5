"""Attacks that have the model: what its losses on a photograph give away.

A model that remembers a photograph has a lower loss on it than on another of the same kind. Every loss here
is one number an image, lower for what the model knows better, of fixed noise: the same for every
photograph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hamsynth_utils.data.lesions import LesionSet, to_unit_range
from hamsynth_utils.errors import InputError
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.registry import REGISTRY

MAIN_LOSS = {name: each.kind.main_loss for name, each in REGISTRY.items()}
"""The loss that each generator is judged by, see there."""
LEAST_REFERENCE = 50
"""Held-out images that a calibration needs."""


@torch.no_grad()
def losses_of(
    generator: Generator, lesions: LesionSet, seed: int, noise_levels: int = 4, batch_size: int = 32
) -> pd.DataFrame:
    """The losses of a trained generator on each image of `lesions`: N rows, a column a loss.

    They are those of `Generator.membership_losses`. Raises InputError for no images, or images of another
    size.
    """
    if not len(lesions) or lesions.image_size != generator.image_size:
        raise InputError(
            f"{len(lesions)} images of {lesions.image_size} pixels for a generator of "
            f"{generator.image_size}: give it at least one of its own size"
        )
    generator.eval()
    parts = []
    for start in range(0, len(lesions), batch_size):
        rows = slice(start, start + batch_size)
        images = to_unit_range(lesions.images[rows]).to(generator.device)
        labels = lesions.labels[rows].to(generator.device)
        found = generator.membership_losses(images, labels, seed, noise_levels)
        parts.append(pd.DataFrame({name: value.double().cpu().numpy() for name, value in found.items()}))
    return pd.concat(parts, ignore_index=True)


def calibrated(
    losses: np.ndarray, features: np.ndarray, reference_losses: np.ndarray, reference_features: np.ndarray
) -> np.ndarray:
    """Losses [N] less what images that look like these have when they were never trained on: [N].

    A smooth picture has a low loss in any model, trained on or not; an attack that does not know that takes
    easy pictures for remembered ones (difficulty calibration, Watson et al. 2022). Theirs is the loss of
    another model; here it is a ridge regression of the loss on the features [., D], fitted to *held-out*
    reference images that are not attacked themselves. Raises InputError for fewer than 50 of them, or for
    rows that do not fit together.
    """
    if len(reference_losses) < LEAST_REFERENCE:
        raise InputError(
            f"{len(reference_losses)} reference images: a calibration needs {LEAST_REFERENCE} held-out ones"
        )
    for some, of in ((losses, features), (reference_losses, reference_features)):
        if len(some) != len(of):
            raise InputError(f"{len(some)} losses for features of {len(of)} images: give one for each")
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(1, 6, 11)))
    model.fit(reference_features, reference_losses)
    return np.asarray(losses) - model.predict(features)


@dataclass(frozen=True)
class Patients:
    """Photographs for the question whether the *patient* is in, of rows of one set of lesions.

    trained_on: all that the generator may see. members, siblings: one photo of each patient that it sees,
    and one that it does not see; row i of both is of one lesion. strangers: one photo of each lesion with
    several photos, of none of which it sees anything. So members, siblings and strangers differ in nothing
    but that.
    """

    trained_on: np.ndarray
    members: np.ndarray
    siblings: np.ndarray
    strangers: np.ndarray


def withhold_siblings(
    table: pd.DataFrame,
    train: np.ndarray,
    heldout: np.ndarray,
    patients: int,
    other_images: int | None,
    seed: int,
) -> Patients:
    """Up to `patients` lesions with several photos in training, one photo of each withheld; and strangers.

    table: one row an image, with lesion_id and dx. train, heldout: its rows; a lesion that is in both is no
    stranger. other_images: of so many photos of other lesions the generator sees, too; None: all of them.
    Every draw comes from `seed`. Raises InputError if either side has fewer than 10 such lesions.
    """
    generator = np.random.default_rng(seed)
    rows = pd.DataFrame({"row": np.arange(len(table)), "lesion": table["lesion_id"].to_numpy()})
    inside = rows.iloc[generator.permutation(train)]
    outside = rows.iloc[generator.permutation(heldout)]
    outside = outside[~outside["lesion"].isin(inside["lesion"])]
    several = inside[inside.groupby("lesion")["row"].transform("size") > 1]
    chosen = several["lesion"].drop_duplicates().iloc[:patients]
    strangers = outside[outside.groupby("lesion")["row"].transform("size") > 1].drop_duplicates("lesion")
    if min(len(chosen), len(strangers)) < 10:
        raise InputError(
            f"{len(chosen)} lesions in training and {len(strangers)} held out have several photos: "
            "the attack on patients needs at least 10 of each"
        )
    of_patients = inside[inside["lesion"].isin(chosen)]
    place = of_patients.groupby("lesion").cumcount()
    others = inside[~inside["lesion"].isin(chosen)]["row"].to_numpy()
    others = others if other_images is None else others[:other_images]

    def photo(number: int) -> np.ndarray:
        return of_patients[place == number].set_index("lesion").loc[chosen, "row"].to_numpy()

    siblings = photo(0)
    seen = of_patients[place > 0]["row"].to_numpy()
    return Patients(np.sort(np.concatenate([seen, others])), photo(1), siblings, strangers["row"].to_numpy())
