"""One arm under two splits: by lesion, and by image, where test lesions leak into training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics.comparison import Estimate, Statistic, change, estimates

COLUMNS = ["metric", "split", "part", "value", "low", "high", "n", "lesions", "seeds"]


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions of the test images of one split, by the seed of the training; their lesions; which leak."""

    by_seed: dict[int, pd.DataFrame]
    lesion_ids: Sequence | np.ndarray | pd.Series
    leaked: np.ndarray


def compare_splits(
    lesion: SplitPredictions, image: SplitPredictions, named: Mapping[str, Statistic], draws: int, seed: int
) -> pd.DataFrame:
    """Each statistic under both splits, on leaked and other images, and the differences, with intervals.

    One row a metric, split and part. Parts are `all`, `leaked` and `not leaked`, and the differences
    `all, less split by lesion` and `leaked less not leaked`, which have no n: each side draws its own
    lesions, both the same seeds. `all` is drawn as `comparison.estimates` with this seed draws it, so that
    one quantity has one interval.

    Raises InputError if the split by lesion leaks, or the seeds of the two are not the same.
    """
    if lesion.leaked.any():
        raise InputError(f"{int(lesion.leaked.sum())} test images leak, but a split by lesion has none")
    if sorted(lesion.by_seed) != sorted(image.by_seed):
        raise InputError(
            f"the seeds differ: {sorted(lesion.by_seed)} by lesion, {sorted(image.by_seed)} by image"
        )
    everything = np.ones(len(image.leaked), dtype=bool)
    under_lesion = _of(lesion, ~lesion.leaked, named, draws, seed)
    parts = {"all": _of(image, everything, named, draws, seed)}
    # What is compared with another set of images needs draws of its own.
    apart = _of(image, everything, named, draws, seed + 1)
    if image.leaked.any() and not image.leaked.all():
        for k, (part, mask) in enumerate({"leaked": image.leaked, "not leaked": ~image.leaked}.items()):
            parts[part] = _of(image, mask, named, draws, seed + 2 + k)
    rows: list[dict] = []
    for metric in named:
        rows.append({"metric": metric, "split": "lesion", "part": "all", **_row(under_lesion[metric])})
        for part, found in parts.items():
            rows.append({"metric": metric, "split": "image", "part": part, **_row(found[metric])})
        differences = {"all, less split by lesion": change(apart[metric], under_lesion[metric])}
        if "leaked" in parts:
            leaked, others = parts["leaked"][metric], parts["not leaked"][metric]
            differences["leaked less not leaked"] = change(leaked, others)
        for part, each in differences.items():
            rows.append(
                {"metric": metric, "split": "image", "part": part, **each, "seeds": len(image.by_seed)}
            )
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n": "Int64", "lesions": "Int64"})


def _of(
    of: SplitPredictions, mask: np.ndarray, named: Mapping[str, Statistic], draws: int, seed: int
) -> dict[str, Estimate]:
    some = {s: of.by_seed[s][mask].reset_index(drop=True) for s in sorted(of.by_seed)}
    return estimates(named, some, np.asarray(of.lesion_ids)[mask], draws, seed)


def _row(found: Estimate) -> dict[str, float]:
    return {
        "value": found.value, "low": found.low, "high": found.high,
        "n": found.images, "lesions": found.lesions, "seeds": found.seeds,
    }  # fmt: skip
