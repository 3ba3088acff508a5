"""Training, validation and test part: split by whole lesions, or by single images.

The source report splits by single images. Two photos of one lesion are nearly the same image, and
a split by images puts many such pairs into different parts. The test then rewards memory.
`leaked_share` measures how many test images are affected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import labels_of


@dataclass(frozen=True, eq=False)
class Split:
    """Row positions (int64, ascending, disjoint) of the three parts of a table."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def lesion_split(
    table: pd.DataFrame,
    classes: Sequence[str],
    near_duplicates: pd.DataFrame,
    seed: int,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> Split:
    """Split whole lesions, each class in the given fractions.

    Lesions that share a near-duplicate stay together. The parts depend on the seed and on the
    images, not on the order of the rows.

    Args:
        table: one row per image, with image_id, lesion_id and dx.
        classes: the class names, in the order of the labels.
        near_duplicates: pairs of images (image_id_a, image_id_b) of different lesions.
        seed: seed of the split.
        validation_fraction: of the images of each class, above 0.
        test_fraction: of the images of each class, above 0; the sum of both fractions is below 1.

    Returns:
        The row positions of each part.

    Raises:
        InputError: if a lesion id is missing, if the fractions leave nothing to train on, or if a
            class that occurs has no image in some part.
    """
    return _split(
        table,
        classes,
        lesion_groups(table, near_duplicates),
        seed,
        validation_fraction,
        test_fraction,
    )


