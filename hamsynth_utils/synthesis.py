"""Labelled synthetic sets: sampled, written, read back and verified.

    python -m hamsynth_utils.synthesis --generator diffusion --checkpoint FILE --per-class 100 --out DIR

Every PNG says in its own metadata that it is synthetic and how it was made; `manifest.csv` lists every
file with its hash. Two more commands let a run's set out of the house and check one that has come in:

    python -m hamsynth_utils.synthesis export --run NAME --generator NAME --out FOLDER|FILE.zip|FILE.zip.age
    python -m hamsynth_utils.synthesis verify FOLDER|FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from hamsynth_utils.data.lesions import CLASSES, COLUMNS, LesionSet, labels_of, to_uint8
from hamsynth_utils.errors import InputError
from hamsynth_utils.generators import load_generator
from hamsynth_utils.profile import GENERATORS
from hamsynth_utils.weights import read_weights, sha256_of, sha256_of_bytes
from hamsynth_utils.writing import replacing

MANIFEST = ["file", "image_id", "dx", "generator", "checkpoint", "seed", "sampling", "trained_on", "sha256"]
NOTICE = (
    "SYNTHETIC IMAGE, made by a generative model; not a photograph of a patient. Research and education only."
)
LICENCE = "CC BY-NC-SA 4.0"
LABELS = ("generator", "checkpoint", "seed", "sampling", "class", "trained_on")
"""What each PNG's metadata says, each key with the prefix `hamsynth:`."""


def requested_counts(
    labels: Tensor, minority_share: float, evaluation_images: int, largest_ratio: float = 0.0
) -> dict[str, int]:
    """How many synthetic images of each class to draw, given the labels of the real training images.

    Enough to bring every class up to `minority_share` of the largest one, to draw `evaluation_images` in the
    real proportions of the classes, and to give minority classes `largest_ratio` times their real images.
    """
    counts = np.bincount(labels.numpy(), minlength=len(CLASSES))
    share = np.ceil(evaluation_images * counts / counts.sum()).astype(int)
    wanted = [top_up_counts(labels, minority_share), ratio_counts(labels, minority_share, largest_ratio)]
    return {
        name: max(int(share[label]), *(each[name] for each in wanted)) for label, name in enumerate(CLASSES)
    }


def top_up_counts(labels: Tensor, minority_share: float) -> dict[str, int]:
    """Images that each class lacks to have `minority_share` of the largest class's number."""
    counts = np.bincount(labels.numpy(), minlength=len(CLASSES))
    target = round(minority_share * counts.max())
    return {name: max(0, int(target - counts[label])) for label, name in enumerate(CLASSES)}


def ratio_counts(labels: Tensor, minority_share: float, ratio: float) -> dict[str, int]:
    """`ratio` images for each real one of the classes below `minority_share` of the largest."""
    counts = np.bincount(labels.numpy(), minlength=len(CLASSES))
    lacking = top_up_counts(labels, minority_share)
    return {name: round(ratio * counts[label]) if lacking[name] else 0 for label, name in enumerate(CLASSES)}


def first_of_each(synthetic: LesionSet, counts: dict[str, int]) -> LesionSet:
    """The first `counts[dx]` images of each class; raises InputError if the set holds fewer."""
    index = []
    for label, name in enumerate(CLASSES):
        here = np.flatnonzero(synthetic.labels.numpy() == label)
        if len(here) < counts.get(name, 0):
            raise InputError(
                f"the synthetic set holds {len(here)} images of {name}, but {counts[name]} are needed"
            )
        index.append(here[: counts.get(name, 0)])
    return synthetic.subset(np.concatenate(index))


def in_proportion(synthetic: LesionSet, labels: Tensor, images: int) -> LesionSet:
    """About `images` synthetic images in the proportions of the classes in `labels`, none twice."""
    counts = np.bincount(labels.numpy(), minlength=len(CLASSES))
    share = np.floor(images * counts / counts.sum() + 0.5).astype(int)
    return first_of_each(synthetic, dict(zip(CLASSES, share.tolist(), strict=True)))


