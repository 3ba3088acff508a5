import numpy as np
import pandas as pd
import pytest
import torch

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import HAM10000, ClassList
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet, labels_of, to_uint8, to_unit_range
from hamsynth_utils.data.phantom.generate import make_phantom

CLASSES = HAM10000.classes.names


@pytest.fixture
def lesions():
    return make_phantom(120, seed=0)


def test_saving_and_loading_keeps_every_value_and_type(lesions, tmp_path):
    lesions.save(tmp_path)
    loaded = LesionSet.load(tmp_path, HAM10000.classes)
    assert torch.equal(loaded.images, lesions.images) and torch.equal(loaded.labels, lesions.labels)
    pd.testing.assert_frame_equal(loaded.table, lesions.table, check_dtype=False)
    assert loaded.table["synthetic"].dtype == bool and loaded.table["age"].dtype == float


def test_merging_keeps_order_and_subset_undoes_it(lesions):
    both = lesions + lesions.subset(np.arange(5))
    assert len(both) == len(lesions) + 5
    assert both.subset(np.arange(len(lesions), len(both))).table.equals(lesions.table.head(5))
    assert sum(both.counts.values()) == len(both) and list(both.counts) == list(CLASSES)


def test_a_mask_and_its_indices_pick_the_same(lesions):
    mask = lesions.labels.numpy() == 4
    assert torch.equal(lesions.subset(mask).images, lesions.subset(np.flatnonzero(mask)).images)


def test_every_grey_value_survives_the_way_to_floats_and_back():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    there = to_unit_range(values)
    assert there.min() == -1 and there.max() == 1
    assert torch.equal(to_uint8(there), values)


def test_parts_that_do_not_fit_together_are_refused(lesions):
    images, labels, table = lesions.images, lesions.labels, lesions.table
    for parts, message in [
        ((images.float(), labels, table), "images must be uint8"),
        ((images, labels.int(), table), "labels must be int64"),
        ((images, labels, table.head(3)), "120 images but 3 table rows"),
        ((images, labels, table.drop(columns="sex")), "lacks the column.*sex"),
        ((images, labels.flip(0), table), "disagree"),
        ((images, labels, table.assign(dx="scc")), "unknown diagnosis 'scc'"),
    ]:
        with pytest.raises(InputError, match=message):
            LesionSet(*parts, lesions.classes)
    assert list(table.columns) == list(COLUMNS)


def three_classes(dx: list[str], focus: str = "b") -> LesionSet:
    classes = ClassList(("a", "b", "c"), {"a": "alpha", "b": "beta", "c": "gamma"}, focus)
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(len(dx))], "dx": dx})
    table = table.assign(lesion_id=table["image_id"], age=50.0, sex="male", synthetic=False)
    table = table.assign(localization="back", dataset="x")[list(COLUMNS)]
    images = torch.zeros(len(dx), 3, 4, 4, dtype=torch.uint8)
    return LesionSet(images, torch.from_numpy(labels_of(table["dx"], classes)), table, classes)


def test_labels_and_counts_follow_the_class_list_of_the_set(tmp_path):
    lesions = three_classes(["c", "a", "c"])
    assert lesions.labels.tolist() == [2, 0, 2] and lesions.counts == {"a": 1, "b": 0, "c": 2}
    assert lesions.subset(np.array([0])).counts == {"a": 0, "b": 0, "c": 1}
    lesions.save(tmp_path)
    assert LesionSet.load(tmp_path, lesions.classes).counts == lesions.counts
    with pytest.raises(InputError, match="unknown diagnosis 'a'; known are akiec"):
        LesionSet.load(tmp_path, HAM10000.classes)


def test_a_class_without_images_is_never_one_to_show():
    lesions = three_classes(["c", "a", "c"])
    assert lesions.present == ["a", "c"]
    assert lesions.present_of("c") == ["c"] and lesions.present_of("c", "b", "a") == ["c", "a"]
    assert lesions.present_of("b") == ["a", "c"]


def test_sets_of_different_classes_cannot_be_merged(lesions):
    with pytest.raises(InputError, match=r"of the classes a, b, c with one of akiec"):
        three_classes(["a"]) + LesionSet(
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
            lesions.labels[:1],
            lesions.table.head(1),
            lesions.classes,
        )
