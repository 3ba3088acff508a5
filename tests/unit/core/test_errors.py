"""What the data cannot give is a row with its reason; every other error goes on."""

import math

import pytest

from hamsynth_utils.core.errors import InputError, NotMeasured, measured, not_measured


def attack(photos: int, scale: float = 1.0) -> dict[str, float]:
    if photos < 0:
        raise InputError(f"{photos} photos")
    if photos < 50:
        raise NotMeasured(f"{photos} photos, and 50 are needed")
    return {"value": 0.5 * scale, "low": 0.4, "high": 0.6, "n": photos}


def test_a_measure_is_its_row_or_a_row_of_nan_with_the_reason():
    assert measured(attack, 60, 2.0) == {"value": 1.0, "low": 0.4, "high": 0.6, "n": 60}
    row = measured(attack, 41, numbers=("value", "tpr"))
    assert math.isnan(row["value"]) and math.isnan(row["tpr"]) and "low" not in row
    assert row["reason"] == "41 photos, and 50 are needed" and row["n"] == row["lesions"] == 0
    assert not_measured("no masks")["reason"] == "no masks"


def test_bad_input_is_no_reason_to_go_on():
    with pytest.raises(InputError, match="-1 photos"):
        measured(attack, -1)
    with pytest.raises(TypeError):
        measured(attack)
