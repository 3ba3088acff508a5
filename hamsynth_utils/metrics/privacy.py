"""Are synthetic images somebody's images? How near they are to training images, and what that gives away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics import ranking
from hamsynth_utils.metrics.intervals import lesion_codes, lesion_draws, percentile_interval

NEAR = 0.01
"""The share of held-out real images that counts as near to a training image, by definition."""


def nearest_distances(
    queries: np.ndarray, references: np.ndarray, batch: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance [N] of each query [N, D] to its nearest reference [M, D], and that one's row [N].

    Exact, in double precision; a copy has distance 0. Raises InputError for sets that are empty, of
    different dimensions or not finite.
    """
    queries, references = _checked(queries, "queries"), _checked(references, "references")
    if queries.shape[1] != references.shape[1]:
        raise InputError(
            f"queries of {queries.shape[1]} and references of {references.shape[1]} dimensions: "
            "use one extractor for both"
        )
    # |q - r|^2 = |q|^2 - 2 qr + |r|^2 finds the nearest by one matrix product; |q|^2 does not change which.
    squares = (references**2).sum(1)
    index = np.concatenate(
        [
            (squares - 2 * queries[start : start + batch] @ references.T).argmin(1)
            for start in range(0, len(queries), batch)
        ]
    )
    # The difference itself, since the product form loses the digits of a small distance.
    return np.linalg.norm(queries - references[index], axis=1), index


def nearest_neighbour_check(
    train_features: np.ndarray,
    heldout_features: np.ndarray,
    synthetic_features: np.ndarray,
    heldout_lesions: Sequence | np.ndarray | pd.Series,
    draws: int,
    seed: int,
) -> dict[str, float]:
    """Are more synthetic images very near a training image than real images that were never trained on?

    All features [., D] of one extractor; heldout_lesions: one id per held-out image. "Near" means closer than
    the first percentile of the held-out images' distances, so a generator that copies nothing has a share
    of about 0.01 (the idea of Meehan et al. 2020, with a threshold in the tail, where copies lie).

    Returns share, low and high (95 %, bootstrap over held-out lesions and synthetic images), expected,
    threshold, median_heldout, median_synthetic (distances to the nearest training image), n_train, n_heldout,
    n_heldout_lesions, n_synthetic. The held-out lesions must not be in training: a shared lesion makes
    near images look normal. A low share is no proof of privacy: other attacks see more.

    Raises InputError for features that do not fit together or a missing lesion id.
    """
    codes, lesions = lesion_codes(heldout_lesions, len(heldout_features))
    heldout, _ = nearest_distances(heldout_features, train_features)
    synthetic, _ = nearest_distances(synthetic_features, train_features)
    order = np.argsort(heldout)
    heldout, codes, ordered = heldout[order], codes[order], np.sort(synthetic)

    def near(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds [draws] for image weights [draws, N], and how many synthetic images are closer."""
        cumulated = weights.cumsum(1)
        thresholds = heldout[(cumulated >= NEAR * cumulated[:, -1:]).argmax(1)]
        return thresholds, np.searchsorted(ordered, thresholds, side="left")

    (threshold,), (closer,) = near(np.ones((1, len(heldout))))
    generator = np.random.default_rng(seed)
    _, closer_drawn = near(lesion_draws(lesions, draws, generator)[:, codes])
    # Redrawing n synthetic images of which k are near gives Binomial(n, k / n) near ones.
    shares = generator.binomial(len(synthetic), closer_drawn / len(synthetic)) / len(synthetic)
    low, high = percentile_interval(shares)
    return {
        "share": float(closer / len(synthetic)),
        "low": low,
        "high": high,
        "expected": NEAR,
        "threshold": float(threshold),
        "median_heldout": float(np.median(heldout)),
        "median_synthetic": float(np.median(synthetic)),
        "n_train": len(train_features),
        "n_heldout": len(heldout),
        "n_heldout_lesions": lesions,
        "n_synthetic": len(synthetic),
    }


def membership_attack(
    train_features: np.ndarray,
    heldout_features: np.ndarray,
    synthetic_features: np.ndarray,
    train_lesions: Sequence | np.ndarray | pd.Series,
    heldout_lesions: Sequence | np.ndarray | pd.Series,
    draws: int,
    seed: int,
) -> dict[str, float]:
    """Can somebody who has a photograph find out from the synthetic images whether it was trained on?

    The attack takes the photographs that lie nearest to a synthetic image for those that were trained on
    (the full black-box attack of Chen et al. 2020, GAN-Leaks). It is tried on as many training as held-out
    images, drawn at random from the larger set, so training and held-out lesions must be alike in all but the
    training, as the parts of a random split are. All features [., D] of one extractor; one lesion id per
    training and held-out image.

    Returns value, the AUROC of the guess: how often the training image of a pair is the nearer one (0.5 is
    chance, 1 gives every training image away); low and high (95 %, bootstrap over lesions); n and lesions,
    of both kinds together. This is a weak attack, which sees nothing but images: one that has the model and
    compares its loss on a photograph is stronger (Carlini et al. 2023), so 0.5 is no proof of privacy.

    Raises InputError for features that do not fit together, a missing lesion id, or a lesion on both sides.
    """
    lesion_codes(train_lesions, len(train_features))
    lesion_codes(heldout_lesions, len(heldout_features))
    shared = set(train_lesions) & set(heldout_lesions)
    if shared:
        raise InputError(f"{len(shared)} lesions are both trained on and held out: leave those images out")
    each = min(len(train_features), len(heldout_features))
    generator = np.random.default_rng(seed)
    distances, ids = [], []
    for features, lesion_ids in ((train_features, train_lesions), (heldout_features, heldout_lesions)):
        pick = generator.choice(len(features), each, replace=False)
        distances.append(nearest_distances(features[pick], synthetic_features)[0])
        ids.append(np.asarray(lesion_ids, dtype=object)[pick])
    nearness = -np.concatenate(distances)
    codes, lesions = lesion_codes(np.concatenate(ids), 2 * each)
    trained_on = np.arange(2 * each) < each
    (value,) = ranking.auroc(nearness, trained_on, np.ones((1, 2 * each)))
    drawn = ranking.auroc(nearness, trained_on, lesion_draws(lesions, draws, generator)[:, codes])
    low, high = percentile_interval(drawn)
    return {"value": float(value), "low": low, "high": high, "n": 2 * each, "lesions": lesions}


def _checked(features: np.ndarray, name: str) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not len(features):
        raise InputError(f"{name} must be features [N, D] of at least one image, not {features.shape}")
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise InputError(
            f"{name} hold values that are not finite in {len(bad)} rows, the first is row {bad[0]}"
        )
    return features
