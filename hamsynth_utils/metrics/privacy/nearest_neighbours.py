"""Nearest training images: how near synthetic images lie to what a generator was trained on.

Distances are Euclidean. They are taken between features of one extractor, or between pixels after
alignment. `memorization` compares nearest neighbours; `membership_inference` uses the losses of the
model itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.augmentation import views
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Ids, Interval

NEAR_QUANTILE = 0.01
"""The fraction of held-out real images that count as near to a training image, by definition."""


COARSE_PIXELS = 16
"""Pixels per side at which images are compared: a copy keeps them, and may lose finer grain."""


def nearest_distances(
    queries: np.ndarray,
    references: np.ndarray,
    batch_size: int = 1024,
    lesion_codes: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of each query.

    Single precision finds the nearest one; double precision computes its distance, so that a copy
    has 0.

    Args:
        queries: Features [N, D].
        references: Features [M, D].
        batch_size: Queries per matrix product.
        lesion_codes: A code per query [N] and per reference [M]. References of the query's own code
            are skipped.

    Returns:
        The Euclidean distance to the nearest reference, float64 [N], and the row of that reference,
        int64 [N].

    Raises:
        InputError: If a set is empty or not finite, the dimensions differ, or a query has no
            reference of another code.
    """
    queries, references = _checked(queries, "queries"), _checked(references, "references")
    if queries.shape[1] != references.shape[1]:
        raise InputError(
            f"queries of {queries.shape[1]} and references of {references.shape[1]} dimensions: "
            "use one extractor for both"
        )
    if lesion_codes is not None:
        query_codes, reference_codes = lesion_codes
        if (len(query_codes), len(reference_codes)) != (len(queries), len(references)):
            raise InputError(
                f"{len(query_codes)} and {len(reference_codes)} codes for {len(queries)} queries "
                f"and {len(references)} references: give one for each"
            )
    # |q - r|^2 = |q|^2 - 2 qr + |r|^2 finds the nearest by one matrix product; |q|^2 is left out.
    # Without the centre, single precision would be spent on what all have in common.
    centre = references.mean(0)
    centred_queries, centred = ((x - centre).astype(np.float32) for x in (queries, references))
    squares = (centred**2).sum(1)
    index = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), batch_size):
        rows = slice(start, start + batch_size)
        terms = squares - 2 * centred_queries[rows] @ centred.T  # [batch, M]
        if lesion_codes is not None:
            terms[query_codes[rows, None] == reference_codes] = np.inf
            if np.isinf(terms.min(1)).any():
                raise InputError(
                    "all references are of one query's own lesion: nothing is left to compare"
                )
        index[rows] = terms.argmin(1)
    # The difference itself, since the product form loses the digits of a small distance.
    return np.linalg.norm(queries - references[index], axis=1), index


def nearest_aligned(
    queries: np.ndarray,
    references: np.ndarray,
    lesion_codes: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest reference of each query in pixels, over the query's eight flips and turns.

    Images are averaged to `COARSE_PIXELS` per side before they are compared.

    Args:
        queries: Images uint8 [N, 3, S, S].
        references: Images uint8 [M, 3, S, S].
        lesion_codes: As in `nearest_distances`.

    Returns:
        The root mean square difference to the nearest reference in grey levels, 0 to 255, float64
        [N], and the row of that reference, int64 [N].

    Raises:
        InputError: If images have another type or shape, or `COARSE_PIXELS` does not divide S.
    """
    turned = [_coarse(view, "queries") for view in views(torch.as_tensor(queries), 8)]
    coarse_references = _coarse(torch.as_tensor(references), "references")
    nearest = [
        nearest_distances(view, coarse_references, lesion_codes=lesion_codes) for view in turned
    ]
    distances, rows = (np.stack(each) for each in zip(*nearest, strict=True))  # [8, N]
    best = distances.argmin(0), np.arange(len(turned[0]))
    return distances[best], rows[best]


def near_duplicate_rate(
    heldout: np.ndarray, synthetic: np.ndarray, heldout_lesions: Ids, n_resamples: int, seed: int
) -> dict[str, float]:
    """The fraction of synthetic images nearer to training than nearly all held-out images.

    "Near" means below the first percentile of the held-out distances, so that a generator that
    copies nothing has a rate of about 0.01. The comparison with held-out images is that of Meehan
    et al. (2020); the threshold lies in the tail, where copies lie. A low rate is no proof of
    privacy: other attacks see more.

    Args:
        heldout: Distance of each held-out image to its nearest training image, [N].
        synthetic: Distance of each synthetic image to its nearest training image, [G].
        heldout_lesions: Lesion ids of the held-out images, [N]. None may be in training, since a
            shared lesion makes near images look normal.
        n_resamples: Resamples of the held-out lesions and of the synthetic images.
        seed: Of the resamples.

    Returns:
        value (the rate), low and high (95 %), expected, threshold, median_heldout,
        median_synthetic, n_heldout, n_heldout_lesions, n_synthetic. Distances have the unit of the
        input.

    Raises:
        InputError: If a lesion id is missing.
    """
    rng = np.random.default_rng(seed)
    bootstrap = ClusterBootstrap(heldout_lesions, n_resamples, rng, n_images=len(heldout))
    order = np.argsort(heldout)
    sorted_heldout, sorted_synthetic = heldout[order], np.sort(synthetic)

    def near(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds [B] for image weights [B, N], and how many synthetic images are closer."""
        cumulated = weights[:, order].cumsum(1)
        first = (cumulated >= NEAR_QUANTILE * cumulated[:, -1:]).argmax(1)
        thresholds = sorted_heldout[first]
        return thresholds, np.searchsorted(sorted_synthetic, thresholds, side="left")

    (threshold,), (closer,) = near(bootstrap.unit_weights)
    _, resampled_closer = near(bootstrap.weights)
    # Redrawing n synthetic images of which k are near gives Binomial(n, k / n) near ones.
    n = len(synthetic)
    rate = Interval(closer / n, rng.binomial(n, resampled_closer / n) / n)
    return {
        **rate.as_dict(),
        "expected": NEAR_QUANTILE,
        "threshold": float(threshold),
        "median_heldout": float(np.median(heldout)),
        "median_synthetic": float(np.median(synthetic)),
        "n_heldout": len(heldout),
        "n_heldout_lesions": bootstrap.n_clusters,
        "n_synthetic": n,
    }


def _coarse(images: torch.Tensor, name: str) -> np.ndarray:
    """uint8 [N, 3, S, S] -> float64 [N, 3 COARSE_PIXELS^2]; distances are root mean squares."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise InputError(
            f"{name} must be uint8 [N, 3, S, S], not {images.dtype} {tuple(images.shape)}"
        )
    if images.shape[2] % COARSE_PIXELS:
        raise InputError(
            f"{name} of {images.shape[2]} pixels per side: {COARSE_PIXELS} must divide that"
        )
    means = F.avg_pool2d(images.double(), images.shape[2] // COARSE_PIXELS).flatten(1)
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
