"""One training loop for every model: seeded, resumable, and stopped by a loss that is no longer sane."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from ema_pytorch import EMA
from tqdm import tqdm

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.training.batches import Augment, ImageData, TrainingData, batch_indices
from hamsynth_utils.training.diagnostics import (
    DivergenceMonitor,
    out_of_memory,
    out_of_memory_error,
)
from hamsynth_utils.training.module import BatchShard, TrainableModule
from hamsynth_utils.training.resume import load_weights, restore_state, save_state

LOGGED_ROWS = 200


SNAPSHOT_FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
"""How far a training is when its averaged weights are also kept, to show what more time buys."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained module and how it got there.

    history: one row a logged window: step, seconds, and the mean of each loss since the row before.
    origin: `trained now`, `loaded from an earlier training` or `loaded from the released checkpoint`.
    snapshots: the weights' files at MOMENTS of the training and at its end, by step.
    """

    module: TrainableModule
    history: pd.DataFrame
    origin: str
    snapshots: dict[int, Path]

    @property
    def loaded(self) -> bool:
        """Whether the weights were found on disk rather than trained now."""
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
    """Train `module` and leave `weights.safetensors` and `history.csv` in `folder`.

    The weights are the exponential moving average; `moments/<step>.safetensors` has it at MOMENTS. If the
    weights are there already they are loaded instead; if only `checkpoint.safetensors` is, training goes on
    from it. Every random draw of a step comes from (seed, step), so that a resumed training repeats what an
    unbroken one would have done.

    data: images, augmented by `augment`; or a source of anything else that the module understands.
    description: text stored in the weights' metadata.
    Raises InputError for an empty training set, TrainingDiverged for a loss that is NaN or explodes.
    """
    weights, checkpoint = folder / "weights.safetensors", folder / "checkpoint.safetensors"
    if weights.is_file():
        tensors, metadata = read_weights(weights)
        load_weights(module, tensors, weights)
        history = pd.read_csv(folder / "history.csv")
        source = "the released checkpoint" if "released" in metadata else "an earlier training"
        return TrainingResult(
            module.eval(),
            history,
            f"loaded from {source}",
            _moments(folder, int(history["step"].iloc[-1])),
        )
    examples: TrainingData = ImageData(data, augment) if isinstance(data, LesionSet) else data
    lesions = examples.lesions
    if len(lesions) == 0:
        raise InputError("no images to train on")

    accelerator = _accelerator(resolve_precision(settings.precision))
    device, processes = accelerator.device, accelerator.num_processes
    if settings.batch_size % processes:
        raise InputError(
            f"batch_size ({settings.batch_size}) must be a multiple of the number of processes ({processes})"
        )
    module.share = BatchShard(accelerator.process_index, processes)
    torch.manual_seed(seed)
    module.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        module.parameter_groups(settings.learning_rate),
        betas=module.betas,
        weight_decay=settings.weight_decay,
        fused=device.type == "cuda",
    )
    ema = EMA(
        module,
        beta=settings.ema_decay,
        update_after_step=0,
        update_every=1,
        include_online_model=False,
    )
    wrapped, optimizer = accelerator.prepare(module, optimizer)
    base_rates = [group["lr"] for group in optimizer.param_groups]

    total = settings.total_steps(len(lesions))
    start, seconds_before = 0, 0.0
    rows: list[dict[str, float]] = []
    if checkpoint.is_file():
        start, rows = restore_state(checkpoint, module, ema, optimizer)
        seconds_before = rows[-1]["seconds"] if rows else 0.0
    batch_of, labels = examples.on(device), lesions.labels.to(device)
    batches = batch_indices(lesions, settings, seed, start, total)
    watch = DivergenceMonitor(folder)
    window: list[dict[str, float]] = []
    every = max(1, total // LOGGED_ROWS)
    moment_steps = {max(1, round(share * total)) for share in SNAPSHOT_FRACTIONS}
    description = {**(description or {}), "seed": str(seed)}
    began = saved = time.monotonic()

    for step, index in tqdm(
        batches, initial=start, total=total, unit="step", disable=not progress_bar, mininterval=2.0
    ):
        torch.manual_seed(derive_seed(seed, step))
        picked = torch.from_numpy(index).to(device)
        batch = module.share.of(
            batch_of(picked, torch.Generator(device).manual_seed(derive_seed(seed, step)))
        )
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        module.progress = step / total
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, total, settings)
        classes = module.share.of(labels[picked])
        optimizer.zero_grad()
        try:
            losses = wrapped(batch, classes)
            accelerator.backward(losses["loss"])
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            losses = {}
        if not losses:  # outside of `except`, which would hold on to the memory
            raise out_of_memory_error(module, batch, classes)
        norm = accelerator.clip_grad_norm_(module.parameters(), settings.gradient_clip)
        everyone = accelerator.reduce(torch.stack([v.detach() for v in losses.values()]), "mean")
        values = dict(zip(losses, everyone.tolist(), strict=True))
        watch.check(step, values, float(norm), scaled=accelerator.scaler is not None)
        optimizer.step()
        ema.update()

        window.append(values)
        if (step + 1) % every == 0 or step + 1 == total:
            means = {name: float(np.mean([entry[name] for entry in window])) for name in values}
            rows.append(
                {"step": step + 1, "seconds": seconds_before + time.monotonic() - began, **means}
            )
            window = []
            if (
                time.monotonic() - saved > settings.checkpoint_seconds
                and accelerator.is_main_process
            ):
                save_state(checkpoint, module, ema, optimizer, step + 1, rows)
                saved = time.monotonic()
        if step + 1 in moment_steps and accelerator.is_main_process:
            write_weights(
                _moment(folder, step + 1),
                ema.ema_model.state_dict(),
                {**description, "steps": str(step + 1)},
            )

    history = pd.DataFrame(rows)
    module.load_state_dict(ema.ema_model.state_dict())
    module.progress = 1.0
    if accelerator.is_main_process:
        with atomic_path(folder / "history.csv") as path:
            history.to_csv(path, index=False)
        write_weights(weights, module.state_dict(), {**description, "steps": str(total)})
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return TrainingResult(module.eval(), history, "trained now", _moments(folder, total))


def _accelerator(precision: str) -> Accelerator:
    """Accelerate holds a process to the precision of its first training, until that state is reset."""
    if is_initialized() and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


def resolve_precision(precision: str) -> str:
    """`auto` -> bf16 where the device computes in it natively, else fp16 on a GPU, else float32 (`no`)."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # On a CPU without bfloat16 instructions it is emulated, a hundred times slower than float32.
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no"


def learning_rate_factor(step: int, total: int, settings: TrainingSettings) -> float:
    """The share of the learning rate at a step: linear warm-up, then the profile's decay down to 0."""
    warmup = int(settings.warmup_fraction * total)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if settings.lr_schedule == "none":
        return 1.0
    return 1.0 - done if settings.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def _moment(folder: Path, step: int) -> Path:
    return folder / "moments" / f"{step}.safetensors"


def _moments(folder: Path, total: int) -> dict[int, Path]:
    steps = sorted(int(path.stem) for path in (folder / "moments").glob("*.safetensors"))
    return {step: _moment(folder, step) for step in steps if step < total} | {
        total: folder / "weights.safetensors"
    }


def derive_seed(*numbers: int) -> int:
    """One seed for torch from several numbers, as of a run and its step."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(2))
