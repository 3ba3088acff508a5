"""A reference run: its archived numbers, and the answer at the top of every report.

What is kept may be published: settings and versions, minutes, tables, the classifiers' predictions
by image_id, and figures of numbers and of synthetic images alone. No real image, no weights, no
path of the machine.
"""

from __future__ import annotations

import base64
import shutil
import textwrap
from pathlib import Path

import pandas as pd
import yaml
from matplotlib.figure import Figure

from hamsynth_utils.core.arm_names import ARM_NAMES, generator_of
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path, read_csv, read_json, read_yaml
from hamsynth_utils.core.paths import TEST_PREDICTIONS, RunPaths, project_root
from hamsynth_utils.data.ham10000 import dataset_name
from hamsynth_utils.data.lesion_set import read_table
from hamsynth_utils.notebook.plots.intervals import estimate_rows
from hamsynth_utils.notebook.templates import render

REFERENCE = project_root() / "results/cpu-ham10000"


METRIC = "balanced_accuracy"
"""The metric of the answer: the mean recall of the classes; rare classes have equal weight."""


ALPHA = 0.05
"""A change is sure if its p-value after Holm's correction is below this."""


FRACTIONS = ["some", "none", "all"]
"""How many of an arm's images are synthetic."""


FIGURES = (
    "fig-dataset-imbalance",
    "fig-dataset-leak",
    "fig-vae-samples",
    "fig-gan-samples",
    "fig-diffusion-samples",
    "fig-gan-beside",
    "fig-diffusion-steps",
    "fig-probes-arms",
    "fig-probes-ratio",
    "fig-fidelity-distance",
    "fig-fidelity-precision",
    "fig-fidelity-spectrum",
    "fig-fidelity-probe",
    "fig-evaluation-accuracy",
    "fig-evaluation-class-gains",
    "fig-evaluation-class-scores",
    "fig-evaluation-confusion",
    "fig-evaluation-pr",
    "fig-evaluation-distance-gain",
    "fig-evaluation-ratio",
    "fig-privacy-near",
    "fig-privacy-membership",
    "fig-privacy-losses",
    "fig-privacy-patient",
    "fig-guarantee-distance",
    "fig-guarantee-attack",
    "fig-fairness-groups",
    "fig-fairness-gaps",
    "fig-fairness-changes",
    "fig-explanation-inside",
    "fig-release-gate",
    "fig-claims-gains",
    "fig-claims-answer",
)
"""The figures of the chapters that show numbers or synthetic images, and no real one."""


def archive_run(run: Path, target: Path, minutes: dict[str, float], note: str = "") -> None:
    """Archive the numbers of a finished run; an older archive is replaced.

    Args:
        run: the run folder.
        target: the folder of the archive.
        minutes: duration of each notebook in minutes, by name.
        note: what a reader must know about the way in which the run was made.

    Raises:
        InputError: for a run without verdicts.
    """
    if not RunPaths(run).table("verdicts").is_file():
        raise InputError(f"{run} has no metrics/verdicts.csv: finish it with make report first")
    record = read_yaml(RunPaths(run).record)
    record["images"] = dataset_name(record["data"], read_table(RunPaths(run).lesion_table))
    record["data"] = Path(record["data"]).name
    record["minutes"] = {name: round(length, 1) for name, length in minutes.items()}
    record["note"] = note
    with atomic_path(target) as folder:
        folder.mkdir()
        RunPaths(folder).record.write_text(
            yaml.safe_dump(record, sort_keys=False), encoding="utf-8"
        )
        for path in sorted(RunPaths(run).metrics.rglob("*.csv")):
            copy = folder / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        for path in RunPaths(run).classifier_files(TEST_PREDICTIONS):
            copy = folder / "predictions" / path.parent.parent.name / f"{path.parent.name}.csv"
            copy.parent.mkdir(parents=True, exist_ok=True)
            read_csv(path).to_csv(copy, index=False, float_format="%.5f")
        figures = archived_figures(run)
        (folder / "figures").mkdir()
        for name, (picture, _) in figures.items():
            (folder / f"figures/{name}.png").write_bytes(picture)
        (folder / "README.md").write_text(_contents(figures, note), encoding="utf-8")


