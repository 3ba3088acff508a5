"""Images per second of each training, with and without what makes it fast on this device.

    python benchmarks/speed.py --profile gpu --seconds 10

Every row changes one thing. Random numbers stand in for images: they take the same time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.core.profile import Profile, load_profile
from hamsynth_utils.generators.autoencoder.model import AutoencoderTraining
from hamsynth_utils.generators.latent import LatentGenerator
from hamsynth_utils.generators.loading import build_generator
from hamsynth_utils.training.module import TrainableModule

AS_TRAINED = {
    "bfloat16": True, "channels_last": True, "fused optimizer": True,
    "losses read by window": True, "compile": False,
}  # fmt: skip
"""What the training loop does. A fused optimizer is used on a GPU only."""


def network(name: str, profile: Profile) -> tuple[TrainableModule, Tensor, int]:
    """An untrained network, one example of what it is trained on, and the batch size."""
    size = profile.data.image_size
    image = torch.rand(3, size, size) * 2 - 1
    if name == "autoencoder":
        assert profile.autoencoder is not None
        training = AutoencoderTraining(profile.autoencoder, size)
        return training, image, profile.autoencoder.training.batch_size
    generator = build_generator(name, profile, 7)
    example = torch.randn(*generator.shape) if isinstance(generator, LatentGenerator) else image
    return generator, example, generator.settings.training.batch_size


def images_per_second(
    name: str, profile: Profile, seconds: float, device: torch.device, how: dict[str, bool]
) -> float:
    """The speed of training steps after a first one, which compiles and warms up."""
    module, example, size = network(name, profile)
    module.to(device).train()
    batch = example.expand(size, *example.shape).contiguous().to(device)
    if how["channels_last"]:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = batch.contiguous(memory_format=torch.channels_last)
    if how["compile"]:
        module.compile()
    labels = torch.arange(size, device=device) % 7
    fused = how["fused optimizer"] and device.type == "cuda"
    optimizer = torch.optim.AdamW(module.parameter_groups(1e-4), betas=module.betas, fused=fused)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=how["bfloat16"]):
            loss = module(batch, labels)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return size * steps_per_second(step, seconds, device, read=not how["losses read by window"])


def steps_per_second(
    step: Callable[[], Tensor], seconds: float, device: torch.device, read: bool
) -> float:
    """How many steps a second; `read` looks at each loss, so that the device must finish first."""

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    float(step())
    finish()
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        loss = step()
        if read:
            float(loss)
        steps += 1
        if steps % 50 == 0:
            finish()  # otherwise the queue would only be filled
    finish()
    return steps / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--compile", action="store_true", help="try torch.compile, too")
    options = parser.parse_args()
    profile = load_profile(options.profile)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    changes: dict[str, dict[str, bool]] = {"as trained": {}}
    changes |= {f"without {name}": {name: False} for name, on in AS_TRAINED.items() if on}
    if device.type == "cpu":
        del changes["without fused optimizer"]
    if options.compile:
        changes["with compile"] = {"compile": True}
    rows: list[dict[str, Any]] = []
    for name in ("autoencoder", *profile.generators):
        speeds = {
            title: images_per_second(name, profile, options.seconds, device, AS_TRAINED | change)
            for title, change in changes.items()
        }
        rows += [
            {
                "network": name,
                "how": title,
                "images/s": speed,
                "ratio": speed / speeds["as trained"],
            }
            for title, speed in speeds.items()
        ]
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