def image_split(
    table: pd.DataFrame,
    classes: Sequence[str],
    seed: int,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> Split:
    """Split single images at random, so that photos of one lesion fall into different parts.

    The default fractions give the 80/20 split of the source report; the validation part is taken
    from its 80 %.

    Args:
        table: one row per image, with image_id and dx.
        classes: the class names, in the order of the labels.
        seed: seed of the split.
        validation_fraction: of the images of each class, above 0.
        test_fraction: of the images of each class, above 0; the sum of both fractions is below 1.

    Returns:
        The row positions of each part.

    Raises:
        InputError: as for `lesion_split`, except for missing lesion ids.
    """
    return _split(table, classes, np.arange(len(table)), seed, validation_fraction, test_fraction)


def make_split(
    split_by: str,
    table: pd.DataFrame,
    classes: Sequence[str],
    near_duplicates: pd.DataFrame,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
) -> Split:
    """Split by whole lesions or by single images.

    Args:
        split_by: "lesion" for `lesion_split`, "image" for `image_split`.
        table: as for these functions.
        classes: as for these functions.
        near_duplicates: as for `lesion_split`; not used for a split by images.
        seed: seed of the split.
        validation_fraction: as for these functions.
        test_fraction: as for these functions.

    Returns:
        The row positions of each part.

    Raises:
        InputError: as for the two functions, or for another `split_by`.
    """
    if split_by == "lesion":
        return lesion_split(
            table, classes, near_duplicates, seed, validation_fraction, test_fraction
        )
    if split_by == "image":
        return image_split(table, classes, seed, validation_fraction, test_fraction)
    raise InputError(f"no way to split is called {split_by!r}; there are lesion and image")


def lesion_groups(table: pd.DataFrame, near_duplicates: pd.DataFrame) -> np.ndarray:
    """Number the groups of lesions that must stay together.

    Args:
        table: N rows with image_id and lesion_id.
        near_duplicates: pairs (image_id_a, image_id_b); a pair with an image that is not in the
            table is ignored.

    Returns:
        int [N], the group of each image. Images of one lesion have the same number, and so have
        lesions that near-duplicates connect.

    Raises:
        InputError: if a lesion id is missing.
    """
    lesion = _lesions(table)
    of_image = pd.Series(lesion, index=table["image_id"].to_numpy())
    ends = near_duplicates[["image_id_a", "image_id_b"]]
    ends = ends[ends.isin(of_image.index).all(axis=1)]
    a, b = (of_image[ends[column]].to_numpy() for column in ends)
    size = int(lesion.max(initial=-1)) + 1
    edges = coo_array((np.ones(len(ends), dtype=bool), (a, b)), shape=(size, size))
    return connected_components(edges, directed=False)[1][lesion]


def leaked_share(
    table: pd.DataFrame, split: Split, near_duplicates: pd.DataFrame | None = None
) -> float:
    """Fraction of the test images that are `leaked`.

    Args:
        table: as for `leaked`.
        split: as for `leaked`.
        near_duplicates: as for `leaked`.

    Returns:
        A fraction in [0, 1].

    Raises:
        InputError: if a lesion id is missing.
    """
    return float(leaked(table, split, near_duplicates).mean())


def leaked(
    table: pd.DataFrame, split: Split, near_duplicates: pd.DataFrame | None = None
) -> np.ndarray:
    """Which test images show a lesion that also has an image in the training or validation part.

    Args:
        table: N rows with image_id and lesion_id.
        split: the parts of the table.
        near_duplicates: lesions that these pairs connect count as one lesion, see `lesion_groups`;
            by default every lesion id is a lesion of its own.

    Returns:
        bool [number of test images], in the order of `split.test`.

    Raises:
        InputError: if a lesion id is missing.
    """
    lesion = _lesions(table) if near_duplicates is None else lesion_groups(table, near_duplicates)
    seen = np.concatenate([split.train, split.validation])
    return np.isin(lesion[split.test], lesion[seen])


def _lesions(table: pd.DataFrame) -> np.ndarray:
    missing = int(table["lesion_id"].isna().sum())
    if missing:
        raise InputError(
            f"{missing:,} of {len(table):,} images have no lesion_id, so lesions cannot be told "
            "apart: use HAM10000_metadata.csv, or put ISIC2018_Task3_Training_LesionGroupings.csv "
            "beside the truth"
        )
    return pd.factorize(table["lesion_id"])[0]


def _split(
    table: pd.DataFrame,
    classes: Sequence[str],
    groups: np.ndarray,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
) -> Split:
    if validation_fraction <= 0 or test_fraction <= 0 or validation_fraction + test_fraction >= 1:
        raise InputError(
            f"validation_fraction {validation_fraction} and test_fraction {test_fraction}: each "
            "must be above 0, their sum below 1"
        )
    labels = labels_of(table["dx"], classes)
    frame = pd.DataFrame(
        {"group": groups, "label": labels, "image_id": table["image_id"].to_numpy()}
    )
    # A group in a canonical order, so that the draw does not depend on the order of the rows. The
    # few groups that near-duplicates make of two classes count for the rarer class, where every
    # image weighs most.
    frame["rarity"] = np.bincount(labels, minlength=len(classes))[labels]
    frame = frame.sort_values(["rarity", "label", "image_id"])
    units = frame.groupby("group", sort=False).agg(label=("label", "first"), size=("label", "size"))
    rng = np.random.default_rng(seed)
    part = pd.Series("train", index=units.index)
    for label in range(len(classes)):
        sizes = units["size"][units["label"] == label]
        order = rng.permutation(sizes.index.to_numpy())
        total = int(sizes.sum())
        for name, share in (("test", test_fraction), ("validation", validation_fraction)):
            # The parts that are filled later need a group of the class, too.
            most = len(order) - (2 if name == "test" else 1)
            taken = _fill(order, sizes.to_dict(), max(1, round(share * total)), most)
            part[taken] = name
            order = order[~np.isin(order, taken)]
    name_of_row = part.reindex(groups).to_numpy()
    split = Split(
        *(np.flatnonzero(name_of_row == name) for name in ("train", "validation", "test"))
    )
    for name, index in split.parts().items():
        absent = np.setdiff1d(labels, labels[index])
        if len(absent):
            raise InputError(
                f"the class {classes[absent[0]]} has no image in the {name} part: each of the "
                "three parts needs a lesion of it, so give more images (or lesions) of it, or "
                "leave the class out"
            )
    return split


def _fill(order: np.ndarray, sizes: dict[int, int], capacity: int, most: int) -> list[int]:
    """Groups in the given order, as long as they fit into `capacity` images.

    There is at least one group, and by then at most `most`.
    """
    taken: list[int] = []
    for group in order:
        if sizes[group] <= capacity and len(taken) < most:
            taken.append(group)
            capacity -= sizes[group]
    return taken or sorted(order, key=lambda group: sizes[group])[:1]
