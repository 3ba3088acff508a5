"""An audit of the private training: does an attack ever learn more than the printed epsilon allows?

After Jagielski, Ullman and Oprea (2020): a tiny model is trained many times with one lesion more, the
canary, and as often without it. The attacker sees every noised gradient, as the accountant assumes,
and guesses whether the canary was there. The attack and its threshold are chosen on the first half of
the trainings. On the second half, Clopper-Pearson intervals give a lower bound on epsilon.

There are 10,000 trainings of two steps: 2,000 with the canary and 2,000 without it for the right code
and for half of the noise, and 2,000 with it for the wrong divisor. An audit that finds nothing shows nothing unless
it would have found a fault. Therefore two faults are planted: a divisor that counts the training set
(Opacus issues 571 and 819), and half of the noise.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import beta
from torch import nn

from hamsynth_utils.core.profile_sections import DPSettings
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet
from hamsynth_utils.training.dp_accounting import Guarantee, guarantee_of
from hamsynth_utils.training.dp_sgd import PrivateStep, poisson_sample
from hamsynth_utils.training.module import TrainableModule

pytestmark = pytest.mark.slow

TRAININGS = 2000
LESIONS, STEPS, SIDE = 3, 2, 4
SETTINGS = DPSettings(
    sampling_rate=0.5, steps=STEPS, delta=0.1, public_lesions=LESIONS, max_grad_norm=0.5
)
EPSILON = 1.0


class Linear(TrainableModule):
    """loss = w . x: its gradient is x whatever the weights are, so each step is as good as a first one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIDE * SIDE, 1, bias=False)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(images.flatten(1)).mean()}


def lesions(canary: bool) -> LesionSet:
    """Grey images, whose gradients are almost zero, and the canary: a white one, whose gradient is cut."""
    n = LESIONS + canary
    images = torch.full((n, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    images[LESIONS:] = 255
    columns = {"image_id": [f"I{i}" for i in range(n)], "lesion_id": [f"L{i}" for i in range(n)]}
    table = pd.DataFrame(columns).reindex(columns=list(COLUMNS)).assign(dx="akiec")
    return LesionSet(images, torch.zeros(n, dtype=torch.long), table, HAM10000.classes)


@cache
def released(canary: bool, guarantee: Guarantee) -> np.ndarray:
    """The noised gradients [trainings, steps, weights] of so many private trainings."""
    module, data, seed = Linear(), lesions(canary), int(canary)
    step = PrivateStep(module, data, SETTINGS, guarantee, seed, augment=None)
    views = np.empty((TRAININGS * STEPS, 3 * SIDE * SIDE))
    for number in range(len(views)):
        step(number, poisson_sample(len(data), SETTINGS.sampling_rate, seed, number))
        views[number] = module.layer.weight.grad[0]
    return views.reshape(TRAININGS, STEPS, -1)


def attacks(views: np.ndarray) -> np.ndarray:
    """Scores [attacks, trainings]: how far the sum leans to the canary, and how small or large the noise is."""
    signal = views.mean((1, 2))
    spread = views.std(2).mean(1)
    return np.stack([signal, spread, -spread])


def bound(inside: np.ndarray, outside: np.ndarray, threshold: float) -> float:
    """A lower bound on epsilon from scores of trainings with the canary and without, each at 97.5 %."""
    n, hits, alarms = len(inside), (inside >= threshold).sum(), (outside >= threshold).sum()
    fewest_hits = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    most_alarms = beta.ppf(0.975, alarms + 1, n - alarms) if alarms < n else 1.0
    gained = fewest_hits - SETTINGS.delta
    return float(np.log(gained / most_alarms)) if gained > 0 else -np.inf


def audited(with_canary: Guarantee, without: Guarantee) -> float:
    """The bound on the second half of the trainings, by the best attack on the first half."""
    inside, outside = attacks(released(True, with_canary)), attacks(released(False, without))
    half = TRAININGS // 2
    best, threshold = max(
        (
            (attack, threshold)
            for attack in range(len(inside))
            for threshold in np.quantile(outside[attack, :half], np.linspace(0.5, 0.999, 50))
        ),
        key=lambda choice: bound(inside[choice[0], :half], outside[choice[0], :half], choice[1]),
    )
    return bound(inside[best, half:], outside[best, half:], threshold)


def test_the_training_keeps_its_promise():
    promise = guarantee_of(SETTINGS, EPSILON)
    assert 0.9 * EPSILON < promise.epsilon <= EPSILON
    assert 0 < audited(promise, promise) < promise.epsilon


def test_the_audit_finds_a_divisor_that_counts_the_training_set():
    promise = guarantee_of(SETTINGS, EPSILON)
    assert audited(replace(promise, public_lesions=LESIONS + 1), promise) > EPSILON


def test_the_audit_finds_too_little_noise():
    promise = guarantee_of(SETTINGS, EPSILON)
    half = replace(promise, noise=promise.noise / 2)
    assert audited(half, half) > EPSILON
