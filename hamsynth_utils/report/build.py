"""The HTML report of a run: executed notebooks and the pages of `book/`, built by Jupyter Book.

python -m hamsynth_utils.report.build runs/NAME             build runs/NAME/site
python -m hamsynth_utils.report.build runs/NAME --minutes   print the minutes of each chapter
python -m hamsynth_utils.report.build runs/NAME --keep results/NAME     keep its numbers as a reference
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.report.html_fixes import apply_html_fixes
from hamsynth_utils.report.interactive.gallery import write_gallery
from hamsynth_utils.report.interactive.playground import write_playground
from hamsynth_utils.report.interactive.quiz import write_quiz
from hamsynth_utils.report.reference import archive_run
from hamsynth_utils.report.staging import minutes, stage

JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]


def build(folder: Path, root: Path | None = None) -> Path:
    """Build `folder / "site"` with warnings as errors, and return its index.html.

    An older site stays until the new one is complete. Raises InputError as `stage` does, and RuntimeError
    with Jupyter Book's own words if it fails.
    """
    folder = folder.resolve()
    staged = stage(folder, root)
    command = [*JUPYTER_BOOK, "build", str(staged), "-n", "-W", "--keep-going", "--all", "-q"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with atomic_path(folder / "logs/report.log") as log:
        log.write_text(result.stdout)
    if result.returncode:
        raise RuntimeError(f"Jupyter Book could not build {staged}:\n{result.stdout}")
    html, record = staged / "_build/html", yaml.safe_load((folder / "run.yaml").read_text())
    apply_html_fixes(html)
    write_playground(html / "playground/networks", folder, record["data"])
    write_quiz(html / "quiz", folder, record)
    write_gallery(html / "bench", folder, record)
    with atomic_path(folder / "site") as site:
        shutil.move(html, site)
    return folder / "site/index.html"


def _print_minutes(folder: Path, since: float | None) -> None:
    table = minutes(folder)
    for name, (length, memory) in table.items():
        print(f"{name:<24}{length:6.1f} min" + (f"{memory:7.1f} GiB" if memory is not None else ""))
    print(f"{'all chapters':<24}{sum(length for length, _ in table.values()):6.1f} min")
    if since is not None:
        print(f"{'this command':<24}{(time.time() - since) / 60:6.1f} min")
    print((folder / "site/index.html").resolve())


def main(arguments: list[str] | None = None) -> int:
    """Build the report of a run; 2 with one line for bad input, 1 if Jupyter Book fails."""
    parser = argparse.ArgumentParser(
        prog="python -m hamsynth_utils.report.build", description=main.__doc__
    )
    parser.add_argument("folder", type=Path, help="the run folder")
    parser.add_argument(
        "--minutes", action="store_true", help="only print the minutes of each chapter"
    )
    parser.add_argument("--keep", type=Path, help="only keep the run's numbers in this folder")
    parser.add_argument(
        "--note", default="", help="with --keep: what a reader must know of the run"
    )
    parser.add_argument(
        "--since", type=float, help="with --minutes: when the command began, in seconds"
    )
    options = parser.parse_args(arguments)
    try:
        if options.keep:
            lengths = {name: m for name, (m, _) in minutes(options.folder).items()}
            archive_run(options.folder, options.keep, lengths, options.note)
        elif options.minutes:
            _print_minutes(options.folder, options.since)
        else:
            print(build(options.folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
