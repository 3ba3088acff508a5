"""The comparison of tables before and after renames: it finds what changed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from compare_tables import CHECKSUMS, RENAMES, checksums, main, read_renames

SCORES = "arm,seed,value,seconds\nreal,0,0.5,1.5\nvae,0,0.25,2.5\nvae,1,0.75,3.5\n"
"""A table with a key of text, a key of numbers, a result and a time."""

MAP = {"keys": {"everywhere": ["seed"]}, "ignored": {"columns": {"everywhere": ["seconds"]}}}
"""A map that renames nothing."""

Compare = Callable[..., tuple[int, str]]


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Write tables of two runs and a map, and compare them.

    Args:
        tmp_path: the folder to write into.
        capsys: what catches the output.

    Returns:
        A function of the old tables, the new tables (both by path), the parts of the map that
        differ from `MAP`, and more arguments; it returns the exit code and the output.
    """

    def run(
        old: dict[str, str], new: dict[str, str], renames: dict | None = None, *arguments: str
    ) -> tuple[int, str]:
        for folder, tables in (("old", old), ("new", new)):
            (tmp_path / folder).mkdir()
            for path, content in tables.items():
                target = tmp_path / folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content, encoding="utf-8")
        names = tmp_path / "map.yaml"
        content = yaml.safe_dump({**MAP, **(renames or {})}, sort_keys=False)
        names.write_text(content, encoding="utf-8")
        folders = [str(tmp_path / "old"), str(tmp_path / "new")]
        code = main([*folders, "--renames", str(names), *arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_equal_tables_are_equal_whatever_their_order_and_times(compare: Compare) -> None:
    """Times, and the order of rows and columns, are not compared; 1 and 1.0 are one number."""
    new = "seed,arm,value,seconds\n1,vae,0.75,9\n0.0,real,0.50,9\n0,vae,0.25,\n"
    code, output = compare({"a/scores.csv": SCORES}, {"a/scores.csv": new, "b/more.csv": "x\n1\n"})
    assert code == 0
    assert output.splitlines()[-1] == "1 tables equal, 0 differ"
    assert "1 more tables in" in output


def test_renames_of_files_columns_and_values_are_followed(compare: Compare) -> None:
    """A table is found under its new name, with new names in it; without the map it is not."""
    old = {"runs/vae/scores.csv": SCORES, "runs/gan/scores.csv": SCORES}
    text = "set,number,score,seconds\nonly vae,1,0.75,3.5\nonly vae,0,0.25,2.5\nreal,0,0.5,1.5\n"
    new = {"runs/vae/seed-0/results.csv": text, "runs/gan/seed-0/results.csv": text}
    renames = {
        "files": {
            "runs/*/scores.csv": "runs/*/seed-0/scores.csv",
            "**/scores.csv": "**/results.csv",
        },
        "columns": {
            "everywhere": {"arm": "set", "seed": "number", "value": "chance"},
            "runs/*/scores.csv": {"value": "score"},
        },
        "values": {"everywhere": {"arm": {"v*": "only v*"}}},
    }
    code, output = compare(old, new, renames)
    assert (code, output) == (0, "2 tables equal, 0 differ\n")


def test_a_star_stays_within_one_folder(compare: Compare) -> None:
    """A rule for `*` leaves a path with one more folder as it is."""
    tables = {"runs/vae/more/scores.csv": SCORES}
    code, output = compare(tables, tables, {"files": {"runs/*/scores.csv": "runs/*/a.csv"}})
    assert (code, output) == (0, "1 tables equal, 0 differ\n")


def test_columns_without_text_are_compared(compare: Compare) -> None:
    """Yes or no, nothing at all, and numbers beside text say not which row it is."""
    head = "id,right,note,mixed\n"
    old, new = head + "a_1,True,,-\n1_0,True,,2\n", head + "a_1,False,new,1\n1_0,True,,2.0\n"
    code, output = compare({"a.csv": old}, {"a.csv": new})
    assert code == 1
    assert output.splitlines()[1:-1] == [
        f"  column {column}: 1 of 2 cells differ, the largest (text): {change} at id=a_1"
        for column, change in (
            ("right", "'True' is now 'False'"), ("note", "'' is now 'new'"),
            ("mixed", "'-' is now '1'"),
        )
    ]  # fmt: skip


@pytest.mark.parametrize(("value", "code"), [("0.0", 0), ("1e-17", 0), ("1e-9", 1)])
def test_next_to_nothing_is_nothing(compare: Compare, value: str, code: int) -> None:
    """A rounding error beside zero is no difference, although its relative size is the largest.

    Args:
        compare: compares tables.
        value: what became of 0.
        code: the exit code that it leads to.
    """
    tables = {"a.csv": "id,value\na,0\n"}, {"a.csv": f"id,value\na,{value}\n"}
    assert compare(*tables, None, "--tolerance", "0")[0] == code


@pytest.mark.parametrize("left_out", ["files", "columns", "values"])
def test_a_rename_that_the_map_does_not_know_is_a_difference(
    compare: Compare, left_out: str
) -> None:
    """Each part of the map is needed for what it renames.

    Args:
        compare: compares tables.
        left_out: the part that the map lacks.
    """
    new = SCORES.replace("arm,seed,value", "set,seed,score").replace("vae,", "only vae,")
    renames = {
        "files": {"scores.csv": "results.csv"},
        "columns": {"everywhere": {"arm": "set", "value": "score"}},
        "values": {"scores.csv": {"arm": {"vae": "only vae"}}},
    }
    expected = {
        "files": ["  the file is missing"],
        "columns": ["  column arm is missing", "  column score was added"],
        "values": ["  2 rows are missing: arm=vae", "  2 rows are added: arm=only vae"],
    }[left_out]
    if left_out != "columns":
        expected = [each.replace("arm=", "set=") for each in expected]
    del renames[left_out]
    code, output = compare({"scores.csv": SCORES}, {"results.csv": new}, renames)
    assert code == 1
    assert [line for line in expected if line not in output] == []
    assert output.endswith("0 tables equal, 1 differ\n")


def test_a_changed_number_is_found_with_its_row(compare: Compare) -> None:
    """The largest difference of a column is shown, relative to the larger number."""
    new = SCORES.replace("0.25", "0.3125").replace("0.75", "0.7500001").replace("0.5,", "0.499,")
    code, output = compare({"scores.csv": SCORES}, {"scores.csv": new})
    assert code == 1
    assert (
        "  column value: 2 of 3 cells differ, the largest (relative difference 0.2): "
        "'0.25' is now '0.3125' at arm=vae, seed=0"
    ) in output.splitlines()


@pytest.mark.parametrize(("tolerance", "code"), [("0.3", 0), ("0.1", 1), ("0", 1)])
def test_the_tolerance_decides(compare: Compare, tolerance: str, code: int) -> None:
    """A difference of a fifth is equal or not as asked.

    Args:
        compare: compares tables.
        tolerance: the largest difference that counts as equal.
        code: the exit code that it leads to.
    """
    new = {"scores.csv": SCORES.replace("0.25", "0.2")}
    found, output = compare({"scores.csv": SCORES}, new, None, "--tolerance", tolerance)
    assert found == code
    assert ("largest relative difference within the tolerance: 0.2" in output) == (code == 0)


def test_a_number_that_went_or_became_text_is_a_difference(compare: Compare) -> None:
    """No tolerance makes an empty cell equal to a number."""
    new = {"scores.csv": SCORES.replace("0.25", "")}
    code, output = compare({"scores.csv": SCORES}, new, None, "--tolerance", "10")
    assert code == 1
    assert "1 of 3 cells differ, the largest (text): '0.25' is now ''" in output


def test_missing_and_added_rows_are_named(compare: Compare) -> None:
    """A row that went leaves the others matched with what became of them."""
    new = SCORES.replace("vae,0,0.25,2.5\n", "") + "gan,0,0.1,1\n"
    code, output = compare({"scores.csv": SCORES}, {"scores.csv": new})
    assert code == 1
    assert output.splitlines() == [
        "scores.csv",
        "  1 row is missing: arm=vae, seed=0",
        "  1 row is added: arm=gan, seed=0",
        "0 tables equal, 1 differ",
    ]


def test_a_row_that_is_there_twice_is_missed_once(compare: Compare) -> None:
    """Rows with the same key are counted, also where they are equal."""
    code, output = compare({"scores.csv": SCORES + "vae,1,0.75,3.5\n"}, {"scores.csv": SCORES})
    assert code == 1
    assert "  4 rows before, 3 now" in output
    assert "  1 row is missing: arm=vae, seed=1" in output


def test_a_missing_file_differs_unless_it_is_ignored(compare: Compare) -> None:
    """The other tables are compared all the same."""
    old = {"scores.csv": SCORES, "times/a.csv": SCORES, "gone.csv": SCORES}
    renames = {"ignored": {"files": ["times/*"], "columns": MAP["ignored"]["columns"]}}
    code, output = compare(old, {"scores.csv": SCORES}, renames)
    assert code == 1
    assert output == "gone.csv\n  the file is missing\n1 tables equal, 1 differ\n"


def test_text_that_is_a_result_is_compared(compare: Compare) -> None:
    """A changed verdict is a changed cell, where the map says that it is a result."""
    old, new = "id,verdict\na,supported\nb,contradicted\n", "id,verdict\na,supported\nb,undecided\n"
    renames = {"results": {"everywhere": ["verdict"]}}
    code, output = compare({"v.csv": old}, {"v.csv": new}, renames)
    assert code == 1
    assert "'contradicted' is now 'undecided' at id=b" in output
    assert "missing" not in output


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        ("name,chance\na,0.5\n", None),
        ("name,p\na,0.5\n", "new/a.csv has another header: name,p"),
        ("name,chance\na,0.6\n", "new/a.csv has other rows"),
        (None, "new/a.csv is missing"),
    ],
)
def test_checksums_stand_for_a_table(
    compare: Compare, tmp_path: Path, new: str | None, problem: str | None
) -> None:
    """A file of which only the checksum was kept has the same rows, under a renamed header.

    Args:
        compare: compares tables.
        tmp_path: a folder to write into.
        new: the file now, if there is one.
        problem: what is said of it, if anything.
    """
    (tmp_path / "a.csv").write_bytes(b"id,p\na,0.5\n")
    sums = {"file": "predictions/a.csv", **checksums(tmp_path / "a.csv")}
    listing = "\n".join(",".join(f'"{each}"' for each in row) for row in (sums, sums.values()))
    renames = {
        "files": {"predictions/*": "new/*"},
        "columns": {"predictions/*": {"id": "name", "p": "chance"}},
    }
    tables = {"other.csv": SCORES} if new is None else {"new/a.csv": new}
    code, output = compare({CHECKSUMS: listing + "\n"}, tables, renames)
    assert code == (1 if problem else 0)
    assert (f"  {problem}" in output.splitlines()) == bool(problem)


