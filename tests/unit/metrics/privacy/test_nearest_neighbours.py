import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score, roc_curve

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.metrics.privacy.membership_inference import guess_members, membership_attack
from hamsynth_utils.metrics.privacy.nearest_neighbours import (
    Ids,
    near_duplicate_rate,
    nearest_aligned,
    nearest_distances,
)


def points(n: int, seed: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * 3 + 100


def test_nearest_distances_equal_all_pairs():
    queries, references = points(70, 0), points(50, 1)
    distances, index = nearest_distances(queries, references, batch_size=32)
    everything = cdist(queries, references)
    np.testing.assert_array_equal(index, everything.argmin(1))
    np.testing.assert_allclose(distances, everything.min(1))


def test_a_copy_has_distance_zero_and_names_its_original():
    references = points(200, 2, 64)
    distances, index = nearest_distances(
        references[[17, 3]].astype(np.float32), references.astype(np.float32)
    )
    assert list(distances) == [0, 0] and list(index) == [17, 3]


def check_features(
    train: np.ndarray,
    heldout: np.ndarray,
    synthetic: np.ndarray,
    heldout_lesions: Ids,
    n_resamples: int,
    seed: int,
) -> dict[str, float]:
    """The near-duplicate rate as chapter 10 measures it: from the distances to the training images."""
    distances = [nearest_distances(features, train)[0] for features in (heldout, synthetic)]
    return near_duplicate_rate(*distances, heldout_lesions, n_resamples, seed)


def check(synthetic: np.ndarray, draws: int = 300, seed: int = 0) -> dict[str, float]:
    return check_features(
        points(1000, 0), points(600, 1), synthetic, np.repeat(np.arange(300), 2), draws, seed
    )


def test_images_that_were_never_seen_are_not_caught():
    shares = [check(points(400, seed)) for seed in range(10, 16)]
    assert np.mean([result["value"] for result in shares]) == pytest.approx(0.01, abs=0.005)
    assert np.mean([result["low"] <= 0.01 <= result["high"] for result in shares]) >= 0.8


def test_copied_training_images_are_caught():
    synthetic = points(400, 3)
    synthetic[:60] = points(1000, 0)[100:160] + np.random.default_rng(4).normal(0, 0.05, (60, 6))
    result = check(synthetic)
    assert 0.14 < result["value"] < 0.18
    assert result["expected"] < result["low"] <= result["value"] <= result["high"]
    assert result["median_synthetic"] < result["median_heldout"]
    assert (result["n_heldout"], result["n_synthetic"]) == (600, 400)
    assert result["n_heldout_lesions"] == 300
    assert check(synthetic) == result


def test_share_and_threshold_by_hand():
    """Held-out distances 1 to 200: the first percentile is 2, and two of four synthetic ones are below it."""
    train = np.zeros((1, 1))
    result = check_features(
        train,
        np.arange(1.0, 201)[:, None],
        np.array([[0.0], [1.9], [2.0], [50.0]]),
        np.arange(200),
        200,
        0,
    )
    assert result["threshold"] == 2 and result["value"] == 0.5
    assert result["median_heldout"] == 100.5 and result["median_synthetic"] == 1.95


def test_photos_of_one_lesion_widen_the_interval():
    """Ten photos a lesion at one distance, in any order: the threshold hangs on few lesions."""
    generator = np.random.default_rng(0)
    lesions = generator.permutation(np.repeat(np.arange(100), 10))
    heldout, synthetic = generator.exponential(size=100)[lesions], generator.exponential(size=1000)

    def width(ids: np.ndarray) -> float:
        result = check_features(np.zeros((1, 1)), heldout[:, None], synthetic[:, None], ids, 400, 0)
        return result["high"] - result["low"]

    assert width(lesions) > 1.3 * width(np.arange(1000))


def test_bad_input_is_refused():
    good = points(10, 0)
    with pytest.raises(InputError, match="6 and references of 5"):
        nearest_distances(good, good[:, :5])
    with pytest.raises(InputError, match="at least one image"):
        nearest_distances(good, good[:0])
    with pytest.raises(InputError, match=r"not finite.*row 4"):
        nearest_distances(np.where(np.arange(10)[:, None] == 4, np.inf, good), good)
    with pytest.raises(InputError, match="no lesion id"):
        check_features(good, good, good, [None] * 10, 100, 0)
    with pytest.raises(InputError, match="9 lesion ids for 10"):
        check_features(good, good, good, range(9), 100, 0)


def attack(
    synthetic: np.ndarray, train: int = 900, heldout: int = 400, seed: int = 0
) -> dict[str, float]:
    """On lesions of two photos each, of one population."""
    return membership_attack(
        points(train, 0),
        points(heldout, 1),
        synthetic,
        [f"t{i // 2}" for i in range(train)],
        [f"h{i // 2}" for i in range(heldout)],
        300,
        seed,
    )


def test_a_generator_that_copies_its_training_images_gives_them_away():
    near = points(900, 0) + np.random.default_rng(5).normal(0, 0.01, (900, 6))
    result = attack(near)
    assert result["value"] > 0.99 and result["low"] > 0.98
    assert (result["n"], result["low"] <= result["value"] <= result["high"]) == (800, True)
    # A copy of every other training image: those rank first, the other half is a coin's toss.
    assert attack(near[::2])["value"] == pytest.approx(0.75, abs=0.05)
    assert attack(near) == result


def test_a_generator_that_never_saw_the_training_images_gives_nothing_away():
    results = [attack(points(500, seed), seed=seed) for seed in range(20, 40)]
    assert np.mean([result["value"] for result in results]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([result["low"] <= 0.5 <= result["high"] for result in results]) >= 0.8


def test_the_attack_is_the_auroc_of_the_nearest_distance():
    """With equal numbers on both sides nothing is drawn, and all pairs and scikit-learn give the same."""
    synthetic = np.concatenate([points(100, 7), points(300, 0)[:60]])
    distances = cdist(np.concatenate([points(300, 0), points(300, 1)]), synthetic).min(1)
    expected = roc_auc_score(np.arange(600) < 300, -distances)
    assert attack(synthetic, 300, 300)["value"] == pytest.approx(expected)
    assert 0.55 < expected < 0.65


def test_photos_of_one_lesion_widen_the_attacks_interval():
    def width(photos: int) -> float:
        """All photos of a lesion alike, so that they count as one."""
        train, heldout = (np.repeat(points(600 // photos, seed), photos, axis=0) for seed in (0, 1))
        ids = [np.repeat([f"{side}{i}" for i in range(600 // photos)], photos) for side in "th"]
        result = membership_attack(train, heldout, points(400, 2), *ids, 400, 0)
        return result["high"] - result["low"]

    assert width(10) > 2 * width(1)


def test_an_attack_on_bad_input_is_refused():
    good, ids = points(10, 0), [f"a{i}" for i in range(10)]
    with pytest.raises(InputError, match="2 lesions are both trained on and held out"):
        membership_attack(good, good, good, ids, [*ids[:2], *"cdefghij"], 100, 0)
    with pytest.raises(InputError, match="no lesion id"):
        membership_attack(good, good, good, ids, [None] * 10, 100, 0)
    with pytest.raises(InputError, match="6 and references of 5"):
        membership_attack(good, good, good[:, :5], ids, list("bcdefghijk"), 100, 0)


def pictures(n: int, seed: int, size: int = 32) -> np.ndarray:
    """Smooth random pictures uint8 [n, 3, size, size], no two alike, none like its own mirror image."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (n, 3, 4, 4))
    return np.kron(coarse, np.ones((size // 4, size // 4))).astype(np.uint8)


def test_a_planted_copy_is_found_in_pixels_however_it_is_turned():
    train = pictures(50, 0)
    turned = [
        np.rot90(np.flip(train[i], 2) if i % 2 else train[i], i // 2 % 4, (1, 2)) for i in range(8)
    ]
    distances, rows = nearest_aligned(np.stack(turned), train)
    assert list(rows) == list(range(8)) and distances.max() < 1e-9
    brighter = np.minimum(train[:8].astype(int) + 6, 255).astype(np.uint8)
    distances, rows = nearest_aligned(brighter, train)
    assert list(rows) == list(range(8)) and 4 < distances.max() < 6.001
    unseen, _ = nearest_aligned(pictures(40, 1), train)
    assert unseen.min() > 20


def test_aligned_distances_are_root_mean_squares_of_the_best_view():
    a, b = pictures(6, 2, 16), pictures(4, 3, 16)
    views = [np.rot90(side, turn, (2, 3)) for side in (a, np.flip(a, 3)) for turn in range(4)]
    everything = [
        cdist(v.reshape(6, -1).astype(float), b.reshape(4, -1).astype(float)) for v in views
    ]
    distances, rows = nearest_aligned(a, b)
    np.testing.assert_allclose(distances, np.min(everything, axis=(0, 2)) / np.sqrt(a[0].size))
    np.testing.assert_array_equal(rows, np.min(everything, axis=0).argmin(1))
    own = np.arange(4)
    np.testing.assert_array_less(0, nearest_aligned(b, b, lesion_codes=(own, own))[0])


def test_references_of_the_same_code_are_passed_over():
    queries, references = points(30, 0), points(40, 1)
    codes = np.arange(30) % 5, np.arange(40) % 5
    distances, rows = nearest_distances(queries, references, batch_size=7, lesion_codes=codes)
    allowed = np.where(codes[0][:, None] == codes[1], np.inf, cdist(queries, references))
    np.testing.assert_array_equal(rows, allowed.argmin(1))
    np.testing.assert_allclose(distances, allowed.min(1))
    with pytest.raises(InputError, match="30 and 39 codes"):
        nearest_distances(queries, references, lesion_codes=(codes[0], codes[1][:39]))
    with pytest.raises(InputError, match="nothing is left"):
        nearest_distances(queries, references, lesion_codes=(np.zeros(30), np.zeros(40)))


def test_few_that_are_found_for_sure_show_in_the_rate_and_hardly_in_the_auroc():
    rng = np.random.default_rng(0)
    members, others = rng.normal(size=1000), rng.normal(size=1000)
    members[:50] = 10
    ids = [f"m{i}" for i in range(1000)], [f"o{i}" for i in range(1000)]
    found = guess_members(members, others, *ids, 300, 0)
    alarms, hits, _ = roc_curve(
        np.arange(2000) < 1000, np.concatenate([members, others]), drop_intermediate=False
    )
    assert found["tpr"] == pytest.approx(hits[alarms <= 0.01].max())
    assert found["value"] < 0.56 and found["tpr_low"] > 0.03
    nobody = guess_members(members[50:], others, ids[0][50:], ids[1], 300, 0)
    assert nobody["low"] < 0.5 < nobody["high"] and nobody["tpr_low"] <= 0.01 <= nobody["tpr_high"]


def test_pictures_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="16 must divide"):
        nearest_aligned(pictures(2, 0, 24), pictures(2, 0, 24))
    with pytest.raises(InputError, match=r"uint8 \[N, 3, S, S\]"):
        nearest_aligned(pictures(2, 0).astype(float), pictures(2, 0))
