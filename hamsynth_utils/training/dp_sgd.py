"""DP-SGD (Abadi et al. 2016) by Opacus; the unit of privacy is the lesion.

Each lesion contributes one photograph, which is chosen before the training without looking at any
other lesion. At each step every lesion is drawn or not, independently of the others. The gradient
of its photograph is clipped to a length, and noise is scaled to this length. The noised sum is
divided by a public constant of the profile, not by a number that is counted in the training set. An
accountant adds up what all steps reveal.

The guarantee is about the weights and about everything that is computed from them. It does not
cover the log of losses, which is computed from the images without noise and must not be published.
The guarantee also requires that the seed stays secret: whoever knows the seed can draw the noise
again and subtract it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
from hamsynth_utils.core.files import read_csv
from hamsynth_utils.core.paths import HISTORY, WEIGHTS
from hamsynth_utils.core.profile_sections import DPSettings
from hamsynth_utils.core.weights import read_weights
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range
from hamsynth_utils.training.batches import Augment
from hamsynth_utils.training.dp_accounting import Guarantee, guarantee_of, suppress_opacus_warnings
from hamsynth_utils.training.loop import Reading, TrainingLoop, derive_seed
from hamsynth_utils.training.module import TrainableModule
from hamsynth_utils.training.resume import TrainingState, load_weights


@dataclass(frozen=True)
class PrivateTraining:
    """A privately trained module.

    Attributes:
        module: the module with its averaged weights, in evaluation mode.
        guarantee: what the training promises about every lesion.
        history: one row per step: step, seconds, how many lesions were drawn, and their mean loss.
        loaded: whether the weights were loaded from disk instead of trained now.
    """

    module: TrainableModule
    guarantee: Guarantee
    history: pd.DataFrame
    loaded: bool


def one_image_per_lesion(table: pd.DataFrame, rows: np.ndarray, seed: int) -> np.ndarray:
    """One image of each lesion: the one with the smallest hash of seed and image_id.

    Adding or removing another lesion changes no choice.

    Args:
        table: one row per image, with image_id and lesion_id.
        rows: the row numbers to choose from, int [N].
        seed: of the choice.

    Returns:
        The chosen row numbers, in the order of `rows`.

    Raises:
        InputError: an image has no lesion id.
    """
    candidates = table.iloc[rows][["image_id", "lesion_id"]].assign(
        row=rows, position=np.arange(len(rows))
    )
    if candidates["lesion_id"].isna().any():
        raise InputError(
            "an image has no lesion id: what a lesion contributes cannot be bounded without it"
        )
    candidates["hash"] = [
        hashlib.sha256(f"{seed} {image_id}".encode()).hexdigest()
        for image_id in candidates["image_id"]
    ]
    first = candidates.sort_values("hash").drop_duplicates("lesion_id")
    return first.sort_values("position")["row"].to_numpy()


def poisson_sample(lesions: int, rate: float, seed: int, step: int) -> np.ndarray:
    """The lesions of one step, each drawn independently (Poisson sampling).

    Args:
        lesions: how many lesions there are.
        rate: the probability of each.
        seed: of the training.
        step: the step; the draw follows from (seed, step) alone.

    Returns:
        The numbers of the drawn lesions, 0 to `lesions` - 1, ascending; possibly none.
    """
    return np.flatnonzero(np.random.default_rng([seed, step]).random(lesions) < rate)


def private_optimizer(
    optimizer: Optimizer, guarantee: Guarantee, clip: float, rng: torch.Generator
) -> DPOptimizer:
    """Opacus' DPOptimizer around a plain optimizer.

    Each step clips the gradient of every lesion, adds them up, adds noise, and divides by
    `Guarantee.expected_lesions` (Abadi et al. 2016, algorithm 1), which is a public constant.

    Args:
        optimizer: takes the step with the private gradient.
        guarantee: gives the noise multiplier and the divisor.
        clip: the largest length of a lesion's gradient.
        rng: of the noise.
    """
    return DPOptimizer(
        optimizer,
        noise_multiplier=guarantee.noise,
        max_grad_norm=clip,
        generator=rng,
        expected_batch_size=guarantee.expected_lesions,  # type: ignore[arg-type]
    )


def private_step(
    learner: GradSampleModule,
    optimizer: DPOptimizer,
    parts: Sequence[tuple[Tensor, Tensor]],
) -> list[float]:
    """Take one private step on the drawn lesions.

    If no lesion was drawn, the step consists of noise alone. Skipping the step would reveal that
    nothing was drawn.

    Args:
        learner: the module, wrapped so that it computes one gradient per image.
        optimizer: from `private_optimizer`.
        parts: images [B, 3, H, W] and labels [B] in parts that fit into memory; one empty part for
            none.

    Returns:
        The mean loss of each part that is not empty.
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
                empty = parameter.new_zeros(0, *parameter.shape)
                parameter.grad_sample = empty  # type: ignore[attr-defined]
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
    """Train `module` within a privacy budget and write weights and history to `folder`.

    The weights are the exponential moving average over the steps, which costs no privacy. If the
    weights exist already, they are loaded. A training that was killed starts again at its first
    step and repeats the same steps, since every random number follows from (seed, step). Two half
    trainings with different noise would spend more of the budget.

    Args:
        module: the network to train, on its device; its weights are changed in place.
        lesions: one image per lesion.
        settings: sampling rate, steps, clipping and so on.
        folder: where the files go.
        budget: the largest epsilon to spend. With `NO_BOUND` the same steps draw the same lesions,
            without clipping and without noise.
        seed: of the lesions drawn, the augmentation and the noise.
        augment: changes a batch of images; None for none.
        description: text that is stored in the metadata of the weights.

    Returns:
        The trained module, its guarantee and its history.

    Raises:
        InputError: there is no lesion, a lesion has two images, the budget is not positive, or
            `folder` holds the weights of another training.
    """
    ids = lesions.table["lesion_id"]
    if not len(lesions) or ids.isna().any() or ids.duplicated().any():
        raise InputError(
            "a private training needs one image of each lesion: see one_image_per_lesion"
        )
    guarantee = guarantee_of(settings, budget)
    record = json.dumps({**asdict(guarantee), "clip": settings.max_grad_norm, "seed": seed})
    if (folder / WEIGHTS).is_file():
        return _load_finished(module, folder, guarantee, record)
    step = PrivateStep(module, lesions, settings, guarantee, seed, augment)
    loop = TrainingLoop(
        TrainingState(module, step.average, step.optimizer),
        settings.steps,
        folder,
        {**(description or {}), "guarantee": record},
    )
    samples = (
        (number, poisson_sample(len(lesions), settings.sampling_rate, seed, number))
        for number in range(settings.steps)
    )
    history = loop.run(step, samples).astype({"drawn": int})
    step.close()
    return PrivateTraining(module.eval(), guarantee, history, loaded=False)