def archived_figures(run: Path) -> dict[str, tuple[bytes, str]]:
    """PNG and description, by name, of each of the `FIGURES` in the executed notebooks of a run."""
    found: dict[str, tuple[bytes, str]] = {}
    for path in sorted((run / "notebooks").glob("*.ipynb")):
        for cell in read_json(path)["cells"]:
            book = cell["metadata"].get("mystnb", {})
            name = book.get("figure", {}).get("name")
            shown = [output.get("data", {}).get("image/png") for output in cell.get("outputs", [])]
            if name in FIGURES and any(shown):
                found[name] = base64.b64decode(next(filter(None, shown))), book["image"]["alt"]
    return {name: found[name] for name in FIGURES if name in found}


def _contents(figures: dict[str, tuple[bytes, str]], note: str) -> str:
    """What a reader of the folder finds first."""
    descriptions = {name: alt for name, (_, alt) in figures.items()}
    return render("reference_contents.md", figures=descriptions, note=note)


NO_ANSWER = "**No answer yet.** No run on HAM10000 is kept in `results/` that could give it.\n"


def gains(folder: Path) -> pd.DataFrame:
    """The gain of each arm of an archived run over real images alone, in points.

    Args:
        folder: the folder of the archived run.

    Returns:
        One row per arm: columns arm, value, low, high (95 %, over lesions and seeds), holm,
        n, lesions, seeds and synthetic: how many of the arm's images are, one of `FRACTIONS`. Rows
        come in the order of `FRACTIONS`.

    Raises:
        InputError: if the run compares no arm with real images alone.
    """
    table = read_csv(RunPaths(folder).table("differences"), dtype={"seed": str})
    table = table[
        (table["reference"] == "real") & (table["metric"] == METRIC) & (table["seed"] == "all")
    ]
    if table.empty:
        raise InputError(f"{folder} compares no arm with real images alone")
    seeds = len(read_yaml(RunPaths(folder).record)["profile"]["seeds"])
    rows = table.rename(columns={"difference": "value", "n_images": "n", "n_lesions": "lesions"})
    rows[["value", "low", "high"]] *= 100
    fractions = [
        "none" if generator_of(arm) is None else "some" if generator_of(arm) == arm else "all"
        for arm in rows["arm"]
    ]
    rows = rows.assign(seeds=seeds, synthetic=pd.Categorical(fractions, FRACTIONS))
    rows = rows.sort_values("synthetic", kind="stable").reset_index(drop=True)
    return rows[["arm", "value", "low", "high", "holm", "n", "lesions", "seeds", "synthetic"]]


def answer_in_words(folder: Path = REFERENCE) -> str:
    """The answer of an archived run as a paragraph of Markdown.

    Args:
        folder: the folder of the archived run.

    Returns:
        Markdown that ends in a line break; where no run is archived, it says so.
    """
    if not folder.is_dir():
        return NO_ANSWER
    rows, record = gains(folder), read_yaml(RunPaths(folder).record)
    profile = record["profile"]
    estimates = read_csv(RunPaths(folder).table("estimates/evaluation"))
    own = estimates[estimates["split_by"] == profile["data"]["split_by"]]
    own = own[(own["arm"] == "real") & own["reference"].isna()].set_index("statistic")
    real, accuracy = own.loc[METRIC], own.loc["accuracy"]
    some, none, every = (rows[rows["synthetic"] == fraction] for fraction in FRACTIONS)
    return render(
        "reference_answer.md",
        verdict=_verdict(some),
        real=f"{100 * real['value']:.1f} % ({100 * real['low']:.1f} to {100 * real['high']:.1f})",
        accuracy=f"{100 * accuracy['value']:.1f}",
        beside_real=_in_words(some),
        without=_in_words(none),
        alone=_in_words(every),
        image_size=profile["data"]["image_size"],
        split_by=profile["data"]["split_by"],
        images=record["images"],
        alpha=ALPHA,
        **_sizes(rows),
    )


