"""The splits by lesion and by image compared: what a leak between training and test adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.bootstrap import Ids
from hamsynth_utils.metrics.comparison.arm_estimates import (
    Estimate,
    estimates,
    unpaired_difference,
)
from hamsynth_utils.metrics.comparison.weighted_statistics import Statistic

LEAK_COLUMNS = ["metric", "split", "part", "value", "low", "high", "n", "lesions", "seeds"]
"""Columns of the table of `compare_splits`."""


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions of the test images of one split.

    Attributes:
        by_seed: Predictions of the same N images in the same order, by training seed.
        lesion_ids: Lesion ids of these images, [N].
        leaked: bool [N], True where the image's lesion is in the training part, too.
    """

    by_seed: dict[int, pd.DataFrame]
    lesion_ids: Ids
    leaked: np.ndarray


def compare_splits(
    lesion: SplitPredictions,
    image: SplitPredictions,
    named: Mapping[str, Statistic],
    n_resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Statistics under both splits, on leaked and other images, and their differences.

    `all` has the resamples of `estimates` with this seed, so that one quantity has one interval. In
    a difference each side resamples its own lesions, and both the same trainings.

    Args:
        lesion: Predictions under the split by lesion.
        image: Predictions under the split by image, of the same training seeds.
        named: The statistics by name.
        n_resamples: Resamples of lesions and trainings.
        seed: Of the resamples.

    Returns:
        One row per metric, split and part, with `LEAK_COLUMNS`. Parts are `all`, `leaked` and `not
        leaked`, and the differences `all, less split by lesion` and `leaked less not leaked`, which
        have no n.

    Raises:
        InputError: If the split by lesion leaks, or the training seeds of the two differ.
    """
    _check_splits(lesion, image)
    everything = np.ones(len(image.leaked), dtype=bool)
    under_lesion = _estimates_of_part(lesion, ~lesion.leaked, named, n_resamples, seed)
    parts = {"all": _estimates_of_part(image, everything, named, n_resamples, seed)}
    # A difference from another set of images needs resamples of its own.
    other_all = _estimates_of_part(image, everything, named, n_resamples, seed + 1)
    if image.leaked.any() and not image.leaked.all():
        masks = {"leaked": image.leaked, "not leaked": ~image.leaked}
        for k, (part, mask) in enumerate(masks.items()):
            parts[part] = _estimates_of_part(image, mask, named, n_resamples, seed + 2 + k)
    rows: list[dict] = []
    for metric in named:
        rows.append(_row(metric, "lesion", "all", under_lesion[metric]))
        rows += [_row(metric, "image", part, each[metric]) for part, each in parts.items()]
        differences = {
            "all, less split by lesion": unpaired_difference(
                other_all[metric], under_lesion[metric]
            )
        }
        if "leaked" in parts:
            differences["leaked less not leaked"] = unpaired_difference(
                parts["leaked"][metric], parts["not leaked"][metric]
            )
        rows += [
            {"metric": metric, "split": "image", "part": part, **each, "seeds": len(image.by_seed)}
            for part, each in differences.items()
        ]
    return pd.DataFrame(rows, columns=LEAK_COLUMNS).astype({"n": "Int64", "lesions": "Int64"})


def _check_splits(lesion: SplitPredictions, image: SplitPredictions) -> None:
    if lesion.leaked.any():
        raise InputError(
            f"{int(lesion.leaked.sum())} test images leak, but a split by lesion has none"
        )
    if sorted(lesion.by_seed) != sorted(image.by_seed):
        raise InputError(
            f"the seeds differ: {sorted(lesion.by_seed)} by lesion, "
            f"{sorted(image.by_seed)} by image"
        )


def _estimates_of_part(
    split: SplitPredictions,
    mask: np.ndarray,
    named: Mapping[str, Statistic],
    n_resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    by_seed = {s: split.by_seed[s][mask].reset_index(drop=True) for s in sorted(split.by_seed)}
    return estimates(named, by_seed, np.asarray(split.lesion_ids)[mask], n_resamples, seed)


def _row(metric: str, split: str, part: str, estimate: Estimate) -> dict[str, float | str]:
    return {
        "metric": metric,
        "split": split,
        "part": part,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.images,
        "lesions": estimate.lesions,
        "seeds": estimate.seeds,
    }