def synthesize(checkpoint: Path, per_class: dict[str, int], seed: int, folder: Path, batch_size: int = 64,
               name: str | None = None, progress: bool = True, **how: float | str) -> LesionSet:  # fmt: skip
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
        raise InputError(f"the number of images per class must not be negative, nor 0 for all: {per_class}")
    generator = load_generator(checkpoint, name)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    generator.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    without = [option for option in how if option not in generator.sampling_options]
    if without:
        raise InputError(f"a {generator.name} has no {' and no '.join(without)}: leave it out")
    metadata = read_weights(checkpoint)[1]
    seen = json.loads(metadata.get("counts", "{}"))
    unseen = [dx for dx, count in per_class.items() if count > 0 and seen.get(dx, 1) == 0]
    if unseen:
        raise InputError(
            f"{checkpoint} was trained without any image of {', '.join(unseen)}, and cannot draw one: "
            "leave the class out, or train with images of it"
        )
    labels = torch.cat([torch.full((per_class.get(dx, 0),), label) for label, dx in enumerate(CLASSES)])
    made_by = {
        "generator": generator.name,
        "checkpoint": sha256_of(checkpoint),
        "trained_on": metadata.get("trained_on", "unknown"),
        "sampling": " ".join(f"{key}={value}" for key, value in how.items()) or "checkpoint's own",
    }
    rows = []
    with replacing(folder) as temporary, tqdm(total=len(labels), unit="image", disable=not progress) as bar:
        (temporary / "images").mkdir(parents=True)
        for start in range(0, len(labels), batch_size):
            batch = labels[start : start + batch_size]
            for offset, image in enumerate(to_uint8(generator.sample(batch, seed + start, **how)).cpu()):
                dx, image_seed = CLASSES[int(batch[offset])], seed + start + offset
                image_id = f"SYN_{generator.name}_{dx}_{start + offset:06d}"
                content = _png(image, {**made_by, "class": dx, "seed": str(image_seed)})
                file = f"images/{image_id}.png"
                (temporary / file).write_bytes(content)
                rows.append({"file": file, "image_id": image_id, "dx": dx, "seed": image_seed, **made_by,
                             "sha256": sha256_of_bytes(content)})  # fmt: skip
            bar.update(len(batch))
        pd.DataFrame(rows)[MANIFEST].to_csv(temporary / "manifest.csv", index=False)
    return read_synthetic(folder)


def read_synthetic(folder: Path) -> LesionSet:
    """A synthetic set, verified: every file as the manifest says, labelled synthetic, none missing or added.

    Returns a LesionSet whose table has `synthetic` True, `lesion_id` equal to `image_id`, `dataset`
    "synthetic:<generator>" and no age, sex or site. Raises InputError naming the first thing that was
    altered; `verification.altered` names them all.
    """
    manifest = read_manifest(folder)
    added = unlisted(folder, manifest)
    if added:
        raise InputError(f"{folder}: {len(added)} file(s) not in the manifest, first {added[0]}")
    pixels = [verified_image(folder, row) for row in manifest.to_dict("records")]
    sizes = {image.shape for image in pixels}
    if len(sizes) > 1:
        raise InputError(f"{folder} mixes image sizes: {sorted(sizes)}")
    table = pd.DataFrame({
        "image_id": manifest["image_id"], "lesion_id": manifest["image_id"], "dx": manifest["dx"],
        "age": np.nan, "sex": np.nan, "localization": np.nan,
        "dataset": "synthetic:" + manifest["generator"], "synthetic": True,
    })[list(COLUMNS)]  # fmt: skip
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return LesionSet(images, torch.from_numpy(labels_of(table["dx"])), table)


