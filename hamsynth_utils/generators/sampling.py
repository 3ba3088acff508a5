"""Labelled synthetic sets: sampled from a checkpoint and written to a folder.

Every PNG says in its own metadata that it is synthetic and how it was made. `manifest.csv` lists every
file with its hash.
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
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import CLASSES, LesionSet, to_uint8
from hamsynth_utils.data.synthetic import LABELS, LICENCE, MANIFEST, NOTICE, read_synthetic
from hamsynth_utils.generators.loading import load_generator


def synthesize(
    checkpoint: Path,
    per_class: dict[str, int],
    seed: int,
    folder: Path,
    batch_size: int = 64,
    name: str | None = None,
    progress: bool = True,
    **how: float | str,
) -> LesionSet:
    """Sample `per_class[dx]` images of each class into `folder`, which must not exist; return them.

    Image number i of the set is drawn from the seed `seed + i`. name: refuse a checkpoint of another
    generator. how: some of its `sampling_options`. Raises InputError for a bad checkpoint,
    an unknown class, one that the generator never saw, a negative count or none at all, or an existing
    folder.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already: name a new folder, or delete it")
    unknown = sorted(set(per_class) - set(CLASSES))
    if unknown:
        raise InputError(f"unknown class {unknown[0]!r}; known are {', '.join(CLASSES)}")
    if min(per_class.values(), default=0) < 0 or sum(per_class.values()) == 0:
        raise InputError(
            f"the number of images per class must not be negative, nor 0 for all: {per_class}"
        )
    generator = load_generator(checkpoint, name)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    generator.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    without = [option for option in how if option not in generator.sampling_options]
    if without:
        raise InputError(f"a {generator.name} has no {' and no '.join(without)}: leave it out")
    metadata = read_metadata(checkpoint)
    seen = json.loads(metadata.get("counts", "{}"))
    unseen = [dx for dx, count in per_class.items() if count > 0 and seen.get(dx, 1) == 0]
    if unseen:
        raise InputError(
            f"{checkpoint} was trained without any image of {', '.join(unseen)}, and cannot draw one: "
            "leave the class out, or train with images of it"
        )
    labels = torch.cat(
        [torch.full((per_class.get(dx, 0),), label) for label, dx in enumerate(CLASSES)]
    )
    made_by = {
        "generator": generator.name,
        # Checkpoints of version 0.1.0, where a generator was trained once, do not name a seed.
        "generator_seed": metadata.get("generator_seed", "0"),
        "checkpoint": sha256_of(checkpoint),
        "trained_on": metadata.get("trained_on", "unknown"),
        "sampling": " ".join(f"{key}={value}" for key, value in how.items()) or "checkpoint's own",
    }
    rows = []
    with (
        atomic_path(folder) as temporary,
        tqdm(total=len(labels), unit="image", disable=not progress) as bar,
    ):
        (temporary / "images").mkdir(parents=True)
        for start in range(0, len(labels), batch_size):
            batch = labels[start : start + batch_size]
            for offset, image in enumerate(
                to_uint8(generator.sample(batch, seed + start, **how)).cpu()
            ):
                dx, image_seed = CLASSES[int(batch[offset])], seed + start + offset
                image_id = f"SYN_{generator.name}_{dx}_{start + offset:06d}"
                content = _png(image, {**made_by, "class": dx, "seed": str(image_seed)})
                file = f"images/{image_id}.png"
                (temporary / file).write_bytes(content)
                rows.append(
                    {
                        "file": file,
                        "image_id": image_id,
                        "dx": dx,
                        "seed": image_seed,
                        **made_by,
                        "sha256": sha256_of_bytes(content),
                    }
                )
            bar.update(len(batch))
        pd.DataFrame(rows)[MANIFEST].to_csv(temporary / "manifest.csv", index=False)
    return read_synthetic(folder, HAM10000.classes)


def _png(image: Tensor, made_by: dict[str, str]) -> bytes:
    """uint8 [3, H, W] -> the bytes of a PNG labelled as synthetic."""
    text = PngImagePlugin.PngInfo()
    text.add_text("hamsynth:synthetic", "true")
    for label in LABELS:
        text.add_text(f"hamsynth:{label}", made_by[label])
    text.add_text("Comment", NOTICE)
    text.add_text("Copyright", LICENCE)
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()
