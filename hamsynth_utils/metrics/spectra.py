"""Power spectra: how much detail images have at each scale, beside real ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.data.lesions import LesionSet
from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics.intervals import lesion_codes, lesion_draws, percentile_interval


def radial_power(images: Tensor) -> np.ndarray:
    """Power of each image's grey values at 1, 2, ... S/2 cycles an image, the mean over all directions.

    images: [N, 3, S, S], of any range and type -> float64 [N, S // 2], in squares of their units. A Hann
    window fades the border, whose jump from one side to the other would look like detail. Azimuthal
    averaging as in Durall et al. 2020. Raises InputError for another shape.
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


def power_ratio(images: LesionSet, real: LesionSet, draws: int, seed: int) -> pd.DataFrame:
    """Mean power of `images` over that of `real`, a row a frequency: cycles, value, low, high, n, n_real.

    One at every frequency is as much detail as real images have at that scale; less is blur, a peak a
    pattern. The 95 % interval is over the lesions of both sets; an image without siblings is a lesion.
    The last row, of cycles "fine", is that of the upper half of the frequencies together.
    """
    generator = np.random.default_rng(seed)
    (value, drawn), (real_value, real_drawn) = (
        _means(lesions, draws, generator) for lesions in (images, real)
    )
    ratios = drawn / real_drawn
    ends = [percentile_interval(ratio) for ratio in ratios.T]
    cycles = [*range(1, len(value)), "fine"]
    return pd.DataFrame({
        "cycles": cycles, "value": value / real_value,
        "low": [low for low, _ in ends], "high": [high for _, high in ends],
        "n": len(images), "n_real": len(real),
    })  # fmt: skip


def _means(lesions: LesionSet, draws: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean power at each frequency and in the upper half, [F + 1], and of each draw, [draws, F + 1]."""
    power = radial_power(lesions.images)
    power = np.hstack([power, power[:, power.shape[1] // 2 :].sum(1, keepdims=True)])
    codes, count = lesion_codes(lesions.table["lesion_id"], len(lesions))
    sums = np.stack([np.bincount(codes, column) for column in power.T], axis=1)
    drawn = lesion_draws(count, draws, generator).astype(float)
    photos = drawn @ np.bincount(codes)
    return power.mean(0), drawn @ sums / photos[:, None]
