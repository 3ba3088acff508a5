"""Precision over recall with a band: what both the test lesions and the trainings leave open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics.classification import check_predictions
from hamsynth_utils.metrics.comparison import _seed_draws
from hamsynth_utils.metrics.intervals import lesion_codes, lesion_draws
from hamsynth_utils.metrics.ranking import precision_at


def precision_band(
    by_seed: dict[int, pd.DataFrame],
    classes: Sequence[str],
    recall: np.ndarray,
    lesion_ids: Sequence | np.ndarray | pd.Series,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Precision at each recall, averaged over `classes` and the seeds of an arm: recall, value, low, high.

    by_seed, lesion_ids: as for `comparison.estimate`, whose draws of lesions and seeds these are; low to high
    is the 95 % interval at one recall, not of the curve as a whole. Of a draw the classes count that it has.
    Raises InputError for no predictions, or for a class without a true image.
    """
    if not by_seed or not classes:
        raise InputError("a band needs the predictions of at least one seed, and at least one class")
    frames = [check_predictions(frame) for frame in by_seed.values()]
    absent = [dx for dx in classes if not (frames[0]["dx"] == dx).any()]
    if absent:
        raise InputError(f"no image of class {absent[0]}: it has no precision-recall curve")
    codes, lesions = lesion_codes(lesion_ids, len(frames[0]))
    generator = np.random.default_rng(seed)
    # The first weighting is that of the test images themselves.
    drawn = lesion_draws(lesions, draws, generator)[:, codes]
    weights = np.concatenate([np.ones((1, len(codes))), drawn])
    of_seeds = _seed_draws(draws, len(frames), generator)
    curves = np.stack([_mean_curve(frame, classes, recall, weights) for frame in frames], axis=1)
    samples = (of_seeds[:, :, None] * curves[1:]).sum(1)
    low, high = np.nanpercentile(samples, [2.5, 97.5], axis=0)
    return pd.DataFrame({"recall": recall, "value": curves[0].mean(0), "low": low, "high": high})


def _mean_curve(
    frame: pd.DataFrame, classes: Sequence[str], recall: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Precision [B, R], averaged over the classes that a weighting has."""
    curves = np.stack(
        [
            precision_at(recall, frame[f"p_{dx}"].to_numpy(), (frame["dx"] == dx).to_numpy(), weights)
            for dx in classes
        ]
    )
    return np.nansum(curves, axis=0) / (~np.isnan(curves)).sum(0)
