"""Model cards (Mitchell et al. 2019): what a trained model is, is for, was measured at, and is not.

One for each generator and each arm of the classifier of a run, from the tables that its chapters wrote. A
number that was not measured is said to be missing. `release.py` writes the card of a committed checkpoint
with the same facts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from hamsynth_utils.core.arm_names import ARM_NAMES, ARMS, generator_of
from hamsynth_utils.core.paths import PROVENANCE, TEST_PREDICTIONS, RunPaths
from hamsynth_utils.core.weights import read_metadata, sha256_of
from hamsynth_utils.data.dataset_info import describe_data
from hamsynth_utils.notebook.tables import markdown_table

FACTS = """- Data: {data}, the training part of the split by {split_by} with seed {seed}:
  {counts}.
  No image of the validation or test part was trained on; validation images chose a guidance scale, where
  there is one.
- Licence: {licence}, as the data; so are the images it makes.
- Training: {steps} steps of {batch} images, seed {seed}, {minutes:.0f} minutes on {threads} thread(s) of:
  {device}.
- Made with {made_with}.
- Settings: `{settings}`
- Losses at the end: {losses}.
- SHA-256 of the file: `{sha256}`"""


LIMITS = """\
- Seven classes of one data set, mostly of light skin; nothing is known about other skin or other diagnoses.
- At {size}x{size} pixels the fine structures that a dermatologist looks for are not there.
- One training, one seed. No dermatologist has looked at these images.
- Images may resemble training images; the chapter on privacy measures how much.
- FD-lite0 sees through EfficientNet-lite0, which took part in the training and is flattered by it.
"""


USE = """\
Research on methods and teaching: how such models and their measures behave. **Not** for diagnosis, triage or
any decision about a person, and not for testing a classifier."""


FACTORS = """\
Seven diagnoses; for the people in the data age, sex, place on the body and the source of the image,
as far as they are known. Skin tone is not recorded. Camera and clinic come with the source."""


CLASSIFIER_LIMITS = """\
- It always names one of seven classes, whatever the picture shows; it cannot say that it does not know.
- It was tested on lesions from the same sources as those it learned from: elsewhere it may be worse.
- Its probabilities are no risk of disease: the shares of the classes in the data are those of the collection.
- No dermatologist has compared it with anything."""


LEARNED = {
    "weighted": "the same images as the arm real; an image counts in the loss by how rare its class is",
    "oversample": "the same images as the arm real; every class is drawn equally often",
    "augment": "the same images as the arm real, each with one more change of colour, contrast or geometry",
}


def model_cards(folder: Path) -> str:
    """The book's page of model cards, in MyST Markdown: one for each generator and each arm of the run."""
    record = yaml.safe_load(RunPaths(folder).record.read_text())
    dataset = describe_data(record["data"])
    cards = [
        generator_card(folder, name, "##", seed)
        for name, seed in sorted(
            generators_in(folder), key=lambda found: (_rank(found[0]), found[1])
        )
    ]
    predicted = RunPaths(folder).classifier_files(TEST_PREDICTIONS)
    arms = {path.parent.parent.name for path in predicted}
    cards += [classifier_card(folder, arm, "##") for arm in sorted(arms & set(ARMS), key=_rank)]
    return (
        "\n\n".join(
            [
                "# Model cards",
                f"One card for each model of the run `{folder.name}`, trained on {dataset.description}, in the form of "
                "{cite:t}`mitchell2019cards`. Every number is this run's; low to high is a 95 % interval.",
                *(cards or ["This run has no trained model."]),
            ]
        )
        + "\n"
    )


def generators_in(folder: Path) -> list[tuple[str, int]]:
    """The name and seed of each trained generator in a run folder; autoencoders are left out."""
    paths = RunPaths(folder)
    return [
        (name, seed)
        for name, seed in paths.trained_generators()
        if "generator" in read_metadata(paths.generator_weights(name, seed))
    ]


