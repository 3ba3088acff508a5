"""The diffusion model trained as the source report says, beside the released one.

    python benchmarks/source_setting.py path/to/ham10000 --keep

The source report trains with Adam, batches of 64 and a constant learning rate of 1e-4 for 120
epochs, about 840,000 images. The network, the autoencoder, its cached latents, the sampler and the
moving average of the weights are those of the released model. The training takes hours on two
cores and resumes.
"""

from __future__ import annotations

import argparse
from io import StringIO
from pathlib import Path

import contest
import pandas as pd
import torch
from sampling import opened

from hamsynth_utils.core.paths import checkpoint_of
from hamsynth_utils.core.weights import read_metadata
from hamsynth_utils.generators.diffusion import Diffusion
from hamsynth_utils.training.loop import train

SOURCE = {
    "steps": None,
    "epochs": 120,
    "batch_size": 64,
    "learning_rate": 1.0e-4,
    "lr_schedule": "none",
    "weight_decay": 0.0,
}


def contestant(
    name: str, diffusion: Diffusion, history: pd.DataFrame, options: argparse.Namespace
) -> contest.Contestant:
    lesions = contest.open_run(options, contest.CORES).images("train")
    training = diffusion.settings.training
    images = training.total_steps(len(lesions)) * training.batch_size
    seconds = history["seconds"].iloc[-1]
    return contest.sampled(name, seconds, images, diffusion.sample, lesions, options)


def released_side(options: argparse.Namespace) -> contest.Contestant:
    history = pd.read_csv(StringIO(read_metadata(options.checkpoint)["history"]))
    return contestant("released", opened(options)[0], history, options)


def source_side(options: argparse.Namespace) -> contest.Contestant:
    released, lesions = opened(options)
    training = released.settings.training.model_copy(update=SOURCE)
    torch.manual_seed(options.seed)
    module = Diffusion(
        lesions.image_size,
        released.settings.model_copy(update={"training": training}),
        len(lesions.classes),
    )
    module.representation.load_state_dict(released.representation.state_dict())
    run = contest.open_run(options, contest.CORES)
    with run.stage_dir("source-setting") as folder:
        data = module.training_data(lesions)
        result = train(module, data, training, folder, seed=options.seed)
    return contestant("as the source report trains", module, result.history, options)


def main() -> None:
    parser = contest.parser(__doc__, minutes=0)
    parser.add_argument("--checkpoint", type=Path, default=checkpoint_of("diffusion"))
    options = parser.parse_args()
    table = contest.compare(options, [released_side(options), source_side(options)])
    distance = table["FD-ViT"]
    contest.report(
        "source_setting",
        table.drop(columns="samples/s"),
        options,
        {"FD-ViT, released over the source's": (distance[0] / distance[1], "<=", 1.0)},
        run_as="one training after the other",
    )


if __name__ == "__main__":
    main()
