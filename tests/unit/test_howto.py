"""The how-to page: its Python script runs as it is printed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.generators.synthetic_sets import synthesize


@pytest.mark.slow
def test_the_script_of_the_howto_page_runs_as_it_is_printed(tmp_path: Path) -> None:
    (script,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "book/howto.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    per_class = dict.fromkeys(HAM10000.classes, 10)
    synthesize(ROOT / "checkpoints/vae.safetensors", per_class, 0, tmp_path / "theirs")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    distance = ast.literal_eval(done.stdout.splitlines()[-1])
    assert distance["low"] < distance["mean"] < distance["high"] and distance["n"] == 35
