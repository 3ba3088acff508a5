"""Release the generators of a finished run: half-precision weights, a model card and pictures.

    python -m hamsynth_utils.release --run cpu --data path/to/ham10000

writes `checkpoints/<generator>.safetensors`, `<generator>.md` and two `.png` for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import torch
import yaml

from hamsynth_utils import figures
from hamsynth_utils.checkpoints import AUTOENCODER, TABLES, WEIGHTS, checkpoint_of
from hamsynth_utils.data.lesions import CLASSES
from hamsynth_utils.errors import InputError
from hamsynth_utils.figures import ARM_NAMES
from hamsynth_utils.generators import load_generator
from hamsynth_utils.profile import GENERATORS, project_root
from hamsynth_utils.run import Run
from hamsynth_utils.weights import read_weights, sha256_of, write_weights
from hamsynth_utils.writing import replacing

CARD = """# {title}, trained on {data} with the profile `{profile}`

Makes images of {size}x{size} pixels of seven classes of pigmented skin lesions. **For research and education
only, never for diagnosis.** Every image that the sampling command writes is labelled synthetic.

    python -m hamsynth_utils.synthesis --generator {name} --checkpoint checkpoints/{file} \\
        --per-class 100 --out my-synthetic-set

A run with a profile that says `released: true` takes this checkpoint over if it has the same training
images.

## Facts

- Data: {data}, the training part of the split by {protocol} with seed {seed}:
  {counts}.
  No image of the validation or test part was trained on; validation images chose a guidance scale, where
  there is one.
- Licence: CC BY-NC-SA 4.0, as the data; so are the images it makes.
- Training: {steps} steps of {batch} images, seed {seed}, {minutes:.0f} minutes on {threads} thread(s) of:
  {device}.
- Made with {made_with}.
- Settings: `{settings}`
- Losses at the end: {losses}.
- SHA-256 of the file: `{sha256}`; the weights are in half precision.

## What the minutes bought

`distance` is FD-lite0 to validation images, n a side; `low` to `high` is the 95 % interval of another draw of
images (one training, seed {seed}); `floor` is the distance of real training images to them, at the same n.

{budget}

![Synthetic images of each class at moments of the training]({stem}-moments.png)

![Synthetic images of each class]({stem}-classes.png)
{measured}
## Limits

- Seven classes of one data set, mostly of light skin; nothing is known about other skin or other diagnoses.
- At {size}x{size} pixels the fine structures that a dermatologist looks for are not there.
- One training, one seed. No dermatologist has looked at these images.
- Images may resemble training images; the chapter on ethics measures how much.
- FD-lite0 sees through EfficientNet-lite0, which took part in the training and is flattered by it.
"""


def release(run: Run, name: str, folder: Path) -> Path:
    """Write the checkpoint of a run's finished generator to `folder`, in half precision; return its path.

    Raises InputError if the generator, or a table of its chapter, is not finished yet.
    """
    room = run.require(f"generators/{name}/{WEIGHTS}", f"the notebook of the {name}").parent
    tensors, metadata = read_weights(room / WEIGHTS)
    for table in TABLES[name]:
        metadata[table] = run.require(
            f"generators/{name}/{table}.csv", f"the notebook of the {name}"
        ).read_text()
    if name == "diffusion" and run.profile.diffusion.autoencoder is not None:
        metadata[AUTOENCODER] = (run.folder / "generators/autoencoder/history.csv").read_text()
    metadata |= {"released": "true", "profile": run.profile.name}
    half = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    path = checkpoint_of(name, folder)
    write_weights(path, half, metadata)
    load_generator(path)
    return path


def card(run: Run, name: str, path: Path) -> str:
    """The model card (Mitchell et al. 2019) of a checkpoint, in Markdown; every number is the run's."""
    metadata = read_weights(path)[1]
    history, budget = (pd.read_csv(StringIO(metadata[table])) for table in ("history", "budget"))
    record = yaml.safe_load((run.folder / "run.yaml").read_text())
    shown = budget[["step", "minutes", "loss", "mean", "low", "high", "floor", "n"]]
    losses = history.iloc[-1].drop(["step", "seconds"])
    return CARD.format(
        data="the phantom" if run.data == "phantom" else "HAM10000 (Tschandl, Rosendahl, Kittler 2018)",
        protocol=run.profile.data.protocol, title=ARM_NAMES[name], name=name, profile=metadata["profile"],
        size=metadata["image_size"],
        file=path.name, stem=path.stem, seed=metadata["seed"], steps=metadata["steps"],
        counts=", ".join(f"{count} {dx}" for dx, count in json.loads(metadata["counts"]).items()),
        batch=run.profile.generator_settings(name).training.batch_size, minutes=budget["minutes"].iloc[-1],
        threads=record["threads"], device=record["device"], made_with=metadata["made_with"],
        settings=metadata["settings"], sha256=sha256_of(path), measured=_measured(run, name),
        losses=", ".join(f"{key} {value:.4g}" for key, value in losses.items()),
        budget=_markdown(
            shown.round({"loss": 3, **dict.fromkeys(["minutes", "mean", "low", "high", "floor"], 1)})
            .rename(columns={"mean": "distance"})
        ),
    )  # fmt: skip


