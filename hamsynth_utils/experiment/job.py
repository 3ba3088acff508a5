"""Run one command of the pipeline: its output goes to a log, and short news of it to the terminal.

Beside the log, a .json file of the same name gets the minutes and the peak memory of the command.
If the environment variable HAMSYNTH_PIPELINE holds the process id of the pipeline, the command ends
when that process ends. So no training goes on after its pipeline was killed.
"""

from __future__ import annotations

import json
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

from hamsynth_utils.core.files import atomic_path, oserror_as_input_error
from hamsynth_utils.core.machine import free_memory_mb, memory_kills, memory_limit_mb

NEWS_SECONDS = 20.0
"""Seconds between two lines of news."""


DEAD_KERNEL = "nbclient.exceptions.DeadKernelError"
"""What papermill prints when the process of a notebook was killed."""


CELL_ERROR = "papermill.exceptions.PapermillExecutionError:"
"""What papermill prints before the error of a notebook's cell."""


def watch(name: str, log: Path, command: list[str], news_seconds: float = NEWS_SECONDS) -> int:
    """Run a command; print to the terminal when it starts, how it goes on, and how it ends.

    Args:
        name: what the command is called in these lines.
        log: the file that gets all output of the command; its folder is made.
        command: the command and its arguments.
        news_seconds: seconds between two lines of news.

    Returns:
        The exit code of the command.
    """
    start, kills = time.monotonic(), memory_kills()
    _say(f"{name}: started")
    with oserror_as_input_error(log):
        log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        with oserror_as_input_error(log):
            _copy_output(name, process, log, news_seconds)
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.kill()
        process.wait()
        raise
    minutes, memory = (time.monotonic() - start) / 60, _peak_memory(usage)
    with atomic_path(log.with_suffix(".json")) as path:
        numbers = {"minutes": minutes, "peak_memory_gib": memory}
        path.write_text(json.dumps(numbers), encoding="utf-8")
    if code:
        failed = f"{name}: failed after {minutes:.1f} min; all it printed: {log.resolve()}"
        was_full = memory_kills() > kills
        _say(f"{failed}\n{_why_killed(log, code, memory, was_full) or _error(log)}")
    else:
        _say(f"{name}: done in {minutes:.1f} min, {memory:.1f} GiB")
    return code


def _copy_output(name: str, process: subprocess.Popen, log: Path, news_seconds: float) -> None:
    """Write the output of a process to the log and print news until the process ends."""
    assert process.stdout is not None
    news, printed, due = "", "", time.monotonic() + news_seconds
    with log.open("wb") as file, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(timeout=1.0):
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    return
                file.write(chunk)
                file.flush()
                news = _last_news(chunk) or news
            if time.monotonic() >= due:
                due = time.monotonic() + news_seconds
                if news != printed:
                    printed = news
                    _say(f"{name}: {news}")
            if _pipeline_ended():
                process.kill()


def _peak_memory(usage: resource.struct_rusage) -> float:
    """The peak memory in GiB of the command, or of a child process such as a notebook's kernel."""
    return usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _last_news(chunk: bytes) -> str:
    """The last progress bar without its picture, or the last line that names a lock; else empty."""
    for line in reversed(re.split(r"[\r\n]+", chunk.decode(errors="replace"))):
        if re.search(r"\d%\||waiting for", line):
            return re.sub(r"\|[^|]*\|", "", line).strip()
    return ""


def _why_killed(log: Path, code: int, memory: float, was_full: bool) -> str:
    """Why the command or a notebook's kernel was killed, "" if neither was.

    Args:
        log: all output of the command.
        code: its exit code.
        memory: its peak memory in GiB.
        was_full: whether a control group of this process killed a process for want of memory.
    """
    killed = code == -signal.SIGKILL or DEAD_KERNEL in log.read_text(
        encoding="utf-8", errors="replace"
    )
    if not killed or _pipeline_ended():
        return ""
    return (
        f"it was killed at {memory:.1f} GiB, {'' if was_full else 'most likely '}because memory "
        f"was full: of {memory_limit_mb():,} MB, {free_memory_mb():,} MB are free now. Let fewer "
        "chapters run side by side (CORES=1, or a smaller MEMORY), take a smaller profile, or a "
        "cluster (SLURM=1)"
    )


def _error(log: Path) -> str:
    """The error of a notebook's cell if the log has one, else the last forty lines of the log."""
    text = log.read_text(errors="replace", encoding="utf-8")
    if CELL_ERROR in text:
        return text.rsplit(CELL_ERROR, 1)[1].strip()
    return "\n".join(text.splitlines()[-40:])


def _pipeline_ended() -> bool:
    pipeline = os.environ.get("HAMSYNTH_PIPELINE")
    if not pipeline:
        return False
    try:
        os.kill(int(pipeline), 0)
    except ProcessLookupError:
        return True
    return False
