"""A phantom with faults planted on purpose, as a data folder: does a report's ledger notice?

python -m hamsynth_utils.data.phantom.corruptions DIR --noise 0.4     wrong diagnoses for 40 % of the lesions
python -m hamsynth_utils.data.phantom.corruptions DIR --copies 0.3    30 % of the photos again, as if of other lesions
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.data.lesion_set import CLASSES, LesionSet, labels_of
from hamsynth_utils.data.phantom.generate import make_phantom

PART = "HAM10000_images_part_1"


def with_label_noise(lesions: LesionSet, share: float, seed: int) -> LesionSet:
    """The same images; so large a share of the lesions, at random, has one of the six other diagnoses."""
    chance = np.random.default_rng(seed)
    names = lesions.table["lesion_id"].unique()
    wrong = chance.choice(names, round(_share(share) * len(names)), replace=False)
    change = pd.Series(chance.integers(1, len(CLASSES), len(wrong)), index=wrong)
    labels = lesions.labels.numpy()
    labels = (labels + lesions.table["lesion_id"].map(change).fillna(0).to_numpy(dtype=int)) % len(
        CLASSES
    )
    table = lesions.table.assign(dx=np.array(CLASSES)[labels])
    return LesionSet(lesions.images, lesions.labels.new_tensor(labels_of(table["dx"])), table)


def with_copies(lesions: LesionSet, share: float, seed: int) -> LesionSet:
    """And so large a share of the photos, at random, once more: flipped, under names of their own."""
    count = round(_share(share) * len(lesions))
    rows = np.random.default_rng(seed).choice(len(lesions), count, replace=False)
    copied = lesions.subset(np.sort(rows))
    table = copied.table.assign(
        image_id="COPY_" + copied.table["image_id"], lesion_id="COPY_" + copied.table["image_id"]
    )
    return lesions + LesionSet(copied.images.flip(3), copied.labels, table)


def write_folder(lesions: LesionSet, folder: Path) -> None:
    """Write them in HAM10000's layout; raises InputError if `folder` is there already."""
    if folder.exists():
        raise InputError(f"{folder} is there already: name a new folder, or delete it first")
    with atomic_path(folder) as made:
        (made / PART).mkdir(parents=True)
        for name, image in zip(lesions.table["image_id"], lesions.images, strict=True):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(
                made / PART / f"{name}.jpg", quality=95
            )
        table = lesions.table.drop(columns="synthetic").assign(dx_type="drawn")
        table.to_csv(made / "HAM10000_metadata.csv", index=False)


def _share(share: float) -> float:
    if not 0 <= share <= 1:
        raise InputError(f"a share lies between 0 and 1, not at {share:g}")
    return share


def main(arguments: list[str] | None = None) -> int:
    """Write a phantom with planted faults as a data folder; 2 with one line for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m hamsynth_utils.data.phantom.corruptions", description=main.__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1500, help="photos of the phantom")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="share of lesions with a wrong diagnosis"
    )
    parser.add_argument("--copies", type=float, default=0.0, help="share of photos that come again")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        lesions = make_phantom(options.images, seed=options.seed)
        lesions = with_label_noise(lesions, options.noise, options.seed)
        lesions = with_copies(lesions, options.copies, options.seed)
        write_folder(lesions, options.folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{options.folder}: {len(lesions):,} images, {lesions.table['lesion_id'].nunique():,} lesion names"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
