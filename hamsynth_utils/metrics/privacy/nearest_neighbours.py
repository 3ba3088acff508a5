"""Are synthetic images somebody's images? How near they are to training images, and what that gives away.

Distances are Euclidean, in the features of one extractor or in pixels after alignment; what is measured on
the nearest neighbours themselves is in `metrics.copying`, attacks that have the model in `membership`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.augmentation import views
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids, Interval, factorize_lesions

NEAR = 0.01
"""The share of held-out real images that counts as near to a training image, by definition."""


COARSE = 16
"""Pixels a side at which images are compared: what a copy keeps, without the grain that it may lose."""


def nearest_distances(
    queries: np.ndarray,
    references: np.ndarray,
    batch: int = 1024,
    apart: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance [N] of each query [N, D] to its nearest reference [M, D], and that one's row [N].

    apart: a code for each query [N] and each reference [M]; a reference of the query's own code is passed
    over. Which is nearest is found in single precision, its distance computed in double: a copy has 0.
    Raises InputError for sets that are empty, of different dimensions or not finite, or if a query has no
    reference of another code.
    """
    queries, references = _checked(queries, "queries"), _checked(references, "references")
    if queries.shape[1] != references.shape[1]:
        raise InputError(
            f"queries of {queries.shape[1]} and references of {references.shape[1]} dimensions: "
            "use one extractor for both"
        )
    if apart is not None and (len(apart[0]), len(apart[1])) != (len(queries), len(references)):
        raise InputError(
            f"{len(apart[0])} and {len(apart[1])} codes for {len(queries)} queries and {len(references)} "
            "references: give one for each"
        )
    # |q - r|^2 = |q|^2 - 2 qr + |r|^2 finds the nearest by one matrix product; |q|^2 does not change which.
    centre = references.mean(
        0
    )  # without it, single precision would be spent on what all have in common
    asked, against = ((each - centre).astype(np.float32) for each in (queries, references))
    squares = (against**2).sum(1)
    index = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), batch):
        rows = slice(start, start + batch)
        terms = squares - 2 * asked[rows] @ against.T
        if apart is not None:
            terms[apart[0][rows, None] == apart[1]] = np.inf
            if np.isinf(terms.min(1)).any():
                raise InputError(
                    "all references are of one query's own lesion: nothing is left to compare"
                )
        index[rows] = terms.argmin(1)
    # The difference itself, since the product form loses the digits of a small distance.
    return np.linalg.norm(queries - references[index], axis=1), index


def nearest_aligned(
    queries: np.ndarray, references: np.ndarray, apart: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest_distances` of images uint8 [N, 3, S, S] in pixels, the best of the eight flips and turns.

    Compared are means over squares, `COARSE` a side; the distance is the root mean square difference in
    grey levels, 0 to 255. Raises InputError for images of another type or shape, or of sides that `COARSE`
    does not divide.
    """
    turned = [_coarse(view, "queries") for view in views(torch.as_tensor(queries), 8)]
    against = _coarse(torch.as_tensor(references), "references")
    found = [nearest_distances(view, against, apart=apart) for view in turned]
    distances, rows = (np.stack(each) for each in zip(*found, strict=True))
    best = distances.argmin(0), np.arange(len(turned[0]))
    return distances[best], rows[best]


def near_duplicate_rate(
    heldout: np.ndarray, synthetic: np.ndarray, heldout_lesions: Ids, n_resamples: int, seed: int
) -> dict[str, float]:
    """The share of synthetic images that are "near" training; of distances [N] and [G] to the nearest.

    "Near" means closer than the first percentile of the held-out images' distances, so a generator that
    copies nothing has a share of about 0.01 (the idea of Meehan et al. 2020, with a threshold in the tail,
    where copies lie). heldout_lesions: one id per held-out image; none of them may be in training, since a
    shared lesion makes near images look normal.

    Returns share, low and high (95 %, bootstrap over held-out lesions and synthetic images), expected,
    threshold, median_heldout, median_synthetic, n_heldout, n_heldout_lesions, n_synthetic. A low share is
    no proof of privacy: other attacks see more. Raises InputError for a missing lesion id.
    """
    rng = np.random.default_rng(seed)
    bootstrap = ClusterBootstrap(heldout_lesions, n_resamples, rng, n_images=len(heldout))
    order = np.argsort(heldout)
    heldout, ordered = heldout[order], np.sort(synthetic)

    def near(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds [B] for image weights [B, N], and how many synthetic images are closer."""
        cumulated = weights[:, order].cumsum(1)
        thresholds = heldout[(cumulated >= NEAR * cumulated[:, -1:]).argmax(1)]
        return thresholds, np.searchsorted(ordered, thresholds, side="left")

    (threshold,), (closer,) = near(bootstrap.unit_weights)
    _, resampled_closer = near(bootstrap.weights)
    # Redrawing n synthetic images of which k are near gives Binomial(n, k / n) near ones.
    samples = rng.binomial(len(synthetic), resampled_closer / len(synthetic)) / len(synthetic)
    rate = Interval(closer / len(synthetic), samples)
    return {
        "share": float(rate.value),
        "low": rate.low,
        "high": rate.high,
        "expected": NEAR,
        "threshold": float(threshold),
        "median_heldout": float(np.median(heldout)),
        "median_synthetic": float(np.median(synthetic)),
        "n_heldout": len(heldout),
        "n_heldout_lesions": bootstrap.n_clusters,
        "n_synthetic": len(synthetic),
    }


def nearest_neighbour_check(
    train_features: np.ndarray,
    heldout_features: np.ndarray,
    synthetic_features: np.ndarray,
    heldout_lesions: Ids,
    n_resamples: int,
    seed: int,
) -> dict[str, float]:
    """`near_duplicate_rate` of features [., D] of one extractor, and n_train.

    Raises InputError for features that do not fit together or a missing lesion id.
    """
    factorize_lesions(heldout_lesions, len(heldout_features))
    heldout, _ = nearest_distances(heldout_features, train_features)
    synthetic, _ = nearest_distances(synthetic_features, train_features)
    found = near_duplicate_rate(heldout, synthetic, heldout_lesions, n_resamples, seed)
    return {**found, "n_train": len(train_features)}


def _coarse(images: torch.Tensor, name: str) -> np.ndarray:
    """uint8 [N, 3, S, S] -> float64 [N, 3 COARSE^2], so scaled that distances are root mean squares."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise InputError(
            f"{name} must be uint8 [N, 3, S, S], not {images.dtype} {tuple(images.shape)}"
        )
    if images.shape[2] % COARSE:
        raise InputError(f"{name} of {images.shape[2]} pixels a side: {COARSE} must divide that")
    means = F.avg_pool2d(images.double(), images.shape[2] // COARSE).flatten(1)
    return (means / means.shape[1] ** 0.5).numpy()


def _checked(features: np.ndarray, name: str) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not len(features):
        raise InputError(
            f"{name} must be features [N, D] of at least one image, not {features.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise InputError(
            f"{name} hold values that are not finite in {len(bad)} rows, the first is row {bad[0]}"
        )
    return features
