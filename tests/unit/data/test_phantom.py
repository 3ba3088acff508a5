"""The phantom against what it promises: HAM10000's shares, one recipe a lesion, classes to be learnt."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.data.phantom.painter import Painter, View

CLASSES = HAM10000.classes.names

HAM10000_COUNTS = {
    "nv": 6705,
    "mel": 1113,
    "bkl": 1099,
    "bcc": 514,
    "akiec": 327,
    "vasc": 142,
    "df": 115,
}


@pytest.fixture(scope="module")
def phantom() -> LesionSet:
    return make_phantom(1500, seed=3)


@pytest.fixture(scope="module")
def lesions(phantom: LesionSet) -> pd.DataFrame:
    return phantom.table.drop_duplicates("lesion_id")


def test_shape_columns_and_ids(phantom: LesionSet) -> None:
    assert phantom.images.shape == (1500, 3, 64, 64)
    assert tuple(phantom.table.columns) == COLUMNS
    assert phantom.table["image_id"].is_unique
    assert phantom.table["image_id"].iloc[0] == "PHANTOM_0000001"
    assert (
        phantom.table["lesion_id"].iloc[-1]
        == f"PHANTOM_L{phantom.table['lesion_id'].nunique():07d}"
    )
    assert phantom.table["synthetic"].dtype == bool
    assert not phantom.table["synthetic"].any()


def test_class_shares_are_those_of_ham10000(phantom: LesionSet, lesions: pd.DataFrame) -> None:
    for dx, count in HAM10000_COUNTS.items():
        assert phantom.counts[dx] == pytest.approx(1500 * count / 10015, abs=6)
    assert min(phantom.counts.values()) >= 12
    assert lesions["dx"].value_counts().min() >= 8


def test_even_a_small_phantom_has_three_lesions_of_each_class() -> None:
    small = make_phantom(60, image_size=16).table.drop_duplicates("lesion_id")
    assert small["dx"].value_counts().reindex(CLASSES).min() >= 3


def test_about_a_quarter_of_the_lesions_have_several_photos(phantom: LesionSet) -> None:
    photos = phantom.table.groupby("lesion_id").size()
    assert (photos > 1).mean() == pytest.approx(1956 / 7470, abs=0.03)
    assert photos.max() in range(3, 7)


def test_photos_of_a_lesion_share_its_facts(phantom: LesionSet) -> None:
    facts = phantom.table.groupby("lesion_id")[["dx", "age", "sex", "localization", "dataset"]]
    assert facts.nunique(dropna=False).to_numpy().max() == 1


def test_same_arguments_same_bytes_and_another_seed_other_bytes() -> None:
    a, b, c = (make_phantom(80, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.images, b.images)
    pd.testing.assert_frame_equal(a.table, b.table)
    assert not torch.equal(a.images, c.images)


def test_a_smaller_phantom_is_the_beginning_of_a_larger_one(phantom: LesionSet) -> None:
    small = make_phantom(333, seed=3)
    assert torch.equal(small.images, phantom.images[:333])
    pd.testing.assert_frame_equal(small.table, phantom.table.iloc[:333])


def test_the_same_pictures_at_every_size(phantom: LesionSet) -> None:
    large = make_phantom(60, image_size=128, seed=3).images.float()
    halved = torch.nn.functional.avg_pool2d(large, 2)
    error = (halved - phantom.images[:60].float()).abs().mean(dim=(1, 2, 3))
    others = (halved.roll(1, 0) - phantom.images[:60].float()).abs().mean(dim=(1, 2, 3))
    assert error.max() < 6  # of 255: sensor noise and edges
    assert others.median() > 20


def test_photos_of_a_lesion_differ_but_resemble_each_other(phantom: LesionSet) -> None:
    thumbnails = torch.nn.functional.avg_pool2d(phantom.images.float(), 32).flatten(1).numpy()
    table = phantom.table
    same_lesion = table["lesion_id"].to_numpy()[1:] == table["lesion_id"].to_numpy()[:-1]
    first = np.flatnonzero(same_lesion)
    assert not np.any([torch.equal(phantom.images[i], phantom.images[i + 1]) for i in first])
    photos = np.linalg.norm(thumbnails[first] - thumbnails[first + 1], axis=1)
    rng = np.random.default_rng(0)
    strangers = []
    for i in first:
        others = (table["dx"] == table["dx"][i]) & (table["lesion_id"] != table["lesion_id"][i])
        stranger = rng.choice(np.flatnonzero(others))
        strangers.append(np.linalg.norm(thumbnails[i] - thumbnails[stranger]))
    assert np.median(photos) < 0.7 * np.median(strangers)


def test_no_two_lesions_share_a_picture(phantom: LesionSet) -> None:
    assert len(torch.unique(phantom.images.flatten(1)[:, ::7], dim=0)) == len(phantom)


def test_patients_depend_on_the_class(lesions: pd.DataFrame) -> None:
    ages = lesions.groupby("dx")["age"].mean()
    assert ages["nv"] == pytest.approx(47, abs=3)
    assert ages["akiec"] > ages["nv"] + 10
    assert set(lesions["age"].dropna() % 5) == {0.0}
    assert (lesions.loc[lesions["dx"] == "df", "localization"] == "lower extremity").mean() > 0.4
    assert (lesions.loc[lesions["dx"] == "akiec", "sex"] == "male").mean() > 0.5
    for column in ("age", "sex", "localization"):
        assert 0 < lesions[column].isna().mean() < 0.05
    assert lesions["dataset"].nunique() == 3


def test_a_linear_model_learns_the_classes_but_not_perfectly(phantom: LesionSet) -> None:
    pixels = torch.nn.functional.avg_pool2d(phantom.images.float(), 8).flatten(1).numpy()
    labels = phantom.labels.numpy()
    split = GroupShuffleSplit(1, test_size=0.3, random_state=0)
    train, test = next(split.split(pixels, labels, phantom.table["lesion_id"]))
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.05, max_iter=300, class_weight="balanced")
    ).fit(pixels[train], labels[train])
    assert 0.55 < balanced_accuracy_score(labels[test], model.predict(pixels[test])) < 0.9
    shuffled = model.fit(pixels[train], np.random.default_rng(0).permutation(labels[train]))
    assert balanced_accuracy_score(labels[test], shuffled.predict(pixels[test])) < 0.35


def test_waves_are_the_sum_of_cosines_at_the_views_points() -> None:
    rng = np.random.default_rng(0)
    view = View(24, angle=0.7, zoom=1.3, shift=np.array([0.1, -0.2]))
    k, phase = rng.normal(0, 8, (5, 2)), rng.uniform(0, 6, 5)
    x, y = view.points()
    truth = np.cos(k[:, 0, None, None] * x + k[:, 1, None, None] * y + phase[:, None, None]).sum(
        axis=0
    )
    np.testing.assert_allclose(view.waves(k, phase), truth, atol=1e-4)


def test_a_view_turns_zooms_and_shifts() -> None:
    x, y = View(4, angle=np.pi / 2, zoom=2.0, shift=np.array([0.25, 0.0])).points()
    assert x[0, 0] == pytest.approx(
        0.75 / 2
    )  # a quarter turn: lesion x runs against the image's rows
    assert y[0, 0] == pytest.approx((-0.75 - 0.25) / 2)


def test_a_disc_covers_its_area() -> None:
    painter = Painter(View(200, 0.3, 1.0, np.zeros(2)), np.random.default_rng(0))
    mask = painter.discs(np.array([[0.1, 0.2]]), np.array([0.5]))
    assert mask.mean() * 4 == pytest.approx(np.pi * 0.25, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0,), "images"), ((10, 8), "image_size"), ((10, 64, -1), "seed"), ((1.5,), "images")],
)
def test_bad_input(arguments: tuple, name: str) -> None:
    with pytest.raises(InputError, match=name):
        make_phantom(*arguments)
