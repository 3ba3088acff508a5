"""Model cards (Mitchell et al. 2019): a trained model, its use, its measurements and its limits.

A run has one card per generator and per arm of the classifier. The templates in `book/templates/`
hold the text, and the numbers come from the tables of the run. A card says which numbers were not
measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData

from hamsynth_utils.core.arm_names import ARM_NAMES, ARMS, generator_of
from hamsynth_utils.core.files import read_csv, read_json, read_yaml
from hamsynth_utils.core.paths import PROVENANCE, TEST_PREDICTIONS, RunPaths
from hamsynth_utils.core.weights import read_metadata, sha256_of
from hamsynth_utils.data.dataset_info import DatasetInfo, describe_data
from hamsynth_utils.notebook.tables import markdown_table
from hamsynth_utils.notebook.templates import render

FIRST_WEIGHTS = {
    "random": "random weights",
    "file": "pretrained weights from a file",
    "hub": "pretrained weights from the hub",
}
"""The source of a classifier's first weights, as the provenance names it and in words."""


TABLES = {
    "fidelity": ["measure", "extractor", "mean", "low", "high", "n"],
    "class_consistency": ["extractor", "ratio", "ratio_low", "ratio_high", "n_synthetic", "n_real"],
    "privacy": ["measure", "extractor", "value", "low", "high", "n", "lesions", "reason"],
    "classification": ["metric", "seed", "value", "low", "high", "n_images", "n_lesions"],
    "fairness": ["attribute", "measure", "value", "low", "high", "n", "lesions", "seeds", "reason"],
}
"""Tables of the run that a card shows, and their columns; some tables have no `reason`."""


def model_cards(folder: Path) -> str:
    """The book's page of model cards.

    Args:
        folder: the run folder.

    Returns:
        MyST Markdown with a card per generator and per arm of the classifier.
    """
    generators = sorted(generators_in(folder), key=lambda found: (_rank(found[0]), found[1]))
    predictions = RunPaths(folder).classifier_files(TEST_PREDICTIONS)
    arms = {path.parent.parent.name for path in predictions} & set(ARMS)
    cards = [generator_card(folder, name, "##", seed) for name, seed in generators]
    cards += [classifier_card(folder, arm, "##") for arm in sorted(arms, key=_rank)]
    dataset = describe_data(_record(folder)["data"])
    return render("model_cards.md", run=folder.name, dataset=dataset, cards=cards)


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
    record = _record(folder)
    history = read_csv(paths.generator_history(name, seed))
    minutes = history["seconds"].iloc[-1] / 60
    if paths.snapshot_distances(name, seed).is_file():
        # This table counts the minutes of the autoencoder, too; a history counts its own alone.
        minutes = read_csv(paths.snapshot_distances(name, seed))["minutes"].iloc[-1]
    facts = generator_facts(metadata, history, record, minutes, sha256_of(weights))
    return render(
        "generator_card.md",
        heading=heading,
        title=ARM_NAMES.get(name, name) + (f", seed {seed}" if seed else ""),
        phantom=record["data"] == "phantom",
        fidelity=_table(folder, "fidelity", generator=name, reference="heldout"),
        class_consistency=_table(folder, "class_consistency", generator=name),
        privacy=_table(folder, "privacy", generator=name),
        **facts,
    )


def classifier_card(folder: Path, arm: str, heading: str = "#") -> str:
    """The card of the classifiers of one arm, with all seeds.

    Args:
        folder: the run folder.
        arm: the arm.
        heading: the mark of the card's title, from `#` on; the sections are one level deeper.

    Returns:
        Markdown.
    """
    paths, record = RunPaths(folder), _record(folder)
    settings, generator = record["profile"]["classifier"], generator_of(arm)
    seeds = paths.classifier_seeds(arm)
    return render(
        "classifier_card.md",
        heading=heading,
        title=ARM_NAMES[arm],
        phantom=record["data"] == "phantom",
        arm=arm,
        generator=None if generator is None else ARM_NAMES.get(generator, generator),
        model=settings["model"],
        input_size=settings["input_size"],
        seeds=seeds,
        first_weights=sorted({_first_weights(paths.classifier(arm, seed)) for seed in seeds}),
        settings=json.dumps(settings),
        scores=_table(folder, "classification", arm=arm),
        fairness=_table(folder, "fairness", "largest_gap", arm=arm),
    )


