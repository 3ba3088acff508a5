"""The GAN in latents: shapes and seeds, whose gradient is whose, the penalty, and that it learns."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hamsynth_utils.core.generator_settings import AutoencoderSettings, GANSettings
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet
from hamsynth_utils.generators.autoencoder.critic import FINITE_DIFFERENCE_SIGMA, pairing_game
from hamsynth_utils.generators.autoencoder.latent_data import LatentData
from hamsynth_utils.generators.gan import GAN, LatentDiscriminator
from hamsynth_utils.training.diagnostics import TrainingDiverged
from hamsynth_utils.training.loop import train
from hamsynth_utils.training.module import BatchShard

LABELS = torch.arange(7)


def new_gan(seed: int = 0, training: dict[str, Any] | None = None, **change) -> GAN:
    """A small one on latents [4, 8, 8]."""
    once = {"steps": 1, "batch_size": 4, "learning_rate": 1e-3, **(training or {})}
    how = TrainingSettings(**once)
    small = {"latent_size": 6, "width": 8, "discriminator_width": 8, **change}
    autoencoder = AutoencoderSettings(channels=4, width=8, training=how)
    torch.manual_seed(seed)
    return GAN(64, GANSettings(autoencoder=autoencoder, training=how, **small), n_classes=7).train()


@pytest.mark.parametrize(
    ("image_size", "autoencoder", "shape"),
    [
        (64, {"factor": 8}, (4, 8, 8)),
        (64, {"factor": 4}, (4, 16, 16)),
        (32, {"factor": 16}, (4, 2, 2)),
        (128, None, (48, 32, 32)),
    ],
)
def test_both_networks_fit_latents_of_every_shape(image_size, autoencoder, shape):
    how = TrainingSettings(steps=1, batch_size=4, learning_rate=1e-3)
    if autoencoder is not None:
        autoencoder = AutoencoderSettings(channels=4, width=8, training=how, **autoencoder)
    settings = GANSettings(width=8, discriminator_width=8, autoencoder=autoencoder, training=how)
    gan = GAN(image_size, settings, n_classes=7)
    x = gan.synthesis(gan.noise(3), LABELS[:3])
    assert gan.shape == shape and x.shape == (3, *shape)
    assert gan.discriminator([x], LABELS[:3]).shape == (3, 1 + min(shape[1], 4) ** 2)
    assert gan.eval().sample(LABELS[:2], seed=0).shape == (2, 3, image_size, image_size)


def test_image_i_depends_on_seed_plus_i_alone():
    gan = new_gan().eval()
    whole = gan.sample(LABELS, seed=10)
    assert torch.equal(whole, gan.sample(LABELS, seed=10))
    torch.testing.assert_close(whole[4:5], gan.sample(LABELS[4:5], seed=14), atol=1e-5, rtol=0)
    assert (whole[4:5] - gan.sample(LABELS[4:5], seed=15)).abs().max() > 1e-3


def test_the_network_itself_knows_the_noise_and_the_class():
    """Not only the distribution that it starts from, which is the same for all here."""
    network = new_gan().synthesis
    network.means.zero_(), network.components.zero_()
    nn.init.normal_(network.leave[-1].weight)
    noise, label = torch.randn(1, 6), LABELS[:1]
    with torch.no_grad():
        x, changed, of_class = (
            network(z, y)
            for z, y in ((noise, label), (torch.randn(1, 6), label), (noise, label + 1))
        )
    assert (x - changed).abs().mean() > 1e-3 and (x - of_class).abs().mean() > 1e-3


def test_the_game_starts_from_the_normal_distribution_of_the_latents():
    """Means of classes and covariance of the start against those of the data."""
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(7, 4, 8, 8, generator=rng)
    root = torch.randn(5, 256, generator=rng)  # five directions of 256
    labels = torch.arange(4200) % 7
    x = means[labels] + (torch.randn(4200, 5, generator=rng) @ root).view(-1, 4, 8, 8)
    gan = new_gan()
    gan.synthesis.fit_start(x, labels)
    many = torch.full((20_000,), 3)
    with torch.no_grad():
        drawn = gan.synthesis(torch.randn(20_000, 6, generator=rng), many)
    torch.testing.assert_close(drawn.mean(0), means[3], atol=0.3, rtol=0)
    truth = root.T @ root
    assert (torch.cov(drawn.flatten(1).T) - truth).norm() < 0.1 * truth.norm()


def test_samples_are_clipped_where_the_decoder_knows_nothing():
    gan = new_gan().eval()
    nn.init.constant_(gan.synthesis.leave[-1].bias, 50.0)
    seen = []
    gan.decode_images = lambda x: seen.append(x) or x
    gan.sample(LABELS, seed=0)
    assert float(seen[0].max()) == gan.representation.limit


def losses_by_hand(gan: GAN, x, labels) -> dict[str, torch.Tensor]:
    """The game's terms from the same draws, each from forward passes of its own."""
    fake = gan.synthesis(gan.noise(len(x)), labels)
    real, fake = (
        each + gan.settings.augmentation_noise * torch.randn(x.shape) for each in (x, fake)
    )
    wrong = (labels + 1 + (6 * torch.rand(len(x))).long()) % 7
    few = max(1, round(gan.settings.penalty_fraction * len(x)))
    shift = FINITE_DIFFERENCE_SIGMA * torch.randn(2 * few, *x.shape[1:])

    def score(x, labels):
        return gan.discriminator([x], labels)

    slopes = [
        (score(each[:few].detach() + move, labels[:few]) - score(each[:few].detach(), labels[:few]))
        / FINITE_DIFFERENCE_SIGMA
        for each, move in zip((real, fake), shift.chunk(2), strict=True)
    ]
    return {
        "generator": F.softplus(score(real, labels).detach() - score(fake, labels)).mean(),
        "discriminator": F.softplus(score(fake.detach(), labels) - score(real, labels)).mean(),
        "gradient_penalty": sum(slope.square().mean() for slope in slopes),
        "mismatch": F.softplus(score(real, wrong) - score(real, labels)).mean(),
    }


