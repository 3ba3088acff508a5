"""The exercises of the notebooks, and their answers tried: solutions pass their checks, wrong answers do not.

    python tests/support/solving.py 02_vae      # one chapter, on the run phantom-smoke, whose earlier chapters are finished

An exercise is three cells in a row: its answer, tagged `exercise`; its check, tagged `self-check`; and its solution, tagged
`solution`, whose Python block stands in place of the answer.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from hamsynth_utils.notebook.exercises import RIGHT, UNANSWERED, WRONG

ROOT = Path(__file__).resolve().parent.parent.parent
STARTUP = ROOT / "tests/support/kernel_hooks.py"
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@dataclass(frozen=True)
class Exercise:
    """The source of its cells, and typical wrong answers as `why` and `code`."""

    name: str
    answer: str
    check: str
    solution: str
    wrong: list[dict[str, str]]

    @property
    def code_of_solution(self) -> str:
        (code,) = re.findall(r"^```python\n(.*?)^```$", self.solution, re.M | re.S)
        return code

    def trials(self) -> list[dict[str, str]]:
        """Answers to try, and what the check must say of each."""
        tried = [
            ("the solution", self.code_of_solution, RIGHT),
            ("as it is", self.answer, UNANSWERED),
        ]
        tried += [(each["why"], each["code"], WRONG) for each in self.wrong]
        return [
            {"name": f"{self.name}, {what}", "code": code, "must": must}
            for what, code, must in tried
        ]


def exercises_of(chapter: str) -> list[Exercise]:
    cells = json.loads((ROOT / f"notebooks/{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    wrong = yaml.safe_load((ROOT / "tests/support/wrong_answers.yaml").read_text(encoding="utf-8"))[
        chapter
    ]
    sources = {
        tag: ["".join(cell["source"]) for cell in cells if tag in cell["metadata"].get("tags", [])]
        for tag in ("exercise", "self-check", "solution")
    }
    return [
        Exercise(f"{chapter}, exercise {number}", *of_one, wrong.get(number, []))
        for number, of_one in enumerate(zip(*sources.values(), strict=True), start=1)
    ]


def trying(folder: Path, trials: dict[str, list[dict]] | None = None) -> dict[str, str]:
    """The environment in which kernels try the answers and write to `folder` what was said; by default all answers."""
    if trials is None:
        every = [exercise for chapter in CHAPTERS for exercise in exercises_of(chapter)]
        trials = {exercise.check: exercise.trials() for exercise in every}
    startup = folder / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    shutil.copy(STARTUP, startup)
    (folder / "trials.json").write_text(json.dumps(trials), encoding="utf-8")
    return {"IPYTHONDIR": str(folder / "ipython"), "HAMSYNTH_TRIALS": str(folder)}


def surprises(folder: Path, *chapters: str) -> list[str]:
    """Of these chapters, by default of all: answers that were not tried, or of which the check said something else."""
    trials = json.loads((folder / "trials.json").read_text(encoding="utf-8"))
    outcomes = folder / "outcomes.jsonl"
    lines = outcomes.read_text(encoding="utf-8").splitlines() if outcomes.is_file() else []
    tried = [
        trial for trial in map(json.loads, lines) if trial["name"].startswith(chapters or ("",))
    ]
    names = {trial["name"] for trial in tried}
    wanted = [
        t["name"]
        for of_one in trials.values()
        for t in of_one
        if t["name"].startswith(chapters or ("",))
    ]
    return [f"{name}: not tried" for name in wanted if name not in names] + [
        f"{trial['name']}: {trial['said']}"
        for trial in tried
        if trial["said"].split(":")[0] != trial["must"]
    ]


def main(chapter: str, *parameters: str) -> int:
    """Run a chapter and print what its checks said of each answer; 1 if that was a surprise."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [
            sys.executable,
            "-m",
            "papermill",
            f"{chapter}.ipynb",
            str(folder / "executed.ipynb"),
            "-k",
            "python3",
        ]
        environment = os.environ | trying(folder) | {"PYTHONPATH": str(ROOT)}
        subprocess.run(
            [*command, "--no-progress-bar", *parameters],
            cwd=ROOT / "notebooks",
            env=environment,
            check=True,
        )
        for line in (folder / "outcomes.jsonl").read_text(encoding="utf-8").splitlines():
            trial = json.loads(line)
            print(f"{trial['name']}: {trial['said']}")
        found = surprises(folder, chapter)
    print(*(found or ["every answer was judged as it must be"]), sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
