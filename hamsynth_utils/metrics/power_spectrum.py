"""The power spectrum of images: how much detail they have at each scale."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.metrics.bootstrap import ClusterBootstrap, Interval


def radial_power(images: Tensor) -> np.ndarray:
    """Power of each image's grey values per frequency, averaged over all directions.

    A Hann window fades the border: the jump from one border to the opposite one would look like
        detail. The azimuthal average is that of Durall et al. (2020).

    Args:
        images: [N, 3, S, S], of any range and type.

    Returns:
        Power at 1, 2, ... S/2 cycles per image, float64 [N, S // 2], in squares of the images'
        unit.

    Raises:
        InputError: If the images have another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise InputError(f"images must be [N, 3, S, S], not {list(images.shape)}")
    size = images.shape[-1]
    window = torch.hann_window(size, periodic=False, dtype=torch.float64)
    window = window[:, None] * window
    grey = images.double().mean(1)
    grey = grey - (grey * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2(grey * window).abs().square() / (size**2 * window.square().sum())
    cycles = torch.fft.fftfreq(size, 1 / size)
    radius = torch.hypot(cycles[:, None], cycles).round().long().flatten()
    total = torch.zeros(len(images), int(radius.max()) + 1, dtype=torch.float64)
    total.index_add_(1, radius, power.flatten(1))
    return (total / radius.bincount())[:, 1 : size // 2 + 1].numpy()


def fine_power(images: Tensor) -> float:
    """Mean power in the upper half of the frequencies, in squares of the images' unit.

    Args:
        images: [N, 3, S, S], of any range and type.

    Raises:
        InputError: If the images have another shape.
    """
    power = radial_power(images)
    return float(power[:, power.shape[1] // 2 :].sum(1).mean())


def power_ratio(images: LesionSet, real: LesionSet, n_resamples: int, seed: int) -> pd.DataFrame:
    """Mean power of `images` over that of `real`, per frequency.

    A ratio of 1 means as much detail as real images have at that scale. A lower ratio is blur, a
    peak is a pattern.

    Args:
        images: The images to measure. One without a sibling is a lesion of its own.
        real: The real images to compare with, of the same size.
        n_resamples: Resamples of the lesions of both sets.
        seed: Of the resamples.

    Returns:
        One row per frequency: cycles (per image), value, low, high (95 %), n and n_real. The last
            row, of cycles "fine", is the upper half of the frequencies together.

    Raises:
        InputError: If the images are not square, or a lesion id is missing.
    """
    rng = np.random.default_rng(seed)
    power, real_power = (_mean_power(each, n_resamples, rng) for each in (images, real))
    ratio = power / real_power
    return pd.DataFrame(
        {
            "cycles": [*range(1, len(ratio.value)), "fine"],
            "value": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "n": len(images),
            "n_real": len(real),
        }
    )


def _mean_power(lesions: LesionSet, n_resamples: int, rng: np.random.Generator) -> Interval:
    """Mean power at each of F frequencies, then in their upper half together: [F + 1]."""
    power = radial_power(lesions.images)
    power = np.hstack([power, power[:, power.shape[1] // 2 :].sum(1, keepdims=True)])
    return ClusterBootstrap(lesions.table["lesion_id"], n_resamples, rng).mean(power)
