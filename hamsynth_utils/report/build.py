"""The HTML report of a run: executed notebooks and the pages of `book/`, built by Jupyter Book."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from hamsynth_utils.core.files import atomic_path, read_yaml
from hamsynth_utils.core.paths import RunPaths
from hamsynth_utils.report.html_fixes import apply_html_fixes
from hamsynth_utils.report.interactive.gallery import write_gallery
from hamsynth_utils.report.interactive.playground import write_playground
from hamsynth_utils.report.interactive.quiz import write_quiz
from hamsynth_utils.report.redirects import write_redirects
from hamsynth_utils.report.staging import minutes, stage

JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]


def build(folder: Path, root: Path | None = None) -> Path:
    """Build the report of a run with Jupyter Book; warnings are errors.

    An older site stays until the new site is complete.

    Args:
        folder: the run folder; the site is its folder `site`.
        root: as for `stage`.

    Returns:
        The path of `index.html`.

    Raises:
        InputError: as for `stage`.
        RuntimeError: if Jupyter Book fails; the message has its output.
    """
    folder = folder.resolve()
    staged = stage(folder, root)
    command = [*JUPYTER_BOOK, "build", str(staged), "-n", "-W", "--keep-going", "--all", "-q"]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )
    with atomic_path(RunPaths(folder).logs / "report.log") as log:
        log.write_text(result.stdout, encoding="utf-8")
    if result.returncode:
        raise RuntimeError(f"Jupyter Book could not build {staged}:\n{result.stdout}")
    html, record = staged / "_build/html", read_yaml(RunPaths(folder).record)
    apply_html_fixes(html)
    write_playground(html / "playground/networks", folder, record["data"])
    write_quiz(html / "quiz", folder, record)
    write_gallery(html / "gallery", folder, record)
    write_redirects(html)
    with atomic_path(RunPaths(folder).site) as site:
        shutil.move(html, site)
    return RunPaths(folder).site_index


def print_minutes(folder: Path, since: float | None = None) -> None:
    """Print the minutes and memory of each executed chapter of a run, and the place of its report.

    Args:
        folder: the run folder.
        since: when the command began, in seconds since the epoch, to print its minutes too.
    """
    table = minutes(folder)
    for name, (length, memory) in table.items():
        print(f"{name:<24}{length:6.1f} min" + (f"{memory:7.1f} GiB" if memory is not None else ""))
    print(f"{'all chapters':<24}{sum(length for length, _ in table.values()):6.1f} min")
    if since is not None:
        print(f"{'this command':<24}{(time.time() - since) / 60:6.1f} min")
    index = RunPaths(folder).site_index
    if index.is_file():
        print(index.resolve())
