import numpy as np
import pytest
import torch
from prdc import compute_prdc
from pytorch_fid.fid_score import calculate_frechet_distance
from torchmetrics.image.kid import poly_mmd

from hamsynth_utils.core.errors import InputError, NotMeasured
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.metrics.features import extract, load_extractor
from hamsynth_utils.metrics.fidelity import (
    MEASURES,
    all_measures,
    distance_of_all,
    distance_with_interval,
    frechet_distance,
    kernel_distance,
    precision_recall,
    real_baseline,
    real_subset_pairs,
    standard_error,
    subset_pairs,
)

CLASSES = HAM10000.classes.names


def gaussian(n: int, d: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) + generator.normal(size=d)


@pytest.mark.parametrize(("n", "m"), [(300, 200), (300, 15), (15, 10)])
def test_equals_pytorch_fid(n, m):
    a, b = gaussian(n, 24, 0), gaussian(m, 24, 1)
    moments = [moment for x in (a, b) for moment in (x.mean(0), np.cov(x, rowvar=False))]
    assert frechet_distance(a, b) == pytest.approx(calculate_frechet_distance(*moments), rel=1e-4)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_equals_the_formula_for_gaussians_with_one_set_of_axes():
    """Of commuting covariances the distance is |mu|^2 + sum of (sigma_a - sigma_b)^2, exactly."""
    white = np.linalg.qr(gaussian(400, 6, 2) - gaussian(400, 6, 2).mean(0))[0]
    white = np.linalg.qr(white - white.mean(0))[0] * np.sqrt(399)
    turn = np.linalg.qr(gaussian(6, 6, 3))[0]
    sigma_a, sigma_b, shift = np.arange(1.0, 7), np.array([2.0, 2, 2, 0.5, 9, 0]), np.arange(6) / 3
    expected = (shift**2).sum() + ((sigma_a - sigma_b) ** 2).sum()
    assert frechet_distance(
        white * sigma_a @ turn, white * sigma_b @ turn + shift
    ) == pytest.approx(expected)


def test_is_zero_for_the_same_images_in_another_order():
    a = gaussian(40, 100, 4)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(400)


def clusters(counts: list[int], seed: int) -> np.ndarray:
    """Seven classes far apart in 16 dimensions."""
    generator = np.random.default_rng(seed)
    centres = 6 * np.eye(7, 16)
    return np.concatenate(
        [generator.normal(centre, 1, (n, 16)) for centre, n in zip(centres, counts, strict=True)]
    )


def test_a_dropped_class_and_noise_stand_out_from_the_floor():
    real, n = clusters([300] * 7, 0), 800
    base = real_baseline(real, np.repeat(np.arange(1050), 2), n, n_subsets=5, seed=0)
    good = distance_with_interval(real, clusters([300] * 7, 1), n, n_subsets=5, seed=0)
    dropped = distance_with_interval(real, clusters([350] * 6 + [0], 2), n, n_subsets=5, seed=0)
    noisy = clusters([300] * 7, 3) + np.random.default_rng(4).normal(0, 1, (2100, 16))
    spoilt = distance_with_interval(real, noisy, n, n_subsets=5, seed=0)
    assert base["low"] <= good["mean"] <= base["high"]
    assert dropped["low"] > base["high"] and spoilt["low"] > base["high"]
    assert good["n"] == 800 and good["n_subsets"] == 5


def test_the_interval_holds_the_next_draw_about_95_times_in_100():
    generator = np.random.default_rng(0)
    real, synthetic = generator.normal(size=(4000, 3)), generator.normal(0.2, 1, size=(4000, 3))
    intervals = [distance_with_interval(real, synthetic, 100, 5, seed) for seed in range(150)]
    inside = [
        one["low"]
        <= frechet_distance(
            generator.permutation(real)[:100], generator.permutation(synthetic)[:100]
        )
        <= one["high"]
        for one in intervals
    ]
    assert 0.9 <= np.mean(inside) < 1


