from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.files.metadata import read_metadata
from hamsynth_utils.data.ham10000 import NO_PAIRS, read_near_duplicates
from hamsynth_utils.data.layouts import find_layout
from hamsynth_utils.data.split import (
    Split,
    image_split,
    leaked,
    leaked_share,
    lesion_groups,
    lesion_split,
    make_split,
)

CLASSES = HAM10000.classes.names


def table_of(lesions_per_class: int = 40, seed: int = 0) -> pd.DataFrame:
    """Seven classes, lesions of one to four images."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"L{label}_{lesion}", CLASSES[label])
        for label in range(7)
        for lesion in range(lesions_per_class)
        for _ in range(rng.integers(1, 5))
    ]
    lesion_id, dx = zip(*rows, strict=True)
    return pd.DataFrame(
        {"image_id": [f"I{k:05}" for k in range(len(rows))], "lesion_id": lesion_id, "dx": dx}
    )


def pairs_of(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["image_id_a", "image_id_b"])


@pytest.fixture(scope="module")
def real(ham10000_folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return read_metadata(find_layout(ham10000_folder)), read_near_duplicates(ham10000_folder)


def worst_share(table: pd.DataFrame, split: Split, shares: dict[str, float]) -> float:
    """Largest distance, over parts and classes, of a class's share from the share asked for."""
    totals = table["dx"].value_counts()
    parts = split.parts()
    return max(
        (table["dx"].iloc[parts[name]].value_counts() / totals - s).abs().max()
        for name, s in shares.items()
    )


def is_partition(split: Split, n: int) -> bool:
    return np.array_equal(np.sort(np.concatenate(list(split.parts().values()))), np.arange(n))


SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lesion_split_of_the_real_data_leaks_nothing(real: tuple, seed: int) -> None:
    table, pairs = real
    split = lesion_split(table, HAM10000.classes, pairs, seed)
    assert is_partition(split, len(table))
    assert leaked_share(table, split) == 0
    # every lesion, and both sides of every near-duplicate pair, in one part only
    part = pd.Series("", index=table["image_id"])
    for name, index in split.parts().items():
        part.iloc[index] = name
    assert (part.groupby(table["lesion_id"].to_numpy()).nunique() == 1).all()
    assert (part[pairs["image_id_a"]].to_numpy() == part[pairs["image_id_b"]].to_numpy()).all()
    assert worst_share(table, split, SHARES) < 0.01


def test_image_split_of_the_real_data_leaks_as_published(real: tuple) -> None:
    table, _ = real
    splits = [image_split(table, HAM10000.classes, seed) for seed in range(5)]
    leaked = [leaked_share(table, split) for split in splits]
    assert np.mean(leaked) == pytest.approx(0.386, abs=0.01)
    assert all(is_partition(s, len(table)) and worst_share(table, s, SHARES) < 0.01 for s in splits)


def test_leaked_share_by_hand() -> None:
    table = pd.DataFrame(
        {"lesion_id": ["a", "a", "b", "b", "c", "d"], "dx": "nv", "image_id": list("123456")}
    )
    # test holds a (also in train), b (also in validation), c and d (nowhere else)
    split = Split(np.array([0]), np.array([2]), np.array([1, 3, 4, 5]))
    assert leaked_share(table, split) == 0.5


def test_a_photo_that_goes_by_two_lesions_leaks() -> None:
    table = pd.DataFrame({"image_id": list("abcd"), "lesion_id": ["1", "2", "3", "4"]})
    split = Split(np.array([0]), np.array([1]), np.array([2, 3]))
    pairs = pd.DataFrame({"image_id_a": ["a"], "image_id_b": ["d"]})
    assert leaked_share(table, split) == 0 and leaked(table, split, pairs).tolist() == [False, True]


def test_groups_join_chains_of_near_duplicates() -> None:
    table = pd.DataFrame(
        {"image_id": list("abcdefg"), "lesion_id": ["x", "x", "y", "z", "z", "u", "v"], "dx": "nv"}
    )
    groups = lesion_groups(table, pairs_of(("b", "c"), ("f", "e"), ("a", "not there")))
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] == groups[4] == groups[5]
    assert len({groups[0], groups[3], groups[6]}) == 3
    assert len(set(lesion_groups(table, NO_PAIRS))) == 5


