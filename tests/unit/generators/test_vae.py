import io

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.generator_settings import AutoencoderSettings, VAESettings
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.core.weights import write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet
from hamsynth_utils.generators.autoregressive_flow import AutoregressiveFlow
from hamsynth_utils.generators.base import seeded_noise
from hamsynth_utils.generators.loading import checkpoint_metadata, load_generator
from hamsynth_utils.generators.vae import VAE
from hamsynth_utils.training.module import BatchShard

TRAINING = TrainingSettings(steps=1, batch_size=1, learning_rate=1e-3)
LABELS = torch.arange(7)
CLASSES = torch.eye(7)


def disturbed(module: torch.nn.Module, amount: float = 0.1) -> torch.nn.Module:
    """The module with random weights everywhere; fresh from its constructor the flow changes nothing."""
    rng = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += amount * torch.randn(parameter.shape, generator=rng)
    return module


def new_vae(**change) -> VAE:
    """For images of 32 pixels: 4 x 4 positions of 3 channels."""
    torch.manual_seed(0)
    autoencoder = AutoencoderSettings(channels=3, width=8, training=TRAINING)
    defaults = {"layers": 1, "width": 32, "autoencoder": autoencoder, "training": TRAINING}
    return VAE(32, VAESettings(**{**defaults, **change}), n_classes=7).eval()


@pytest.fixture
def vae() -> VAE:
    vae = new_vae()
    disturbed(vae.prior)
    return vae


@pytest.fixture
def flow() -> AutoregressiveFlow:
    torch.manual_seed(0)
    return disturbed(AutoregressiveFlow((2, 2, 3), n_classes=7, blocks=3, layers=2, width=32))


@torch.no_grad()
def test_the_flow_goes_there_and_back(flow):
    noise = torch.randn(7, 2, 2, 3)
    x = flow.to_x(noise, CLASSES)
    assert (x - noise).abs().max() > 0.5
    torch.testing.assert_close(flow.to_noise(x, CLASSES)[0], noise, atol=1e-4, rtol=1e-4)


def test_the_change_of_volume_is_that_of_autograd(flow):
    x, label = torch.randn(2, 2, 3), CLASSES[4:5]

    def noise(flat: torch.Tensor) -> torch.Tensor:
        return flow.to_noise(flat.view(1, 2, 2, 3), label)[0].flatten()

    jacobian = torch.autograd.functional.jacobian(noise, x.flatten())
    found = flow.to_noise(x[None], label)[1][0]
    torch.testing.assert_close(found, torch.linalg.slogdet(jacobian).logabsdet, atol=1e-4, rtol=0)


def test_no_position_is_told_what_comes_after_it(flow):
    """In the order of the first block, whose factors act on the channels of one position."""
    block, tokens = flow.in_order[0], torch.randn(1, 6, 2)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: block.to_noise(x, CLASSES[2:3])[0], tokens
    )[0, :, :, 0]  # [T, C, T, C]
    for t in range(6):
        assert (jacobian[t, :, t + 1 :] == 0).all()
        assert (jacobian[t, :, t].triu(1) == 0).all()  # L is lower triangular
        assert (jacobian[t, :, :t].abs().amax((0, 2)) > 0).all()  # it sees all that came before


@torch.no_grad()
def test_the_class_changes_the_density(flow):
    x = torch.randn(1, 2, 2, 3).expand(7, -1, -1, -1)
    assert flow.negative_log_likelihood(x, CLASSES).diff().abs().min() > 1e-3


@torch.no_grad()
def test_with_constant_conditionals_the_density_is_that_of_a_normal_distribution():
    flow = AutoregressiveFlow((2, 2, 2), n_classes=7, blocks=2, layers=1, width=32)
    roots = torch.tensor([[[0.5, 0.0], [0.3, 2.0]], [[1.5, 0.0], [-0.7, 0.4]]])
    means = torch.tensor([[0.3, -1.0], [0.2, 0.6]])
    for block, root, mean in zip(flow.in_order, roots, means, strict=True):
        entries = root.tril(-1) + root.diagonal().log().diag()
        block.head.bias.copy_(torch.cat([mean, entries.flatten()]))
    root = roots[0] @ roots[1]
    truth = MultivariateNormal(means[0] + roots[0] @ means[1], scale_tril=root)
    x = torch.randn(7, 2, 2, 2)
    expected = -truth.log_prob(x.permute(0, 2, 3, 1)).sum((1, 2))
    torch.testing.assert_close(flow.negative_log_likelihood(x, CLASSES), expected)
    drawn = flow.to_x(torch.randn(20_000, 2, 2, 2), CLASSES[:1].expand(20_000, -1))
    rows = drawn.permute(0, 2, 3, 1).reshape(-1, 2)
    torch.testing.assert_close(rows.mean(0), truth.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(rows.T), truth.covariance_matrix, atol=0.05, rtol=0)


