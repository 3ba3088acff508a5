"""Compare the tables of two runs when files, columns or values were renamed between them.

    python tests/support/compare_tables.py OLD_FOLDER NEW_FOLDER

Every CSV file below OLD_FOLDER is looked for below NEW_FOLDER, under the name that the map of
renames (`renames.yaml`, which explains its own parts) gives it. NEW_FOLDER may hold more files,
which are counted but not judged.

Rows are matched by their key columns: those that hold text, and those that the map calls keys. Rows
with the same key are matched in their order; otherwise the order of rows does not matter, nor that
of columns. In all other columns two numbers are equal if they differ by no more than the tolerance,
relative to the larger one, and anything else is equal if its text is.

A file `predictions_sha256.csv` stands for tables too large to be stored twice: each file it names
must have the same rows, byte for byte, and the same header after renames.

The exit code is 0 if all tables are equal, 1 if not, and 2 if they could not be compared.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import re
import sys
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

RENAMES = Path(__file__).with_name("renames.yaml")
"""The map that is used unless another is named."""

CHECKSUMS = "predictions_sha256.csv"
"""The file that lists checksums of tables in place of the tables."""

EVERYWHERE = "everywhere"
"""Stands in the map where the name of a table could, for all tables."""

TOLERANCE = 1e-6
"""The largest relative difference of two numbers that count as equal, unless another is named."""

NOTHING = 1e-12
"""Numbers that differ by less than this are equal, however large that is beside them."""

EXAMPLES = 3
"""How many missing or added rows are shown for each table."""


class UsageError(Exception):
    """What was asked cannot be done; the message says why."""


class _Loader(yaml.SafeLoader):
    """Reads YAML, but refuses a key that is given twice, of which the first would be forgotten."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Make a mapping of a node.

        Args:
            node: the mapping as it was parsed.
            deep: whether what is inside is made at once.

        Returns:
            The mapping.

        Raises:
            UsageError: if a key is there twice.
        """
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise UsageError(f"line {line}: {key.value!r} is given a second time")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def pattern_groups(pattern: str, text: str, paths: bool) -> tuple[str, ...] | None:
    """Match a text against a pattern with stars.

    Args:
        pattern: text in which `*` stands for anything; in paths `*` stands for anything within one
            folder or file name, and `**` for anything at all.
        text: what is matched, as a whole.
        paths: whether both are paths.

    Returns:
        What each star stands for, or None if the text does not match.
    """
    parts = re.split(r"(\*+)", pattern)
    within = "([^/]*)" if paths else "(.*)"
    expression = "".join(
        re.escape(part) if index % 2 == 0 else within if part == "*" else "(.*)"
        for index, part in enumerate(parts)
    )
    found = re.fullmatch(expression, text, flags=re.DOTALL)
    return found.groups() if found else None


def rename(text: str, rules: dict[str, str], paths: bool = False) -> str:
    """Rename a text by the first rule that matches it.

    Args:
        text: an old name.
        rules: old names or patterns, each with the new one, where stars take what they stood for.
        paths: whether these are paths.

    Returns:
        The new name, which is the old one if no rule matches.
    """
    if text in rules:
        return rules[text]
    for old, new in rules.items():
        groups = pattern_groups(old, text, paths) if "*" in old else None
        if groups is not None:
            parts = re.split(r"\*+", new)
            return "".join(a + b for a, b in zip(parts, (*groups, ""), strict=True))
    return text


@dataclass(frozen=True)
class Renames:
    """The map of renames, see `renames.yaml`; on the left are always old names.

    Attributes:
        files: new path of each old path or pattern.
        columns: for `everywhere` or a pattern of old paths, the new name of each old column.
        values: the same, and in it for each old column the new value of each old value.
        keys: the same, with the columns that say which row this is although they hold numbers.
        results: the same, with the columns that do not say so although they hold text.
        ignored_columns: the same, with the columns that are not compared.
        ignored_files: old paths or patterns that are not compared.
    """

    files: dict[str, str] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    values: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)
    results: dict[str, list[str]] = field(default_factory=dict)
    ignored_columns: dict[str, list[str]] = field(default_factory=dict)
    ignored_files: list[str] = field(default_factory=list)

    def new_path(self, path: str) -> str:
        """Say where a table is now.

        Args:
            path: its old path.

        Returns:
            Its new path. Each rule is applied in turn, to what the rules before it made of it.
        """
        for old, new in self.files.items():
            path = rename(path, {old: new}, paths=True)
        return path

    def ignores(self, path: str) -> bool:
        """Say whether a table is not compared.

        Args:
            path: its old path.

        Returns:
            Whether it is in the list of ignored files.
        """
        return any(
            pattern_groups(each, path, paths=True) is not None for each in self.ignored_files
        )


def of_table(part: dict[str, Any], path: str) -> Iterator[Any]:
    """Find what a part of the map says of one table.

    Args:
        part: something for `everywhere` and for patterns of old paths.
        path: the old path of the table.

    Yields:
        What is for this table alone, then what is for all.
    """
    for pattern, content in part.items():
        if pattern != EVERYWHERE and pattern_groups(pattern, path, paths=True) is not None:
            yield content
    if EVERYWHERE in part:
        yield part[EVERYWHERE]


def merged(part: dict[str, dict[str, Any]], path: str) -> dict[str, Any]:
    """Join all rules that a part of the map has for one table.

    Args:
        part: rules for `everywhere` and for patterns of old paths.
        path: the old path of the table.

    Returns:
        The rules; those for this table alone count before those for all.
    """
    rules: dict[str, Any] = {}
    for content in of_table(part, path):
        for old, new in content.items():
            if isinstance(new, dict):
                rules[old] = {**new, **rules.get(old, {})}
            else:
                rules.setdefault(old, new)
    return rules


def named(part: dict[str, list[str]], path: str, columns: Sequence[str]) -> set[str]:
    """Find the columns of one table that a part of the map lists.

    Args:
        part: lists of columns or patterns for `everywhere` and for patterns of old paths.
        path: the old path of the table.
        columns: the columns to choose from.

    Returns:
        Those that are listed.
    """
    patterns = [each for listing in of_table(part, path) for each in listing]
    return {
        column for column in columns
        if any(pattern_groups(each, column, paths=False) is not None for each in patterns)
    }  # fmt: skip


def _check_rules(rules: Any, where: str) -> dict[str, str]:
    """Check one set of rules of the map.

    Args:
        rules: what the map has there; nothing at all counts as no rules.
        where: the place, for messages.

    Returns:
        The rules.

    Raises:
        UsageError: if they are not texts with texts, differ in their stars, or join two names.
    """
    rules = {} if rules is None else rules
    if not isinstance(rules, dict):
        raise UsageError(f"{where}: write `old: new` lines")
    for old, new in rules.items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise UsageError(f"{where}: {old!r}: {new!r}: write both in quotes, as text")
        if len(re.findall(r"\*+", old)) != len(re.findall(r"\*+", new)):
            raise UsageError(f"{where}: {old!r} and {new!r} have unequal numbers of stars")
    if len(set(rules.values())) < len(rules):
        raise UsageError(f"{where}: two old names have the same new name")
    return rules


def _check_list(listing: Any, where: str) -> list[str]:
    """Check one list of the map.

    Args:
        listing: what the map has there; nothing at all counts as an empty list.
        where: the place, for messages.

    Returns:
        The list.

    Raises:
        UsageError: if it is no list of texts.
    """
    listing = [] if listing is None else listing
    if not isinstance(listing, list) or not all(isinstance(each, str) for each in listing):
        raise UsageError(f"{where}: write a list of names")
    return listing


def _check_mapping(content: Any, where: str, known: Sequence[str] = ()) -> dict[str, Any]:
    """Check that something in the map is a mapping.

    Args:
        content: what the map has there; nothing at all counts as an empty mapping.
        where: the place, for messages.
        known: the only keys that it may have, if they are fixed.

    Returns:
        The mapping.

    Raises:
        UsageError: if it is none, or has other keys.
    """
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{where}: write `name: ...` lines")
    unknown = [key for key in content if known and key not in known]
    if unknown:
        raise UsageError(f"{where}: {unknown[0]!r} is not one of {', '.join(known)}")
    return content


def read_renames(path: Path) -> Renames:
    """Read a map of renames.

    Args:
        path: its YAML file.

    Returns:
        The map.

    Raises:
        UsageError: if there is no such file, or it is not as it should be.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        parts = ("files", "columns", "values", "keys", "results", "ignored")
        content = _check_mapping(content, "the map", parts)
        ignored = _check_mapping(content.get("ignored"), "ignored", ("files", "columns"))
        tables = {
            part: _check_mapping(content.get(part), part)
            for part in ("columns", "values", "keys", "results")
        }
        return Renames(
            files=_check_rules(content.get("files"), "files"),
            columns={
                table: _check_rules(rules, f"columns, {table}")
                for table, rules in tables["columns"].items()
            },
            values={
                table: {
                    column: _check_rules(rules, f"values, {table}, {column}")
                    for column, rules in _check_mapping(columns, f"values, {table}").items()
                }
                for table, columns in tables["values"].items()
            },
            keys={
                table: _check_list(listing, f"keys, {table}")
                for table, listing in tables["keys"].items()
            },
            results={
                table: _check_list(listing, f"results, {table}")
                for table, listing in tables["results"].items()
            },
            ignored_columns={
                table: _check_list(listing, f"ignored, columns, {table}")
                for table, listing in _check_mapping(
                    ignored.get("columns"), "ignored, columns"
                ).items()
            },
            ignored_files=_check_list(ignored.get("files"), "ignored, files"),
        )
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class Table:
    """A table as texts.

    Attributes:
        columns: the names of its columns.
        rows: its rows, each with a cell for each column.
    """

    columns: list[str]
    rows: list[dict[str, str]]


