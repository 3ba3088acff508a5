"""What can go wrong in a training, said clearly: a loss that is no longer sane, or too little memory."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.training.module import TrainableModule

DIVERGENCE_FACTOR = 1000.0
"""A loss this many times the median of the last hundred (or of 1, if that is larger) has exploded."""


class TrainingDiverged(RuntimeError):
    """The loss or a gradient became NaN, infinite or absurdly large; the last good checkpoint is kept."""


class DivergenceMonitor:
    """Raises TrainingDiverged at a loss or gradient that says so; `folder` is where checkpoints lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recent: deque[float] = deque(maxlen=100)

    def check(
        self, step: int, values: dict[str, float], gradient_norm: float, scaled: bool
    ) -> None:
        usual = max(1.0, median(self.recent)) if self.recent else math.inf
        reason = None
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            reason = f"{', '.join(bad)} is not a finite number"
        elif abs(values["loss"]) > DIVERGENCE_FACTOR * usual:
            reason = f"the loss is {values['loss']:.3g}, usually {usual:.3g}"
        elif not math.isfinite(gradient_norm) and not scaled:
            reason = "the gradient is not finite"
        if reason:
            kept = self.folder / "checkpoint.safetensors"
            state = (
                f"the last good checkpoint is {kept}"
                if kept.is_file()
                else "no checkpoint was written before"
            )
            raise TrainingDiverged(
                f"training diverged at step {step}: {reason}; {state}. "
                "Lower learning_rate or gradient_clip in the profile and start again under another run name"
            )
        self.recent.append(abs(values["loss"]))


def out_of_memory(error: Exception) -> bool:
    """Whether an error of torch's means that."""
    # What a CPU's allocator raises has no type of its own.
    return isinstance(
        error, torch.OutOfMemoryError | MemoryError
    ) or "can't allocate memory" in str(error)


def out_of_memory_error(module: TrainableModule, images: Tensor, labels: Tensor) -> InputError:
    """What to say of a batch that does not fit into memory: which one does, found by trying."""
    tried, processes = len(images), module.share.processes
    fits = tried // 2
    while fits:
        module.zero_grad(set_to_none=True)
        if images.is_cuda:
            torch.cuda.empty_cache()
        try:
            module(images[:fits], labels[:fits])["loss"].backward()
            break
        except Exception as error:
            if not out_of_memory(error):
                raise
            fits //= 2
    advice = (
        f"a batch_size of {fits * processes} fits: set it in the profile, lower learning_rate with it, and "
        "take another run name"
        if fits
        else "not even a batch_size of 1 fits: lower width or image_size in the profile"
    )
    return InputError(f"out of memory with a batch_size of {tried * processes}; {advice}")
