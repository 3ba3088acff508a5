"""Release the generators of a finished run: half-precision weights, a model card and pictures."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from huggingface_hub import ModelCard

from hamsynth_utils.core.files import atomic_path, read_csv, read_yaml
from hamsynth_utils.core.paths import (
    AUTOENCODER_HISTORY,
    HISTORY,
    SNAPSHOTS,
    WEIGHTS,
    checkpoint_of,
)
from hamsynth_utils.core.weights import read_metadata, read_weights, sha256_of, write_weights
from hamsynth_utils.experiment.arms import in_proportion
from hamsynth_utils.experiment.model_card import checkpoint_card, generator_facts, snapshot_table
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.generators.loading import generator_class, load_generator
from hamsynth_utils.metrics.class_consistency import class_consistency, fit_probe, probe_predictions
from hamsynth_utils.metrics.features import cached_features
from hamsynth_utils.metrics.fidelity import all_measures, real_subset_pairs, subset_pairs
from hamsynth_utils.notebook import plots
from hamsynth_utils.notebook.tables import format_interval, format_percent_interval, markdown_table

EXTRACTOR = "efficientnet_lite0"


MEASURED = 2000
"""Images on each side of a card's comparisons, if there are as many."""


MEASURE_NAMES = {"frechet": "FD-lite0", "kernel": "KD-lite0"}


def release(run: Run, name: str, folder: Path) -> Path:
    """Write the checkpoint of a run's finished generator in half precision.

    Args:
        run: the run.
        name: the generator.
        folder: where the checkpoint is written.

    Returns:
        The path of the checkpoint.

    Raises:
        InputError: if the generator, or a table of its chapter, is not finished.
    """
    notebook = f"the notebook of the {name}"
    tensors, metadata = read_weights(run.require(run.paths.generator_weights(name), notebook))
    for table in generator_class(name).tables:
        path = run.paths.generator(name) / f"{table}.csv"
        metadata[table] = run.require(path, notebook).read_text(encoding="utf-8")
    if json.loads(metadata["settings"]).get("autoencoder"):
        metadata[AUTOENCODER_HISTORY] = (run.paths.autoencoder() / HISTORY).read_text(
            encoding="utf-8"
        )
    metadata |= {"released": "true", "profile": run.profile.name}
    half = {
        key: value.half() if value.is_floating_point() else value for key, value in tensors.items()
    }
    path = checkpoint_of(name, folder)
    write_weights(path, half, metadata)
    load_generator(path)
    return path


def card(run: Run, name: str, path: Path) -> ModelCard:
    """The model card of a checkpoint.

    Args:
        run: the run that trained the generator.
        name: the generator.
        path: the checkpoint.

    Returns:
        The card; every number comes from the run.
    """
    metadata = read_metadata(path)
    history, distances = (
        pd.read_csv(StringIO(metadata[table])) for table in ("history", "snapshot_distances")
    )
    record = read_yaml(run.paths.record)
    minutes = distances["minutes"].iloc[-1]
    return checkpoint_card(
        run.dataset,
        name,
        metadata["profile"],
        generator_facts(metadata, history, record, minutes, sha256_of(path)),
        snapshots=snapshot_table(distances),
        distance=distances["measure"].iloc[0],
        extractor=EXTRACTOR,
        n_subsets=run.profile.evaluation.n_subsets,
        **_measurements(run, name),
    )


def _measurements(run: Run, name: str) -> dict[str, Any]:
    """Table of distances and coverage, and the class consistency in words."""
    train, validation, test = (run.images(part) for part in ("train", "validation", "test"))
    synthetic, settings = run.synthetic_set(name), run.profile.evaluation
    shown = in_proportion(synthetic, train.counts, run.profile.synthesis.evaluation_images)
    with run.stage_dir(run.paths.features) as folder:
        real, held, tested, drawn, requested = (
            cached_features(each.images, EXTRACTOR, folder / f"{EXTRACTOR}.npz", run.device)
            for each in (train, validation, test, shown, synthetic)
        )
    n = min(MEASURED, len(shown), int(0.45 * len(train)))
    fidelity = all_measures(subset_pairs(real, drawn, n, settings.n_subsets, run.seed)).set_index(
        "measure"
    )
    baseline = all_measures(
        real_subset_pairs(real, train.table["lesion_id"], n, settings.n_subsets, run.seed)
    )
    fidelity["real_baseline"] = baseline.set_index("measure")["mean"]
    columns = ["mean", "low", "high", "real_baseline", "n"]
    table = fidelity[columns].round(3).rename(index=MEASURE_NAMES).reset_index()
    probe = fit_probe(real, train.labels, held, validation.labels)
    consistency = class_consistency(
        probe_predictions(probe, requested, synthetic.table, synthetic.classes),
        probe_predictions(probe, tested, test.table, test.classes),
        test.table["lesion_id"],
        settings.n_resamples,
        run.seed,
    )
    ratio = {"ratio": consistency["ratio"], "low": consistency["ratio_low"]}
    ratio["high"] = consistency["ratio_high"]
    return {
        "fidelity": markdown_table(table),
        "consistency": {
            "synthetic": format_percent_interval(consistency, "synthetic"),
            "n_synthetic": len(synthetic),
            "real": format_percent_interval(consistency, "real"),
            "n_real": len(test),
            "ratio": format_interval(ratio, "ratio", digits=2),
        },
    }


def publish(run: Run, name: str, folder: Path) -> Path:
    """Release a run's finished generator: checkpoint, model card and two pictures.

    Args:
        run: a run with the generator, its tables and its synthetic set.
        name: of the generator.
        folder: for `<name>.safetensors`, `<name>.md` and two `.png`.

    Returns:
        The path of the checkpoint.

    Raises:
        InputError: if the generator, its tables or its synthetic set are not finished.
    """
    path = release(run, name, folder)
    _pictures(run, name, path)
    with atomic_path(path.with_suffix(".md")) as temporary:
        card(run, name, path).save(temporary)
    return path


def _pictures(run: Run, name: str, path: Path) -> None:
    """Draw two pictures beside the checkpoint: training snapshots, and eight images per class.

    All rows of the first picture come from the same latents, one image per class.
    """
    distances = read_csv(run.paths.snapshot_distances(name))
    folder = run.paths.generator(name)
    rows = {}
    for step, minutes in zip(distances["step"], distances["minutes"], strict=True):
        snapshot = folder / SNAPSHOTS / f"{step}.safetensors"
        generator = load_generator(snapshot if snapshot.is_file() else folder / WEIGHTS)
        rows[f"{minutes:.1f} min"] = generator.sample(
            torch.arange(len(run.dataset.classes)), run.seed
        )
    labels = torch.arange(len(run.dataset.classes)).repeat_interleave(8)
    samples = load_generator(path).sample(labels, run.seed).split(8)
    classes = {
        f"synthetic {dx}": images for dx, images in zip(run.dataset.classes, samples, strict=True)
    }
    for title, shown in (("snapshots", rows), ("classes", classes)):
        with atomic_path(path.with_name(f"{path.stem}-{title}.png")) as temporary:
            plots.image_rows(shown).savefig(temporary, format="png")
