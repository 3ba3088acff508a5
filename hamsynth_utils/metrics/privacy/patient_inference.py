"""Patient inference: was any photo of this patient in the training data?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import NotMeasured

MIN_LESIONS = 10
"""Lesions with several photos that the attack needs on either side."""


@dataclass(frozen=True)
class SiblingSplit:
    """Photos for the attack on patients, as rows of one `LesionSet`.

    Members, withheld photos and non-members differ only in what the generator was trained on.

    Attributes:
        trained_on: All rows that the generator may see, int64, sorted.
        members: One photo per attacked lesion that the generator sees, [P].
        withheld: Another photo of the same lesion that the generator does not see, [P]; row i is of
            the lesion of `members[i]`.
        non_members: One photo per lesion with several photos, of which the generator sees none,
            [Q].
    """

    trained_on: np.ndarray
    members: np.ndarray
    withheld: np.ndarray
    non_members: np.ndarray


def withhold_siblings(
    table: pd.DataFrame,
    train: np.ndarray,
    heldout: np.ndarray,
    n_sibling_lesions: int,
    n_other_images: int | None,
    seed: int,
) -> SiblingSplit:
    """Choose lesions with several photos in training and withhold one photo of each.

    Args:
        table: One row per image, with lesion_id.
        train: Rows of the training part.
        heldout: Rows of the held-out part. A lesion that is also in training is no non-member.
        n_sibling_lesions: The largest number of lesions to choose.
        n_other_images: How many photos of other lesions the generator sees, too; None for all of
            them.
        seed: Of all random choices.

    Raises:
        NotMeasured: If fewer than `MIN_LESIONS` lesions have several photos in training, or held
            out.
    """
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"row": np.arange(len(table)), "lesion": table["lesion_id"].to_numpy()})
    inside, outside = rows.iloc[rng.permutation(train)], rows.iloc[rng.permutation(heldout)]
    outside = outside[~outside["lesion"].isin(inside["lesion"])]
    chosen = _of_several_photos(inside)["lesion"].drop_duplicates().iloc[:n_sibling_lesions]
    non_members = _of_several_photos(outside).drop_duplicates("lesion")
    if min(len(chosen), len(non_members)) < MIN_LESIONS:
        raise NotMeasured(
            f"{len(chosen)} lesions in training and {len(non_members)} held out have several "
            f"photos: the attack on patients needs at least {MIN_LESIONS} of each"
        )
    attacked = inside["lesion"].isin(chosen)
    photos, others = inside[attacked], inside[~attacked]["row"].to_numpy()
    number = photos.groupby("lesion").cumcount()  # of the photo within its lesion
    first, second = (
        photos[number == place].set_index("lesion").loc[chosen, "row"].to_numpy()
        for place in (0, 1)
    )
    seen = photos[number > 0]["row"].to_numpy()
    return SiblingSplit(
        trained_on=np.sort(np.concatenate([seen, others[:n_other_images]])),
        members=second,
        withheld=first,
        non_members=non_members["row"].to_numpy(),
    )


def _of_several_photos(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.groupby("lesion")["row"].transform("size") > 1]
