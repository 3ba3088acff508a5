"""One training loop for every model: seeded, resumable, and stopped by a loss that diverges.

`train` is the entry point. `TrainingLoop` repeats steps, logs them and writes files; it knows
nothing about losses. `BatchStep` makes one optimizer step. The private training (`dp_sgd`) uses the
same loop with another step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path, read_csv
from hamsynth_utils.core.paths import CHECKPOINT, HISTORY, SNAPSHOTS, WEIGHTS
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.training.batches import Augment, ImageData, TrainingData, batch_indices
from hamsynth_utils.training.diagnostics import (
    DivergenceMonitor,
    is_above_floors,
    is_out_of_memory,
    out_of_memory_error,
)
from hamsynth_utils.training.module import BatchShard, TrainableModule
from hamsynth_utils.training.resume import TrainingState, load_weights

Reading = Callable[[], dict[str, float]]
"""Reads the numbers of a step, by name. On a GPU this waits until the step is computed."""


LOGGED_ROWS = 200
"""About how many rows the history of a training has."""


SNAPSHOT_FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
"""The fractions of a training after which the averaged weights are also kept.

A chapter shows with these snapshots what more training time buys.
"""


@dataclass(frozen=True)
class TrainingResult:
    """A trained module and how it was trained.

    Attributes:
        module: the module with its averaged weights, in evaluation mode.
        history: one row per logged window: step, seconds, and the mean of each loss in the window.
        origin: `trained now`, `loaded from an earlier training` or `loaded from the released
            checkpoint`.
        snapshots: the weight files at SNAPSHOT_FRACTIONS of the training and at its end, by step.
    """

    module: TrainableModule
    history: pd.DataFrame
    origin: str
    snapshots: dict[int, Path]

    @property
    def loaded(self) -> bool:
        """Whether the weights were loaded from disk instead of trained now."""
        return self.origin != "trained now"


def train(
    module: TrainableModule,
    data: LesionSet | TrainingData,
    settings: TrainingSettings,
    folder: Path,
    *,
    seed: int,
    augment: Augment | None = None,
    description: dict[str, str] | None = None,
    progress_bar: bool = True,
) -> TrainingResult:
    """Train `module` and write `weights.safetensors` and `history.csv` to `folder`.

    The weights are the exponential moving average over the steps. `snapshots/<step>.safetensors`
    holds the average at SNAPSHOT_FRACTIONS. If `weights.safetensors` exists, it is loaded and
    nothing is trained. If only `checkpoint.safetensors` exists, the training resumes from it. Every
    random number of a step follows from (seed, step), so a resumed training gives the same weights
    as an unbroken one.

    Args:
        module: the network to train; its weights are changed in place.
        data: images, which `augment` augments; or other training data that the module takes.
        settings: length, batch size, learning rate and so on.
        folder: where the files go.
        seed: of the order of the images, the augmentation and the noise.
        augment: changes a batch of images; None for none.
        description: text that is stored in the metadata of the weights.
        progress_bar: whether to show one.

    Returns:
        The trained module in evaluation mode, its history and its snapshots.

    Raises:
        InputError: the training set is empty, the batch does not divide among the processes or does
            not fit into memory, or a file in `folder` belongs to another model.
        TrainingDiverged: a loss or a gradient became NaN, infinite or absurdly large, or a loss
            stayed below its floor, see `TrainableModule.loss_floors`.
    """
    if (folder / WEIGHTS).is_file():
        return _load_finished(module, folder)
    source = ImageData(data, augment) if isinstance(data, LesionSet) else data
    if len(source.lesions) == 0:
        raise InputError("no images to train on")
    accelerator = _accelerator(resolve_precision(settings.precision))
    total = settings.total_steps(len(source.lesions))
    step = BatchStep(module, source, settings, accelerator, seed, total, folder)
    loop = TrainingLoop(
        TrainingState(module, step.average, step.optimizer),
        total,
        folder,
        {**(description or {}), "seed": str(seed)},
        log_every=max(1, total // LOGGED_ROWS),
        snapshot_steps={max(1, round(fraction * total)) for fraction in SNAPSHOT_FRACTIONS},
        checkpoint_seconds=settings.checkpoint_seconds,
        writes_files=accelerator.is_main_process,
    )
    start = loop.resume_or_start()
    indices = batch_indices(source.lesions, settings, seed, start, total)
    history = loop.run(step, indices, progress_bar)
    accelerator.wait_for_everyone()
    return TrainingResult(module.eval(), history, "trained now", _snapshots(folder, total))


@dataclass
class TrainingLoop:
    """Repeats the steps of a training, logs them, and writes checkpoints, snapshots and the result.

    Attributes:
        state: the module, its average, the optimizer, the step and the history so far.
        total: how many steps the training has.
        folder: where the files go.
        metadata: text that is stored with the weights.
        log_every: how many steps one row of the history summarises.
        snapshot_steps: after which steps the averaged weights are kept.
        checkpoint_seconds: how long to wait between two checkpoints.
        writes_files: whether this process writes files; of several, only the main one does.
    """

    state: TrainingState
    total: int
    folder: Path
    metadata: dict[str, str]
    log_every: int = 1
    snapshot_steps: set[int] = field(default_factory=set)
    checkpoint_seconds: float = math.inf
    writes_files: bool = True
    _window: list[dict[str, float]] = field(default_factory=list, init=False)
    _unread: list[Reading] = field(default_factory=list, init=False)

    def resume_or_start(self) -> int:
        """Load the checkpoint in `folder` if there is one.

        Returns:
            The step at which the training goes on; 0 for a new one.
        """
        if (self.folder / CHECKPOINT).is_file():
            self.state.restore(self.folder / CHECKPOINT)
        return self.state.step

    def run(
        self,
        take_step: Callable[[int, np.ndarray], Reading],
        indices: Iterable[tuple[int, np.ndarray]],
        progress_bar: bool = False,
    ) -> pd.DataFrame:
        """Take all steps, then write the averaged weights and the history.

        Args:
            take_step: (step, image indices) -> a function that reads the numbers to log; changes
                the module's weights. The numbers are read window by window, so that a GPU never
                waits for the next step.
            indices: step number and image indices of every step that is left.
            progress_bar: whether to show one.

        Returns:
            The history: step, seconds, and the mean of each logged number since the row before.
        """
        rows = self.state.rows
        self._started = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
        self._saved = time.monotonic()
        bar = tqdm(
            indices,
            initial=self.state.step,
            total=self.total,
            unit="step",
            disable=not progress_bar,
            mininterval=2.0,
        )
        for step, index in bar:
            self.state.module.progress = step / self.total
            self._unread.append(take_step(step, index))
            self.state.average.update_parameters(self.state.module)
            self.state.step = step + 1
            self._snapshot()
            self._log()
        return self._finish()

    def _read(self) -> None:
        """Read the numbers of the last steps: a training that diverged stops here."""
        self._window += [reading() for reading in self._unread]
        self._unread = []

    def _log(self) -> None:
        """End a window of steps with a row of the history and perhaps a checkpoint."""
        step = self.state.step
        if step % self.log_every and step != self.total:
            return
        self._read()
        means = {
            name: float(np.mean([each[name] for each in self._window])) for name in self._window[0]
        }
        seconds = time.monotonic() - self._started
        self.state.rows.append({"step": step, "seconds": seconds, **means})
        self._window = []
        sane = is_above_floors(self.state.module.loss_floors, self.state.rows, self.folder)
        due = time.monotonic() - self._saved > self.checkpoint_seconds
        if self.writes_files and sane and due:
            self.state.save(self.folder / CHECKPOINT)
            self._saved = time.monotonic()

    def _snapshot(self) -> None:
        """Keep the averaged weights if this is one of the `snapshot_steps`."""
        if self.writes_files and self.state.step in self.snapshot_steps:
            self._read()
            self._write_average(_snapshot_path(self.folder, self.state.step))

    def _finish(self) -> pd.DataFrame:
        """Give the module its averaged weights, write the result, and delete the checkpoint."""
        module, history = self.state.module, pd.DataFrame(self.state.rows)
        module.load_state_dict(self.state.average.module.state_dict())
        module.progress = 1.0
        if self.writes_files:
            with atomic_path(self.folder / HISTORY) as path:
                history.to_csv(path, index=False)
            self._write_average(self.folder / WEIGHTS)
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return history

    def _write_average(self, path: Path) -> None:
        metadata = {**self.metadata, "steps": str(self.state.step)}
        write_weights(path, self.state.average.module.state_dict(), metadata)


class BatchStep:
    """One optimizer step on one batch: seeds, images, learning rate, losses, gradients.

    Several processes train as one: each takes its shard of every batch, and gradients are averaged.

    Attributes:
        average: the moving average of the module's weights, which the loop updates after every
            step.
        optimizer: AdamW over the module's parameter groups.
    """

    def __init__(
        self,
        module: TrainableModule,
        data: TrainingData,
        settings: TrainingSettings,
        accelerator: Accelerator,
        seed: int,
        total: int,
        folder: Path,
    ) -> None:
        """Move the module to the device and prepare the optimizer.

        Args:
            module: the module to train.
            data: the images and the way to load a batch.
            settings: batch size, learning rate and the like.
            accelerator: distributes the work over devices and processes.
            seed: of the batches and of the module's random numbers.
            total: number of steps of the training.
            folder: the folder of the training, for messages.

        Raises:
            InputError: batch_size is not a multiple of the number of processes.
        """
        device, processes = accelerator.device, accelerator.num_processes
        if settings.compile:
            module.compile()
        if settings.batch_size % processes:
            raise InputError(
                f"batch_size ({settings.batch_size}) must be a multiple of the number of processes "
                f"({processes})"
            )
        self.module, self.settings, self.accelerator = module, settings, accelerator
        self.seed, self.total = seed, total
        self.monitor = DivergenceMonitor(folder)
        module.shard = BatchShard(accelerator.process_index, processes)
        torch.manual_seed(seed)
        module.to(device)
        module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = moving_average(module, settings.ema_decay)
        optimizer = torch.optim.AdamW(
            module.parameter_groups(settings.learning_rate),
            betas=module.betas,
            weight_decay=settings.weight_decay,
            fused=device.type == "cuda",
        )
        self.wrapped, self.optimizer = accelerator.prepare(module, optimizer)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.make_batch, self.labels = data.batch_fn(device), data.lesions.labels.to(device)

    def __call__(self, step: int, index: np.ndarray) -> Reading:
        """Train on the images of `index` [B].

        Returns:
            A function that returns the losses by name, averaged over all processes. It raises
            TrainingDiverged if a loss or a gradient became NaN, infinite or absurdly large.

        Raises:
            InputError: the batch does not fit into memory.
        """
        images, labels = self._batch(step, index)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, self.total, self.settings)
        losses = self._backward(images, labels)
        norm = self.accelerator.clip_grad_norm_(
            self.module.parameters(), self.settings.gradient_clip
        )
        self.optimizer.step()
        detached = torch.stack([loss.detach() for loss in losses.values()])
        means, scaled = self.accelerator.reduce(detached, "mean"), self.accelerator.scaler
        names = list(losses)

        def read() -> dict[str, float]:
            """The losses by name."""
            values = dict(zip(names, means.tolist(), strict=True))
            self.monitor.check(step, values, float(norm), scaled=scaled is not None)
            return values

        return read

    def _batch(self, step: int, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """This process's shard of the batch: inputs [B / processes, ...] and labels."""
        torch.manual_seed(derive_seed(self.seed, step))
        device = self.labels.device
        rng = torch.Generator(device).manual_seed(derive_seed(self.seed, step))
        rows = torch.from_numpy(index).to(device)
        images = self.module.shard.take(self.make_batch(rows, rng))
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, self.module.shard.take(self.labels[rows])

    def _backward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses and their gradients."""
        self.optimizer.zero_grad()
        try:
            losses = self.wrapped(images, labels)
            self.accelerator.backward(losses["loss"])
            return losses
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of `except`, which would hold on to the memory.
        raise out_of_memory_error(self.module, images, labels)


def moving_average(module: TrainableModule, decay: float) -> AveragedModel:
    """The exponential moving average of a module's weights and buffers, first equal to them.

    After n updates the average keeps min(decay, 1 - (1 + n)^(-2/3)) of itself: while it is young,
    it follows the weights quickly.

    Args:
        module: the module to average; it is copied.
        decay: the largest fraction of the average that one update keeps, in [0, 1).
    """

    def update(averages: PARAM_LIST, values: PARAM_LIST, n_averaged: Tensor | int) -> None:
        """Update the averages in place; `n_averaged` counts the updates before."""
        updates = torch.as_tensor(n_averaged, dtype=torch.float32, device="cpu")
        young = 1 - (1 + updates) ** (-2 / 3)
        get_ema_multi_avg_fn(young.clamp(max=decay).item())(averages, values, n_averaged)

    return AveragedModel(module, multi_avg_fn=update, use_buffers=True)


def _load_finished(module: TrainableModule, folder: Path) -> TrainingResult:
    """The finished training in `folder`."""
    tensors, metadata = read_weights(folder / WEIGHTS)
    load_weights(module, tensors, folder / WEIGHTS)
    history = read_csv(folder / HISTORY)
    source = "the released checkpoint" if "released" in metadata else "an earlier training"
    snapshots = _snapshots(folder, int(history["step"].iloc[-1]))
    return TrainingResult(module.eval(), history, f"loaded from {source}", snapshots)


def _accelerator(precision: str) -> Accelerator:
    """An Accelerator; Accelerate's state holds the precision of a process's first one."""
    if is_initialized() and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    # Not every step uses every parameter: a critic may begin later, a class may not be dropped.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(mixed_precision=precision, kwargs_handlers=[unused])


def resolve_precision(precision: str) -> str:
    """The precision to compute in: `no` (float32), `bf16` or `fp16`.

    Args:
        precision: one of these, or `auto`: bf16 where the device computes in it natively, else fp16
            on a GPU, else float32.
    """
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # On a CPU without bfloat16 instructions it is emulated, a hundred times slower than float32.
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no"


def mixed_precision(device: torch.device, precision: str = "auto") -> torch.autocast:
    """The context that computes without gradients as a training of this precision computes.

    On CPUs with bfloat16 instructions it makes sampling about twice as fast. Sampled images then
    differ by 0.2 grey levels of 256 on average, and by 3 at most (64 images each of GAN, VAE and
    diffusion).

    Args:
        device: where it computes.
        precision: as `resolve_precision` takes it.
    """
    name = resolve_precision(precision)
    dtype = torch.float16 if name == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=name != "no")


def learning_rate_factor(step: int, total: int, settings: TrainingSettings) -> float:
    """What the learning rate is multiplied by at a step, in [0, 1].

    The factor rises linearly during the warm-up. Then it follows `lr_schedule`, down to 0 at the
    end.

    Args:
        step: the step, from 0 to `total` - 1.
        total: how many steps the training has.
        settings: `warmup_fraction` and `lr_schedule`.
    """
    warmup = int(settings.warmup_fraction * total)
    if step < warmup:
        return (step + 1) / warmup
    fraction = (step - warmup) / max(1, total - warmup)
    if settings.lr_schedule == "none":
        return 1.0
    return (
        1.0 - fraction
        if settings.lr_schedule == "linear"
        else 0.5 * (1 + math.cos(math.pi * fraction))
    )


def _snapshot_path(folder: Path, step: int) -> Path:
    return folder / SNAPSHOTS / f"{step}.safetensors"


def _snapshots(folder: Path, total: int) -> dict[int, Path]:
    """The weight files of a finished training by step, the final weights last."""
    steps = sorted(int(path.stem) for path in (folder / SNAPSHOTS).glob("*.safetensors"))
    files = {step: _snapshot_path(folder, step) for step in steps if step < total}
    return files | {total: folder / WEIGHTS}


def derive_seed(*numbers: int) -> int:
    """One seed for torch, 62 bits, from several numbers such as a run's seed and the step."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(2))
