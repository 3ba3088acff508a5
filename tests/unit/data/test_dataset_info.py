import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pandas as pd
import pytest

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import (
    HAM10000,
    PHANTOM,
    ClassList,
    DatasetInfo,
    describe_data,
)

LONG = {"a": "alpha", "b": "beta", "c": "gamma"}


def test_a_class_list_is_a_sequence_of_its_short_names():
    classes = ClassList(("a", "b", "c"), LONG, "b")
    assert list(classes) == ["a", "b", "c"] and len(classes) == 3
    assert classes[1] == "b" and classes[1:] == ("b", "c") and classes.index("c") == 2
    assert "b" in classes and "d" not in classes and str(classes) == "a, b, c"
    assert classes.probability_columns == ["p_a", "p_b", "p_c"]
    assert np.array(classes)[[2, 0]].tolist() == ["c", "a"]
    assert pd.Series({"c": 3, "a": 1}).reindex(classes).fillna(0).tolist() == [1, 0, 3]


def test_equal_lists_are_equal_and_have_one_hash():
    one, same = ClassList(("a", "b", "c"), LONG, "b"), ClassList(("a", "b", "c"), dict(LONG), "b")
    assert one == same and hash(one) == hash(same)
    assert one != replace(one, focus="c")
    with pytest.raises(FrozenInstanceError):
        one.focus = "c"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a",)}, "at least two classes, not 1"),
        ({"names": ("a", "b", "b")}, "'b' is listed twice"),
        ({"names": ("a", "b", "C/c")}, "'C/c' must have only"),
        ({"names": ("a", "b", "c", "d")}, "'d' stands only in names"),
        ({"names": ("a", "b")}, "'c' stands only in long_names"),
        ({"focus": "mel"}, "focus class 'mel' is none of the classes a, b, c"),
    ],
)
def test_a_malformed_class_list_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        ClassList(**{"names": ("a", "b", "c"), "long_names": LONG, "focus": "b"} | change)


def test_a_description_survives_json_and_the_json_is_plain():
    text = HAM10000.to_json()
    assert DatasetInfo.from_json(text) == HAM10000
    assert json.loads(text)["classes"]["names"][4] == json.loads(text)["classes"]["focus"] == "mel"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("akiec,bcc", "not a description of a data set"),
        ("[1]", "not a description of a data set"),
        (json.dumps({"name": "x"}), "not a description.*classes"),
        (json.dumps(asdict(HAM10000) | {"price": 1}), "not a description.*price"),
        (json.dumps(asdict(HAM10000) | {"licence": ""}), "lacks licence"),
    ],
)
def test_a_text_that_describes_no_data_set_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        DatasetInfo.from_json(text)


def test_the_phantom_and_any_folder_have_a_description():
    assert describe_data("phantom") is PHANTOM and describe_data("/some/folder") is HAM10000
    assert PHANTOM.classes == HAM10000.classes and HAM10000.classes.focus == "mel"


def test_a_description_is_read_without_torch_and_pandas():
    code = (
        "import sys; from hamsynth_utils.data import HAM10000, describe_data;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
