"""A table is read as it was meant, or refused with file, line and what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from drawn_sets import CLASSES, drawn_table

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.files.metadata import read_metadata
from hamsynth_utils.data.files.tables import read_header, read_text
from hamsynth_utils.data.ham10000 import read_near_duplicates
from hamsynth_utils.data.layouts import Layout, find_layout

TABLE = drawn_table(14)


def layout(folder: Path, text: str | bytes, names: list[str] | None = None) -> Layout:
    """A copy of HAM10000 with this table; its images are only named."""
    path = folder / "HAM10000_metadata.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    images = {name: folder / f"{name}.jpg" for name in names or TABLE["image_id"]}
    return Layout("HAM10000", path, images, None)


def csv(table: pd.DataFrame = TABLE, **options: str | bool) -> str:
    return table.to_csv(**{"index": False, **options})


def decimal_commas(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(age=table["age"].str.replace(".", ","))


FORMS = {
    "commas": csv(),
    "tabs": csv(sep="\t"),
    "semicolons and decimal commas": csv(decimal_commas(TABLE), sep=";"),
    "quoted decimal commas": csv(decimal_commas(TABLE)),
    "every field in quotes": csv(quoting=1),
    "Excel's line for the separator": "sep=;\r\n" + csv(sep=";", lineterminator="\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + csv().encode(),
    "UTF-16 as Excel's Unicode text": csv(sep="\t").encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + csv().encode("utf-16-be"),
    "old line ends": csv().replace("\n", "\r"),
    "empty lines": "\n\n" + csv().replace("\n", "\n\n"),
    "row numbers of pandas": csv(index=True),
    "empty columns at the end": csv().replace("\n", ",,\n"),
    "empty fields at the end of a row": csv().replace("vidir_modern\n", "vidir_modern,\n", 1),
    "capitals in the header": csv(TABLE.rename(columns=str.upper)),
    "spaces in the header": csv(TABLE.rename(columns=lambda name: f" {name.replace('_', ' ')} ")),
    "spaces around cells": csv(TABLE.map(lambda cell: f"  {cell} ")),
    "capitals of codes": csv(
        TABLE.assign(dx=TABLE["dx"].str.upper(), sex="Male", localization="BACK")
    ),
    "names of files": csv(TABLE.assign(image_id=TABLE["image_id"] + ".JPG")),
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_every_form_is_the_same_table(text: str | bytes, tmp_path: Path) -> None:
    expected = TABLE.drop(columns="dx_type").assign(age=45.0, synthetic=False)
    found = read_metadata(layout(tmp_path, text))
    pd.testing.assert_frame_equal(found[expected.columns], expected)


MISSING = [
    "",
    "unknown",
    "Unknown",
    " UNKNOWN ",
    "not reported",
    "Not Available",
    "N/A",
    "na",
    "NaN",
]
MISSING += ["-", "--", "?", "None", "null", "missing", "not specified"]


def test_no_spelling_of_missing_is_a_group(tmp_path: Path) -> None:
    table = pd.concat([drawn_table(len(MISSING)), drawn_table(2, first=90000)], ignore_index=True)
    for column in ("age", "sex", "localization", "dataset", "lesion_id"):
        table.loc[range(len(MISSING)), column] = MISSING
    found = read_metadata(layout(tmp_path, csv(table), table["image_id"].tolist()))
    for column in ("age", "sex", "localization", "dataset", "lesion_id"):
        assert found[column].isna().tolist() == [True] * len(MISSING) + [False] * 2


def test_spaces_and_capitals_make_no_second_group(tmp_path: Path) -> None:
    table = TABLE.assign(
        localization=["lower extremity", "Lower  Extremity"] * 7, sex=["male", "MALE"] * 7
    )
    found = read_metadata(layout(tmp_path, csv(table)))
    assert set(found["localization"]) == {"lower extremity"} and set(found["sex"]) == {"male"}


def cell(column: str, line: int, value: str) -> str:
    table = TABLE.copy()
    table.loc[line - 2, column] = value
    return csv(table)


def edited(line: int, change: Callable[[str], str]) -> str:
    lines = csv().split("\n")
    lines[line - 1] = change(lines[line - 1])
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (edited(5, lambda row: row.replace("45.0", "45,0")), r"line 5 has 9 fields, but .* 8"),
        (edited(2, lambda row: row + ",x"), r"line 2 has 9 fields, but the header has 8"),
        (edited(9, lambda row: row[:20]), r"line 9 has 2 fields, but the header has 8"),
        (csv()[:-40], r"line 15 has \d fields, but the header has 8"),
        (edited(6, lambda row: '"' + row), r"line 6 is not a readable row"),
        (
            edited(1, lambda row: row.replace("dx_type", "Sex")),
            r"line 1 has the column 'sex' twice",
        ),
        (edited(1, lambda row: row.replace("dx_type", "")), r"column 4 has no name in the header"),
        (
            csv(TABLE.assign(dx_type="caf\u00e9")).encode("latin-1"),
            r"line 2, is not in UTF-8: save",
        ),
        (csv().encode("utf-16-le"), r"is no text in UTF-8: save"),
        (b"PK\x03\x04\x14\0\x06\0\x08\0", r"is no text in UTF-8: save"),
        ("", r"is not a readable table: it has no header"),
        (cell("age", 4, "-1"), r"line 4 has an age that is not in 0 to 120 years: '-1'"),
        (cell("age", 4, "121"), r"line 4 has an age that is not in 0 to 120 years: '121'"),
        (cell("age", 4, "inf"), r"line 4 has an age that is not in 0 to 120 years: 'inf'"),
        (cell("age", 4, "1,2,3"), r"line 4 has an age that is not a number: '1,2,3'"),
        (cell("dx", 8, "melanoma"), r"line 8 has an unknown diagnosis .*'melanoma'"),
        (
            cell("image_id", 3, "isic_0024301"),
            r"'isic_0024301' is nearly the name of ISIC_0024301\.jpg",
        ),
        (cell("image_id", 3, "24301"), r"have no file: 24301\. Unpack"),
        (
            cell("image_id", 3, "photos/ISIC_0024301.jpg"),
            r"is nearly the name of ISIC_0024301\.jpg",
        ),
        (
            cell("image_id", 3, "ISIC_24301"),
            r"'ISIC_24301' is nearly the name of ISIC_0024301\.jpg",
        ),
        (cell("image_id", 3, "ISIC_0024300.jpg"), r"line 3 repeats an image_id.*'ISIC_0024300'"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line(
    text: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_metadata(layout(tmp_path, text))
    assert "HAM10000_metadata.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    text = "\n" + edited(3, lambda row: row.replace("histo", '"two\nlines"')).replace("45.0", "-1")
    with pytest.raises(InputError, match=r"line 3 \(and 13 more lines\) has an age"):
        read_metadata(layout(tmp_path, text))
    only_last = edited(3, lambda row: row.replace("histo", '"two\nlines"'))
    rows = read_text(layout(tmp_path, only_last).metadata, ["image_id"])
    assert rows.index.tolist() == [2, 3, *range(5, 17)]


def test_names_are_the_same_however_unicode_composes_them(tmp_path: Path) -> None:
    table = TABLE.assign(image_id=[f"l\u00e9sion {k}" for k in range(14)])
    for name in table["image_id"]:
        (tmp_path / f"{name}.jpg".replace("\u00e9", "e\u0301")).write_bytes(b"")
    table.to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    assert read_metadata(find_layout(tmp_path))["image_id"].tolist() == table["image_id"].tolist()


def test_one_hot_tables_and_groupings_come_in_the_same_forms(tmp_path: Path) -> None:
    truth = pd.DataFrame({"Image": TABLE["image_id"] + ".jpg"})
    for name in CLASSES:
        truth[name] = ["1,0" if dx == name else "0,0" for dx in TABLE["dx"]]
    path = tmp_path / "ISIC2018_Task3_Training_GroundTruth.csv"
    truth.to_csv(path, sep=";", index=False)
    groups = TABLE[["image_id", "lesion_id"]].rename(columns={"image_id": "image"})
    groups.loc[0, "lesion_id"] = "unknown"
    groups.to_csv(tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv", sep=";", index=False)
    for name in TABLE["image_id"]:
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    found = read_metadata(find_layout(tmp_path))
    assert found["dx"].tolist() == TABLE["dx"].tolist()
    assert found["lesion_id"].isna().tolist() == [True] + [False] * 13


def test_near_duplicates_come_in_the_same_forms(tmp_path: Path) -> None:
    path = tmp_path / "near_duplicates.csv"
    path.write_text("similarity;Image ID A;image_id_b\n0,98;ISIC_1;ISIC_2\n", encoding="utf-16")
    assert read_near_duplicates(tmp_path).values.tolist() == [["ISIC_1", "ISIC_2"]]
    path.write_text("image_id_a,image_id_b\nISIC_1,ISIC_2\nISIC_3\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"near_duplicates\.csv, line 3 has 1 fields"):
        read_near_duplicates(tmp_path)


def test_a_header_is_read_for_what_it_is_and_never_an_error(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"ISIC ID;age\nISIC_1;caf\xe9\n" + b"x;y\n" * 50000)
    assert read_header(path, ["isic_id"]) == ["isic_id", "age"]
    path.write_bytes(b"\x89PNG\r\n\0\0")
    assert "isic_id" not in read_header(path, ["isic_id"])
    path.write_bytes(b"")
    assert read_header(path, ["isic_id"]) == []
