"""What a private training promises: the epsilon it spends, and a bound on every attack."""

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
"""The epsilon of a training without noise and without clipping: such a training promises
nothing."""


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy under adding or removing one lesion.

    Nothing here is counted in the training set. The training set has one lesion more or less than
    its neighbour, so that a number of lesions would itself be private.

    Attributes:
        budget: the largest epsilon that was allowed.
        epsilon: what the training spends according to the accountant, at most `budget`.
        delta: the probability with which the bound may fail.
        noise: the noise multiplier: the noise's standard deviation divided by the clipping length.
        sampling_rate: the probability with which each step draws a lesion.
        steps: how many steps the training has.
        public_lesions: about how many lesions it is trained on, from the profile.
    """

    budget: float
    epsilon: float
    delta: float
    noise: float
    sampling_rate: float
    steps: int
    public_lesions: int

    @property
    def expected_lesions(self) -> float:
        """How many lesions a step is expected to draw; the noised sum of a step is divided by it.

        If the divisor were `sampling_rate` times the size of the training set, one lesion more
        would scale the noise in every weight. The accountant does not count what this reveals
        (Opacus issues 571 and 819).
        """
        return self.sampling_rate * self.public_lesions


def epsilon_spent(
    noise: float, sampling_rate: float, steps: int, delta: float, accountant: str = "rdp"
) -> float:
    """An upper bound on the epsilon that DP-SGD spends.

    Args:
        noise: the noise multiplier.
        sampling_rate: the probability with which each step draws a lesion.
        steps: how many steps there are.
        delta: the probability with which the bound may fail.
        accountant: Opacus' `rdp` (Renyi divergences, Mironov 2017 and 2019), or `prv`, which is
            tighter (Gopi et al. 2021).
    """
    ledger = create_accountant(mechanism=accountant)
    ledger.history = [(noise, sampling_rate, steps)]
    with suppress_opacus_warnings():
        return float(ledger.get_epsilon(delta=delta))


@cache
def guarantee_of(settings: DPSettings, budget: float) -> Guarantee:
    """Find the smallest noise that keeps a training within a budget.

    Args:
        settings: sampling rate, steps, delta and public number of lesions.
        budget: the largest epsilon to spend; `NO_BOUND` for a training without noise.

    Raises:
        InputError: the budget is not positive.
    """
    if not budget > 0:
        raise InputError(f"a budget is a positive epsilon, not {budget}")
    rate, steps, delta = settings.sampling_rate, settings.steps, settings.delta
    lesions = settings.public_lesions
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
    """The AUROC that no attack on one lesion exceeds, whatever it knows except the noise.

    This is the area under the largest ROC curve with TPR <= e^epsilon FPR + delta, and the same
    with classes exchanged (Kairouz et al. 2015): 1 - (1 - delta)^2 / (1 + e^epsilon).

    Args:
        epsilon: of the guarantee; infinite for none.
        delta: of the guarantee.

    Returns:
        A number from 0.5 to 1; 1 without a bound.
    """
    return 1 - (1 - delta) ** 2 / (1 + math.exp(min(epsilon, 700.0)))


@contextmanager
def suppress_opacus_warnings() -> Iterator[None]:
    """Hide the warnings of Opacus' searches and hooks, none of which concerns the result."""
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.filterwarnings("ignore", "Optimal order is the largest alpha")
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        yield
