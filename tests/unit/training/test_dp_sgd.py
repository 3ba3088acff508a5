"""DP-SGD with the lesion as its unit: what one lesion contributes, the noise, the budget, and the loop."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from opacus import GradSampleModule
from pydantic import ValidationError
from scipy.optimize import brentq
from scipy.stats import kstest, norm
from torch import nn

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile_sections import DPSettings
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet
from hamsynth_utils.generators.loading import checkpoint_metadata, load_generator
from hamsynth_utils.generators.textbook_vae import private_vae
from hamsynth_utils.training.dp_accounting import (
    NO_BOUND,
    Guarantee,
    epsilon_spent,
    guarantee_of,
    max_attack_auroc,
)
from hamsynth_utils.training.dp_sgd import (
    one_image_per_lesion,
    poisson_sample,
    private_optimizer,
    private_step,
    train_privately,
)
from hamsynth_utils.training.module import TrainableModule

CLASSES = HAM10000.classes.names

CLIP, RATE, LESIONS = 0.5, 0.25, 16
SETTINGS = DPSettings(
    sampling_rate=RATE,
    steps=4,
    max_grad_norm=CLIP,
    latent_size=4,
    micro_batch_size=3,
    public_lesions=LESIONS,
)


class Line(TrainableModule):
    """loss = (w . x - y)^2 / 2, whose gradient (w . x - y) x is known by hand."""

    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self.weight = nn.Linear(inputs, 1, bias=False)
        nn.init.constant_(self.weight.weight, 0.5)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        error = self.weight(images.flatten(1))[:, 0] - labels
        return {"loss": 0.5 * error.square().mean()}


def promise(noise: float) -> Guarantee:
    return Guarantee(1.0, 1.0, 1e-5, noise, RATE, 1, LESIONS)


def moved(
    x: torch.Tensor, y: torch.Tensor, noise: float = 0.0, micro_batch_size: int = 100
) -> np.ndarray:
    """By how much one step of plain SGD at rate 1 moves the weights, times the expected number drawn."""
    line = Line(x.shape[1])
    before = line.weight.weight.detach().clone()
    optimizer = private_optimizer(
        torch.optim.SGD(line.parameters(), lr=1.0),
        promise(noise),
        CLIP,
        torch.Generator().manual_seed(3),
    )
    private_step(
        GradSampleModule(line),
        optimizer,
        list(zip(x.split(micro_batch_size), y.split(micro_batch_size), strict=True)),
    )
    return (before - line.weight.weight.detach())[0].numpy() * RATE * LESIONS


def interact(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """The gradients of the examples of a `Line`, each cut to the length CLIP: [N, D]."""
    gradients = (((0.5 * x).sum(1) - y)[:, None] * x).double().numpy()
    return gradients * np.minimum(1, CLIP / np.linalg.norm(gradients, axis=1))[:, None]


@pytest.fixture
def examples() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, generator=rng), torch.randn(8, generator=rng)


def test_the_gradient_of_one_example_is_cut_and_a_short_one_is_not():
    for size in (0.01, 1.0, 100.0):
        x, y = size * torch.tensor([[3.0, 0.0, 4.0]]), torch.tensor([1.0])
        found = moved(x, y)
        np.testing.assert_allclose(found, interact(x, y)[0], rtol=1e-4)
        assert np.linalg.norm(found) <= CLIP * (1 + 1e-6)
    assert np.linalg.norm(found) == pytest.approx(CLIP, rel=1e-4)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 100])
def test_a_step_is_the_sum_of_the_cut_gradients_whatever_the_parts(examples, micro_batch_size):
    np.testing.assert_allclose(
        moved(*examples, micro_batch_size=micro_batch_size), interact(*examples).sum(0), rtol=1e-4
    )


def test_one_lesion_more_changes_its_own_contribution_alone(examples):
    x, y = examples
    for noise in (0.0, 2.0):
        difference = moved(x, y, noise) - moved(x[:-1], y[:-1], noise)
        np.testing.assert_allclose(difference, interact(x, y)[-1], rtol=1e-3, atol=1e-5)
    before, after = (poisson_sample(n, RATE, 5, 7) for n in (100, 101))
    assert list(before) == [row for row in after if row < 100]


def test_noise_is_that_of_the_multiplier_also_where_nothing_is_drawn():
    x, y = torch.empty(0, 20_000), torch.empty(0)
    found = moved(x, y, noise=1.7) / (1.7 * CLIP)
    assert kstest(found, "norm").pvalue > 0.01
    assert np.std(found) == pytest.approx(1, abs=0.02)


def test_lesions_are_drawn_by_poisson():
    draws = np.array(
        [np.isin(np.arange(300), poisson_sample(300, 0.2, 1, step)) for step in range(2000)]
    )
    assert draws.mean(0) == pytest.approx(np.full(300, 0.2), abs=0.05)
    assert draws.sum(1).var() == pytest.approx(300 * 0.2 * 0.8, rel=0.15)
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.08


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 1), (8.0, 50)])
def test_epsilon_without_sampling_is_that_of_the_gaussian_mechanism(noise, steps):
    """In closed form, Balle & Wang 2018, theorem 8; T steps are one of noise / sqrt(T)."""
    mu, delta = math.sqrt(steps) / noise, 1e-5

    def excess(epsilon: float) -> float:
        return (
            norm.cdf(mu / 2 - epsilon / mu)
            - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
            - delta
        )

    exact = brentq(excess, 1e-6, 50)
    assert epsilon_spent(noise, 1.0, steps, delta, "prv") == pytest.approx(exact, abs=0.03)
    assert exact <= epsilon_spent(noise, 1.0, steps, delta) <= 1.25 * exact


def test_the_noise_keeps_the_budget_by_both_accountants_and_wastes_little():
    noises = []
    for budget in (0.5, 3.0, 10.0):
        found = guarantee_of(SETTINGS.model_copy(update={"steps": 100}), budget)
        assert 0.97 * budget < found.epsilon <= budget
        tighter = epsilon_spent(found.noise, RATE, 100, found.delta, "prv")
        assert 0.7 * budget < tighter < found.epsilon + 0.02
        noises.append(found.noise)
    assert noises == sorted(noises, reverse=True)
    plain = guarantee_of(SETTINGS, NO_BOUND)
    assert plain.noise == 0 and math.isinf(plain.epsilon)


def test_no_attack_is_better_than_the_bound():
    """Against the area under the largest allowed curve, by numbers; and the best attack on one Gaussian step."""
    alarms = np.linspace(0, 1, 200_001)
    for epsilon, delta in ((0.0, 0.0), (0.0, 0.1), (1.0, 1e-5), (3.0, 0.01)):
        up = np.minimum(
            delta + np.exp(epsilon) * alarms, 1 - np.exp(-epsilon) * (1 - delta - alarms)
        )
        assert max_attack_auroc(epsilon, delta) == pytest.approx(
            np.trapezoid(up.clip(0, 1), alarms), abs=1e-4
        )
    best = norm.cdf(1 / 4 / math.sqrt(2))
    assert 0.5 < best < max_attack_auroc(epsilon_spent(4.0, 1.0, 1, 1e-5, "prv"), 1e-5)
    assert max_attack_auroc(NO_BOUND, 1e-5) == 1


def swatches(count: int, photos: int = 1) -> LesionSet:
    """Images of one colour a lesion, 32 pixels a side, `photos` of each."""
    rng, n = np.random.default_rng(0), count * photos
    colours = np.repeat(rng.integers(40, 216, (count, 3, 1, 1)), photos, axis=0)
    labels = np.repeat(rng.integers(len(CLASSES), size=count), photos)
    table = pd.DataFrame(
        {
            "image_id": [f"I{i}" for i in range(n)],
            "lesion_id": [f"L{i // photos}" for i in range(n)],
            "dx": np.array(CLASSES)[labels],
            "age": np.nan,
            "sex": np.nan,
            "localization": np.nan,
            "dataset": "swatches",
            "synthetic": False,
        }
    )[list(COLUMNS)]
    images = np.broadcast_to(colours, (n, 3, 32, 32)).astype(np.uint8)
    return LesionSet(torch.from_numpy(images), torch.from_numpy(labels), table, HAM10000.classes)


def test_of_each_lesion_one_photo_is_chosen_whoever_else_is_there():
    table, rng = swatches(50, 3).table, np.random.default_rng(1)
    rows = rng.permutation(150)
    chosen = one_image_per_lesion(table, rows, 0)
    assert len(chosen) == 50 and table["lesion_id"].iloc[chosen].is_unique
    assert list(chosen) == [row for row in rows if row in set(chosen)]
    fewer = rows[table["lesion_id"].iloc[rows].to_numpy() != "L7"]
    assert set(one_image_per_lesion(table, fewer, 0)) == {row for row in chosen if row // 3 != 7}
    assert set(one_image_per_lesion(table, rows, 1)) != set(chosen)
    with pytest.raises(InputError, match="no lesion id"):
        one_image_per_lesion(table.assign(lesion_id=None), rows, 0)


def test_a_training_repeats_itself_and_is_then_found(tmp_path):
    lesions = swatches(LESIONS)

    def trained(folder: str, budget: float, seed: int = 0):
        torch.manual_seed(9)
        vae = private_vae(32, SETTINGS, n_classes=7)
        about = checkpoint_metadata(vae, HAM10000)
        return train_privately(
            vae, lesions, SETTINGS, tmp_path / folder, budget=budget, seed=seed, description=about
        )

    first, again = trained("a", 3.0), trained("b", 3.0)
    assert not first.loaded and not again.loaded
    torch.testing.assert_close(first.module.state_dict(), again.module.state_dict(), rtol=0, atol=0)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "weights.safetensors",
        "history.csv",
    }
    found = trained("a", 3.0)
    assert found.loaded and found.guarantee == first.guarantee
    assert list(found.history["drawn"]) == [
        len(poisson_sample(LESIONS, RATE, 0, step)) for step in range(4)
    ]
    with pytest.raises(InputError, match="another training"):
        trained("a", 1.0)
    with pytest.raises(InputError, match="another training"):
        trained("a", 3.0, seed=1)

    torch.manual_seed(9)
    fresh, plain = private_vae(32, SETTINGS, n_classes=7).state_dict(), trained("plain", NO_BOUND)
    for training in (first, plain):
        weights = training.module.state_dict()
        same = {name for name, value in weights.items() if torch.equal(value, fresh[name])}
        assert same == {"class_mean", "class_log_deviation", "log_sigma"}
    assert any(
        not torch.equal(v, plain.module.state_dict()[k])
        for k, v in first.module.state_dict().items()
    )
    again_loaded = load_generator(tmp_path / "a/weights.safetensors", "textbook_vae")
    labels = torch.arange(7)
    torch.testing.assert_close(again_loaded.sample(labels, 0), first.module.sample(labels, 0))
    torch.testing.assert_close(found.module.sample(labels, 0), first.module.sample(labels, 0))


def test_the_gradient_of_a_photo_in_the_vae_depends_on_no_other():
    """Without its noise, Opacus' per-sample gradients are those of each photo alone, by autograd."""
    torch.manual_seed(0)
    vae = private_vae(32, SETTINGS, n_classes=7)
    vae.shard = Silent()
    images, labels = torch.rand(3, 3, 32, 32) * 2 - 1, torch.tensor([0, 3, 3])
    alone = []
    for i in range(3):
        vae.zero_grad()
        vae(images[i : i + 1], labels[i : i + 1])["loss"].backward()
        alone.append([p.grad.clone() for p in vae.parameters() if p.requires_grad])
    learner = GradSampleModule(vae)
    learner.zero_grad()
    learner(images, labels)["loss"].backward()
    together = [p.grad_sample for p in vae.parameters() if p.requires_grad]
    for parameter, per_sample in enumerate(together):
        for i in range(3):
            torch.testing.assert_close(per_sample[i], alone[i][parameter], rtol=1e-3, atol=1e-4)


class Silent:
    """A `BatchShard` whose noise is zero."""

    def randn(self, *shape: int, device: torch.device) -> torch.Tensor:
        return torch.zeros(*shape, device=device)


def test_what_would_void_the_guarantee_is_refused(tmp_path):
    two_photos = swatches(8, photos=2)
    with pytest.raises(InputError, match="one image of each lesion"):
        train_privately(
            private_vae(32, SETTINGS, n_classes=7),
            two_photos,
            SETTINGS,
            tmp_path,
            budget=1.0,
            seed=0,
        )
    with pytest.raises(ValidationError, match=r"delta is 0\.1 for 10 public_lesions"):
        DPSettings(delta=0.1, public_lesions=10)
    with pytest.raises(InputError, match="positive epsilon"):
        guarantee_of(SETTINGS, 0.0)
    assert not list(tmp_path.iterdir())
