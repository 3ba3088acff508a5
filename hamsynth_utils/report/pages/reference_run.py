"""The report's page about the reference run: the archived results as tables and figures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.core.files import read_csv, read_yaml
from hamsynth_utils.core.paths import RunPaths
from hamsynth_utils.notebook.tables import format_interval, markdown_table

SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision_macro": "macro precision",
    "f1_macro": "macro F1",
}
"""Balanced accuracy is macro recall."""


PARTS = {
    "The classifier": (
        "fig-evaluation-accuracy",
        "fig-evaluation-class-gains",
        "fig-evaluation-confusion",
        "fig-evaluation-ratio",
        "fig-evaluation-distance-gain",
    ),
    "The images": (
        "fig-diffusion-samples",
        "fig-fidelity-distance",
        "fig-fidelity-precision",
        "fig-fidelity-spectrum",
    ),
    "Whose picture, for whom, and may it leave": (
        "fig-privacy-membership",
        "fig-privacy-losses",
        "fig-guarantee-distance",
        "fig-fairness-gaps",
        "fig-release-gate",
    ),
}
"""The sections and their figures: all that `results` keeps would be too much for a phone."""


def reference_page(folder: Path) -> str:
    """The page as MyST Markdown, of a run kept in `folder`; its figures are to lie in `reference/`.

    Where none is kept, it says so.
    """
    if not folder.is_dir():
        return "# The reference run\n\nNo run on HAM10000 is kept in `results/`.\n"
    record = read_yaml(RunPaths(folder).record)
    profile = record["profile"]
    split_by = profile["data"]["split_by"]
    tables = {"The classifier": _scores(folder, split_by), "The images": _distances(folder)}
    alt = dict(_descriptions(folder))
    sections = [
        "# The reference run",
        f"What one run on {record['images']} found: profile `{profile['name']}`, seed "
        f"{record['seed']}, {len(profile['seeds'])} trainings of the classifier an arm and one of "
        f"each generator, on {record['device']}. Its answer in short, and how to make it again, "
        f"are on {{doc}}`intro`; all of its tables, and the classifiers' predictions, are in "
        f"`results/{folder.name}`. The other pages show *this report's* run, which may be another. "
        "How each number comes about, and what it does not show, is in the chapters. In brackets "
        "are 95 % intervals.",
    ]
    for title, figures in PARTS.items():
        sections += [f"## {title}", tables.get(title, "")]
        sections += [_figure(name, alt[name]) for name in figures if name in alt]
    sections += ["## The claims", _verdicts(folder)]
    sections += (
        ["## How it was made, and how its pictures look", record["note"]] if record["note"] else []
    )
    return "\n\n".join(filter(None, sections)) + "\n"


def reference_figures(folder: Path) -> list[Path]:
    """The files of the figures that the page shows."""
    named = [folder / f"figures/{name}.png" for figures in PARTS.values() for name in figures]
    return [path for path in named if path.is_file()]


def _descriptions(folder: Path) -> list[tuple[str, str]]:
    """Names and descriptions of the kept figures, as the folder's own README shows them."""
    lines = (
        line
        for line in (folder / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("![")
    )
    return [
        (Path(line.rpartition("](")[2][:-1]).stem, line[2:].rpartition("](")[0]) for line in lines
    ]


def _figure(name: str, alt: str) -> str:
    return f"```{{figure}} reference/{name}.png\n:alt: {alt}\n\n{alt}.\n```"


def _scores(folder: Path, split_by: str) -> str:
    """One row per arm and split; the leaked fraction stands beside the other split."""
    found = read_csv(RunPaths(folder).table("estimates/evaluation"))
    found = found[found["reference"].isna() & found["statistic"].isin(SCORES)]
    parts = read_csv(RunPaths(folder).table("splits")).set_index(
        ["arm", "metric", "split", "part"]
    )["n"]
    rows = []
    for (arm, split), scores in found.groupby(["arm", "split_by"], sort=False):
        own, by_name = split == split_by, scores.set_index("statistic")
        name = ARM_NAMES[arm]
        if not own:
            leaked = parts[arm, "accuracy", split, "leaked"] / parts[arm, "accuracy", split, "all"]
            name += f", split by {split}, {100 * leaked:.1f} % of the test images leaked"
        cells = [format_interval(by_name.loc[score], "value", factor=100) for score in SCORES]
        rows.append((not own, [name, *cells]))
    ordered = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
    n, seeds = (
        " or ".join(f"{number:,.0f}" for number in found[name].unique()) for name in ("n", "seeds")
    )
    return (
        f"In per cent, split by {split_by} unless it says otherwise, n = {n} test images, {seeds} "
        f"trainings an arm:\n\n{markdown_table(ordered, ('learned from', *SCORES.values()))}"
    )


def _distances(folder: Path) -> str:
    """One row per generator and baseline: distances to held-out images, realism, variety, class."""
    found = read_csv(RunPaths(folder).table("fidelity"))
    found = found[
        (found["reference"] == "heldout") & found["generator"].isin([*ARM_NAMES, "real_baseline"])
    ]
    consistency = read_csv(RunPaths(folder).table("class_consistency")).set_index(
        ["generator", "extractor"]
    )
    eyes = found["extractor"].iloc[0]
    frechet = found[found["measure"] == "frechet"]
    columns = list(dict.fromkeys(frechet["distance"]))
    rows = []
    for generator, own in found.groupby("generator", sort=False):
        distances = own[own["measure"] == "frechet"].set_index("distance")
        variety = own[own["extractor"] == eyes].set_index("measure")
        cells = [format_interval(distances.loc[name]) for name in columns]
        cells += [
            format_interval(variety.loc[measure], digits=2) for measure in ("precision", "recall")
        ]
        shown = "-"
        if (generator, eyes) in consistency.index:
            ratio = consistency.loc[(generator, eyes), ["ratio", "ratio_low", "ratio_high"]]
            shown = format_interval(ratio.set_axis(["mean", "low", "high"]), digits=2)
        name = "other real images" if generator == "real_baseline" else ARM_NAMES[generator]
        rows.append([name, *cells, shown, int(distances["n"].iloc[0])])
    head = ("images of", *columns, "precision", "recall", "class consistency", "n")
    return (
        "Distances from held-out real images, beside those that other real images have; precision "
        "(realism), recall (variety) and class consistency (how often a probe names the class that "
        "was asked for, over how often it is right about real images) by the features of "
        f"{eyes}:\n\n{markdown_table(rows, head)}"
    )


def _verdicts(folder: Path) -> str:
    """The ledger: every claim of the source report with what decided it."""
    found = read_csv(RunPaths(folder).table("verdicts"))
    counts = ", ".join(
        f"{count} {verdict}" for verdict, count in found["verdict"].value_counts().items()
    )
    rows = [
        (
            row["says"],
            row["hypothesis"],
            "-" if pd.isna(row["threshold"]) else row["threshold"],
            "-"
            if pd.isna(row["value"])
            else f"{format_interval(row, 'value', digits=3)}, n = {row['n']:.0f}",
            f"**{row['verdict']}**" + ("" if pd.isna(row["reason"]) else f": {row['reason']}"),
        )
        for row in found.to_dict("records")
    ]
    return f"Of {len(found)} claims: {counts}.\n\n" + markdown_table(
        rows, ("the source report says", "as a hypothesis", "holds if", "measured", "verdict")
    )
