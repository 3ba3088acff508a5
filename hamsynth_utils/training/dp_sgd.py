"""A generator trained with differential privacy (DP-SGD, Abadi et al. 2016, by Opacus), a lesion at a time.

The unit of privacy is the lesion: each gives one photograph, chosen before the training and without a look
at any other lesion; at each step it is drawn or not, independently of the others; and the gradient of its
photograph is cut to a length. Noise is then scaled to that length, and an accountant says what all steps
together give away.

The guarantee is about the weights and what is made from them. It is not about the log of losses, which is
computed from the images without noise and stays in the house, and it holds for one who does not know the
seed: with it the noise can be drawn again and taken off.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.profile_sections import DPSettings
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range
from hamsynth_utils.training.batches import Augment
from hamsynth_utils.training.dp_accounting import Guarantee, guarantee_of, suppress_opacus_warnings
from hamsynth_utils.training.loop import derive_seed
from hamsynth_utils.training.module import TrainableModule


@dataclass(frozen=True)
class PrivateTraining:
    """A trained module, its guarantee and its history: step, seconds, drawn, loss; one row a step."""

    module: TrainableModule
    guarantee: Guarantee
    history: pd.DataFrame
    loaded: bool


def one_image_per_lesion(table: pd.DataFrame, rows: np.ndarray, seed: int) -> np.ndarray:
    """One row of each lesion among `rows` of `table`, in the order of `rows`.

    That whose image_id has the least hash with the seed: another lesion more or less changes no choice.
    Raises InputError for a missing lesion id.
    """
    chosen = table.iloc[rows][["image_id", "lesion_id"]].assign(
        row=rows, place=np.arange(len(rows))
    )
    if chosen["lesion_id"].isna().any():
        raise InputError(
            "an image has no lesion id: what a lesion contributes cannot be bounded without it"
        )
    chosen["hash"] = [
        hashlib.sha256(f"{seed} {image_id}".encode()).hexdigest() for image_id in chosen["image_id"]
    ]
    first = chosen.sort_values("hash").drop_duplicates("lesion_id")
    return first.sort_values("place")["row"].to_numpy()


def poisson_sample(lesions: int, rate: float, seed: int, step: int) -> np.ndarray:
    """The lesions of one step, 0 to `lesions` - 1: each with probability `rate`, on its own (Poisson)."""
    return np.flatnonzero(np.random.default_rng([seed, step]).random(lesions) < rate)


def private_optimizer(
    optimizer: Optimizer, guarantee: Guarantee, clip: float, noise: torch.Generator
) -> DPOptimizer:
    """Opacus' DPOptimizer around a plain one: cut, add up, add noise, divide by the expected number drawn."""
    return DPOptimizer(
        optimizer,
        noise_multiplier=guarantee.noise,
        max_grad_norm=clip,
        generator=noise,
        expected_batch_size=_expected(guarantee),  # type: ignore[arg-type]
    )


def private_step(
    learner: GradSampleModule, optimizer: DPOptimizer, parts: Sequence[tuple[Tensor, Tensor]]
) -> list[float]:
    """One step on what was drawn, in parts that fit the memory: images and labels of each; returns losses.

    That nothing was drawn is one empty part: a step of noise alone, without which its absence would show.
    """
    losses = []
    for number, (images, labels) in enumerate(parts):
        optimizer.zero_grad()
        if len(images):
            with suppress_opacus_warnings():
                loss = learner(images, labels)["loss"]
                loss.backward()
            losses.append(loss.item())
        else:
            for parameter in optimizer.params:
                parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]
        optimizer.signal_skip_step(number + 1 < len(parts))
        optimizer.step()
    return losses