@torch.no_grad()
def test_sampling_with_the_cache_is_sampling_without(flow):
    """Without: all positions again and again, each time one more of them is right."""
    block, z = flow.in_order[0], torch.randn(7, 6, 2)
    x = torch.zeros_like(z)
    for _ in range(6):
        hidden = block.hidden(x, CLASSES)
        mean, factor = block.conditional(hidden)
        x = mean + (factor @ z[..., None])[..., 0]
    torch.testing.assert_close(block.to_x(z, CLASSES), x, atol=1e-4, rtol=1e-4)


def test_an_untrained_prior_is_standard_normal_and_its_kl_torchs():
    vae, x = new_vae(posterior_std=0.3), torch.randn(4, 3, 4, 4)
    truth = kl_divergence(Normal(x, 0.3), Normal(0.0, 1.0)).sum((1, 2, 3))
    with torch.no_grad():
        estimates = [
            vae.kl(x, seeded_noise(vae.shape, s, 4, x.device), LABELS[:4]) for s in range(400)
        ]
    torch.testing.assert_close(torch.stack(estimates).mean(0), truth, atol=0.5, rtol=0)


@torch.no_grad()
def test_noise_of_an_image_decodes_to_its_reconstruction(vae):
    images = torch.rand(7, 3, 32, 32) * 2 - 1
    noise = vae.encode_noise(images, LABELS)
    assert noise.shape == (7, *vae.noise_shape)
    expected = vae.reconstruct(images)
    torch.testing.assert_close(vae.decode_noise(noise, LABELS), expected, atol=1e-3, rtol=0)
    assert (noise - vae.representation.encode(images)).abs().max() > 0.5


@pytest.mark.parametrize("guidance", [0.9, -1.0, float("nan"), float("inf")])
def test_a_guidance_out_of_range_is_refused(vae, guidance):
    with pytest.raises(InputError, match="guidance must"):
        vae.sample(LABELS, 0, guidance=guidance)


@torch.no_grad()
def test_guidance_moves_a_class_away_from_the_mean_of_the_training_images(vae):
    lesions = lesion_set([0] * 6 + [1] * 2)
    vae.training_data(lesions)
    layer = vae.prior.in_order[0].in_order[0]
    embeddings = layer.classes(CLASSES)
    mean = 0.75 * embeddings[0] + 0.25 * embeddings[1]
    for guidance in (1.0, 2.5):
        found = layer.classes(vae.class_weights(LABELS, guidance))
        torch.testing.assert_close(found, mean + guidance * (embeddings - mean))
    apart = [
        (vae.sample(LABELS[1:2], 0, guidance=g) - vae.sample(LABELS[2:3], 0, guidance=g))
        .abs()
        .mean()
        for g in (1.0, 3.0)
    ]
    assert apart[1] > 1.5 * apart[0]


