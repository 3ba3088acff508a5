"""`make report` in a folder of its own, as the tests of whole runs need it."""

import json
import os
import subprocess
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from chapters import CHAPTERS
from conftest import ROOT
from solving import trying

from hamsynth_utils.core.profile import load_profile


class Report:
    """`make report` in a runs folder of its own.

    On the phantom it has an external test set, which is a second phantom. While its notebooks run, answers to
    the exercises are tried and controls are moved; the notebooks see nothing of it.

    Args:
        folder: everything that the run writes lies here.
        settings: the profile; the shipped profile `smoke` under its own name if left out.
        data: `phantom` or a folder with HAM10000.
        until: stop at this execution; the whole report if left out.
        trials: the answers to try, as `trying` takes them; all answers if left out.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict | None = None,
        data: str = "phantom",
        until: str | None = None,
        trials: dict[str, list[dict]] | None = None,
    ) -> None:
        self.data = data
        self.profile, name = ("smoke", f"{data}-smoke") if settings is None else ("trial", "trial")
        if settings is not None:
            path = folder / "trial.yaml"
            path.write_text(yaml.safe_dump(settings), encoding="utf-8")
            self.profile = str(path)
        self.runs = folder / "runs"
        self.folder = self.runs / name
        profile = load_profile(self.profile)
        self.steps = {
            name: profile.generator_settings(name).training.steps for name in profile.generators
        }
        self.generators, self.arms = profile.generators, profile.arms
        self.executions = [*CHAPTERS, *(f"06_vit-{arm}-0" for arm in self.arms)]
        self.command = ["make", "report", f"PROFILE={self.profile}", f"RUN={name}", f"DATA={data}"]
        if data == "phantom":
            self.command.append("EXTERNAL=phantom")
            self.executions.append("16_external")
        if until:
            self.command.append(f"UNTIL={until}")
        # Not as a part of the `make test` that may have started this, which would say so in its output.
        outer = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        self.environment = {**outer, "HAMSYNTH_RUNS": str(self.runs), "HF_HUB_OFFLINE": "1"}
        self.answers = folder / "answers"
        self.environment |= trying(self.answers, trials)

    def make(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command,
            cwd=ROOT,
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
            encoding="utf-8",
        )

    def written(self) -> dict[str, int]:
        """When each executed notebook was written, in nanoseconds."""
        return {
            name: (self.folder / f"notebooks/{name}.ipynb").stat().st_mtime_ns
            for name in self.executions
        }

    def cells(self, name: str) -> list[dict]:
        """The cells of an executed notebook."""
        path = self.folder / f"notebooks/{name}.ipynb"
        return json.loads(path.read_text(encoding="utf-8"))["cells"]


def errors_in(cells: list[dict]) -> int:
    """How many outputs of executed cells are errors."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert outputs, "nothing was executed"
    return sum(output["output_type"] == "error" for output in outputs)


def page_text(report: Report, page: str) -> str:
    """What a reader sees of a built page, without its code, with single spaces."""
    html = (report.folder / f"site/{page}.html").read_text(encoding="utf-8")
    article = BeautifulSoup(html, "html.parser").article
    for code in article.select(".cell_input, .highlight-ipython3, .highlight-python"):
        code.decompose()
    return " ".join(article.get_text(" ").split())
