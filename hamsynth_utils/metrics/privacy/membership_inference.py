"""Membership inference: was this photo trained on?

One attack sees the synthetic images only, another has the model and its losses. A model that
remembers a photo has a lower loss on it than on another photo of the same kind. Every loss here is
one number per image. Its noise is fixed, so that all photos get the same.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hamsynth_utils.core.errors import INTERVAL, InputError, NotMeasured
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.loading import generator_class
from hamsynth_utils.metrics import ranking
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids, factorize_lesions
from hamsynth_utils.metrics.privacy.nearest_neighbours import nearest_distances

FALSE_POSITIVE_RATE = 0.01
"""The false-positive rate at which an attack's true-positive rate is read (Carlini et al. 2022)."""


MEMBERSHIP_STATISTIC = {name: generator_class(name).membership_statistic for name in REGISTRY}
"""The loss by which each generator is attacked, by the generator's name; see `Generator`."""


MIN_REFERENCE_IMAGES = 50
"""Held-out images that `difficulty_calibrated` needs."""


ATTACK_NUMBERS = (*INTERVAL, "tpr", "tpr_low", "tpr_high")
"""The numbers of an attack that `guess_members` measures."""


def membership_attack(
    train_features: np.ndarray,
    heldout_features: np.ndarray,
    synthetic_features: np.ndarray,
    train_lesions: Ids,
    heldout_lesions: Ids,
    n_resamples: int,
    seed: int,
) -> dict[str, float]:
    """How well the nearest synthetic image's distance tells training photos from held-out ones.

    This is the full black-box attack of Chen et al. (2020, GAN-Leaks). The attack is weak, since it
    sees nothing but images: an attacker who has the model compares its loss on photos (Carlini et
    al. 2023). An AUROC of 0.5 is therefore no proof of privacy.

    Args:
        train_features: [T, D], of one extractor for all three sets.
        heldout_features: [H, D].
        synthetic_features: [G, D].
        train_lesions: Lesion ids of the training photos, [T].
        heldout_lesions: Lesion ids of the held-out photos, [H].
        n_resamples: Resamples of the lesions.
        seed: Of the choice of photos and of the resamples.

    Returns:
        The result of `guess_members`.

    Raises:
        InputError: If features do not fit together, a lesion id is missing, or a lesion is on both
            sides.
    """
    factorize_lesions(train_lesions, len(train_features))
    factorize_lesions(heldout_lesions, len(heldout_features))
    train_scores, heldout_scores = (
        -nearest_distances(each, synthetic_features)[0]
        for each in (train_features, heldout_features)
    )
    return guess_members(
        train_scores, heldout_scores, train_lesions, heldout_lesions, n_resamples, seed
    )


def guess_members(
    train_scores: np.ndarray,
    heldout_scores: np.ndarray,
    train_lesions: Ids,
    heldout_lesions: Ids,
    n_resamples: int,
    seed: int,
) -> dict[str, float]:
    """How well a score per image tells training photos from held-out ones.

    Equally many photos of both kinds are attacked, drawn at random from the larger set. Training
    and held-out lesions must be alike in everything but the training, as the parts of a random
    split are.

    Args:
        train_scores: [T], higher for what is taken for trained on.
        heldout_scores: [H].
        train_lesions: Lesion ids of the training photos, [T].
        heldout_lesions: Lesion ids of the held-out photos, [H].
        n_resamples: Resamples of the lesions.
        seed: Of the choice of photos and of the resamples.

    Returns:
        These values by name.

        - value: The AUROC, the probability that a training photo has a higher score than a held-out
          one; 0.5 is chance, 1 gives every training photo away.
        - tpr: The true-positive rate at a false-positive rate of 1 %; 0.01 is chance. A photo that
          is surely found is harmed, however the others fare (Carlini et al. 2022).
        - low, high, tpr_low, tpr_high: 95 % intervals over lesions.
        - n, lesions: Photos and lesions of both kinds together.

    Raises:
        NotMeasured: If one side has no photo.
        InputError: If a score is not finite, a lesion id is missing, or a lesion is on both sides.
    """
    if not len(train_scores) or not len(heldout_scores):
        raise NotMeasured(
            f"an attack compares photos of two kinds, but there are {len(train_scores)} of the one "
            f"and {len(heldout_scores)} of the other"
        )
    factorize_lesions(train_lesions, len(train_scores))
    factorize_lesions(heldout_lesions, len(heldout_scores))
    shared = set(train_lesions) & set(heldout_lesions)
    if shared:
        raise InputError(
            f"{len(shared)} lesions are both trained on and held out: leave those images out"
        )
    n_each = min(len(train_scores), len(heldout_scores))
    rng = np.random.default_rng(seed)
    scores, ids = [], []
    for side, lesion_ids in ((train_scores, train_lesions), (heldout_scores, heldout_lesions)):
        pick = rng.choice(len(side), n_each, replace=False)
        scores.append(np.asarray(side)[pick])
        ids.append(np.asarray(lesion_ids, dtype=object)[pick])
    score, trained_on = np.concatenate(scores), np.arange(2 * n_each) < n_each
    bootstrap = ClusterBootstrap(np.concatenate(ids), n_resamples, rng)
    auroc = bootstrap.interval(partial(ranking.auroc, score, trained_on))
    tpr = bootstrap.interval(
        partial(ranking.sensitivity_at, 1 - FALSE_POSITIVE_RATE, score, trained_on)
    )
    return {
        **bootstrap.summary(auroc),
        "tpr": float(tpr.value),
        "tpr_low": tpr.low,
        "tpr_high": tpr.high,
    }


