import numpy as np
import pandas as pd
import pytest
import torch

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import CLASSES, COLUMNS, LesionSet, to_uint8, to_unit_range
from hamsynth_utils.data.phantom.generate import make_phantom


@pytest.fixture
def lesions():
    return make_phantom(120, seed=0)


def test_saving_and_loading_keeps_every_value_and_type(lesions, tmp_path):
    lesions.save(tmp_path)
    loaded = LesionSet.load(tmp_path)
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
            LesionSet(*parts)
    assert list(table.columns) == list(COLUMNS)