def read_table(path: Path) -> Table:
    """Read a CSV file without making anything of its cells.

    Args:
        path: the file.

    Returns:
        The table.

    Raises:
        UsageError: if it is no table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    columns = lines[0] if lines else []
    if len(set(columns)) < len(columns):
        raise UsageError(f"{path} has two columns of the same name")
    lines = [line for line in lines[1:] if line]
    if any(len(line) != len(columns) for line in lines):
        raise UsageError(f"{path} has a row that is longer or shorter than its header")
    return Table(columns, [dict(zip(columns, line, strict=True)) for line in lines])


def renamed_table(table: Table, path: str, renames: Renames) -> Table:
    """Give the columns and values of an old table their new names.

    Args:
        table: the table.
        path: its old path.
        renames: the map.

    Returns:
        The table as it should be now.

    Raises:
        UsageError: if two columns come to the same name.
    """
    columns, values = merged(renames.columns, path), merged(renames.values, path)
    names = {old: rename(old, columns) for old in table.columns}
    if len(set(names.values())) < len(names):
        raise UsageError(f"{path}: two columns would have the same name after renames")
    rows = [
        {names[old]: rename(cell, values.get(old, {})) for old, cell in row.items()}
        for row in table.rows
    ]
    return Table([*names.values()], rows)


def number(cell: str) -> float | None:
    """Read a cell as a number.

    Args:
        cell: its text.

    Returns:
        The number, or None if it is none.
    """
    if "_" in cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def holds_keys(old: Sequence[str], new: Sequence[str]) -> bool:
    """Say whether a column says which row it is, by what it holds.

    Args:
        old: its cells in the old table.
        new: its cells in the new table.

    Returns:
        Whether it holds text in both: some cells that are not empty, none of which is a number, and
        which are not all True or False.
    """
    filled = [{cell for cell in cells if cell} for cells in (old, new)]
    cells = filled[0] | filled[1]
    return (
        all(filled)
        and not cells <= {"True", "False"}
        and all(number(cell) is None for cell in cells)
    )


def difference(old: str, new: str) -> float:
    """Say how far two cells are apart.

    Args:
        old: the text of one.
        new: the text of the other.

    Returns:
        The difference of two numbers relative to the larger one, 0 for equal texts, and infinity
        for texts that are not equal.
    """
    if old == new:
        return 0.0
    first, second = number(old), number(new)
    if first is None or second is None or math.isnan(first) or math.isnan(second):
        return math.inf
    if math.isclose(first, second, rel_tol=0, abs_tol=NOTHING):
        return 0.0
    if math.isinf(first) or math.isinf(second):
        return math.inf
    return abs(first - second) / max(abs(first), abs(second))


@dataclass
class Comparison:
    """What came of comparing one table.

    Attributes:
        problems: what is not equal, in words.
        largest: the largest relative difference of numbers within the tolerance.
    """

    problems: list[str] = field(default_factory=list)
    largest: float = 0.0


def _key(row: dict[str, str], columns: Sequence[str]) -> tuple[str, ...]:
    """Find the key of a row.

    Args:
        row: the row.
        columns: the key columns.

    Returns:
        Its cells in them; numbers are written the same whether they came as 1 or as 1.0.
    """
    values = [(row[column], number(row[column])) for column in columns]
    return tuple(cell if value is None else f"{value:.9g}" for cell, value in values)


def _in_words(columns: Sequence[str], key: Sequence[str]) -> str:
    """Say which row has a key.

    Args:
        columns: the key columns.
        key: the cells in them.

    Returns:
        The columns with their cells, of which long ones are cut.
    """
    cells = [each if len(each) <= 40 else each[:37] + "..." for each in key]
    pairs = [f"{column}={cell}" for column, cell in zip(columns, cells, strict=True) if cell]
    return ", ".join(pairs) or "no key"


def compare(path: str, old: Table, new: Table, renames: Renames, tolerance: float) -> Comparison:
    """Compare a table with what became of it.

    Args:
        path: its old path.
        old: the table before, as it was.
        new: the table now.
        renames: the map.
        tolerance: the largest relative difference of numbers that count as equal.

    Returns:
        What is not equal.
    """
    result = Comparison()
    old_columns, new_names = old.columns, merged(renames.columns, path)

    def listed(part: dict[str, list[str]]) -> set[str]:
        """Find the columns that the map lists.

        Args:
            part: the part of the map.

        Returns:
            Their new names, whichever of their names is listed.
        """
        from_old = {rename(each, new_names) for each in named(part, path, old_columns)}
        return from_old | named(part, path, new.columns)

    old = renamed_table(old, path, renames)
    ignored = listed(renames.ignored_columns)
    before = [column for column in old.columns if column not in ignored]
    now = [column for column in new.columns if column not in ignored]
    result.problems += [f"column {each} is missing" for each in before if each not in now]
    result.problems += [f"column {each} was added" for each in now if each not in before]
    if len(old.rows) != len(new.rows):
        result.problems.append(f"{len(old.rows)} rows before, {len(new.rows)} now")

    common = [column for column in before if column in now]
    keys, results = listed(renames.keys), listed(renames.results)
    key_columns = [
        column for column in common
        if column in keys or (column not in results and holds_keys(
            [row[column] for row in old.rows], [row[column] for row in new.rows]
        ))
    ]  # fmt: skip
    groups: list[dict[tuple[str, ...], list[dict[str, str]]]] = []
    for table in (old, new):
        group = defaultdict(list)
        for row in table.rows:
            group[_key(row, key_columns)].append(row)
        groups.append(group)

    pairs, lost, found = [], [], []
    for key in [*groups[0], *(key for key in groups[1] if key not in groups[0])]:
        first, second = groups[0].get(key, []), groups[1].get(key, [])
        pairs += [(key, *each) for each in zip(first, second, strict=False)]
        lost += [key] * (len(first) - len(second))
        found += [key] * (len(second) - len(first))
    for rows, words in ((lost, "missing"), (found, "added")):
        if rows:
            verb = "row is" if len(rows) == 1 else "rows are"
            examples = "; ".join(_in_words(key_columns, key) for key in rows[:EXAMPLES])
            more = "; ..." if len(rows) > EXAMPLES else ""
            result.problems.append(f"{len(rows)} {verb} {words}: {examples}{more}")

    for column in [column for column in common if column not in key_columns]:
        differing = 0
        worst, where = 0.0, ""
        for key, was, has in pairs:
            size = difference(was[column], has[column])
            if size <= tolerance:
                result.largest = max(result.largest, size)
                continue
            differing += 1
            if size > worst:
                worst = size
                where = f"{was[column]!r} is now {has[column]!r} at {_in_words(key_columns, key)}"
        if differing:
            size_in_words = "text" if math.isinf(worst) else f"relative difference {worst:.3g}"
            result.problems.append(
                f"column {column}: {differing} of {len(pairs)} cells differ, "
                f"the largest ({size_in_words}): {where}"
            )
    return result


def checksums(path: Path) -> dict[str, str]:
    """Find the checksums of a table.

    Args:
        path: its CSV file.

    Returns:
        `sha256` of the whole file, its `header`, and `rows_sha256` of all that follows the header.
    """
    content = path.read_bytes()
    header, _, rows = content.partition(b"\n")
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "header": header.decode("utf-8").rstrip("\r"),
        "rows_sha256": hashlib.sha256(rows).hexdigest(),
    }


def compare_checksums(listing: Table, new_folder: Path, renames: Renames) -> Comparison:
    """Compare files with checksums of what they were.

    Args:
        listing: columns `file`, `sha256`, `header` and `rows_sha256`, see `checksums`.
        new_folder: where the files are now.
        renames: the map, by which files and columns of their headers may have new names.

    Returns:
        What is not equal.
    """
    result = Comparison()
    for row in listing.rows:
        path = renames.new_path(row["file"])
        if renames.ignores(row["file"]):
            continue
        if not (new_folder / path).is_file():
            result.problems.append(f"{path} is missing")
            continue
        sums = checksums(new_folder / path)
        if sums["sha256"] == row["sha256"]:
            continue
        names = merged(renames.columns, row["file"])
        header = [rename(each, names) for each in row["header"].split(",")]
        if sums["header"].split(",") != header:
            result.problems.append(f"{path} has another header: {sums['header']}")
        elif sums["rows_sha256"] != row["rows_sha256"]:
            result.problems.append(f"{path} has other rows")
    return result


def find_tables(folder: Path) -> list[str]:
    """Find all tables of a run.

    Args:
        folder: the folder of the run.

    Returns:
        The paths of its CSV files inside it, in order.

    Raises:
        UsageError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.csv"))


