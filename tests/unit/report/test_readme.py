"""The front door: that the README says what the reference run says, and shows what the checkpoints draw."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import checkpoint_of, project_root
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.generators.loading import load_generator
from hamsynth_utils.report import readme, reference

CLASSES = HAM10000.classes.names

ROOT = project_root()
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_what_the_command_would_write():
    assert readme.update_readme(README) == README, "run hamsynth readme"


def test_without_a_reference_run_the_answer_says_so(tmp_path):
    for answer in (reference.answer_in_words, reference.short_answer):
        assert answer(tmp_path / "nothing").startswith("**No answer yet.**")


def test_the_readme_is_short_and_answers_in_two_sentences():
    assert len(README.splitlines()) <= 120
    answer = reference.short_answer()
    assert len(re.findall(r"\.(?= |\n)", answer.partition("[")[0])) == 2
    best = reference.gains(reference.REFERENCE).query("synthetic == 'none'")["value"].max()
    assert f"{best:+.1f} points" in " ".join(answer.split())


def test_only_the_marked_parts_are_written(monkeypatch):
    monkeypatch.setattr(readme, "short_answer", lambda: "**It depends.**\n")
    monkeypatch.setattr(readme, "repository", lambda: "https://github.com/some/one")
    written = readme.update_readme(README)
    assert (
        "\n**It depends.**\n<!-- end of answer -->" in written and "some.github.io/one" in written
    )
    parts = r"(<!-- (\w+): .*?-->\n).*?(<!-- end of \2 -->)"
    assert re.sub(parts, r"\1\3", written, flags=re.S) == re.sub(parts, r"\1\3", README, flags=re.S)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("<!-- end of answer -->", ""),
        lambda text: text + "<!-- end of badges -->",
        lambda text: text.replace("answer: hamsynth", "reply: hamsynth"),
    ],
)
def test_a_readme_without_its_marks_is_refused(spoil):
    with pytest.raises(InputError, match="once each"):
        readme.update_readme(spoil(README))


def test_the_address_stands_in_one_place(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n', encoding="utf-8")
    assert readme.repository(project) == "" and readme.badges("") == ""
    project.write_text(
        '[project]\nname = "x"\n[project.urls]\nRepository = "https://github.com/some/one"\n',
        encoding="utf-8",
    )
    assert readme.repository(project) == "https://github.com/some/one"
    shown = readme.badges(readme.repository(project))
    assert re.findall(r"\]\((https://(?!img)[^)]+)\)", shown) == [
        "https://some.github.io/one/",
        "https://mybinder.org/v2/gh/some/one/HEAD?urlpath=lab/tree/notebooks",
        f"https://colab.research.google.com/github/some/one/blob/HEAD/{readme.SET_UP}",
    ]
    project.write_text(
        '[project]\nname = "x"\n[project.urls]\nRepository = "https://example.org/some/one"\n',
        encoding="utf-8",
    )
    with pytest.raises(InputError, match=r"https://github\.com/OWNER/NAME"):
        readme.repository(project)


def test_the_set_up_for_colab_clones_from_that_address(monkeypatch):
    text = (ROOT / readme.SET_UP).read_text(encoding="utf-8")
    assert readme.add_repository_address(text) == text, "run hamsynth readme"
    monkeypatch.setattr(readme, "repository", lambda: "https://github.com/some/one")
    source = "".join(json.loads(readme.add_repository_address(text))["cells"][1]["source"])
    assert 'ADDRESS = "https://github.com/some/one"\n' in source


def test_the_picture_is_labelled_and_is_what_the_checkpoints_draw():
    """Every lesion in it, beside one that its checkpoint draws now; JPEG costs a few grey levels."""
    with Image.open(ROOT / readme.PICTURE) as sheet:
        assert (
            b"SYNTHETIC IMAGE" in sheet.info["comment"] and b"CC BY-NC-SA" in sheet.info["comment"]
        )
        sheet.load()
    for row, name in enumerate(name for name in GENERATORS if checkpoint_of(name).is_file()):
        drawn = load_generator(checkpoint_of(name)).sample(torch.arange(len(CLASSES)), readme.SEED)
        now = ((drawn + 1) * 127.5).permute(0, 2, 3, 1).detach().numpy()
        for column in range(len(CLASSES)):
            tile = sheet.crop(readme.tile_at(row, column)).resize((64, 64), Image.Resampling.BOX)
            differences = [np.abs(np.asarray(tile) - other).mean() for other in now]
            assert np.argmin(differences) == column and differences[column] < 5, (
                name,
                CLASSES[column],
            )


def test_what_the_readme_names_is_there():
    for path in re.findall(r"\]\((?!https:)([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
