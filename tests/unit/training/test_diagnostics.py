"""A game that one player always wins stops the training, and its last good weights stay."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.core.weights import read_weights
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.training.diagnostics import TrainingDiverged, is_above_floors
from hamsynth_utils.training.loop import train
from hamsynth_utils.training.module import TrainableModule

LESIONS = make_phantom(60, seed=0)


class Game(TrainableModule):
    """The loss of its player `discriminator` at each step is given."""

    loss_floors: ClassVar = {"discriminator": 0.05}

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.value, self.losses, self.calls = nn.Parameter(torch.tensor(0.0)), losses, 0

    def forward(self, images, labels):
        loss = torch.tensor(self.losses[self.calls])
        self.calls += 1
        return {"loss": (self.value - 1) ** 2, "discriminator": loss}


def play(losses: list[float], folder):
    settings = TrainingSettings(
        steps=len(losses),
        batch_size=4,
        learning_rate=0.01,
        precision="no",
        checkpoint_seconds=1e-9,
    )
    return train(Game(losses), LESIONS, settings, folder, seed=0, progress_bar=False)


def test_a_player_that_always_wins_stops_the_training_with_the_last_good_weights(tmp_path):
    with pytest.raises(
        TrainingDiverged,
        match=r"at step 140: discriminator has been below 0.05 since step 40.*"
        r"last good checkpoint is .*checkpoint\.safetensors",
    ):
        play([0.6] * 40 + [0.01] * 160, tmp_path)
    tensors, metadata = read_weights(tmp_path / "checkpoint.safetensors")
    assert metadata["step"] == "40"  # not later, when the game was lost
    assert 0 < float(tensors["model.value"]) < 1
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize(
    "losses",
    [
        [0.6] * 40 + [0.01] * 99 + [0.6] * 61,  # recovered in time
        ([0.01] * 80 + [0.6]) * 2,
        [0.01] * 90,  # too short to tell
    ],
)
def test_a_player_that_wins_for_a_while_is_left_to_play(tmp_path, losses):
    assert len(play(losses, tmp_path).history) == len(losses)


def test_few_rows_of_many_steps_are_not_enough_and_other_losses_have_no_floor(tmp_path):
    rows = [{"step": 1000 * (i + 1), "a": 0.01, "b": 0.0} for i in range(10)]
    assert not is_above_floors({"a": 0.05}, rows[:9], tmp_path)
    with pytest.raises(TrainingDiverged, match="since step 0, .*no checkpoint was written before"):
        is_above_floors({"a": 0.05}, rows, tmp_path)
    assert is_above_floors({}, rows, tmp_path)
