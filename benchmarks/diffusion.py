"""The package's diffusion model against denoising-diffusion-pytorch's README example, at 64x64.

    python benchmarks/diffusion.py path/to/ham10000 --minutes 30

The rival samples by DDIM in RIVAL_STEPS steps: with its README's 250, 2,000 images would take a day
here.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import contest
import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
from torch import Tensor
from torchvision.utils import save_image

RIVAL_STEPS = 15


def our_side(options: argparse.Namespace) -> contest.Contestant:
    return contest.trained_side("HamSynth diffusion", "diffusion", options)


def readme_side(options: argparse.Namespace) -> contest.Contestant:
    """The README's settings; amp needs a GPU, and its FID would download Inception."""
    lesions = contest.open_run(options).images("train")
    torch.manual_seed(options.seed)
    with TemporaryDirectory() as name:
        folder = Path(name) / "images"
        folder.mkdir()
        for number, image in enumerate(lesions.images):
            save_image(image.float() / 255, folder / f"{number:05d}.png")

        def train(steps: int) -> tuple[Trainer, float]:
            model = Unet(dim=64, dim_mults=(1, 2, 4, 8), flash_attn=True)
            process = GaussianDiffusion(
                model, image_size=lesions.image_size, timesteps=1000, sampling_timesteps=RIVAL_STEPS
            )
            trainer = Trainer(
                process,
                str(folder),
                train_batch_size=32,
                train_lr=8e-5,
                train_num_steps=steps,
                gradient_accumulate_every=2,
                ema_decay=0.995,
                amp=torch.cuda.is_available(),
                calculate_fid=False,
                save_and_sample_every=steps + 1,
                results_folder=str(Path(name) / "results"),
            )
            began = time.monotonic()
            trainer.train()
            return trainer, time.monotonic() - began

        steps = max(1, round(options.minutes * 60 / train(1)[1]))
        trainer, seconds = train(steps)
    averaged = trainer.ema.ema_model.eval()

    @torch.no_grad()
    def sample(labels: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return averaged.sample(batch_size=len(labels)) * 2 - 1

    return contest.sampled(
        "denoising-diffusion-pytorch", seconds, 64 * steps, sample, lesions, options
    )


def main() -> None:
    options = contest.arguments(__doc__, minutes=30)
    table = contest.compare(options, contest.side_by_side(options, our_side, readme_side))
    speed, distance = table["training images/s"], table["FD-lite0"]
    contest.report(
        "diffusion",
        table,
        options,
        {
            "training images/s, ours over the README's": (speed[0] / speed[1], ">=", 20),
            "FD-lite0, ours over the README's": (distance[0] / distance[1], "<=", 0.25),
        },
        "Ours: images per second of the diffusion training; its minutes hold the autoencoder.",
    )


if __name__ == "__main__":
    main()