def short_answer(folder: Path = REFERENCE) -> str:
    """The answer of an archived run in two sentences, and a link to its numbers, for the README.

    Args:
        folder: the folder of the archived run.

    Returns:
        Markdown that ends in a line break; where no run is archived, it says so.

    Raises:
        InputError: if the run compares no arm with real images alone.
    """
    if not folder.is_dir():
        return NO_ANSWER
    rows = gains(folder)
    some, none, _ = (rows[rows["synthetic"] == fraction] for fraction in FRACTIONS)
    n, lesions, seeds = _sizes(rows).values()
    text = (
        f"{_verdict(some).rstrip('.')}: beside real images they changed its balanced accuracy by "
        f"{some['value'].min():+.1f} to {some['value'].max():+.1f} points "
        f"(n = {n:,} images of {lesions:,} lesions, {seeds} trainings per arm)."
    )
    if len(none):
        best = none.loc[none["value"].idxmax()]
        text += (
            f" Without any synthetic image, {ARM_NAMES[best['arm']]} changed it by "
            f"{best['value']:+.1f} points (95 % interval {best['low']:+.1f} to "
            f"{best['high']:+.1f})."
        )
    link = f"results/{folder.name}/README.md"
    return "\n".join(textwrap.wrap(f"{text} [All numbers and figures]({link}).", 115)) + "\n"


def headline_result(folder: Path = REFERENCE) -> str:
    """The answer of an archived run as MyST Markdown: text, figure `answer.svg`, command."""
    record = read_yaml(RunPaths(folder).record)
    return render(
        "reference_headline.md",
        answer=answer_in_words(folder),
        folder=folder.name,
        profile=record["profile"]["name"],
        arms=",".join(record["profile"]["arms"]),
        hours=f"{sum(record['minutes'].values()) / 60:.0f}",
        device=record["device"],
        **_sizes(gains(folder)),
    )


def answer_figure(folder: Path = REFERENCE) -> Figure:
    """The figure of `headline_result`: the gain of each arm with real images, with its interval."""
    rows = gains(folder)
    rows = rows[rows["synthetic"] != "all"]
    return estimate_rows(rows, "gain in balanced accuracy, points", reference=0.0)


def _sizes(rows: pd.DataFrame) -> dict[str, int]:
    """Test images, their lesions, and trainings per arm of `gains`."""
    return {name: int(rows[name].iloc[0]) for name in ("n", "lesions", "seeds")}


def _verdict(arms: pd.DataFrame) -> str:
    """One sentence by rule: whose images surely raised or lowered the metric."""
    sure = arms["holm"] < ALPHA
    groups = {
        "surely raised it": arms[sure & (arms["low"] > 0)],
        "surely lowered it": arms[sure & (arms["high"] < 0)],
    }
    said = [f"those of {_names(rows)} {what}" for what, rows in groups.items() if len(rows)]
    rest = arms.drop([index for rows in groups.values() for index in rows.index])
    if not said:
        return "No generator's images of rare lesions surely changed how well the classifier does."
    said += [f"those of {_names(rest)} made no sure difference"] if len(rest) else []
    return f"Of the generators' images of rare lesions, {', '.join(said)}."


def _names(rows: pd.DataFrame) -> str:
    names = [ARM_NAMES[arm] for arm in rows["arm"]]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _in_words(rows: pd.DataFrame) -> str:
    return ", ".join(
        f"{row.value:+.1f} ({row.low:+.1f} to {row.high:+.1f}) with {ARM_NAMES[row.arm]}"
        for row in rows.itertuples()
    )