def checkpoint_card(
    dataset: DatasetInfo, name: str, profile: str, facts: dict[str, Any], **sections: Any
) -> ModelCard:
    """The card of a released checkpoint, with the metadata header that the Hugging Face hub reads.

    Args:
        dataset: the training data.
        name: the generator.
        profile: name of the profile of the run.
        facts: from `generator_facts`.
        sections: the other values of the template `checkpoint_card.md`.

    Returns:
        The card.
    """
    header = ModelCardData(
        license=dataset.licence.lower().replace(" ", "-"),
        library_name="hamsynth",
        pipeline_tag="unconditional-image-generation",
        datasets=[dataset.name],
        tags=["synthetic", "dermoscopy", "skin lesion", "research and education only", name],
        model_name=f"hamsynth-{name}-{profile}",
    )
    return ModelCard(
        render(
            "checkpoint_card.md",
            card_data=header.to_yaml(),
            name=name,
            title=ARM_NAMES.get(name, name),
            profile=profile,
            **facts,
            **sections,
        )
    )


def generator_facts(
    metadata: dict[str, str],
    history: pd.DataFrame,
    record: dict[str, Any],
    minutes: float,
    sha256: str,
) -> dict[str, Any]:
    """The facts about a trained generator that every card of it states.

    Args:
        metadata: the metadata of its weights; `steps` is that of the chosen snapshot.
        history: the table of its losses.
        record: the content of the run's `run.yaml`.
        minutes: minutes of the training, with those of the autoencoder under it.
        sha256: hash of its weights.

    Returns:
        The values of the template `generator_facts.md`, and the image size.
    """
    chosen = int(metadata["steps"])
    losses = history[history["step"] <= chosen].iloc[-1].drop(["step", "seconds"])
    return {
        "dataset": describe_data(record["data"]),
        "split_by": record["profile"]["data"]["split_by"],
        "released": "released" in metadata,
        "size": metadata["image_size"],
        "seed": metadata["seed"],
        "counts": json.loads(metadata["counts"]),
        "steps": int(history["step"].iloc[-1]),
        "chosen": chosen,
        "batch_size": json.loads(metadata["settings"])["training"]["batch_size"],
        "minutes": f"{minutes:.0f}",
        "threads": record["threads"],
        "device": record["device"],
        "made_with": metadata["made_with"],
        "settings": metadata["settings"],
        "losses": ", ".join(f"{key} {value:.4g}" for key, value in losses.items()),
        "sha256": sha256,
    }


def snapshot_table(distances: pd.DataFrame) -> str:
    """The distance to real images at each snapshot of a training, as a Markdown table.

    Args:
        distances: the table `snapshot_distances` of the training.

    Returns:
        One row per snapshot.
    """
    digits = {"loss": 3, **dict.fromkeys(["minutes", "mean", "low", "high", "real_baseline"], 1)}
    shown = distances[["step", "minutes", "loss", "mean", "low", "high", "real_baseline", "n"]]
    return markdown_table(shown.round(digits).rename(columns={"mean": "distance"}))


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = read_yaml(RunPaths(folder).record)
    return record


def _rank(name: str) -> tuple[int, str]:
    return [*ARMS, name].index(name), name


def _first_weights(classifier: Path) -> str:
    path = classifier / PROVENANCE
    if not path.is_file():
        return "weights without a record"
    source = read_json(path).get("source")
    return FIRST_WEIGHTS.get(source, str(source))


def _table(folder: Path, name: str, measure: str = "", **selection: str) -> str:
    """The rows of a table of the run with the selected values; "" if it has none.

    `measure`: how the measures of the rows begin.
    """
    path = RunPaths(folder).table(name)
    rows = read_csv(path) if path.is_file() else pd.DataFrame()
    if any(column not in rows for column in selection):
        return ""
    for column, value in selection.items():
        rows = rows[rows[column] == value]
    if measure:
        rows = rows[rows["measure"].astype(str).str.startswith(measure)]
    if rows.empty:
        return ""
    shown = rows[[column for column in TABLES[name] if column in rows]]
    return markdown_table(shown.round(dict.fromkeys(shown.select_dtypes("number"), 3)))
