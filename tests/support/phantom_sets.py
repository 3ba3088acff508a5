"""A small phantom, and images of it that are labelled as synthetic."""

import numpy as np

from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.phantom.generate import make_phantom

LESIONS = make_phantom(150, seed=0)


def synthetic(dx_label: int, count: int, image_size: int = 64) -> LesionSet:
    index = np.full(count, int(np.flatnonzero(LESIONS.labels.numpy() == dx_label)[0]))
    chosen = LESIONS.subset(index)
    table = chosen.table.assign(
        synthetic=True, image_id=[f"SYN_{dx_label}_{i}" for i in range(count)]
    )
    images = chosen.images[:, :, :image_size, :image_size].contiguous()
    return LesionSet(images, chosen.labels, table, chosen.classes)
