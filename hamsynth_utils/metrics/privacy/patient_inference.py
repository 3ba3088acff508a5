"""Patient inference: was anything of this patient in the training data?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import InputError


@dataclass(frozen=True)
class SiblingSplit:
    """Photographs for the question whether the *patient* is in, of rows of one set of lesions.

    trained_on: all that the generator may see. members, siblings: one photo of each patient that it sees,
    and one that it does not see; row i of both is of one lesion. strangers: one photo of each lesion with
    several photos, of none of which it sees anything. So members, siblings and strangers differ in nothing
    but that.
    """

    trained_on: np.ndarray
    members: np.ndarray
    siblings: np.ndarray
    strangers: np.ndarray


def withhold_siblings(
    table: pd.DataFrame,
    train: np.ndarray,
    heldout: np.ndarray,
    patients: int,
    n_other_images: int | None,
    seed: int,
) -> SiblingSplit:
    """Up to `patients` lesions with several photos in training, one photo of each withheld; and strangers.

    table: one row an image, with lesion_id and dx. train, heldout: its rows; a lesion that is in both is no
    stranger. n_other_images: of so many photos of other lesions the generator sees, too; None: all of them.
    Every draw comes from `seed`. Raises InputError if either side has fewer than 10 such lesions.
    """
    generator = np.random.default_rng(seed)
    rows = pd.DataFrame({"row": np.arange(len(table)), "lesion": table["lesion_id"].to_numpy()})
    inside = rows.iloc[generator.permutation(train)]
    outside = rows.iloc[generator.permutation(heldout)]
    outside = outside[~outside["lesion"].isin(inside["lesion"])]
    several = inside[inside.groupby("lesion")["row"].transform("size") > 1]
    chosen = several["lesion"].drop_duplicates().iloc[:patients]
    strangers = outside[outside.groupby("lesion")["row"].transform("size") > 1].drop_duplicates(
        "lesion"
    )
    if min(len(chosen), len(strangers)) < 10:
        raise InputError(
            f"{len(chosen)} lesions in training and {len(strangers)} held out have several photos: "
            "the attack on patients needs at least 10 of each"
        )
    of_patients = inside[inside["lesion"].isin(chosen)]
    place = of_patients.groupby("lesion").cumcount()
    others = inside[~inside["lesion"].isin(chosen)]["row"].to_numpy()
    others = others if n_other_images is None else others[:n_other_images]

    def photo(number: int) -> np.ndarray:
        return of_patients[place == number].set_index("lesion").loc[chosen, "row"].to_numpy()

    siblings = photo(0)
    seen = of_patients[place > 0]["row"].to_numpy()
    return SiblingSplit(
        np.sort(np.concatenate([seen, others])), photo(1), siblings, strangers["row"].to_numpy()
    )