class PrivateStep:
    """One step of a private training: the drawn lesions' images, their clipped gradients, noise.

    With a guarantee without a bound, the step is an ordinary one: no gradient is clipped, no noise
    added.

    Attributes:
        average: the moving average of the module's weights, which the loop updates after every
            step.
        optimizer: Adam over the weights that are trained.

    Args:
        module: the module to train.
        lesions: the training images.
        settings: the profile's section `dp`.
        guarantee: the privacy guarantee; an infinite budget means no clipping and no noise.
        seed: of the noise, the augmentation and the module's random numbers.
        augment: changes a batch of images; None for no augmentation.
    """

    def __init__(
        self,
        module: TrainableModule,
        lesions: LesionSet,
        settings: DPSettings,
        guarantee: Guarantee,
        seed: int,
        augment: Augment | None,
    ) -> None:
        self.lesions, self.seed, self.augment = lesions, seed, augment
        self.micro_batch_size = settings.micro_batch_size
        self.device = next(module.parameters()).device
        module.train()
        self.average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, settings.learning_rate)
        self.noise_rng = torch.Generator(self.device)
        self._learner: GradSampleModule | None = None
        self._take: Callable[[Sequence[tuple[Tensor, Tensor]]], list[float]]
        if math.isfinite(guarantee.budget):
            self._learner = GradSampleModule(module)
            private = private_optimizer(
                self.optimizer, guarantee, settings.max_grad_norm, self.noise_rng
            )
            self._take = partial(private_step, self._learner, private)
        else:
            self._take = partial(_plain_step, module, self.optimizer, guarantee.expected_lesions)

    def __call__(self, step: int, index: np.ndarray) -> Reading:
        """Train on the lesions of `index`.

        Returns:
            A function that returns `drawn`, how many lesions these are, and their mean `loss`, NaN
            for none.
        """
        augment_rng = torch.Generator(self.device).manual_seed(derive_seed(self.seed, step, 1))
        self.noise_rng.manual_seed(derive_seed(self.seed, step, 2))
        torch.manual_seed(derive_seed(self.seed, step, 3))
        parts = []
        for rows in torch.from_numpy(index).split(self.micro_batch_size):
            images = to_unit_range(self.lesions.images[rows]).to(self.device)
            if self.augment and len(rows):
                images = self.augment(images, augment_rng)
            parts.append((images, self.lesions.labels[rows].to(self.device)))
        losses = self._take(parts)
        values = {"drawn": len(index), "loss": float(np.mean(losses)) if losses else math.nan}
        return lambda: values

    def close(self) -> None:
        """Take the hooks for gradients per image off the module."""
        if self._learner:
            self._learner.to_standard_module()


def _load_finished(
    module: TrainableModule, folder: Path, guarantee: Guarantee, record: str
) -> PrivateTraining:
    """The finished private training in `folder`, if it has this guarantee, clipping and seed."""
    tensors, metadata = read_weights(folder / WEIGHTS)
    if metadata.get("guarantee") != record:
        raise InputError(
            f"{folder / WEIGHTS} comes from another training: take another run, or delete its "
            "folder"
        )
    load_weights(module, tensors, folder / WEIGHTS)
    return PrivateTraining(module.eval(), guarantee, read_csv(folder / HISTORY), loaded=True)


def _plain_step(
    module: TrainableModule,
    optimizer: Optimizer,
    expected: float,
    parts: Sequence[tuple[Tensor, Tensor]],
) -> list[float]:
    """As `private_step`, without clipping and noise; `expected` lesions are one batch."""
    optimizer.zero_grad()
    losses = []
    for images, labels in parts:
        if len(images):
            loss = module(images, labels)["loss"]
            (loss * len(images) / expected).backward()
            losses.append(loss.item())
    optimizer.step()
    return losses