def lesion_set(labels: list[int]) -> LesionSet:
    """Noise with these labels, 32 pixels a side."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (len(labels), 3, 32, 32), generator=rng, dtype=torch.uint8)
    table = pd.DataFrame(
        {
            "image_id": [f"I{i}" for i in range(len(labels))],
            "lesion_id": [f"L{i}" for i in range(len(labels))],
            "dx": np.array(HAM10000.classes.names)[labels],
            "age": np.nan,
            "sex": np.nan,
            "localization": np.nan,
            "dataset": "noise",
            "synthetic": False,
        }
    )[list(COLUMNS)]
    return LesionSet(images, torch.tensor(labels), table, HAM10000.classes)


def test_each_image_depends_on_its_own_seed_only(vae):
    whole = vae.sample(LABELS, seed=10)
    torch.testing.assert_close(whole[4:5], vae.sample(LABELS[4:5], seed=14), atol=2e-4, rtol=0)
    assert not torch.allclose(whole[4:5], vae.sample(LABELS[4:5], seed=15), atol=1e-2)
    assert torch.equal(whole, vae.sample(LABELS, seed=10))


def test_a_file_holds_the_whole_vae(vae, tmp_path):
    path = tmp_path / "vae.safetensors"
    write_weights(path, vae.state_dict(), checkpoint_metadata(vae, HAM10000))
    again = load_generator(path, "vae")
    torch.testing.assert_close(again.sample(LABELS, 3), vae.sample(LABELS, 3))


class Part(torch.nn.Module):
    """A function of a module as a network of its own."""

    def __init__(self, module: torch.nn.Module, function) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


@torch.no_grad()
def test_traced_the_networks_draw_the_same(vae):
    noise, label = torch.randn(1, *vae.noise_shape), torch.tensor([3])
    function, inputs = vae.export_parts()["draw"]
    traced = torch.jit.trace(Part(vae, function), tuple(inputs.values()), check_trace=False)
    torch.testing.assert_close(traced(noise, label), vae.decode_noise(noise, label))


@torch.no_grad()
def test_onnx_draws_the_same_and_holds_each_weight_once(vae):
    """The prior alone: the reference evaluator takes long for the decoder's convolutions."""
    file, example = io.BytesIO(), (torch.zeros(1, *vae.noise_shape), CLASSES[:1])
    torch.onnx.export(
        Part(vae.prior, vae.prior.to_x),
        example,
        file,
        input_names=["noise", "classes"],
        dynamo=False,
        opset_version=17,
    )
    model = onnx.load_from_string(file.getvalue())
    noise, classes = torch.randn(1, *vae.noise_shape), CLASSES[3:4]
    inputs = {"noise": noise.numpy(), "classes": classes.numpy()}
    found = ReferenceEvaluator(model).run(None, inputs)
    np.testing.assert_allclose(found[0], vae.prior.to_x(noise, classes), atol=1e-4)
    stored = sum(onnx.numpy_helper.to_array(value).size for value in model.graph.initializer)
    assert stored < 1.05 * sum(p.numel() for p in vae.prior.parameters())


def waves(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [N, 3, 4, 4] whose neighbours are alike, and whose first channel tells the class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(7, (count,), generator=rng)
    rough = torch.randn(count, 3, 6, 6, generator=rng)
    x = torch.nn.functional.avg_pool2d(rough, 3, stride=1) * 2
    x[:, 0] += (labels - 3).view(-1, 1, 1) / 3
    return x, labels


def test_a_short_training_lowers_the_likelihood_of_new_codes_too():
    vae = new_vae().train()
    heldout, known = waves(256, 1), torch.zeros(1, *vae.shape)
    optimizer = torch.optim.Adam(vae.prior.parameters(), lr=3e-3, betas=vae.betas)

    def mean_kl() -> float:
        with torch.no_grad():
            return float(vae.kl(heldout[0], known, heldout[1]).mean())

    before = mean_kl()
    for step in range(60):
        optimizer.zero_grad()
        vae(*waves(64, 100 + step))["loss"].backward()
        optimizer.step()
    assert mean_kl() < before - 15
    wrong = (heldout[1] + 3) % 7
    with torch.no_grad():
        assert float(vae.kl(heldout[0], known, wrong).mean()) > mean_kl() + 2


def test_two_processes_train_as_one(vae):
    x, labels = waves(8, 0)

    def gradients(process: int, processes: int) -> list[torch.Tensor]:
        vae.shard = BatchShard(process, processes)
        vae.zero_grad()
        torch.manual_seed(5)
        vae(vae.shard.take(x), vae.shard.take(labels))["loss"].backward()
        return [p.grad.clone() for p in vae.prior.parameters()]

    whole = gradients(0, 1)
    for one, first, second in zip(whole, gradients(0, 2), gradients(1, 2), strict=True):
        torch.testing.assert_close((first + second) / 2, one, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_membership_losses_are_the_mean_kl_over_the_same_codes_for_all(vae):
    images = torch.rand(5, 3, 32, 32) * 2 - 1
    found = vae.membership_losses(images, LABELS[:5], seed=3, noise_levels=2)
    assert set(found) == {"kl", "autoencoder"} and vae.membership_statistic in found
    alone = vae.membership_losses(images[2:3], LABELS[2:3], seed=3, noise_levels=2)
    torch.testing.assert_close(found["kl"][2:3], alone["kl"], rtol=1e-4, atol=1e-2)
    x = vae.representation.encode(images)
    noises = seeded_noise(vae.shape, 3, 2, x.device)
    entropy = Normal(0.0, vae.settings.posterior_std).entropy() * x[0].numel()
    expected = [
        vae.prior.negative_log_likelihood(x + vae.settings.posterior_std * noise, CLASSES[:5])
        for noise in noises
    ]
    torch.testing.assert_close(found["kl"], sum(expected) / 2 - entropy, rtol=1e-4, atol=1e-2)