def _measured(run: Run, name: str) -> str:
    """What the evaluation chapter of the run says of this generator, if it has been run."""
    path = run.folder / "metrics/fidelity.csv"
    if not path.is_file():
        return ""
    table = pd.read_csv(path)
    keys = ["extractor", "reference", "measure"]
    floors = table[table["generator"] == "floor"].set_index(keys)["mean"].rename("floor")
    own = table[table["generator"] == name].join(floors, on=keys)
    text = _markdown(own[[*keys, "mean", "low", "high", "floor", "n"]].round(3))
    said = "By the evaluation chapter of the same run, against held-out and against training images."
    return f"\n## Measured\n\n{said}\n\n{text}\n"


def _markdown(table: pd.DataFrame) -> str:
    rows = [table.columns.tolist(), ["---"] * table.shape[1], *table.astype(object).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Release the generators of a run; the exit code is 0, or 2 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m hamsynth_utils.release", description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generators", nargs="+", choices=GENERATORS, default=list(GENERATORS))
    parser.add_argument("--out", type=Path, default=project_root() / "checkpoints")
    options = parser.parse_args(arguments)
    try:
        run = Run.open(options.run, options.profile, options.data, options.seed)
        for name in options.generators:
            path = release(run, name, options.out)
            _pictures(run, name, path)
            with replacing(path.with_suffix(".md")) as temporary:
                temporary.write_text(card(run, name, path))
            print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _pictures(run: Run, name: str, path: Path) -> None:
    """Beside the checkpoint: the same latents at each moment of the training, eight images of each class."""
    budget = pd.read_csv(run.folder / f"generators/{name}/budget.csv")
    folder = run.folder / "generators" / name
    rows = {}
    for step, minutes in zip(budget["step"], budget["minutes"], strict=True):
        moment = folder / f"moments/{step}.safetensors"
        generator = load_generator(moment if moment.is_file() else folder / WEIGHTS)
        rows[f"{minutes:.1f} min"] = generator.sample(torch.arange(len(CLASSES)), run.seed)
    labels = torch.arange(len(CLASSES)).repeat_interleave(8)
    samples = load_generator(path).sample(labels, run.seed).split(8)
    classes = {f"synthetic {dx}": images for dx, images in zip(CLASSES, samples, strict=True)}
    for kind, shown in (("moments", rows), ("classes", classes)):
        with replacing(path.with_name(f"{path.stem}-{kind}.png")) as temporary:
            figures.image_rows(shown).savefig(temporary, format="png")


if __name__ == "__main__":
    sys.exit(main())
