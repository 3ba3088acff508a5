"""Numbers and tables as text: nothing is lost, nothing breaks a table."""

import numpy as np
import pandas as pd

from hamsynth_utils.core.errors import not_measured
from hamsynth_utils.notebook.tables import (
    dash,
    format_interval,
    format_percent_interval,
    markdown_table,
    measurement_table,
    table,
)


def test_an_interval_is_written_behind_its_estimate() -> None:
    row = {"mean": 0.61, "low": -0.0001, "high": 0.639}
    assert format_interval(row, digits=2) == "0.61 (0.00 to 0.64)"
    assert format_interval({"value": 0.5, **row}, "value", 1, factor=100) == "50.0 (0.0 to 63.9)"


def test_a_fraction_is_written_in_per_cent() -> None:
    row = {"real": 0.61, "real_low": 0.5814, "real_high": 0.639}
    assert format_percent_interval(row, "real") == "61.0 % (58.1 to 63.9)"


def test_what_was_not_measured_is_a_dash_with_its_reason() -> None:
    assert dash() == dash("") == dash(np.nan) == "-" and dash("no masks") == "- (no masks)"
    row = not_measured("22 images, and 50 are needed")
    assert format_interval(row, "value") == "- (22 images, and 50 are needed)"
    assert format_interval(pd.Series({"mean": np.nan, "low": np.nan, "high": np.nan})) == "-"
    alone = {"value": 0.5, "low": np.nan, "high": np.nan}
    assert format_interval(alone, "value", 2) == "0.50 (no interval)"
    ratio = {"ratio": np.nan, "ratio_low": np.nan, "ratio_high": np.nan, "reason": "no masks"}
    assert format_percent_interval(ratio, "ratio") == "- (no masks)"


def test_a_table_has_reasons_only_where_a_row_was_not_measured() -> None:
    columns = ["measure", "value", "n"]
    row = {"measure": "auroc", "value": 0.5, "low": 0.4, "n": 60}
    assert list(measurement_table([row], columns)) == columns
    assert list(measurement_table([], columns)) == columns
    assert list(measurement_table([{**row, "reason": np.nan}, row], columns)) == columns
    both = measurement_table([row, {"measure": "tpr", **not_measured("no masks")}], columns)
    assert list(both) == [*columns, "reason"] and both["reason"].isna().tolist() == [True, False]
    assert both["n"].tolist() == [60, 0] and both["value"].isna().tolist() == [False, True]


def test_a_frame_in_markdown_keeps_its_types_and_has_dashes_for_missing_values() -> None:
    frame = pd.DataFrame({"dx": ["mel", None], "n": [3, 4], "share": [0.5, np.nan]})
    assert markdown_table(frame).splitlines() == [
        "| dx | n | share |",
        "| --- | --- | --- |",
        "| mel | 3 | 0.5 |",
        "| - | 4 | - |",
    ]


def test_rows_in_markdown_cannot_break_the_table() -> None:
    rows = [("a|b", 1), ("two\nlines", None)]
    assert markdown_table(rows, ("what", "n")).splitlines()[2:] == [
        "| a\\|b | 1 |",
        "| two lines | - |",
    ]
    assert markdown_table([], ("what", "n")) == "| what | n |\n| --- | --- |"
    assert markdown_table({"torch": "2.1"}.items(), ("a", "b")).endswith("| torch | 2.1 |")


def test_a_table_of_a_notebook_has_rounded_numbers_and_no_index() -> None:
    text = table(pd.DataFrame({"a": [0.126, np.nan]}, index=["first", "last"]), digits=2).data
    assert "<td>0.13</td>" in text and "<td>-</td>" in text and "first" not in text
