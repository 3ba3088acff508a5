"""Predictions of a trained classifier, as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from hamsynth_utils.classifier.model import Classifier, Probe
from hamsynth_utils.classifier.token_cache import CachedTokens
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.augmentation import views
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range


@torch.no_grad()
def predict(
    classifier: Classifier | Probe,
    lesions: LesionSet,
    batch_size: int = 64,
    tokens: CachedTokens | None = None,
) -> pd.DataFrame:
    """The probabilities of a classifier, averaged over the views of its settings.

    Args:
        classifier: a trained classifier, or a probe, which needs `tokens`.
        lesions: N real images.
        batch_size: how many images are evaluated at once.
        tokens: the cached tokens of these images, which are then not computed again.

    Returns:
        N rows with image_id, dx (the true class) and `p_<class>` of each class.

    Raises:
        InputError: an image is synthetic, or the classifier has other classes than the images.
    """
    lesions.require_real("the images to predict")
    device, count = next(classifier.parameters()).device, classifier.settings.tta_views
    rows = None if tokens is None else tokens.align_table(lesions)
    classifier.eval()
    parts = []
    for start in range(0, len(lesions), batch_size):
        if tokens is None or rows is None:
            images = to_unit_range(lesions.images[start : start + batch_size].to(device))
            inputs = views(images, count)
        else:
            some = rows[start : start + batch_size]
            inputs = [
                tokens.take(some, np.full(len(some), view)).to(device) for view in range(count)
            ]
        per_view = torch.stack([classifier.logits(view).softmax(1) for view in inputs])  # [V, B, K]
        parts.append(per_view.mean(0).cpu())
    frame = lesions.table[["image_id", "dx"]].reset_index(drop=True)
    probabilities = torch.cat(parts).double().numpy()  # [N, K]
    columns = lesions.classes.probability_columns
    if probabilities.shape[1] != len(columns):
        raise InputError(
            f"the classifier tells {probabilities.shape[1]} classes apart, but the images have "
            f"{len(columns)}: {lesions.classes}"
        )
    return pd.concat([frame, pd.DataFrame(probabilities, columns=columns)], axis=1)
