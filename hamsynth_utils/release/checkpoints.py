"""Release the generators of a finished run: half-precision weights, a model card and pictures."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pandas as pd
import torch
import yaml

from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.paths import (
    AUTOENCODER_HISTORY,
    HISTORY,
    SNAPSHOTS,
    WEIGHTS,
    checkpoint_of,
)
from hamsynth_utils.core.weights import read_metadata, read_weights, sha256_of, write_weights
from hamsynth_utils.data.dataset_info import describe_data
from hamsynth_utils.experiment.arms import in_proportion
from hamsynth_utils.experiment.model_card import LIMITS, budget_table, facts
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import autoencoder_dir
from hamsynth_utils.generators.loading import generator_class, load_generator
from hamsynth_utils.metrics.class_consistency import class_consistency, fit_probe, probe_predictions
from hamsynth_utils.metrics.features import cached_features
from hamsynth_utils.metrics.fidelity import all_measures, real_subset_pairs, subset_pairs
from hamsynth_utils.notebook import plots
from hamsynth_utils.notebook.tables import format_percent_interval, markdown_table

EXTRACTOR = "efficientnet_lite0"


MEASURED = 2000
"""Images a side of the measures on a card, if there are as many."""


MEASURE_NAMES = {"frechet": "FD-lite0", "kernel": "KD-lite0"}


CARD = """# {title}, trained on {data} with the profile `{profile}`

Makes images of {size}x{size} pixels of seven classes of pigmented skin lesions. **For research and education
only, never for diagnosis.** Every image that the sampling command writes is labelled synthetic.

    hamsynth sample --checkpoint checkpoints/{file} --per-class 100 --out my-synthetic-set

A run with a profile that says `released: true` takes this checkpoint over if it has the same training
images.

## Facts

{facts}; the weights are in half precision.

## What the minutes bought

`distance` is FD-lite0 to validation images, n a side; `low` to `high` is the 95 % interval of another draw of
images (one training, seed {seed}); `floor` is the distance of real training images to them, at the same n.

{budget}

![Synthetic images of each class at moments of the training]({stem}-moments.png)

![Synthetic images of each class]({stem}-classes.png)
{measured}
## Limits

{limits}"""


def release(run: Run, name: str, folder: Path) -> Path:
    """Write the checkpoint of a run's finished generator to `folder`, in half precision; return its path.

    Raises InputError if the generator, or a table of its chapter, is not finished yet.
    """
    notebook = f"the notebook of the {name}"
    tensors, metadata = read_weights(run.require(run.paths.generator_weights(name), notebook))
    for table in generator_class(name).tables:
        path = run.paths.generator(name) / f"{table}.csv"
        metadata[table] = run.require(path, notebook).read_text()
    if autoencoder_dir(run, name) == run.paths.autoencoder():
        metadata[AUTOENCODER_HISTORY] = (run.paths.autoencoder() / HISTORY).read_text()
    metadata |= {"released": "true", "profile": run.profile.name}
    half = {
        key: value.half() if value.is_floating_point() else value for key, value in tensors.items()
    }
    path = checkpoint_of(name, folder)
    write_weights(path, half, metadata)
    load_generator(path)
    return path


def card(run: Run, name: str, path: Path) -> str:
    """The model card (Mitchell et al. 2019) of a checkpoint, in Markdown; every number is the run's."""
    metadata = read_metadata(path)
    history, budget = (
        pd.read_csv(StringIO(metadata[table])) for table in ("history", "snapshot_distances")
    )
    record = yaml.safe_load(run.paths.record.read_text())
    return CARD.format(
        data=describe_data(record["data"]).description,
        title=ARM_NAMES[name],
        name=name,
        profile=metadata["profile"],
        size=metadata["image_size"],
        file=path.name,
        stem=path.stem,
        seed=metadata["seed"],
        facts=facts(metadata, history, record, budget["minutes"].iloc[-1], sha256_of(path)),
        limits=LIMITS.format(size=metadata["image_size"]),
        measured=_measured(run, name),
        budget=budget_table(budget),
    )


def _measured(run: Run, name: str) -> str:
    """Distances, precision to coverage, and whether a probe names the requested class."""
    train, validation, test = (run.images(part) for part in ("train", "validation", "test"))
    made, settings = run.synthetic_set(name), run.profile.evaluation
    in_order = in_proportion(made, train.counts, run.profile.synthesis.evaluation_images)
    with run.stage_dir(run.paths.features) as folder:
        real, held, tested, drawn, asked = (
            cached_features(each.images, EXTRACTOR, folder / f"{EXTRACTOR}.npz", run.device)
            for each in (train, validation, test, in_order, made)
        )
    n = min(MEASURED, len(in_order), int(0.45 * len(train)))
    own = all_measures(subset_pairs(real, drawn, n, settings.n_subsets, run.seed)).set_index(
        "measure"
    )
    floor = all_measures(
        real_subset_pairs(real, train.table["lesion_id"], n, settings.n_subsets, run.seed)
    )
    own["real_baseline"] = floor.set_index("measure")["mean"]
    probe = fit_probe(real, train.labels, held, validation.labels)
    named, truth = (
        probe_predictions(probe, asked, made.table, made.classes),
        probe_predictions(probe, tested, test.table, test.classes),
    )
    classes = class_consistency(
        named, truth, test.table["lesion_id"], settings.n_resamples, run.seed
    )
    shown = (
        own[["mean", "low", "high", "real_baseline", "n"]]
        .round(3)
        .rename(index=MEASURE_NAMES)
        .reset_index()
    )
    return f"""
## Measured

Features of {EXTRACTOR}, n images a side against training images, {settings.n_subsets} draws, 95 % intervals of
another draw; `floor`: real images against real ones of other lesions, at the same n.

{markdown_table(shown)}

Class consistency: a logistic regression on these features, trained on real images, names the requested class
of {format_percent_interval(classes, "synthetic")} of {len(made)} synthetic images and the true class of
{format_percent_interval(classes, "real")} of {len(test)} real test images (balanced over the classes); ratio
{classes["ratio"]:.2f} ({classes["ratio_low"]:.2f} to {classes["ratio_high"]:.2f}).
"""


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
        temporary.write_text(card(run, name, path))
    return path


def _pictures(run: Run, name: str, path: Path) -> None:
    """Beside the checkpoint: the same latents at each moment of the training, eight images of each class."""
    budget = pd.read_csv(run.paths.snapshot_distances(name))
    folder = run.paths.generator(name)
    rows = {}
    for step, minutes in zip(budget["step"], budget["minutes"], strict=True):
        moment = folder / SNAPSHOTS / f"{step}.safetensors"
        generator = load_generator(moment if moment.is_file() else folder / WEIGHTS)
        rows[f"{minutes:.1f} min"] = generator.sample(
            torch.arange(len(run.dataset.classes)), run.seed
        )
    labels = torch.arange(len(run.dataset.classes)).repeat_interleave(8)
    samples = load_generator(path).sample(labels, run.seed).split(8)
    classes = {
        f"synthetic {dx}": images for dx, images in zip(run.dataset.classes, samples, strict=True)
    }
    for kind, shown in (("moments", rows), ("classes", classes)):
        with atomic_path(path.with_name(f"{path.stem}-{kind}.png")) as temporary:
            plots.image_rows(shown).savefig(temporary, format="png")
