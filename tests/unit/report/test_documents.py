"""Citation, licences and contributing: that they are valid, agree with the package, and name what is there."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from huggingface_hub import ModelCard

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.weights import sha256_of

ROOT = project_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def schema_problems(schema: str, path) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    return "" if result.returncode == 0 else result.stdout + result.stderr


def test_the_citation_is_valid_and_of_this_version(tmp_path):
    path = ROOT / "CITATION.cff"
    assert schema_problems("vendor.citation-file-format", path) == ""
    citation = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["references"][0]["doi"] in (ROOT / "book/references.bib").read_text(
        encoding="utf-8"
    )
    broken = tmp_path / "CITATION.cff"
    broken.write_text(
        path.read_text(encoding="utf-8").replace("authors:", "writers:", 1), encoding="utf-8"
    )
    assert "'authors' is a required property" in schema_problems(
        "vendor.citation-file-format", broken
    )


def test_code_and_checkpoints_have_their_own_licences():
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    weights = (ROOT / "checkpoints/LICENSE").read_text(encoding="utf-8")
    assert "CC BY-NC-SA 4.0" in weights and "10.1038/sdata.2018.161" in weights
    for card in (ROOT / "checkpoints").glob("*.md"):
        assert "CC BY-NC-SA 4.0" in card.read_text(encoding="utf-8"), card.name
        header = ModelCard.load(card).data
        assert header.license == "cc-by-nc-sa-4.0" and header.datasets == ["HAM10000"]
        assert sha256_of(card.with_suffix(".safetensors")) in card.read_text(encoding="utf-8")


def test_the_changelog_begins_with_this_version():
    first = re.findall(
        r"^## \[(\S+)\],", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )[0]
    assert first == PROJECT["version"]


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "README.md"])
def test_every_file_that_is_named_is_there(document):
    text = re.sub(
        r"^    .*$", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.M
    )  # commands name files of their own
    named = set(re.findall(r"`([\w./]+\.(?:py|yaml|yml|toml|md|cff|bib|ipynb|jpg))`", text))
    named |= set(re.findall(r"\]\((?!http)([\w./-]+)\)", text))
    assert len(named) >= 4
    missing = [
        n for n in named if not any((ROOT / base / n).is_file() for base in ("", "hamsynth_utils"))
    ]
    assert missing == []


def test_no_place_but_the_registry_names_the_generators_one_by_one():
    """So that a new one is one file, one line and one notebook, as CONTRIBUTING.md says."""
    sources = [*(ROOT / "hamsynth_utils").rglob("*.py"), ROOT / "Snakefile"]
    sources.remove(ROOT / "hamsynth_utils/generators/__init__.py")  # re-exports modules' names
    naming = [
        p.name
        for p in sources
        if all(f'"{name}"' in p.read_text(encoding="utf-8") for name in GENERATORS)
    ]
    assert naming == ["registry.py"]
    line = next(line for line in CONTRIBUTING.splitlines() if line.startswith("    Registration("))
    assert line.strip() in (ROOT / "hamsynth_utils/core/registry.py").read_text(encoding="utf-8")
