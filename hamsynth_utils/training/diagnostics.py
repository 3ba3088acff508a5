"""Failures of a training, reported clearly: a loss that diverges, a lost game, or no memory."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import CHECKPOINT
from hamsynth_utils.training.module import TrainableModule

DIVERGENCE_FACTOR = 1000.0
"""A loss diverges at this many times the median of the last hundred losses (or 1, if that is
larger)."""


LOST_STEPS = 100
"""A loss that stays below its floor for so many steps stops the training."""


LOST_ROWS = 10
"""The least number of rows of the history that such steps must fill."""


class TrainingDiverged(RuntimeError):
    """A loss or a gradient became NaN, infinite or absurdly large, or a player always wins."""


class DivergenceMonitor:
    """Stops a training whose loss or gradient is no longer sane.

    Attributes:
        folder: where the training's checkpoint is.
        recent: the absolute losses of the last hundred steps.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recent: deque[float] = deque(maxlen=100)

    def check(
        self, step: int, values: dict[str, float], gradient_norm: float, scaled: bool
    ) -> None:
        """Look at the losses and the gradient of a step.

        Args:
            step: the step, for the message.
            values: the losses by name; `loss` is compared with the losses before it.
            gradient_norm: the length of the gradient.
            scaled: whether the loss is scaled for fp16; the scaler then skips infinite gradients
                itself.

        Raises:
            TrainingDiverged: a loss or the gradient is not finite, or the loss is absurdly large.
        """
        reason = self._reason(values, gradient_norm, scaled)
        if reason is None:
            self.recent.append(abs(values["loss"]))
            return
        raise TrainingDiverged(
            f"training diverged at step {step}: {reason}; {_last_good(self.folder)}. Lower "
            "learning_rate or gradient_clip in the profile and start again under another run name"
        )

    def _reason(self, values: dict[str, float], gradient_norm: float, scaled: bool) -> str | None:
        usual = max(1.0, median(self.recent)) if self.recent else math.inf
        not_finite = [name for name, value in values.items() if not math.isfinite(value)]
        if not_finite:
            return f"{', '.join(not_finite)} is not a finite number"
        if abs(values["loss"]) > DIVERGENCE_FACTOR * usual:
            return f"the loss is {values['loss']:.3g}, usually {usual:.3g}"
        if not math.isfinite(gradient_norm) and not scaled:
            return "the gradient is not finite"
        return None


def is_above_floors(floors: dict[str, float], rows: list[dict[str, float]], folder: Path) -> bool:
    """Whether each loss is above its floor; stops a training in which a loss has stayed below.

    A loss of a game that stays near 0 says that its player always wins. The other player then
    learns nothing, although every number is finite.

    Args:
        floors: the least sane value of some losses by name, see `TrainableModule.loss_floors`.
        rows: the history so far: `step` and the mean of each loss since the row before.
        folder: where the training's checkpoint is.

    Raises:
        TrainingDiverged: a loss was below its floor in all rows of the last `LOST_STEPS` steps, and
            in at least `LOST_ROWS` rows.
    """
    for name, floor in floors.items():
        sane = [i for i, row in enumerate(rows) if row[name] >= floor]
        n_low = len(rows) - 1 - sane[-1] if sane else len(rows)
        before = rows[sane[-1]]["step"] if sane else 0
        if n_low >= LOST_ROWS and rows[-1]["step"] - before >= LOST_STEPS:
            raise TrainingDiverged(
                f"training diverged at step {rows[-1]['step']}: {name} has been below {floor:g} "
                f"since step {before}, so one player always wins and the other learns nothing; "
                f"{_last_good(folder)}. Raise the penalty on the winner or lower learning_rate in "
                "the profile and start again under another run name"
            )
    return all(rows[-1][name] >= floor for name, floor in floors.items())


def _last_good(folder: Path) -> str:
    """Where the last checkpoint is, for a message."""
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        return f"the last good checkpoint is {checkpoint}"
    return "no checkpoint was written before"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on a GPU or on a CPU."""
    # The error of a CPU's allocator has no type of its own.
    return isinstance(
        error, torch.OutOfMemoryError | MemoryError
    ) or "can't allocate memory" in str(error)


def out_of_memory_error(module: TrainableModule, images: Tensor, labels: Tensor) -> InputError:
    """The error for a batch that does not fit into memory; it names a batch size that does.

    Args:
        module: the module in training.
        images: this process's shard of the batch, [N, ...].
        labels: int64 [N].
    """
    processes = module.shard.processes
    fits = _largest_fitting_batch(module, images, labels)
    advice = (
        f"a batch_size of {fits * processes} fits: set it in the profile, lower learning_rate with "
        "it, and take another run name"
        if fits
        else "not even a batch_size of 1 fits: lower width or image_size in the profile"
    )
    return InputError(f"out of memory with a batch_size of {len(images) * processes}; {advice}")


def _largest_fitting_batch(module: TrainableModule, images: Tensor, labels: Tensor) -> int:
    """Halve the batch until it fits; 0 if one image does not."""
    size = len(images) // 2
    while size:
        module.zero_grad(set_to_none=True)
        if images.is_cuda:
            torch.cuda.empty_cache()
        try:
            module(images[:size], labels[:size])["loss"].backward()
            return size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        size //= 2
    return 0