def test_checksums_of_ignored_files_are_ignored(compare: Compare) -> None:
    """A file that the map ignores may be gone."""
    listing = "file,sha256,header,rows_sha256\na/b.csv,0,0,0\n"
    renames = {"ignored": {"files": ["a/*"]}}
    assert compare({CHECKSUMS: listing}, {"other.csv": SCORES}, renames)[0] == 0


@pytest.mark.parametrize(
    ("renames", "words"),
    [
        ({"colums": {}}, "'colums' is not one of files, columns"),
        ({"files": {"a/*.csv": "b.csv"}}, "unequal numbers of stars"),
        ({"columns": {"everywhere": {"arm": "set", "seed": "set"}}}, "the same new name"),
        ({"columns": {"everywhere": {"arm": "value"}}}, "the same name after renames"),
        ({"values": {"everywhere": {"arm": {"vae": True}}}}, "in quotes"),
        ({"ignored": {"columns": ["seconds"]}}, "ignored, columns: write `name: ...` lines"),
        ({"ignored": {"files": ["**"]}}, "there is no table to compare"),
        ({"files": {"scores.csv": "other.csv"}}, "two tables would be other.csv"),
    ],
)
def test_a_wrong_map_is_refused(compare: Compare, renames: dict, words: str) -> None:
    """The exit code is 2, and the message says what is wrong.

    Args:
        compare: compares tables.
        renames: parts of the map.
        words: some of the message.
    """
    tables = {"scores.csv": SCORES, "other.csv": SCORES}
    code, output = compare(tables, tables, renames)
    assert code == 2
    assert words in output


def test_a_key_that_is_twice_in_the_map_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise the first of them would be forgotten without a word.

    Args:
        tmp_path: the folder to write into.
        capsys: what catches the output.
    """
    names = tmp_path / "map.yaml"
    names.write_text("files:\n  a.csv: b.csv\n  a.csv: c.csv\n", encoding="utf-8")
    assert main([str(tmp_path), str(tmp_path), "--renames", str(names)]) == 2
    assert "line 3: 'a.csv' is given a second time" in capsys.readouterr().err


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    """A folder that is not there, or a tolerance below zero, ends with exit code 2.

    Args:
        tmp_path: a folder without tables.
    """
    assert main([str(tmp_path / "none"), str(tmp_path)]) == 2
    assert main([str(tmp_path), str(tmp_path / "none")]) == 2
    with pytest.raises(SystemExit) as error:
        main([str(tmp_path), str(tmp_path), "--tolerance", "-1"])
    assert error.value.code == 2


def test_the_map_of_this_folder_can_be_read_and_ignores_times() -> None:
    """What is in `renames.yaml` is as it should be."""
    assert {"seconds", "minutes"} <= set(read_renames(RENAMES).ignored_columns["everywhere"])