@pytest.mark.parametrize("penalty_fraction", [0.25, 1.0])
def test_each_players_parameters_get_its_own_losses_gradient_only(penalty_fraction):
    gan = new_gan(penalty_fraction=penalty_fraction, r1_r2_gamma=3.0, mismatch_weight=0.5)
    x, labels = torch.randn(8, *gan.shape), torch.arange(8) % 7
    torch.manual_seed(5)
    found = gan(x, labels)
    found["loss"].backward()
    torch.manual_seed(5)
    parts = losses_by_hand(gan, x, labels)
    for name, value in parts.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-3, atol=1e-4)
    own = {
        gan.synthesis: parts["generator"],
        gan.discriminator: parts["discriminator"]
        + 1.5 * parts["gradient_penalty"]
        + 0.5 * parts["mismatch"],
    }
    for network, loss in own.items():
        parameters = dict(network.named_parameters())
        expected = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        for (name, parameter), gradient in zip(parameters.items(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-2, atol=1e-4, msg=name)
    assert all(p.grad is None for p in gan.representation.parameters())


def test_a_wrong_class_is_any_other_class():
    gan, labels = new_gan(), LABELS.repeat(200)
    wrong = gan.wrong_labels(labels)
    assert (wrong != labels).all()
    counts = torch.bincount(7 * labels + wrong, minlength=49).view(7, 7)
    assert counts.fill_diagonal_(200 // 6).min() > 10


class Plane(nn.Module):
    """Its score is w . x, whose gradient is w everywhere."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size) / 3)

    def forward(self, inputs, labels):
        return inputs[0].flatten(1) @ self.weight[:, None]


@pytest.mark.parametrize("penalty_fraction", [0.5, 1.0])
def test_the_penalty_is_the_mean_squared_gradient_by_autograd(penalty_fraction):
    torch.manual_seed(0)
    plane, n = Plane(20), 20_000
    real, fake = (torch.randn(n, 20, requires_grad=True) for _ in range(2))
    exact = sum(
        torch.autograd.grad(plane([x], None).sum(), x)[0].square().sum(1).mean()
        for x in (real, fake)
    )
    torch.testing.assert_close(exact, 2 * plane.weight.square().sum())
    labels = torch.zeros(n, dtype=torch.long)
    game = pairing_game(
        plane, [real.detach()], [fake], labels, BatchShard(), penalty_fraction=penalty_fraction
    )
    torch.testing.assert_close(game["gradient_penalty"], exact.detach(), rtol=0.05, atol=0)


def test_two_shards_equal_one_process():
    """The mean of the losses of two processes, each with every second image, is that of one."""
    gan = new_gan(penalty_fraction=0.5)
    x, labels = torch.randn(8, *gan.shape), torch.arange(8) % 7
    results = []
    for processes in (1, 2):
        gan.zero_grad()
        means: dict[str, float] = {}
        for process in range(processes):
            gan.shard = BatchShard(process, processes)
            torch.manual_seed(3)
            losses = gan(gan.shard.take(x), gan.shard.take(labels))
            (losses["loss"] / processes).backward()
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + value.item() / processes
        results.append((means, [p.grad.clone() for p in gan.parameters() if p.requires_grad]))
    (one, one_gradients), (two, two_gradients) = results
    assert one == pytest.approx(two, rel=1e-4)
    for a, b in zip(one_gradients, two_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def known_latents(n: int = 280) -> LatentData:
    """Each class has a mean of its own in channel 0; within it the channels have known deviations."""
    labels = torch.arange(n) % 7
    rng = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.3, 1.0, 0.5, 0.2]).view(1, 1, 4, 1, 1)
    latents = spread * torch.randn(n, 8, 4, 8, 8, generator=rng)
    latents[:, :, 0] += ((labels - 3) / 2).view(-1, 1, 1, 1)
    table = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(n))
    table["image_id"] = table["lesion_id"] = [f"I{i}" for i in range(n)]
    table["dx"] = np.array(HAM10000.classes.names)[labels]
    images = torch.zeros(n, 3, 64, 64, dtype=torch.uint8)
    return LatentData(LesionSet(images, labels, table, HAM10000.classes), latents.bfloat16())


def test_the_start_is_fitted_to_all_flips_of_all_images_and_stored_with_the_weights():
    gan, data = new_gan(), known_latents()
    gan.fit_start(data)
    labels = data.lesions.labels
    for k in range(7):
        expected = data.latents[labels == k].float().mean((0, 1)).flatten()
        torch.testing.assert_close(gan.synthesis.means[k], expected, atol=1e-3, rtol=0)
    other = new_gan(seed=1)
    other.load_state_dict(gan.state_dict())
    assert torch.equal(other.sample(LABELS, seed=3), gan.sample(LABELS, seed=3))


def test_a_class_without_images_starts_from_the_mean_of_all():
    network, x = new_gan().synthesis, torch.randn(12, 4, 8, 8)
    network.fit_start(x, torch.zeros(12, dtype=torch.long))
    torch.testing.assert_close(network.means[5], x.mean(0).flatten())


def moments(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The classes' means of channel 0, and the deviations of the other channels."""
    means = torch.stack([x[labels == k, 0].mean() for k in range(7)])
    return torch.cat([means, x.transpose(0, 1).flatten(1).std(1)[1:]])


@pytest.mark.slow
def test_a_short_training_moves_towards_a_known_distribution(tmp_path):
    data = known_latents()
    training = {"steps": 300, "batch_size": 32, "learning_rate": 2e-3, "gradient_clip": 10.0}
    gan = new_gan(width=16, discriminator_width=16, training=training)
    labels = LABELS.repeat(40)
    truth = moments(data.latents[:, 0].float(), data.lesions.labels)

    def error() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            x = gan.synthesis(gan.noise(len(labels)), labels)
        return float((moments(x, labels) - truth).abs().mean())

    before = error()
    train(gan, data, gan.settings.training, tmp_path, seed=0, progress_bar=False)
    after = error()
    assert after < 0.25 and after < before / 3, f"{after:.2f}, {before:.2f} before the training"


def test_a_discriminator_that_always_wins_is_noticed(tmp_path):
    """Nothing moves the generator, and nothing restrains the discriminator."""
    training = {
        "steps": 1000,
        "batch_size": 8,
        "learning_rate": 1e-5,
        "lr_schedule": "none",
        "gradient_clip": 10.0,
        "precision": "no",
    }
    gan = new_gan(
        discriminator_rate_factor=300.0, r1_r2_gamma=1e-6, penalty_fraction=0.1, training=training
    )
    data = known_latents(56)
    data.latents.add_(2.0)
    with pytest.raises(TrainingDiverged, match="discriminator has been below 0.05 since step"):
        train(gan, data, gan.settings.training, tmp_path, seed=0, progress_bar=False)


def test_membership_losses_are_the_negative_score_and_the_autoencoders_error():
    gan = new_gan().eval()
    images, labels = torch.rand(5, 3, 64, 64) * 2 - 1, LABELS[:5]
    with torch.no_grad():
        found = gan.membership_losses(images, labels, seed=0, noise_levels=3)
        alone = gan.membership_losses(images[2:3], labels[2:3], seed=9, noise_levels=1)
        x = gan.representation.encode(images)
        score = gan.discriminator([x], labels)
        error = (gan.representation.decode(x) - images).abs().mean((1, 2, 3))
    torch.testing.assert_close(found["discriminator"], -score.mean(1))
    torch.testing.assert_close(found["autoencoder"], error)
    torch.testing.assert_close(found["discriminator"][2:3], alone["discriminator"])


def test_the_discriminators_class_term_is_a_projection():
    """Scores of two classes differ by a linear function of features that do not know the class."""
    torch.manual_seed(0)
    network = LatentDiscriminator((4, 8, 8), 8, n_classes=7)
    x = torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        for head in network.scores:
            head.class_embedding.weight[1] = head.class_embedding.weight[0]
            head.class_embedding.weight[2] = 2 * head.class_embedding.weight[0]
            head.class_embedding.weight[3] = 0
        scores = [network([x], torch.full((3,), k)) for k in range(4)]
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[2] - scores[0], scores[0] - scores[3], rtol=1e-3, atol=1e-5)
