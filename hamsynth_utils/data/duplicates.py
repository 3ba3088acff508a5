"""Finds photos that are stored twice, by their pixels, not by file name or lesion id."""

from __future__ import annotations

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from hamsynth_utils.data.augmentation import views
from hamsynth_utils.data.lesion_set import LesionSet

THUMBNAIL = 8
"""Height and width in pixels of the small colour images by which photos are compared."""


SAME_PHOTO = 3.0
"""Two thumbnails below this root mean squared difference, in grey levels of 255, are one photo."""


CHUNK = 500
"""Images that are compared with all others at once, to bound the memory."""


def thumbnails(images: Tensor) -> Tensor:
    """Small images, for comparisons.

    Args:
        images: [N, 3, H, W].

    Returns:
        float32 [N, 3, THUMBNAIL, THUMBNAIL], averages over squares, in the range of `images`.
    """
    return F.adaptive_avg_pool2d(images.float(), THUMBNAIL)


def repeated_photos(lesions: LesionSet) -> pd.DataFrame:
    """Find pairs of images that show one photo but belong to two lesions.

    A photo that was stored again is found, also if it was flipped or rotated by quarter turns. A
    cropped photo is not found, nor a photo that was darkened by more than `SAME_PHOTO`. HAM10000 at
    64 pixels has no such pair: over all views, the smallest distance between photos of two lesions
    is 4.5.

    Args:
        lesions: the images to compare.

    Returns:
        One row per pair, with the columns image_id_a and image_id_b.
    """
    small = thumbnails(lesions.images)
    grey, order = small.mean((1, 2, 3)).sort()
    # The difference of two means is at most the root mean squared difference, so few pairs remain
    # to be seen.
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
