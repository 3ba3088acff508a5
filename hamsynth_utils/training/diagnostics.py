"""Failures of a training, reported clearly: a loss that diverges, or too little memory."""

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


class TrainingDiverged(RuntimeError):
    """A loss or a gradient became NaN, infinite or absurdly large."""


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
        checkpoint = self.folder / CHECKPOINT
        state = (
            f"the last good checkpoint is {checkpoint}"
            if checkpoint.is_file()
            else "no checkpoint was written before"
        )
        raise TrainingDiverged(
            f"training diverged at step {step}: {reason}; {state}. Lower learning_rate or "
            "gradient_clip in the profile and start again under another run name"
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
