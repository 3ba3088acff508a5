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
    """Columns image_id, dx (the truth) and `p_<class>` of each class, averaged over the views of the settings.

    tokens: what the frozen blocks made of these images (`hamsynth_utils.classifier.token_cache`), so as not to make it again;
    a probe knows nothing else.
    Raises InputError if any image is synthetic: validation and test are on real images only.
    """
    lesions.require_real("the images to predict")
    device, count = next(classifier.parameters()).device, classifier.settings.tta_views
    rows = None if tokens is None else tokens.align_table(lesions)
    classifier.eval()
    parts = []
    for start in range(0, len(lesions), batch_size):
        if tokens is None or rows is None:
            images = to_unit_range(lesions.images[start : start + batch_size].to(device))
            seen = views(images, count)
        else:
            some = rows[start : start + batch_size]
            seen = [tokens.take(some, np.full(len(some), view)).to(device) for view in range(count)]
        parts.append(
            torch.stack([classifier.logits(view).softmax(1) for view in seen]).mean(0).cpu()
        )
    frame = lesions.table[["image_id", "dx"]].reset_index(drop=True)
    probabilities = torch.cat(parts).double().numpy()  # [N, K]
    columns = lesions.classes.probability_columns
    if probabilities.shape[1] != len(columns):
        raise InputError(
            f"the classifier tells {probabilities.shape[1]} classes apart, but the images have "
            f"{len(columns)}: {lesions.classes}"
        )
    return pd.concat([frame, pd.DataFrame(probabilities, columns=columns)], axis=1)