def train_privately(
    module: TrainableModule,
    lesions: LesionSet,
    settings: DPSettings,
    folder: Path,
    *,
    budget: float,
    seed: int,
    augment: Augment | None = None,
    description: dict[str, str] | None = None,
) -> PrivateTraining:
    """Train `module` within the budget and leave `weights.safetensors` and `history.csv` in `folder`.

    The weights are the exponential moving average over the steps, which costs no privacy. With the budget
    `NO_BOUND` the same steps draw the same lesions, without cutting gradients or adding noise. If the weights
    are there already they are loaded; a training that was killed starts again at its first step, and repeats
    it, since every draw comes from (seed, step): two half trainings with different noise would spend more.

    lesions: one image a lesion. description: text stored in the weights' metadata.
    Raises InputError for none, for a lesion with two images, or for weights in `folder` of another training.
    """
    ids = lesions.table["lesion_id"]
    if not len(lesions) or ids.isna().any() or ids.duplicated().any():
        raise InputError(
            "a private training needs one image of each lesion: see one_image_per_lesion"
        )
    guarantee = guarantee_of(settings, len(lesions), budget)
    weights, log = folder / "weights.safetensors", folder / "history.csv"
    record = json.dumps({**asdict(guarantee), "clip": settings.max_grad_norm, "seed": seed})
    if weights.is_file():
        tensors, metadata = read_weights(weights)
        if metadata.get("guarantee") != record:
            raise InputError(
                f"{weights} comes from another training: take another run, or delete its folder"
            )
        module.load_state_dict(tensors)
        return PrivateTraining(module.eval(), guarantee, pd.read_csv(log), True)

    device = next(module.parameters()).device
    module.train()
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
    adam = torch.optim.Adam(
        [p for p in module.parameters() if p.requires_grad], settings.learning_rate
    )
    noise = torch.Generator(device)
    private = math.isfinite(budget)
    learner = GradSampleModule(module) if private else None
    optimizer = (
        private_optimizer(adam, guarantee, settings.max_grad_norm, noise) if private else None
    )
    rows, began = [], time.monotonic()
    for step in range(settings.steps):
        module.progress = step / settings.steps
        drawn = poisson_sample(len(lesions), settings.sampling_rate, seed, step)
        for_augment = torch.Generator(device).manual_seed(derive_seed(seed, step, 1))
        noise.manual_seed(derive_seed(seed, step, 2))
        torch.manual_seed(derive_seed(seed, step, 3))
        parts = []
        for index in torch.from_numpy(drawn).split(settings.micro_batch_size):
            images = to_unit_range(lesions.images[index]).to(device)
            images = augment(images, for_augment) if augment and len(index) else images
            parts.append((images, lesions.labels[index].to(device)))
        if learner and optimizer:
            losses = private_step(learner, optimizer, parts)
        else:
            losses = _plain_step(module, adam, parts, _expected(guarantee))
        average.update_parameters(module)
        loss = float(np.mean(losses)) if losses else math.nan
        rows.append(
            {
                "step": step + 1,
                "seconds": time.monotonic() - began,
                "drawn": len(drawn),
                "loss": loss,
            }
        )
    if learner:
        learner.to_standard_module()
    module.load_state_dict(average.module.state_dict())
    module.progress = 1.0
    history = pd.DataFrame(rows)
    with atomic_path(log) as path:
        history.to_csv(path, index=False)
    write_weights(weights, module.state_dict(), {**(description or {}), "guarantee": record})
    return PrivateTraining(module.eval(), guarantee, history, False)


def _plain_step(
    module: TrainableModule,
    optimizer: Optimizer,
    parts: Sequence[tuple[Tensor, Tensor]],
    expected: float,
) -> list[float]:
    """The same step without a guarantee: no gradient is cut, no noise added."""
    optimizer.zero_grad()
    losses = []
    for images, labels in parts:
        if len(images):
            loss = module(images, labels)["loss"]
            (loss * len(images) / expected).backward()
            losses.append(loss.item())
    optimizer.step()
    return losses


def _expected(guarantee: Guarantee) -> float:
    return guarantee.sampling_rate * guarantee.lesions