def test_floor_keeps_lesions_on_one_side():
    """Photos of a lesion are the same point here: were lesions shared, the halves would be far too alike."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(60, 8)) * 10
    lesions = np.repeat(np.arange(60), 10)
    by_lesion = real_baseline(points[lesions], lesions, n_images=250, n_subsets=4, seed=0)["mean"]
    by_image = real_baseline(points[lesions], np.arange(600), n_images=250, n_subsets=4, seed=0)[
        "mean"
    ]
    assert by_lesion > 4 * by_image


def test_floor_falls_with_n_and_repeats_with_the_seed():
    real = np.random.default_rng(0).normal(size=(1000, 12))
    few, many = (real_baseline(real, np.arange(1000), n, 3, seed=1)["mean"] for n in (50, 400))
    assert few > 3 * many
    assert real_baseline(real, np.arange(1000), 50, 3, seed=1)["mean"] == few
    assert real_baseline(real, np.arange(1000), 50, 3, seed=2)["mean"] != few


def test_the_kernel_distance_is_torchmetrics():
    a, b = gaussian(60, 12, 0), gaussian(60, 12, 1)
    expected = float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b)))
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert kernel_distance(b, a[:40]) == pytest.approx(kernel_distance(a[:40], b))


def test_the_kernel_distance_has_no_bias():
    """Unlike Fréchet's: of one distribution it is 0 on average, however few the images."""
    generator = np.random.default_rng(0)
    values = [kernel_distance(*generator.normal(size=(2, 20, 6))) for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    one = distance_with_interval(*generator.normal(size=(2, 300, 6)), 50, 5, 0, kernel_distance)
    assert one["low"] < 0 < one["high"]
    real = generator.normal(size=(300, 6))
    assert abs(real_baseline(real, np.arange(300), 100, 5, 0, kernel_distance)["mean"]) < 0.2


@pytest.mark.parametrize("neighbours", [1, 5])
def test_precision_recall_density_coverage_are_their_authors(neighbours):
    real, synthetic = gaussian(120, 5, 0), gaussian(90, 5, 0) * 0.8 + 0.3
    expected = compute_prdc(real, synthetic, neighbours)
    assert precision_recall(real, synthetic, neighbours) == pytest.approx(expected)


def test_planted_faults_show_in_the_measure_that_is_there_for_them():
    """Other phantom lesions score as the floor; a dropped class costs recall and coverage, noise precision."""
    extractor = load_extractor("efficientnet_lite0")
    sets = [make_phantom(400, seed=seed) for seed in (0, 1)]
    real, other = (extract(lesions.images, extractor) for lesions in sets)
    kept = (sets[1].labels != CLASSES.index("nv")).numpy()
    copies = np.random.default_rng(0).choice(np.flatnonzero(kept), 400)
    grain = torch.randn(sets[1].images.shape, generator=torch.Generator().manual_seed(0)) * 30
    noisy = extract((sets[1].images + grain).clamp(0, 255).to(torch.uint8), extractor)
    good, dropped, spoilt = (precision_recall(real, x) for x in (other, other[copies], noisy))
    assert dropped["recall"] < good["recall"] - 0.2 and dropped["coverage"] < good["coverage"] - 0.2
    assert spoilt["precision"] < good["precision"] - 0.2
    assert good["precision"] > 0.7 and good["recall"] > 0.7
    assert kernel_distance(real, other) < 0.2 * min(
        kernel_distance(real, x) for x in (other[copies], noisy)
    )


def test_all_measures_are_the_single_ones_over_the_same_draws():
    real, synthetic = gaussian(300, 6, 0), gaussian(260, 6, 0) * 0.9 + 0.2
    table = all_measures(subset_pairs(real, synthetic, 100, 4, seed=3)).set_index("measure")
    assert (
        list(table.index) == list(MEASURES)
        and set(table["n"]) == {100}
        and set(table["n_subsets"]) == {4}
    )
    for name, measure in (("frechet", frechet_distance), ("kernel", kernel_distance)):
        one = distance_with_interval(real, synthetic, 100, 4, 3, measure)
        assert table.loc[name].to_dict() == pytest.approx(one)
    coverage = [
        precision_recall(a, b)["coverage"] for a, b in subset_pairs(real, synthetic, 100, 4, seed=3)
    ]
    assert table.loc["coverage", "mean"] == pytest.approx(np.mean(coverage))
    assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()
    assert table.loc[["precision", "recall", "coverage"], "high"].max() <= 1
    lesions = np.repeat(np.arange(150), 2)
    base = all_measures(real_subset_pairs(real, lesions, 100, 4, 3)).set_index("measure")["mean"]
    assert base["frechet"] == pytest.approx(real_baseline(real, lesions, 100, 4, 3)["mean"])
    assert base["precision"] == pytest.approx(base["recall"], abs=0.1)


def test_a_collapsed_set_costs_recall_and_coverage_but_not_precision():
    real, other = clusters([300] * 7, 0), clusters([300] * 7, 1)
    good, collapsed = (
        all_measures(subset_pairs(real, x, 400, 3, 0)).set_index("measure")["mean"]
        for x in (other, other[:10].repeat(50, 0))
    )
    assert collapsed["precision"] > good["precision"] - 0.1
    assert collapsed["recall"] < 0.05 and collapsed["coverage"] < 0.2 < 0.5 < good["coverage"]


def test_bad_input_is_refused():
    a = gaussian(20, 4, 0)
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        kernel_distance(a, a[:, :3])
    with pytest.raises(InputError, match="5 neighbours need more images than 20 real and 5"):
        precision_recall(a, a[:5])
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        frechet_distance(a, a[:, :3])
    with pytest.raises(InputError, match="at least two"):
        frechet_distance(a, a[:1])
    broken = a.copy()
    broken[7, 2] = np.nan
    with pytest.raises(InputError, match=r"second set.*row 7"):
        frechet_distance(a, broken)
    with pytest.raises(InputError, match="only 20 synthetic"):
        distance_with_interval(gaussian(40, 4, 1), a, n_images=30, n_subsets=2, seed=0)
    with pytest.raises(InputError, match="half of"):
        real_baseline(a, np.arange(20), n_images=11, n_subsets=2, seed=0)
    with pytest.raises(InputError, match="no lesion id"):
        real_baseline(a, [None, *range(19)], n_images=5, n_subsets=2, seed=0)
    with pytest.raises(InputError, match="n_subsets"):
        real_baseline(a, np.arange(20), n_images=5, n_subsets=1, seed=0)


def test_the_distance_of_all_images_is_the_frechet_distance_whatever_the_halves():
    a, b = gaussian(60, 8, 0), gaussian(41, 8, 1)
    for seed in (0, 1):
        found = distance_of_all(a, b, n_subsets=4, seed=seed)
        assert found["mean"] == frechet_distance(a, b)
        assert 0 <= found["low"] < found["mean"] < found["high"]
        assert (found["n"], found["n_subsets"]) == (41, 4)
    assert distance_of_all(a, b, 4, 0) == distance_of_all(a, b, 4, 0)
    kernel = distance_of_all(a, a[::-1], 4, 0, kernel_distance)  # which may lie below 0
    assert kernel["mean"] == kernel_distance(a, a[::-1]) and kernel["low"] < 0


@pytest.mark.parametrize(("n", "m", "shift", "n_subsets"), [(120, 80, 1.0, 5), (90, 90, 0.0, 10)])
def test_the_interval_of_a_distance_holds_for_other_draws(n, m, shift, n_subsets):
    """95 % are promised. An interval of the measure alone, without the other's chance, holds 90 %."""
    generator = np.random.default_rng(0)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return generator.normal(size=(n, 4)), 1.3 * generator.normal(size=(m, 4)) + shift

    times, held, errors, distances = 250, 0, [], []
    for seed in range(times):
        found = distance_of_all(*draw(), n_subsets, seed)
        distances.append(frechet_distance(*draw()))
        held += found["low"] <= distances[-1] <= found["high"]
        errors.append(standard_error(found["high"], found["mean"], n_subsets))
    assert 0.925 <= held / times <= 0.99
    # And the standard error is the standard deviation over draws. It is larger, if anything: the
    # distance of halves varies more where both sets are alike.
    assert 0.8 < np.sqrt(np.mean(np.square(errors))) / np.std(distances) < 1.4


def test_an_interval_from_halves_needs_four_images_of_each_kind():
    a = gaussian(20, 3, 0)
    for real, synthetic in ((a, a[:3]), (a[:3], a)):
        with pytest.raises(NotMeasured, match="at least four images of each kind"):
            distance_of_all(real, synthetic, 4, 0)
    assert distance_of_all(a, a[:4], 4, 0)["n"] == 4
    with pytest.raises(InputError, match="at least 2 subsets"):
        distance_of_all(a, a, 1, 0)
    with pytest.raises(InputError, match="use one extractor for both"):
        distance_of_all(a, a[:, :2], 4, 0)
