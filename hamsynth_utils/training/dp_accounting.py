"""What a training with differential privacy promises: the accountant's sum over its steps, and its bound."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile_sections import DPSettings

NO_BOUND = math.inf
"""The epsilon of a training without noise and without cut gradients: it promises nothing."""


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy under adding or removing one lesion, and what it rests on.

    epsilon is what the accountant finds was spent, at most the budget that was asked for. noise is the
    standard deviation of the noise over the length that gradients are cut to.
    """

    budget: float
    epsilon: float
    delta: float
    noise: float
    sampling_rate: float
    steps: int
    lesions: int


def epsilon_spent(
    noise: float, sampling_rate: float, steps: int, delta: float, accountant: str = "rdp"
) -> float:
    """The epsilon that so many noisy steps spend at `delta`, an upper bound.

    accountant: Opacus' `rdp` (Renyi divergences, Mironov 2017 and 2019), or `prv`, which is tighter
    (Gopi et al. 2021).
    """
    book = create_accountant(mechanism=accountant)
    book.history = [(noise, sampling_rate, steps)]
    with suppress_opacus_warnings():
        return float(book.get_epsilon(delta=delta))


@cache
def guarantee_of(settings: DPSettings, lesions: int, budget: float) -> Guarantee:
    """The least noise with which a training on so many lesions stays within `budget`, and what it spends.

    Raises InputError for a budget that is not positive, or a delta with which a mechanism that publishes one
    lesion at random would be called private (1 / lesions or more).
    """
    if not budget > 0:
        raise InputError(f"a budget is a positive epsilon, not {budget}")
    if settings.delta * lesions >= 1:
        raise InputError(
            f"private.delta is {settings.delta:g} for {lesions} lesions: it must be well below one over "
            "their number, or giving one lesion away at random would count as private"
        )
    rate, steps, delta = settings.sampling_rate, settings.steps, settings.delta
    if math.isinf(budget):
        return Guarantee(budget, NO_BOUND, delta, 0.0, rate, steps, lesions)
    with suppress_opacus_warnings():
        noise = get_noise_multiplier(
            target_epsilon=budget,
            target_delta=delta,
            sample_rate=rate,
            steps=steps,
            accountant="rdp",
            epsilon_tolerance=0.01 * min(budget, 1.0),
        )
    return Guarantee(
        budget, epsilon_spent(noise, rate, steps, delta), delta, noise, rate, steps, lesions
    )


def max_attack_auroc(epsilon: float, delta: float) -> float:
    """The AUROC that no attack on one lesion exceeds, whatever it knows but the noise; 1 without a bound.

    The area under the largest ROC curve with TPR <= e^epsilon FPR + delta on both sides (Kairouz et al.
    2015): 1 - (1 - delta)^2 / (1 + e^epsilon).
    """
    return 1 - (1 - delta) ** 2 / (1 + math.exp(min(epsilon, 700.0)))


@contextmanager
def suppress_opacus_warnings() -> Iterator[None]:
    """Without the warnings that Opacus' searches and hooks give on their way, none of which is an error."""
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.filterwarnings("ignore", "Optimal order is the largest alpha")
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        yield
