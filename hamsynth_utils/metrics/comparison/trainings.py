"""Generators compared over their trainings: differences paired by generator seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from hamsynth_utils.core.errors import InputError, NotMeasured


def paired_difference(
    generator: Mapping[int, float], reference: Mapping[int, float]
) -> dict[str, float]:
    """The mean difference of two generators over their trainings, paired by generator seed.

    Generators of one seed share an autoencoder. What it adds to both values of a seed cancels in
    their difference. A seed that only one of the two generators has is left out.

    Args:
        generator: A measure of one generator by generator seed.
        reference: The same measure of the generator that it is compared with.

    Returns:
        These values by name.

        - value: The mean over K seeds of generator minus reference, in the measure's unit.
        - low, high: The 95 % interval of this mean over trainings: Student's t with K - 1 degrees
          of freedom, which takes the differences for draws from a normal distribution.
        - seeds: K.
        - same_order: In how many of the K seeds the difference has the sign of the mean.

    Raises:
        NotMeasured: If both generators have fewer than two seeds in common.
        InputError: If a value is not finite.
    """
    differences = _differences(generator, reference)
    if len(differences) < 2:
        raise NotMeasured("needs two trainings of both")
    value, half = float(differences.mean()), _half_of_mean(differences)
    return {
        "value": value,
        "low": value - half,
        "high": value + half,
        "seeds": len(differences),
        "same_order": int((differences * value > 0).sum()),
    }


def distance_difference(
    generator: Mapping[int, Mapping[str, float]], reference: Mapping[int, Mapping[str, float]]
) -> dict[str, float]:
    """The mean difference of two generators' distances, with the chance of images and of training.

    The half-width for the images is that of one seed, on average over the seeds: the upper
    half-widths of both distances, added in squares. It does not become smaller with more seeds,
    because all trainings are compared with the same real images. With two seeds or more, the
    half-width of `paired_difference` is added in squares. The distances of two seeds also differ
    by the chance of their images, so that this part is counted twice rather than left out.

    Args:
        generator: The distance of one generator by generator seed: at least `mean` and `high`, as
            `fidelity.distance_with_interval` gives them.
        reference: The same of the generator that it is compared with.

    Returns:
        value (the mean over K seeds of generator minus reference), low, high (95 %) and seeds (K),
        in the unit of the distance.

    Raises:
        NotMeasured: If the generators have no seed in common.
        InputError: If a value is not finite.
    """
    both = (generator, reference)
    differences = _differences(
        *({seed: row["mean"] for seed, row in rows.items()} for rows in both)
    )
    if not len(differences):
        raise NotMeasured("needs a training of both with one seed")
    halves = np.array(
        [[rows[seed]["high"] - rows[seed]["mean"] for seed in _common(*both)] for rows in both]
    )  # [2, K]
    images = np.hypot(*halves).mean()
    trainings = _half_of_mean(differences) if len(differences) > 1 else 0.0
    value, half = float(differences.mean()), float(np.hypot(images, trainings))
    return {"value": value, "low": value - half, "high": value + half, "seeds": len(differences)}


def _common(generator: Mapping[int, Any], reference: Mapping[int, Any]) -> list[int]:
    return sorted(generator.keys() & reference.keys())


def _differences(generator: Mapping[int, float], reference: Mapping[int, float]) -> np.ndarray:
    """Generator minus reference of each seed that both have, [K]."""
    seeds = _common(generator, reference)
    differences = np.array([generator[seed] - reference[seed] for seed in seeds], dtype=float)
    bad = [seeds[row] for row in np.flatnonzero(~np.isfinite(differences))]
    if bad:
        raise InputError(f"the values of seed(s) {bad} are not finite: leave these trainings out")
    return differences


def _half_of_mean(differences: np.ndarray) -> float:
    """Half the width of the 95 % interval (Student) of the mean of K >= 2 differences."""
    factor = stats.t.ppf(0.975, len(differences) - 1)
    return float(factor * differences.std(ddof=1) / np.sqrt(len(differences)))