def compare_folders(
    old_folder: Path, new_folder: Path, renames: Renames, tolerance: float
) -> Iterator[tuple[str, Comparison]]:
    """Compare all tables of a run with those of another.

    Args:
        old_folder: the folder of the run before.
        new_folder: the folder of the run now.
        renames: the map.
        tolerance: the largest relative difference of numbers that count as equal.

    Yields:
        The name of each table, with its new one where it has one, and what is not equal.

    Raises:
        UsageError: if there are no tables to compare, or two of them have the same new name.
    """
    there = find_tables(new_folder)
    paths = {path: renames.new_path(path) for path in find_tables(old_folder)}
    paths = {path: new for path, new in paths.items() if not renames.ignores(path)}
    if not paths:
        raise UsageError(f"there is no table to compare in {old_folder}")
    twice = [new for new in paths.values() if [*paths.values()].count(new) > 1]
    if twice:
        raise UsageError(f"two tables would be {twice[0]} after renames")
    for path, new in paths.items():
        name = path if path == new else f"{path} -> {new}"
        if Path(path).name == CHECKSUMS:
            listing = read_table(old_folder / path)
            yield name, compare_checksums(listing, new_folder, renames)
        elif new not in there:
            yield name, Comparison(["the file is missing"])
        else:
            tables = read_table(old_folder / path), read_table(new_folder / new)
            yield name, compare(path, *tables, renames, tolerance)
    extra = len(set(there) - set(paths.values()))
    if extra:
        print(f"{extra} more tables in {new_folder} were not compared with anything")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two folders and print what is not equal.

    Args:
        arguments: those of the command line, or others.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description="Compare the tables of two runs through renames.")
    parser.add_argument("old_folder", type=Path, help="folder of the run before")
    parser.add_argument("new_folder", type=Path, help="folder of the run now")
    parser.add_argument(
        "--renames", type=Path, default=RENAMES, help="the map of renames (default: %(default)s)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE,
        help="largest relative difference of numbers that count as equal (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if not 0 <= options.tolerance < math.inf:
        parser.error("the tolerance must be 0 or a positive number")
    equal = differ = 0
    largest, place = 0.0, ""
    try:
        renames = read_renames(options.renames)
        results = compare_folders(
            options.old_folder, options.new_folder, renames, options.tolerance
        )
        for name, comparison in results:
            if comparison.problems:
                differ += 1
                print(name, *(f"  {problem}" for problem in comparison.problems), sep="\n")
            else:
                equal += 1
            if comparison.largest > largest:
                largest, place = comparison.largest, name
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if largest:
        print(f"largest relative difference within the tolerance: {largest:.3g}, in {place}")
    print(f"{equal} tables equal, {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