def test_near_duplicates_of_two_classes_stay_together() -> None:
    table = table_of()
    first = table.groupby("dx")["image_id"].first()
    pairs = pairs_of(*zip(first.iloc[:-1], first.iloc[1:], strict=True))
    for seed in range(10):
        split = lesion_split(table, HAM10000.classes, pairs, seed)
        inside = [
            np.isin(table["image_id"].iloc[index], first).sum() for index in split.parts().values()
        ]
        assert sorted(inside) == [0, 0, 7]


@pytest.mark.parametrize("split_by", ["lesion", "image"])
def test_seed_decides_and_the_order_of_rows_does_not(split_by: str) -> None:
    table = table_of()
    shuffled = table.sample(frac=1, random_state=3).reset_index(drop=True)

    def ids(table: pd.DataFrame, seed: int) -> dict[str, set[str]]:
        split = make_split(split_by, table, HAM10000.classes, NO_PAIRS, seed, 0.1, 0.2)
        return {name: set(table["image_id"].iloc[index]) for name, index in split.parts().items()}

    assert ids(table, 5) == ids(table, 5) == ids(shuffled, 5)
    assert ids(table, 5) != ids(table, 6)


def test_other_shares_are_kept() -> None:
    table = table_of(200)
    for split in (
        lesion_split(table, HAM10000.classes, NO_PAIRS, 0, 0.25, 0.4),
        image_split(table, HAM10000.classes, 0, 0.25, 0.4),
    ):
        assert worst_share(table, split, {"train": 0.35, "validation": 0.25, "test": 0.4}) < 0.01


def test_lesions_of_every_size_reach_every_part() -> None:
    """Filling up with small lesions must not keep the large ones out of the test part."""
    table = table_of(200)
    size = table.groupby("lesion_id")["dx"].transform("size").to_numpy()
    split = lesion_split(table, HAM10000.classes, NO_PAIRS, 0)
    means = [size[index].mean() for index in split.parts().values()]
    assert max(means) - min(means) < 0.25


def test_three_lesions_of_a_class_suffice_and_two_do_not() -> None:
    table = table_of()
    few = table[
        table["dx"].ne("df") | table["lesion_id"].isin(["L3_0", "L3_1", "L3_2"])
    ].reset_index(drop=True)
    split = lesion_split(few, HAM10000.classes, NO_PAIRS, 0)
    assert all((few["dx"].iloc[index] == "df").any() for index in split.parts().values())
    fewer = few[few["lesion_id"] != "L3_2"].reset_index(drop=True)
    with pytest.raises(InputError, match="class df has no image in the train part"):
        lesion_split(fewer, HAM10000.classes, NO_PAIRS, 0)
    single = table[
        table["dx"].ne("df") | (table["image_id"] == table["image_id"][table["dx"] == "df"].iloc[0])
    ]
    with pytest.raises(InputError, match="class df has no image"):
        image_split(single.reset_index(drop=True), HAM10000.classes, 0)


def test_a_small_class_never_vanishes_from_a_part() -> None:
    """Two small lesions fit into the test part; the large one alone must not be all that is left."""
    large = pd.DataFrame({"lesion_id": ["S0", "S1", *["S2"] * 8], "dx": "df"})
    table = pd.concat([table_of()[["lesion_id", "dx"]].query("dx != 'df'"), large])
    table = table.reset_index(drop=True).assign(image_id=lambda t: [f"I{k:05}" for k in t.index])
    for seed in range(20):
        split = lesion_split(table, HAM10000.classes, NO_PAIRS, seed)
        for index in split.parts().values():
            assert set(table["dx"].iloc[index]) == set(CLASSES)


def test_missing_lesion_ids_are_refused_with_the_way_out() -> None:
    table = table_of()
    table.loc[3, "lesion_id"] = np.nan
    with pytest.raises(InputError, match=r"1 of .*LesionGroupings"):
        lesion_split(table, HAM10000.classes, NO_PAIRS, 0)
    split = image_split(table, HAM10000.classes, 0)
    with pytest.raises(InputError, match="lesion_id"):
        leaked_share(table, split)


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.2), (0.1, 0.0), (0.5, 0.5), (-0.1, 0.2)])
def test_impossible_shares_are_refused(validation: float, test: float) -> None:
    with pytest.raises(InputError, match="fraction"):
        image_split(table_of(), HAM10000.classes, 0, validation, test)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(InputError, match="'patient'"):
        make_split("patient", table_of(), HAM10000.classes, NO_PAIRS, 0, 0.1, 0.2)
