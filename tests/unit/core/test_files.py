import errno

import pytest

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path


def test_a_full_disk_keeps_the_old_file_and_leaves_no_temporary(tmp_path):
    target = tmp_path / "kept.txt"
    target.write_text("old", encoding="utf-8")
    with (
        pytest.raises(InputError, match="cannot write .*kept.txt: No space left"),
        atomic_path(target) as path,
    ):
        path.write_text("half of the new", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "folder") as path:
        path.mkdir()
        (path / "a").write_text("a", encoding="utf-8")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
