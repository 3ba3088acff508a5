"""The state of a training: what it must keep on disk to go on after it was stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.training.module import TrainableModule


@dataclass
class TrainingState:
    """A training after `step` optimizer steps.

    Attributes:
        module: the network that is trained.
        average: the exponential moving average of its weights.
        optimizer: the optimizer of the module's parameters.
        step: how many optimizer steps are done.
        rows: the history so far, one dictionary per logged window.
    """

    module: TrainableModule
    average: AveragedModel
    optimizer: Any
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the whole state to the safetensors file `path`."""
        tensors = {f"model.{key}": value for key, value in self.module.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in state.items()
            }
        metadata = {"step": str(self.step), "history": json.dumps(self.rows)}
        write_weights(path, tensors, metadata)

    def restore(self, path: Path) -> None:
        """Load what `save` wrote into this state.

        Raises:
            InputError: the file is damaged, or holds the state of another model.
        """
        tensors, metadata = read_weights(path)
        load_weights(self.module, _under("model.", tensors), path)
        load_weights(self.average, _under("average.", tensors), path)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimizer.", tensors).items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.step, self.rows = int(metadata["step"]), json.loads(metadata["history"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def load_weights(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors into a module.

    Args:
        module: the module; it is changed.
        tensors: the tensors by name.
        path: the file of the tensors, for the message.

    Raises:
        InputError: the tensors belong to another model.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not fit this model: {str(error).splitlines()[-1].strip()} "
            "It comes from other settings or another version: take another run name, or delete its "
            "folder"
        ) from error
