"""The front door: that the README says what the reference run says, and shows what the checkpoints draw."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from hamsynth_utils import front_door, results
from hamsynth_utils.checkpoints import checkpoint_of
from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.generators import load_generator
from hamsynth_utils.profile import GENERATORS, project_root

ROOT = project_root()
README = (ROOT / "README.md").read_text()


def test_the_readme_is_what_the_command_would_write():
    assert front_door.up_to_date(README) == README, "run python -m hamsynth_utils.front_door"


def test_without_a_reference_run_the_answer_says_so(tmp_path):
    assert results.answer_in_words(tmp_path / "nothing").startswith("**No answer yet.**")


def test_only_the_marked_parts_are_written(monkeypatch):
    monkeypatch.setattr(front_door, "answer_in_words", lambda: "**It depends.**\n")
    monkeypatch.setattr(front_door, "repository", lambda: "https://github.com/some/one")
    written = front_door.up_to_date(README)
    assert "\n**It depends.**\n<!-- end of answer -->" in written and "some.github.io/one" in written
    parts = r"(<!-- (\w+): .*?-->\n).*?(<!-- end of \2 -->)"
    assert re.sub(parts, r"\1\3", written, flags=re.S) == re.sub(parts, r"\1\3", README, flags=re.S)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("<!-- end of answer -->", ""),
        lambda text: text + "<!-- end of badges -->",
        lambda text: text.replace("answer: python", "reply: python"),
    ],
)
def test_a_readme_without_its_marks_is_refused(spoil):
    with pytest.raises(InputError, match="once each"):
        front_door.up_to_date(spoil(README))


def test_the_address_stands_in_one_place(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n')
    assert front_door.repository(project) == "" and front_door.badges("") == ""
    project.write_text('[project]\nname = "x"\n[project.urls]\nRepository = "https://github.com/some/one"\n')
    assert front_door.repository(project) == "https://github.com/some/one"
    shown = front_door.badges(front_door.repository(project))
    assert re.findall(r"\]\((https://(?!img)[^)]+)\)", shown) == [
        "https://some.github.io/one/",
        "https://mybinder.org/v2/gh/some/one/HEAD?urlpath=lab/tree/notebooks",
        f"https://colab.research.google.com/github/some/one/blob/HEAD/{front_door.SET_UP}",
    ]
    project.write_text('[project]\nname = "x"\n[project.urls]\nRepository = "https://example.org/some/one"\n')
    with pytest.raises(InputError, match=r"https://github\.com/OWNER/NAME"):
        front_door.repository(project)


def test_the_set_up_for_colab_clones_from_that_address(monkeypatch):
    text = (ROOT / front_door.SET_UP).read_text()
    assert front_door.with_address(text) == text, "run python -m hamsynth_utils.front_door"
    monkeypatch.setattr(front_door, "repository", lambda: "https://github.com/some/one")
    source = "".join(json.loads(front_door.with_address(text))["cells"][1]["source"])
    assert 'ADDRESS = "https://github.com/some/one"\n' in source


def test_the_picture_is_labelled_and_is_what_the_checkpoints_draw():
    """Every lesion in it, beside one that its checkpoint draws now; JPEG costs a few grey levels."""
    with Image.open(ROOT / front_door.PICTURE) as sheet:
        assert b"SYNTHETIC IMAGE" in sheet.info["comment"] and b"CC BY-NC-SA" in sheet.info["comment"]
        sheet.load()
    for row, name in enumerate(name for name in GENERATORS if checkpoint_of(name).is_file()):
        drawn = load_generator(checkpoint_of(name)).sample(torch.arange(len(CLASSES)), front_door.SEED)
        now = ((drawn + 1) * 127.5).permute(0, 2, 3, 1).detach().numpy()
        for column in range(len(CLASSES)):
            tile = sheet.crop(front_door.tile_at(row, column)).resize((64, 64), Image.Resampling.BOX)
            differences = [np.abs(np.asarray(tile) - other).mean() for other in now]
            assert np.argmin(differences) == column and differences[column] < 5, (name, CLASSES[column])


def test_what_the_readme_names_is_there():
    for path in re.findall(r"\]\((?!https:)([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
