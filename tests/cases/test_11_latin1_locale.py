"""A locale in Latin-1: the same bytes as under a UTF-8 locale, for the students' notebooks and for a report."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, merged

from hamsynth_utils.report.student import write_student_version


@pytest.fixture(scope="module")
def latin1(tmp_path_factory) -> dict[str, str]:
    """An environment whose locale is en_US in ISO-8859-1."""
    folder = tmp_path_factory.mktemp("locale")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US")]
    try:
        subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no localedef")
    environment = {**os.environ, "LOCPATH": str(folder), "LC_ALL": "en_US"}
    environment.pop("PYTHONUTF8", None)
    asked = [sys.executable, "-c", "import locale; print(locale.getpreferredencoding())"]
    found = subprocess.run(asked, env=environment, capture_output=True, check=True).stdout
    if found.strip() != b"ISO-8859-1":
        pytest.skip("the locale en_US.ISO-8859-1 cannot be made here")
    return environment


def hamsynth(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hamsynth_utils.cli", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="replace",
        capture_output=True,
        check=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_students_notebooks_are_the_same(latin1, tmp_path):
    write_student_version(tmp_path / "utf8")
    done = hamsynth(latin1, "student", "--out", str(tmp_path / "latin1"))
    assert done.returncode == 0, done.stderr
    expected = contents(tmp_path / "utf8")
    assert any("Fréchet" in content.decode() for content in expected.values())
    assert contents(tmp_path / "latin1") == expected


def test_a_profile_in_another_encoding_is_refused_by_name(latin1, tmp_path):
    (tmp_path / "mine.yaml").write_bytes("# für mich\nthreads: 1\n".encode("latin-1"))
    done = hamsynth(latin1, "run", "--profile", str(tmp_path / "mine.yaml"), "--run", "r")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "mine.yaml, line 1, is not in UTF-8" in done.stderr


def tables_and_pages(run: Path) -> dict[str, bytes]:
    """What a report says: its tables, predictions and pages, byte by byte, without the seconds of a training."""
    files = [*run.glob("metrics/**/*.csv"), *run.glob("classifiers/**/*.csv")]
    files += [run / "site/glossary.html", run / "site/references.html"]
    said = {path: path.read_bytes() for path in files}
    said |= {path: without_seconds(said[path]) for path in files if path.name == "history.csv"}
    return {str(path.relative_to(run)): content for path, content in said.items()}


def without_seconds(history: bytes) -> bytes:
    """The table of a training without its column of times; everything else stays byte by byte."""
    rows = [line.split(b",") for line in history.splitlines(keepends=True)]
    column = rows[0].index(b"seconds")
    return b"".join(b",".join(row[:column] + row[column + 1 :]) for row in rows)


@pytest.mark.slow
def test_a_report_is_the_same(latin1, tmp_path):
    profile = tmp_path / "tiny.yaml"
    few_arms = {"arms": ["real", "gan"], "other_split_arms": ["real"]}
    settings = merged(TINY, {**few_arms, "data": {"phantom_images": 600}})
    profile.write_text(yaml.safe_dump(settings), encoding="utf-8")
    made = {}
    for name, locale in {"utf8": {**os.environ, "LC_ALL": "C.UTF-8"}, "latin1": latin1}.items():
        environment = {**locale, "HAMSYNTH_RUNS": str(tmp_path / name), "HF_HUB_OFFLINE": "1"}
        done = hamsynth(environment, "report", "--profile", str(profile), "--run", "r")
        assert done.returncode == 0, done.stdout + done.stderr
        made[name] = tables_and_pages(tmp_path / name / "r")
    assert "Fréchet distance" in made["utf8"]["site/glossary.html"].decode()
    assert made["latin1"] == made["utf8"]


def without_encoding(code: str) -> list[str]:
    """The calls that read or write text in the encoding of the locale; ruff's PLW1514 sees only some of them."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        is_text = "text" in named or "universal_newlines" in named
        if name == "read_text" and node.args:
            continue  # a function of the package, of the same name
        reads = name in {"read_text", "write_text"} or (name in {"run", "Popen"} and is_text)
        if reads and "encoding" not in named:
            found.append(ast.unparse(node))
    return found


def test_every_text_names_its_encoding():
    files = {
        path: path.read_text(encoding="utf-8")
        for folder in ("hamsynth_utils", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        files[path] = "\n".join(code)
    found = {str(path): without_encoding(code) for path, code in files.items()}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "code",
    ["path.read_text()", "(a / 'b').write_text(text)", "subprocess.run(['a'], text=True)"],
)
def test_a_call_without_an_encoding_is_found(code):
    assert without_encoding(code) == [code]
