import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.privacy.memorization import (
    Neighbours,
    assign_cells,
    authenticity,
    data_copying,
    neighbour_ratio,
    neighbours,
)

TRAIN, HELDOUT = 600, 400


def points(n: int, seed: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * 3 + 100


def copies(share: float, n: int = 400, noise: float = 0.05) -> np.ndarray:
    """Unseen points, a share of which are replaced by training points with a little noise."""
    rng, made = np.random.default_rng(9), points(n, 3)
    many = round(share * n)
    made[:many] = points(TRAIN, 0)[rng.integers(TRAIN, size=many)] + rng.normal(0, noise, (many, 6))
    return made


def near(queries: np.ndarray, photos: int = 1) -> Neighbours:
    return neighbours(queries, points(TRAIN, 0), np.arange(TRAIN) // photos)


def test_neighbours_pass_over_the_same_lesion():
    train, queries, lesions = points(60, 0), points(25, 1), np.repeat(np.arange(20), 3)
    found = neighbours(queries, train, lesions)
    to_train, among = cdist(queries, train), cdist(train, train)
    first = to_train.argmin(1)
    np.testing.assert_array_equal(found.index, first)
    np.testing.assert_allclose(found.distance, to_train.min(1))
    other = lesions[None] != lesions[first][:, None]
    np.testing.assert_allclose(
        found.second_lesion_distance, np.where(other, to_train, np.inf).min(1)
    )
    np.testing.assert_allclose(
        found.train_neighbour_distance, np.where(other, among[first], np.inf).min(1)
    )
    both = found.at(np.arange(5)) + found.at(np.arange(25) >= 20)
    np.testing.assert_array_equal(both.index, first[[*range(5), *range(20, 25)]])


def test_a_second_photo_of_the_lesion_does_not_hide_a_copy():
    """Two photos nearly alike: the copy of one is near both, and still not authentic and of a low ratio."""
    train = np.repeat(points(100, 0), 2, axis=0) + np.random.default_rng(1).normal(
        0, 0.01, (200, 6)
    )
    found = neighbours(train[::4] + 0.03, train, np.repeat(np.arange(100), 2))
    assert authenticity(found, 100, 0)["value"] == 0
    assert neighbour_ratio(found, 100, 0)["value"] < 0.05
    alone = neighbours(train[::4] + 0.03, train, np.arange(200))
    assert authenticity(alone, 100, 0)["value"] > 0.9


def test_authenticity_and_ratio_by_hand():
    train = np.array([[0.0], [1.0], [10.0], [14.0]])
    found = neighbours(np.array([[0.4], [11.0], [30.0]]), train, ["a", "b", "c", "d"])
    np.testing.assert_allclose(found.distance, [0.4, 1, 16])
    np.testing.assert_allclose(found.train_neighbour_distance, [1, 4, 4])
    np.testing.assert_allclose(found.second_lesion_distance, [0.6, 3, 20])
    assert authenticity(found, 100, 0)["value"] == pytest.approx(1 / 3)
    assert neighbour_ratio(found, 100, 0)["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("measure", [authenticity, neighbour_ratio])
def test_copies_lower_the_measure_and_unseen_points_do_not(measure):
    unseen = measure(near(points(HELDOUT, 1)), 300, 0)
    assert measure(near(copies(0.3)), 300, 0)["high"] < unseen["low"]
    again = [measure(near(points(400, seed)), 300, 0) for seed in range(20, 28)]
    assert np.mean([each["low"] <= unseen["value"] <= each["high"] for each in again]) >= 0.7
    assert measure(near(copies(1.0, noise=1e-6)), 300, 0)["value"] < 0.001
    one = again[0]
    assert one["low"] <= one["value"] <= one["high"] and one["n"] == 400


def test_images_near_one_lesion_widen_the_interval():
    """Twenty clusters of twenty images, each cluster near one lesion and authentic or not as a whole."""
    lesion = np.repeat(np.arange(20), 20)
    distance = np.repeat(np.where(np.arange(20) % 2, 2.0, 0.5), 20)
    one = np.ones(400)
    together = authenticity(Neighbours(distance, lesion, lesion, one, one), 400, 0)
    apart = authenticity(Neighbours(distance, lesion, np.arange(400), one, one), 400, 0)
    assert together["value"] == apart["value"] == 0.5
    assert together["high"] - together["low"] > 3 * (apart["high"] - apart["low"])
    assert (together["lesions"], apart["lesions"]) == (20, 400)


def c_t(synthetic: np.ndarray, seed: int = 0) -> dict[str, float]:
    train, heldout = points(TRAIN, 0), points(HELDOUT, 1)
    cells = assign_cells(train, heldout, synthetic, seed=seed)
    return data_copying(near(heldout), near(synthetic), *cells, np.arange(HELDOUT) // 2, 300, seed)


def test_c_t_is_the_weighted_mean_of_mann_whitneys_z():
    train, heldout, synthetic = points(TRAIN, 0), points(HELDOUT, 1), copies(0.2)
    cells = assign_cells(train, heldout, synthetic, seed=0)
    z, weight = [], []
    for cell in np.unique(cells[0]):
        h, g = near(heldout).distance[cells[0] == cell], near(synthetic).distance[cells[1] == cell]
        if min(len(h), len(g)) >= 20:
            u = mannwhitneyu(g, h).statistic
            z.append(
                (u - len(g) * len(h) / 2) / np.sqrt(len(g) * len(h) * (len(g) + len(h) + 1) / 12)
            )
            weight.append(len(h))
    assert len(z) > 2
    assert c_t(synthetic)["value"] == pytest.approx(np.average(z, weights=weight))


def test_c_t_tells_copies_and_distant_images_from_unseen_ones():
    unseen = [c_t(points(400, seed)) for seed in range(30, 38)]
    assert abs(np.mean([each["value"] for each in unseen])) < 1
    assert np.mean([each["low"] < 0 < each["high"] for each in unseen]) >= 0.7
    assert c_t(copies(0.7))["high"] < -3
    assert c_t(points(TRAIN, 0)[:400] + np.random.default_rng(2).normal(0, 5, (400, 6)))["low"] > 3
    assert (unseen[0]["n"], unseen[0]["lesions"]) == (400, 200)


def test_c_t_of_too_few_images_is_not_measured():
    found = c_t(points(15, 3))
    assert np.isnan([found[key] for key in ("value", "low", "high")]).all()
    assert found["reason"] == "no cell of the space holds 20 images of each kind"
    assert "reason" not in c_t(points(400, 3))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="one query's own lesion"):
        neighbours(points(5, 1), points(20, 0), ["one"] * 20)
    with pytest.raises(InputError, match="19 lesion ids for 20"):
        neighbours(points(5, 1), points(20, 0), range(19))
