"""Power at each scale: against SciPy, against waves whose frequency is known, and with planted faults."""

import numpy as np
import pytest
import torch
from scipy import fft
from torch.nn import functional as F

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.metrics.power_spectrum import fine_power, power_ratio, radial_power


@pytest.fixture(scope="module")
def phantom() -> LesionSet:
    return make_phantom(400, seed=3)


def changed(lesions: LesionSet, images: torch.Tensor) -> LesionSet:
    return LesionSet(
        images.round().clamp(0, 255).byte(), lesions.labels, lesions.table, lesions.classes
    )


@pytest.mark.parametrize("cycles", [3, 11, 27])
@pytest.mark.parametrize("across", [2, 3])
def test_wave_has_its_power_at_its_frequency(cycles, across):
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(64) / 64)
    images = (wave[:, None] if across == 2 else wave).expand(1, 3, 64, 64)
    power = radial_power(images)[0]
    assert power.argmax() + 1 == cycles
    # The window spreads it to the neighbours, and no farther.
    assert power[max(cycles - 3, 0) : cycles + 2].sum() > 0.999 * power.sum()


def test_power_is_what_scipy_finds():
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    window = np.hanning(32)[:, None] * np.hanning(32)
    grey = images.double().mean(1).numpy()
    grey = grey - (grey * window).sum((1, 2), keepdims=True) / window.sum()
    power = np.abs(fft.fft2(grey * window)) ** 2 / (32**2 * (window**2).sum())
    f = fft.fftfreq(32, 1 / 32)
    radius = np.round(np.hypot(f[:, None], f))
    expected = [[one[radius == r].mean() for r in range(1, 17)] for one in power]
    np.testing.assert_allclose(radial_power(images), expected, rtol=1e-10)


def test_white_noise_has_the_same_power_at_every_frequency():
    noise = torch.randn(600, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    power = radial_power(noise)
    # The mean of three channels has a third of the variance, spread over all 64 x 64 waves.
    np.testing.assert_allclose(power.mean(0)[1:] * 64**2, 1 / 3, rtol=0.06)


def test_real_against_real_is_about_one(phantom):
    lesions = phantom.table["lesion_id"].unique()
    half = phantom.table["lesion_id"].isin(lesions[::2]).to_numpy()
    ratio = power_ratio(
        phantom.subset(np.flatnonzero(half)), phantom.subset(np.flatnonzero(~half)), 300, 0
    )
    assert ((ratio["low"] < 1) & (ratio["high"] > 1)).mean() > 0.8
    assert (ratio["low"] <= ratio["value"]).all() and (ratio["value"] <= ratio["high"]).all()


def test_blur_loses_the_fine_scales_and_keeps_the_coarse_ones(phantom):
    blurred = F.interpolate(
        F.avg_pool2d(phantom.images.float(), 4), scale_factor=4, mode="bilinear"
    )
    ratio = power_ratio(changed(phantom, blurred), phantom, 200, 0).set_index("cycles")
    assert ratio.loc[1, "value"] > 0.8 and ratio.loc["fine", "high"] < 0.3


def test_grid_shows_as_a_peak_at_its_frequency(phantom):
    grid = 12.0 * torch.cos(
        torch.pi * torch.arange(64) / 2
    )  # of a period of four pixels: 16 cycles
    ratio = power_ratio(changed(phantom, phantom.images.float() + grid), phantom, 200, 0)
    assert ratio.loc[ratio["cycles"].ne("fine"), "value"].astype(float).idxmax() + 1 == 16


def test_same_seed_same_intervals(phantom):
    assert power_ratio(phantom, phantom, 50, 4).equals(power_ratio(phantom, phantom, 50, 4))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 64, 32)])
def test_another_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"images must be \[N, 3, S, S\]"):
        radial_power(torch.zeros(shape))


def test_fine_power_is_that_of_the_upper_half_of_the_frequencies():
    def wave(cycles: int) -> torch.Tensor:
        return torch.cos(2 * torch.pi * cycles * torch.arange(64) / 64).expand(1, 3, 64, 64)

    coarse, fine = wave(10), wave(24)
    assert fine_power(fine) > 1000 * fine_power(coarse)
    # Of 32 frequencies the upper half are 17 to 32; at twice the contrast there is four times the power.
    assert fine_power(fine) == pytest.approx(radial_power(fine)[0, 16:].sum())
    assert fine_power(2 * fine) == pytest.approx(4 * fine_power(fine), rel=1e-4)
    both = torch.cat([coarse, fine])
    assert fine_power(both) == pytest.approx((fine_power(coarse) + fine_power(fine)) / 2)


def test_smooth_images_have_less_fine_power_in_bytes_as_in_floats(phantom):
    images = phantom.images[:40]
    smooth = F.avg_pool2d(images.float(), 3, 1, 1)
    assert fine_power(smooth) < 0.5 * fine_power(images)
    assert fine_power(images.float()) == pytest.approx(fine_power(images), rel=1e-6)
    with pytest.raises(InputError):
        fine_power(images[:, :, :32])
