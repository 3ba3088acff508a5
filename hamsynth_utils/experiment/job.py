"""Run a command, keep all it prints in a log, and tell the terminal in a line now and then how it goes.

The exit code is the command's. Beside the log, a .json file of the same name gets the minutes and the peak
memory. Where HAMSYNTH_PIPELINE holds a process id, the command ends with that process, so that nothing trains on
after its pipeline was killed.
"""

from __future__ import annotations

import json
import os
import re
import resource
import selectors
import subprocess
import sys
import time
from pathlib import Path

NEWS_SECONDS = 20.0


CELL_ERROR = "papermill.exceptions.PapermillExecutionError:"


def watch(name: str, log: Path, command: list[str], news_seconds: float = NEWS_SECONDS) -> int:
    """Run `command`, with its output in `log`; print start, news, end, and the error if it fails."""
    start = time.monotonic()
    _say(f"{name}: started")
    news, told, due = "", "", start + news_seconds
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as kept, selectors.DefaultSelector() as ready:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        ready.register(process.stdout, selectors.EVENT_READ)
        try:
            while True:
                if ready.select(timeout=1.0):
                    chunk = os.read(process.stdout.fileno(), 1 << 16)
                    if not chunk:
                        break
                    kept.write(chunk)
                    kept.flush()
                    news = _last_news(chunk) or news
                if time.monotonic() >= due:
                    due = time.monotonic() + news_seconds
                    if news != told:
                        told = news
                        _say(f"{name}: {news}")
                if _pipeline_is_gone():
                    process.kill()
            _, status, usage = os.wait4(process.pid, 0)
            code = process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            process.wait()
            raise
    minutes, memory = (time.monotonic() - start) / 60, _peak_memory(usage)
    log.with_suffix(".json").write_text(json.dumps({"minutes": minutes, "peak_memory_gib": memory}))
    if code:
        _say(
            f"{name}: failed after {minutes:.1f} min; all it printed: {log.resolve()}\n{_error(log)}"
        )
    else:
        _say(f"{name}: done in {minutes:.1f} min, {memory:.1f} GiB")
    return code


def _peak_memory(usage: resource.struct_rusage) -> float:
    """The most memory in GiB that the command or a process under it held: a notebook's kernel, for one."""
    return usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _last_news(chunk: bytes) -> str:
    """The last progress bar, without its picture, or word that something is waited for."""
    for line in reversed(re.split(r"[\r\n]+", chunk.decode(errors="replace"))):
        if re.search(r"\d%\||waiting for", line):
            return re.sub(r"\|[^|]*\|", "", line).strip()
    return ""


def _error(log: Path) -> str:
    """From the cell's error on if there is one, else the last forty lines."""
    text = log.read_text(errors="replace")
    if CELL_ERROR in text:
        return text.rsplit(CELL_ERROR, 1)[1].strip()
    return "\n".join(text.splitlines()[-40:])


def _pipeline_is_gone() -> bool:
    pipeline = os.environ.get("HAMSYNTH_PIPELINE")
    if not pipeline:
        return False
    try:
        os.kill(int(pipeline), 0)
    except ProcessLookupError:
        return True
    return False
