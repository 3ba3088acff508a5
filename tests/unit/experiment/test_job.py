"""What the terminal and the log get of a command, and what becomes of it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hamsynth_utils.experiment.job import watch


def test_log_has_all_and_terminal_has_the_news(tmp_path: Path) -> None:
    script = """
import sys, time
hoard = b"x" * (300 * 2**20)
print("a cell's words")
for i in range(60, 100, 10):
    sys.stderr.write(f"\\rsteps:  {i}%|####   | {i}/100 [00:10<00:05]"); sys.stderr.flush(); time.sleep(0.4)
"""
    log = tmp_path / "logs/02_vae.log"
    # In a process of its own, as in the pipeline: a child counts the memory of a large parent as its own peak.
    command = [sys.executable, "-c", script]
    watching = f"from hamsynth_utils.experiment.job import *; watch('02_vae', Path({str(log)!r}), {command!r}, 0.1)"
    ran = subprocess.run(
        [sys.executable, "-c", watching],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    said = ran.stderr.splitlines()
    assert said[0] == "02_vae: started"
    assert re.fullmatch(r"02_vae: done in \d\.\d min, 0\.\d GiB", said[-1])
    assert any(re.fullmatch(r"02_vae: steps:  \d0% \d0/100 \[00:10<00:05\]", line) for line in said)
    assert not any("words" in line for line in said)
    assert (
        "a cell's words" in log.read_text(encoding="utf-8")
        and log.read_text(encoding="utf-8").count("steps:") == 4
    )
    assert (
        json.loads(log.with_suffix(".json").read_text(encoding="utf-8"))["peak_memory_gib"] > 0.29
    )


def test_a_failure_gives_its_exit_code_and_its_last_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = "import sys; print(*range(100), sep='\\n'); sys.exit(7)"
    assert watch("03_gan", tmp_path / "gan.log", [sys.executable, "-c", script]) == 7
    said = capfd.readouterr().err
    assert re.search(r"failed after \d\.\d min; all it printed: ", said)
    assert f"{tmp_path}/gan.log\n60\n61\n" in said


def test_ends_with_its_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMSYNTH_PIPELINE", "999999999")
    start = time.monotonic()
    assert (
        watch("x", tmp_path / "x.log", [sys.executable, "-c", "import time; time.sleep(60)"]) != 0
    )
    assert time.monotonic() - start < 20


KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
DEAD = "print('nbclient.exceptions.DeadKernelError: Kernel died'); raise SystemExit(1)"


@pytest.mark.parametrize("script", [KILLED, DEAD])
def test_a_killed_kernel_is_explained(script, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("HAMSYNTH_PIPELINE", raising=False)
    assert watch("10_privacy", tmp_path / "a.log", [sys.executable, "-c", script]) != 0
    said = capfd.readouterr().err.splitlines()
    assert re.fullmatch(
        r"it was killed at \d+\.\d GiB, most likely because memory was full: of [\d,]+ MB, [\d,]+ MB "
        r"are free now\. Let fewer chapters run side by side \(CORES=1, or a smaller MEMORY\), take a "
        r"smaller profile, or a cluster \(SLURM=1\)",
        said[-1],
    )


def test_a_group_that_killed_a_process_is_no_guess(tmp_path, capfd, monkeypatch):
    kills = iter([4, 5])
    monkeypatch.setattr("hamsynth_utils.experiment.job.memory_kills", lambda: next(kills))
    watch("10_privacy", tmp_path / "a.log", [sys.executable, "-c", DEAD])
    assert "GiB, because memory was full" in capfd.readouterr().err