def read_manifest(folder: Path) -> pd.DataFrame:
    """The manifest of a synthetic set: the columns MANIFEST, one row an image, none twice.

    Raises InputError if it is missing or damaged.
    """
    path = folder / "manifest.csv"
    if not path.is_file():
        raise InputError(f"no synthetic set at {folder}: manifest.csv is missing")
    try:
        # As text: pandas 2.3 crashes on some hashes when it tries to read them as numbers.
        manifest = pd.read_csv(path, dtype=dict.fromkeys(MANIFEST, "object") | {"seed": "int64"})
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    missing = [column for column in MANIFEST if column not in manifest]
    if missing or manifest[MANIFEST].isna().any().any() or manifest.empty:
        raise InputError(
            f"{path} is damaged: " + (f"it lacks {', '.join(missing)}" if missing else "it has gaps")
        )
    for column in ("file", "image_id"):
        repeats = manifest[column][manifest[column].duplicated()]
        if len(repeats):
            raise InputError(f"{path}: {repeats.iloc[0]} is listed twice")
    return manifest


def unlisted(folder: Path, manifest: pd.DataFrame) -> list[str]:
    """The files in `images/` that the manifest does not list, sorted."""
    return sorted({f"images/{path.name}" for path in (folder / "images").glob("*")} - set(manifest["file"]))


def verified_image(folder: Path, row: dict) -> np.ndarray:
    """The pixels [H, W, 3] of one listed image, or InputError saying what is wrong with it."""
    path = folder / row["file"]
    if path.parent != folder / "images":
        raise InputError(f"{folder}/manifest.csv lists {row['file']}, which is not in images/")
    if not path.is_file():
        raise InputError(f"{folder}: {row['file']} is listed in the manifest but missing")
    content = path.read_bytes()
    try:
        with Image.open(BytesIO(content)) as file:
            text, pixels = dict(file.text), np.asarray(file.convert("RGB"))  # type: ignore[attr-defined]
    except (OSError, SyntaxError, UnidentifiedImageError, AttributeError) as error:
        raise InputError(f"{path} is not a readable PNG ({error})") from error
    if text.get("hamsynth:synthetic") != "true":
        raise InputError(f"{path} is not labelled as synthetic in its metadata: refused")
    for label in LABELS:
        listed = row["dx" if label == "class" else label]
        if text.get(f"hamsynth:{label}") != str(listed):
            raise InputError(
                f"{path}: its metadata says {label} {text.get(f'hamsynth:{label}')!r}, "
                f"the manifest {str(listed)!r}"
            )
    if sha256_of_bytes(content) != row["sha256"]:
        raise InputError(f"{path} was altered: its SHA-256 is not the manifest's")
    return pixels


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


def main(arguments: list[str] | None = None) -> int:
    """Make a labelled synthetic set from a checkpoint; exit code 2 and one line for bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] in (["export"], ["verify"]):
        from hamsynth_utils import export, verification  # they read synthetic sets by this module

        return (export if arguments[0] == "export" else verification).main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m hamsynth_utils.synthesis", description=main.__doc__)
    parser.add_argument("--generator", required=True, help=f"one of {', '.join(GENERATORS)}")
    parser.add_argument("--checkpoint", required=True, type=Path, help="weights.safetensors of a generator")
    parser.add_argument("--per-class", required=True, type=int, help="images of each class")
    parser.add_argument("--classes", nargs="+", default=list(CLASSES), help="all seven if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path, help="a folder that does not exist yet")
    for option, kind in (("--guidance", float), ("--steps", int), ("--solver", str)):
        parser.add_argument(option, type=kind, help="the checkpoint's own if left out, where it has one")
    options = parser.parse_args(arguments)
    try:
        if options.generator not in GENERATORS:
            raise InputError(
                f"no generator is called {options.generator!r}; there are {', '.join(GENERATORS)}"
            )
        counts = dict.fromkeys(options.classes, options.per_class)
        asked = {key: getattr(options, key) for key in ("guidance", "steps", "solver")}
        how = {key: value for key, value in asked.items() if value is not None}
        made = synthesize(
            options.checkpoint, counts, options.seed, options.out, name=options.generator, **how
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {len(made)} images of {made.image_size} pixels, verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())
