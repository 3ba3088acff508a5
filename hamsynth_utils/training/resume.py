"""What a training needs to go on where it was stopped: models, optimizer, step and history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from ema_pytorch import EMA
from torch import Tensor, nn

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.weights import read_weights, write_weights


def save_state(
    path: Path, module: nn.Module, ema: EMA, optimizer: Any, step: int, rows: list[dict]
) -> None:
    """Write the state after `step` steps to `path`; rows: the history so far."""
    tensors = {f"model.{key}": value for key, value in module.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in state.items()
        }
    write_weights(path, tensors, {"step": str(step), "history": json.dumps(rows)})


def restore_state(
    path: Path, module: nn.Module, ema: EMA, optimizer: Any
) -> tuple[int, list[dict]]:
    """Load what `save_state` wrote into the models and the optimizer; returns its step and history.

    Raises InputError for a state of another model, as `load_weights` does.
    """
    tensors, metadata = read_weights(path)

    def under(prefix: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }

    load_weights(module, under("model."), path)
    ema.load_state_dict(under("ema."))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in under("optimizer.").items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(metadata["step"]), json.loads(metadata["history"])


def load_weights(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors that were read from `path`; raises InputError naming it if they are another model's."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not fit this model: {str(error).splitlines()[-1].strip()} "
            "It comes from other settings or another version: take another run name, or delete its folder"
        ) from error