@torch.no_grad()
def per_image_losses(
    generator: Generator, lesions: LesionSet, seed: int, noise_levels: int = 4, batch_size: int = 32
) -> pd.DataFrame:
    """The losses of a trained generator on each image, from `Generator.membership_losses`.

    Args:
        generator: In any mode; it is set to evaluation.
        lesions: N images of the generator's size.
        seed: Of the noise.
        noise_levels: Noise levels per image, for generators that have them.
        batch_size: Images per pass.

    Returns:
        N rows, one column per loss; lower for what the model knows better.

    Raises:
        NotMeasured: If there are no images.
        InputError: If they have another size.
    """
    if not len(lesions):
        raise NotMeasured("there is no image of a kind that the attack compares")
    if lesions.image_size != generator.image_size:
        raise InputError(
            f"images of {lesions.image_size} pixels for a generator of {generator.image_size}: "
            "give it images of its own size"
        )
    generator.eval()
    parts = []
    for start in range(0, len(lesions), batch_size):
        rows = slice(start, start + batch_size)
        images = to_unit_range(lesions.images[rows]).to(generator.device)
        labels = lesions.labels[rows].to(generator.device)
        losses = generator.membership_losses(images, labels, seed, noise_levels)
        parts.append(
            pd.DataFrame({name: value.double().cpu().numpy() for name, value in losses.items()})
        )
    return pd.concat(parts, ignore_index=True)


def difficulty_calibrated(
    losses: np.ndarray,
    features: np.ndarray,
    reference_losses: np.ndarray,
    reference_features: np.ndarray,
) -> np.ndarray:
    """Losses less the loss that images of the same look have without being trained on.

    A smooth image has a low loss in any model. An attack that ignores this takes easy images for
    remembered ones (difficulty calibration, Watson et al. 2022). Watson et al. subtract the loss of
    another model; here a ridge regression of the loss on the features predicts it, fitted to
    held-out images.

    Args:
        losses: Of the attacked images, [N].
        features: Of the attacked images, [N, D].
        reference_losses: Of held-out images that are not attacked themselves, [R].
        reference_features: Of these images, [R, D].

    Returns:
        Calibrated losses, float64 [N].

    Raises:
        NotMeasured: If there are fewer than `MIN_REFERENCE_IMAGES` reference images.
        InputError: If rows do not fit.
    """
    if len(reference_losses) < MIN_REFERENCE_IMAGES:
        raise NotMeasured(
            f"{len(reference_losses)} reference images: a calibration needs "
            f"{MIN_REFERENCE_IMAGES} held-out ones"
        )
    for values, rows in ((losses, features), (reference_losses, reference_features)):
        if len(values) != len(rows):
            raise InputError(
                f"{len(values)} losses for features of {len(rows)} images: give one for each"
            )
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(1, 6, 11)))
    model.fit(reference_features, reference_losses)
    return np.asarray(losses) - model.predict(features)
