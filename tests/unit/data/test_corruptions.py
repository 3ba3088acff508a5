"""Faults that were planted are there, and nothing else is changed."""

import pytest

from hamsynth_utils.cli import main
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.duplicates import repeated_photos
from hamsynth_utils.data.ham10000 import read_ham10000
from hamsynth_utils.data.lesion_set import COLUMNS
from hamsynth_utils.data.phantom.corruptions import with_copies, with_label_noise
from hamsynth_utils.data.phantom.generate import make_phantom

LESIONS = make_phantom(300, seed=0)


def test_label_noise_changes_so_many_lesions_and_each_as_a_whole():
    noisy = with_label_noise(LESIONS, 0.4, seed=1)
    before, after = LESIONS.table, noisy.table
    changed = (before["dx"] != after["dx"]).groupby(before["lesion_id"]).mean()
    assert set(changed) == {0.0, 1.0} and changed.sum() == round(0.4 * len(changed))
    assert (after.groupby("lesion_id")["dx"].nunique() == 1).all()
    assert after.drop(columns="dx").equals(before.drop(columns="dx"))
    assert with_label_noise(LESIONS, 0.0, seed=1).table.equals(before)
    assert not with_label_noise(LESIONS, 0.4, seed=2).table.equals(after)


def test_copies_are_photos_that_the_package_finds():
    both = with_copies(LESIONS, 0.1, seed=1)
    assert len(both) == 330 and both.table["image_id"].is_unique
    pairs = repeated_photos(both)
    assert set(pairs["image_id_b"]) == set(both.table["image_id"][300:])
    assert ("COPY_" + pairs["image_id_a"] == pairs["image_id_b"]).all()


def test_the_folder_is_read_as_a_data_set(tmp_path, capsys):
    arguments = [
        "phantom",
        str(tmp_path / "planted"),
        "--images",
        "150",
        "--noise",
        "0.3",
        "--copies",
        "0.2",
    ]
    assert main(arguments) == 0 and "180 images" in capsys.readouterr().out
    read = read_ham10000(tmp_path / "planted", progress=False).lesions
    made = with_copies(with_label_noise(make_phantom(150), 0.3, 0), 0.2, 0)
    assert read.table[["image_id", "lesion_id", "dx"]].equals(
        made.table[["image_id", "lesion_id", "dx"]]
    )
    assert tuple(read.table) == COLUMNS and read.images.shape == made.images.shape
    assert (read.images.float() - made.images.float()).abs().mean() < 6, (
        "stored as JPEG, the same pictures"
    )
    assert main(arguments) == 2 and "is there already" in capsys.readouterr().err
    with pytest.raises(InputError, match="between 0 and 1, not at 1.5"):
        with_label_noise(LESIONS, 1.5, 0)
