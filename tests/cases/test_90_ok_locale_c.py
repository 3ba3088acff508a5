"""The locales C and POSIX (clusters, cron): the students' notebooks are the same as under UTF-8."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from hamsynth_utils.report.student import write_student_version


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_the_students_notebooks_are_the_same(locale, tmp_path):
    write_student_version(tmp_path / "utf8")
    environment = {**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "hamsynth_utils.cli", "student", "--out", str(tmp_path / "c")]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    names = sorted(path.name for path in (tmp_path / "utf8").iterdir())
    assert names and names == sorted(path.name for path in (tmp_path / "c").iterdir())
    for name in names:
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "utf8" / name).read_bytes()