def generator_card(folder: Path, name: str, heading: str = "#", seed: int = 0) -> str:
    """The card of one training of a generator.

    Args:
        folder: the run folder.
        name: the generator.
        heading: the mark of the card's title, from `#` on; the sections are one level deeper.
        seed: the generator seed.

    Returns:
        Markdown.

    Raises:
        InputError: if the weights are missing or damaged.
    """
    paths = RunPaths(folder)
    weights = paths.generator_weights(name, seed)
    metadata = read_metadata(weights)
    record = yaml.safe_load(RunPaths(folder).record.read_text())
    dataset = describe_data(record["data"])
    history = pd.read_csv(paths.generator_history(name, seed))
    minutes = history["seconds"].iloc[-1] / 60
    if paths.snapshot_distances(name, seed).is_file():
        # This table counts the minutes of the autoencoder, too; a history counts its own alone.
        minutes = pd.read_csv(paths.snapshot_distances(name, seed))["minutes"].iloc[-1]
    origin = " The run took it over from a released checkpoint." if "released" in metadata else ""
    fidelity = _rows(folder, "fidelity", generator=name, reference="heldout")
    consistency = _rows(folder, "class_consistency", generator=name)
    sections = {
        "Model details": f"A generator of {metadata['image_size']}x{metadata['image_size']} images that is "
        f"told the class.{origin}\n\n{facts(metadata, history, record, minutes, sha256_of(weights))}.",
        "Intended use": USE,
        "Factors": FACTORS,
        "Metrics": "Distances between sets of features, precision to coverage, and how often a probe that "
        "learned from real images names the class that was asked for; for privacy, how near images are to "
        "training images and whether an attacker can tell what was trained on.",
        "Evaluation data": "Held-out lesions, validation and test together, none of which was trained on.",
        "Training data": f"The training part of {dataset.description}; see its datasheet.",
        "Quantitative analyses": "\n\n".join(
            [
                _table(
                    fidelity,
                    ["measure", "extractor", "mean", "low", "high", "n"],
                    "Distances and coverage",
                ),
                _table(
                    consistency,
                    ["extractor", "ratio", "ratio_low", "ratio_high", "n_synthetic", "n_real"],
                    "Class consistency",
                ),
                _table(
                    _rows(folder, "privacy", generator=name),
                    ["measure", "extractor", "value", "low", "high", "n", "lesions"],
                    "Privacy",
                ),
            ]
        ),
        "Ethical considerations": _ethics(record),
        "Caveats and recommendations": LIMITS.format(size=metadata["image_size"]).rstrip(),
    }
    title = f"Generator: {ARM_NAMES.get(name, name)}" + (f", seed {seed}" if seed else "")
    return _card(title, sections, heading)


def classifier_card(folder: Path, arm: str, heading: str = "#") -> str:
    """The card of a run's classifier of one arm, all its seeds together, in Markdown."""
    record = yaml.safe_load(RunPaths(folder).record.read_text())
    settings = record["profile"]["classifier"]
    paths = RunPaths(folder)
    seeds = paths.classifier_seeds(arm)
    began = sorted({_began(paths.classifier(arm, seed)) for seed in seeds})
    scores = _rows(folder, "classification", arm=arm)
    fairness = _rows(folder, "fairness", arm=arm)
    if "measure" in fairness:
        fairness = fairness[fairness["measure"].astype(str).str.startswith("largest_gap")]
    generator = generator_of(arm)
    learned = LEARNED.get(arm, "the real training images")
    if generator:
        also = (
            "alone"
            if arm != generator
            else "beside the real training images, where a class is rare"
        )
        learned = f"the images of the {ARM_NAMES.get(generator, generator)}, {also}"
    sections = {
        "Model details": f"- A Vision Transformer, `{settings['model']}`, images enlarged to "
        f"{settings['input_size']} pixels.\n- Seeds {', '.join(map(str, seeds))}; began from {'; '.join(began)}.\n"
        f"- Settings: `{json.dumps(settings)}`",
        "Intended use": USE,
        "Factors": FACTORS,
        "Metrics": "Accuracy, and recall, precision and F1 averaged over the classes; the largest gap "
        "between groups.",
        "Evaluation data": "The test part of the run's lesions, none of which was trained on or chosen by.",
        "Training data": f"Learned from {learned}.",
        "Quantitative analyses": "\n\n".join(
            [
                _table(
                    scores,
                    ["metric", "seed", "value", "low", "high", "n_images", "n_lesions"],
                    "Scores",
                ),
                _table(
                    fairness,
                    ["attribute", "measure", "value", "low", "high", "n", "lesions", "seeds"],
                    "Largest gaps between groups",
                ),
            ]
        ),
        "Ethical considerations": _ethics(record),
        "Caveats and recommendations": CLASSIFIER_LIMITS,
    }
    return _card(f"Classifier: {ARM_NAMES[arm]}", sections, heading)


