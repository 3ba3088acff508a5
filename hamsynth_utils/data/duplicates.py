"""Is it the same photo? By what a picture shows, not by what its file or its lesion is called."""

from __future__ import annotations

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from hamsynth_utils.data.augmentation import views
from hamsynth_utils.data.lesion_set import LesionSet

THUMBNAIL = 8
"""Pixels a side of the small colour pictures that photos are compared by."""


SAME_PHOTO = 3.0
"""Root mean squared difference of two thumbnails, in grey levels of 255, below which they are one photo."""


CHUNK = 500


def thumbnails(images: Tensor) -> Tensor:
    """Float32 [N, 3, THUMBNAIL, THUMBNAIL] of images [N, 3, H, W], by averages over squares."""
    return F.adaptive_avg_pool2d(images.float(), THUMBNAIL)


def repeated_photos(lesions: LesionSet) -> pd.DataFrame:
    """Pairs of images that are one photo and go by two lesions: columns image_id_a, image_id_b.

    A photo that was stored again, flipped or turned by quarters is found; one that was cropped, or made
    darker by more than `SAME_PHOTO`, is not. On HAM10000 at 64 pixels there is none: in no view is any of the
    10,015 photos nearer than 4.5 to one of another lesion.
    """
    small = thumbnails(lesions.images)
    grey, order = small.mean((1, 2, 3)).sort()
    # The difference of two means is at most the root mean squared difference, so few pairs remain to be seen.
    ends = torch.searchsorted(grey, grey + SAME_PHOTO)
    seen = [view.flatten(1) for view in views(small[order], 8)]
    pairs = set()
    for start in range(0, len(order), CHUNK):
        these = seen[0][start : start + CHUNK]
        end = int(ends[start + len(these) - 1])
        for view in seen:
            distance = torch.cdist(these, view[start:end]) / these.shape[1] ** 0.5
            for row, column in (distance < SAME_PHOTO).nonzero().tolist():
                if column > row:
                    pairs.add(tuple(sorted(order[[start + row, start + column]].tolist())))
    lesion, names = lesions.table["lesion_id"].to_numpy(), lesions.table["image_id"].to_numpy()
    rows = [(names[a], names[b]) for a, b in sorted(pairs) if lesion[a] != lesion[b]]
    return pd.DataFrame(rows, columns=["image_id_a", "image_id_b"], dtype=object)
