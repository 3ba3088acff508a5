"""The front door: that the README says what the reference run says, and shows what the checkpoints draw."""

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


def test_the_readme_has_the_answer_that_the_command_would_write():
    assert front_door.with_answer(README) == README, "run python -m hamsynth_utils.front_door"


def test_without_a_reference_run_the_answer_says_so(tmp_path):
    assert results.answer_in_words(tmp_path / "nothing").startswith("**No answer yet.**")


def test_only_the_marked_part_is_written(monkeypatch):
    monkeypatch.setattr(front_door, "answer_in_words", lambda: "**It depends.**\n")
    before, after = README.split(front_door.BEGIN)[0], README.split(front_door.END)[1]
    written = front_door.with_answer(README)
    assert written == f"{before}{front_door.BEGIN}\n**It depends.**\n{front_door.END}{after}"


@pytest.mark.parametrize(
    "text",
    ["no marks", front_door.BEGIN, front_door.END + front_door.BEGIN, README + front_door.BEGIN],
)
def test_a_readme_without_its_marks_is_refused(text):
    with pytest.raises(InputError, match="once each"):
        front_door.with_answer(text)


def test_the_picture_is_labelled_and_is_what_the_checkpoints_draw():
    """Every lesion in it, beside one that its checkpoint draws now; JPEG costs a few grey levels."""
    with Image.open(ROOT / front_door.PICTURE) as sheet:
        assert b"SYNTHETIC IMAGE" in sheet.info["comment"] and b"CC BY-NC-SA" in sheet.info["comment"]
        sheet.load()
    for row, name in enumerate(GENERATORS):
        drawn = load_generator(checkpoint_of(name)).sample(torch.arange(len(CLASSES)), front_door.SEED)
        now = ((drawn + 1) * 127.5).permute(0, 2, 3, 1).detach().numpy()
        for column in range(len(CLASSES)):
            tile = sheet.crop(front_door.tile_at(row, column)).resize((64, 64), Image.Resampling.BOX)
            differences = [np.abs(np.asarray(tile) - other).mean() for other in now]
            assert np.argmin(differences) == column and differences[column] < 5, (name, CLASSES[column])


def test_what_the_readme_names_is_there():
    for path in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