def facts(
    metadata: dict[str, str],
    history: pd.DataFrame,
    record: dict[str, Any],
    minutes: float,
    sha256: str,
) -> str:
    """What a generator was made of and with, as a list in Markdown.

    metadata, sha256: of its weights; history: its losses; minutes: of its training, with what it stands on;
    record: what the run's `run.yaml` holds.
    """
    dataset = describe_data(record["data"])
    losses = history.iloc[-1].drop(["step", "seconds"])
    return FACTS.format(
        data=dataset.description,
        licence=dataset.licence,
        split_by=record["profile"]["data"]["split_by"],
        seed=metadata["seed"],
        counts=", ".join(f"{count} {dx}" for dx, count in json.loads(metadata["counts"]).items()),
        steps=metadata["steps"],
        batch=json.loads(metadata["settings"])["training"]["batch_size"],
        minutes=minutes,
        threads=record["threads"],
        device=record["device"],
        made_with=metadata["made_with"],
        settings=metadata["settings"],
        sha256=sha256,
        losses=", ".join(f"{key} {value:.4g}" for key, value in losses.items()),
    )


def budget_table(budget: pd.DataFrame) -> str:
    """What the minutes of a training bought, as a table in Markdown."""
    digits = {"loss": 3, **dict.fromkeys(["minutes", "mean", "low", "high", "real_baseline"], 1)}
    shown = budget[["step", "minutes", "loss", "mean", "low", "high", "real_baseline", "n"]]
    return markdown_table(shown.round(digits).rename(columns={"mean": "distance"}))


def _card(title: str, sections: dict[str, str], heading: str) -> str:
    return "\n\n".join(
        [f"{heading} {title}", *(f"{heading}# {name}\n\n{text}" for name, text in sections.items())]
    ) + ("\n" if heading == "#" else "")


def _rank(name: str) -> tuple[int, str]:
    return [*ARMS, name].index(name), name


def _ethics(record: dict[str, Any]) -> str:
    if record["data"] == "phantom":
        return (
            "The phantom is drawn by a program: nobody's skin is in it, and its numbers test the road, not "
            "medicine."
        )
    return (
        "It learned from photographs of people whose consent to this use is not on record; see the "
        "datasheet. It errs most where it has seen least, on rare classes and in small groups."
    )


def _began(folder: Path) -> str:
    path = folder / PROVENANCE
    if not path.is_file():
        return "weights of which no record was kept"
    source = json.loads(path.read_text()).get("source")
    return {
        "random": "random weights",
        "file": "pretrained weights from a file",
        "hub": "pretrained weights from the hub",
    }.get(source, str(source))


def _rows(folder: Path, table: str, **wanted: str) -> pd.DataFrame:
    """The rows of a table of the run that hold what is wanted; none if the table or a column is not there."""
    path = RunPaths(folder).table(table)
    found = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    if any(column not in found for column in wanted):
        return pd.DataFrame()
    for column, value in wanted.items():
        found = found[found[column] == value]
    return found


def _table(rows: pd.DataFrame, columns: list[str], title: str) -> str:
    """The columns that the rows have, rounded, under a title; or that it was not measured."""
    if rows.empty:
        return f"**{title}**: not measured in this run."
    shown = rows[[column for column in columns if column in rows]]
    return f"**{title}**\n\n" + markdown_table(
        shown.round(dict.fromkeys(shown.select_dtypes("number"), 3))
    )
