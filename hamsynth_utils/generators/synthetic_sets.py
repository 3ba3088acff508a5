"""Labelled synthetic sets: sampled from a checkpoint and written to a folder.

Every PNG says in its own metadata that it is synthetic and how it was made. `manifest.csv` lists
every file with its hash.
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pandas as pd
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor
from tqdm import tqdm

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.weights import read_metadata, sha256_of, sha256_of_bytes
from hamsynth_utils.data.dataset_info import ClassList
from hamsynth_utils.data.lesion_set import LesionSet, to_uint8
from hamsynth_utils.data.synthetic import LABELS, MANIFEST, NOTICE, read_synthetic, write_sums
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.loading import dataset_of, load_generator


def synthesize(
    checkpoint: Path,
    per_class: dict[str, int],
    seed: int,
    folder: Path,
    batch_size: int = 64,
    generator_name: str | None = None,
    image_size: int | None = None,
    progress: bool = True,
    **sampling_kwargs: float | str,
) -> LesionSet:
    """Sample a labelled synthetic set from a checkpoint and write it to a folder.

    Image number i of the set is sampled with the seed `seed + i`.

    Args:
        checkpoint: the weights of a trained generator.
        per_class: how many images of each class, by its short name.
        seed: of the first image.
        folder: where the set goes; it must not exist.
        batch_size: how many images are sampled at once.
        generator_name: refuse a checkpoint of another generator.
        image_size: refuse a checkpoint of another image size; in pixels a side.
        progress: whether to show a progress bar.
        sampling_kwargs: some of the generator's `sampling_options`.

    Returns:
        The set, read back and verified.

    Raises:
        InputError: the folder exists, the checkpoint cannot be used, a class is unknown or the
            generator was trained without it, a number of images is negative, all are 0, or the
            generator has no such sampling option.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already: name a new folder, or delete it")
    generator = load_generator(checkpoint, generator_name, image_size=image_size)
    metadata = read_metadata(checkpoint)
    dataset = dataset_of(checkpoint, metadata)
    _require_valid_counts(per_class, dataset.classes)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    generator.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _require_known_options(generator, sampling_kwargs)
    _require_trained_classes(checkpoint, metadata, per_class)
    counts = torch.tensor([per_class.get(dx, 0) for dx in dataset.classes])
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    provenance = _provenance(generator, checkpoint, metadata, sampling_kwargs)
    rows, licence = [], dataset.licence
    with (
        atomic_path(folder) as temporary,
        tqdm(total=len(labels), unit="image", disable=not progress) as bar,
    ):
        (temporary / "images").mkdir(parents=True)
        for start in range(0, len(labels), batch_size):
            batch = labels[start : start + batch_size]
            images = to_uint8(generator.sample(batch, seed + start, **sampling_kwargs)).cpu()
            for number, (image, label) in enumerate(zip(images, batch, strict=True), start):
                dx = dataset.classes[int(label)]
                rows.append(
                    _write_image(temporary, image, dx, number, seed + number, provenance, licence)
                )
            bar.update(len(batch))
        pd.DataFrame(rows)[MANIFEST].to_csv(temporary / "manifest.csv", index=False)
        write_sums(temporary)
    return read_synthetic(folder, dataset.classes)


def _provenance(
    generator: Generator,
    checkpoint: Path,
    metadata: dict[str, str],
    sampling_kwargs: dict[str, float | str],
) -> dict[str, str]:
    """How the images are made, as every row of the manifest and every PNG says it."""
    options = " ".join(f"{key}={value}" for key, value in sampling_kwargs.items())
    return {
        "generator": generator.name,
        # Checkpoints of version 0.1.0, where a generator was trained once, do not name its seed.
        "generator_seed": metadata.get("generator_seed", "0"),
        "checkpoint": sha256_of(checkpoint),
        "trained_on": metadata.get("trained_on", "unknown"),
        "sampling": options or "checkpoint's own",
    }


def _require_known_options(generator: Generator, sampling_kwargs: dict[str, float | str]) -> None:
    unknown = [option for option in sampling_kwargs if option not in generator.sampling_options]
    if unknown:
        raise InputError(f"a {generator.name} has no {' and no '.join(unknown)}: leave it out")


def _require_valid_counts(per_class: dict[str, int], classes: ClassList) -> None:
    unknown = sorted(set(per_class) - set(classes))
    if unknown:
        raise InputError(f"unknown class {unknown[0]!r}; known are {classes}")
    if min(per_class.values(), default=0) < 0 or sum(per_class.values()) == 0:
        raise InputError(
            f"the number of images per class must not be negative, nor 0 for all: {per_class}"
        )


def _require_trained_classes(
    checkpoint: Path, metadata: dict[str, str], per_class: dict[str, int]
) -> None:
    """Refuse classes of which the generator saw no training image."""
    try:
        trained = dict(json.loads(metadata.get("counts", "{}")))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{checkpoint} is damaged: its metadata do not say how many images of each class it "
            "was trained on"
        ) from error
    untrained = [dx for dx, count in per_class.items() if count > 0 and trained.get(dx, 1) == 0]
    if untrained:
        raise InputError(
            f"{checkpoint} was trained without any image of {', '.join(untrained)}, and cannot "
            "draw one: leave the class out, or train with images of it"
        )


def _write_image(
    folder: Path,
    image: Tensor,
    dx: str,
    number: int,
    seed: int,
    provenance: dict[str, str],
    licence: str,
) -> dict[str, str | int]:
    """Write one labelled PNG; returns its row of the manifest."""
    image_id = f"SYN_{provenance['generator']}_{dx}_{number:06d}"
    content = _png(image, {**provenance, "class": dx, "seed": str(seed)}, licence)
    file = f"images/{image_id}.png"
    (folder / file).write_bytes(content)
    names: dict[str, str | int] = {"file": file, "image_id": image_id, "dx": dx, "seed": seed}
    return {**names, **provenance, "sha256": sha256_of_bytes(content)}


def _png(image: Tensor, provenance: dict[str, str], licence: str) -> bytes:
    """uint8 [3, H, W] -> the bytes of a PNG that is labelled as synthetic."""
    text = PngImagePlugin.PngInfo()
    text.add_text("hamsynth:synthetic", "true")
    for label in LABELS:
        text.add_text(f"hamsynth:{label}", provenance[label])
    text.add_text("Comment", NOTICE)
    text.add_text("Copyright", licence)
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()
