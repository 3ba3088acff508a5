"""Attacks that have the model: what its losses on a photograph give away.

A model that remembers a photograph has a lower loss on it than on another of the same kind. Every loss here
is one number an image, lower for what the model knows better, of fixed noise: the same for every
photograph.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.loading import generator_class
from hamsynth_utils.metrics import ranking
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids, factorize_lesions
from hamsynth_utils.metrics.privacy.nearest_neighbours import nearest_distances

FALSE_POSITIVE_RATE = 0.01
"""The share of false alarms at which an attack's true-positive rate is read (Carlini et al. 2022)."""


def membership_attack(
    train_features: np.ndarray,
    heldout_features: np.ndarray,
    synthetic_features: np.ndarray,
    train_lesions: Ids,
    heldout_lesions: Ids,
    n_resamples: int,
    seed: int,
) -> dict[str, float]:
    """Can somebody who has a photograph find out from the synthetic images whether it was trained on?

    The attack takes the photographs that lie nearest to a synthetic image for those that were trained on
    (the full black-box attack of Chen et al. 2020, GAN-Leaks). All features [., D] of one extractor; the
    rest as in `guess_members`. This is a weak attack, which sees nothing but images: one that has the model
    and compares its loss on a photograph is stronger (Carlini et al. 2023), so 0.5 is no proof of privacy.

    Raises InputError for features that do not fit together, a missing lesion id, or a lesion on both sides.
    """
    factorize_lesions(train_lesions, len(train_features))
    factorize_lesions(heldout_lesions, len(heldout_features))
    inside, outside = (
        -nearest_distances(each, synthetic_features)[0]
        for each in (train_features, heldout_features)
    )
    return guess_members(inside, outside, train_lesions, heldout_lesions, n_resamples, seed)


def guess_members(
    train_scores: np.ndarray,
    heldout_scores: np.ndarray,
    train_lesions: Ids,
    heldout_lesions: Ids,
    n_resamples: int,
    seed: int,
) -> dict[str, float]:
    """How well scores [N] and [H], one an image, tell trained on (higher) from held out.

    The attack is tried on as many training as held-out images, drawn at random from the larger set, so
    training and held-out lesions must be alike in all but the training, as the parts of a random split are.

    Returns value, the AUROC of the guess: how often the training image of a pair has the higher score (0.5
    is chance, 1 gives every training image away); tpr, the share of training images found at a threshold
    that takes 1 % of the held-out ones for trained on (0.01 is chance; Carlini et al. 2022: whoever is
    surely found is harmed, however the others fare); low, high, tpr_low and tpr_high (95 %, bootstrap over
    lesions); n and lesions, of both kinds together.

    Raises InputError for scores that are not finite, a missing lesion id, or a lesion on both sides.
    """
    factorize_lesions(train_lesions, len(train_scores))
    factorize_lesions(heldout_lesions, len(heldout_scores))
    shared = set(train_lesions) & set(heldout_lesions)
    if shared:
        raise InputError(
            f"{len(shared)} lesions are both trained on and held out: leave those images out"
        )
    each = min(len(train_scores), len(heldout_scores))
    rng = np.random.default_rng(seed)
    scores, ids = [], []
    for side, lesion_ids in ((train_scores, train_lesions), (heldout_scores, heldout_lesions)):
        pick = rng.choice(len(side), each, replace=False)
        scores.append(np.asarray(side)[pick])
        ids.append(np.asarray(lesion_ids, dtype=object)[pick])
    score, trained_on = np.concatenate(scores), np.arange(2 * each) < each
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


MAIN_LOSS = {name: generator_class(name).membership_statistic for name in REGISTRY}
"""The loss that each generator is judged by, see there."""


LEAST_REFERENCE = 50
"""Held-out images that a calibration needs."""


@torch.no_grad()
def per_image_losses(
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
        parts.append(
            pd.DataFrame({name: value.double().cpu().numpy() for name, value in found.items()})
        )
    return pd.concat(parts, ignore_index=True)


def difficulty_calibrated(
    losses: np.ndarray,
    features: np.ndarray,
    reference_losses: np.ndarray,
    reference_features: np.ndarray,
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
            raise InputError(
                f"{len(some)} losses for features of {len(of)} images: give one for each"
            )
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(1, 6, 11)))
    model.fit(reference_features, reference_losses)
    return np.asarray(losses) - model.predict(features)
