"""The VAE on pixels: its terms are torch's, its samples are decoded from N(0, I), its loss is their sum."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from hamsynth_utils.core.generator_settings import TextbookVAESettings
from hamsynth_utils.core.profile_sections import DPSettings
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.generators.textbook_vae import (
    TextbookVAE,
    gaussian_negative_log_likelihood,
    kl_to_standard_normal,
    private_vae,
)

TRAINING = TrainingSettings(steps=1, batch_size=1, learning_rate=1e-3)
LABELS = torch.arange(7)


def new_vae(image_size: int = 32, **change: float) -> TextbookVAE:
    torch.manual_seed(0)
    settings = {"latent_size": 8, "width": 8, "training": TRAINING, **change}
    return TextbookVAE(image_size, TextbookVAESettings(**settings), n_classes=7)


def test_the_kl_term_is_torchs():
    mean, log_variance = torch.randn(5, 4), torch.randn(5, 4)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


def test_the_reconstruction_term_is_torchs():
    images, mean, log_sigma = torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8), torch.tensor(-0.7)
    expected = -Normal(mean, log_sigma.exp()).log_prob(images).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian_negative_log_likelihood(images, mean, log_sigma), expected)


@pytest.mark.parametrize("image_size", [32, 64])
def test_the_loss_is_reconstruction_and_kl_per_pixel_value(image_size):
    vae = new_vae(image_size)
    losses = vae(torch.rand(4, 3, image_size, image_size), LABELS[:4])
    total = losses["reconstruction"] + losses["kl"]
    torch.testing.assert_close(losses["loss"].detach() * 3 * image_size**2, total)


def test_the_kl_is_warmed_up_and_free_bits_cost_nothing():
    images = torch.rand(4, 3, 32, 32)

    def excess(progress: float, **change: float) -> torch.Tensor:
        """What the loss has beside the reconstruction, in nats per image, and the KL itself."""
        vae = new_vae(**change)
        vae.progress = progress
        torch.manual_seed(1)
        losses = vae(images, LABELS[:4])
        return losses["loss"].detach() * images[0].numel() - losses["reconstruction"], losses["kl"]

    for progress, weight in ((0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)):
        found, kl = excess(progress, kl_warmup_fraction=0.2)
        torch.testing.assert_close(found, weight * kl, atol=2e-2, rtol=1e-3)
    found, kl = excess(1.0, free_nats=1000.0)
    assert float(kl) < 1000 and float(found) == pytest.approx(1000, rel=1e-3)


def test_a_sample_is_decoded_from_standard_normal_noise():
    vae = new_vae().eval()
    with torch.no_grad():
        vae.class_mean.normal_()  # the priors of the classes: z stays N(0, I), see `decode`
        images = vae.sample(LABELS, seed=3)
        noise = torch.stack(
            [torch.randn(8, generator=torch.Generator().manual_seed(3 + i)) for i in range(7)]
        )
        torch.testing.assert_close(images, vae.decode(noise, LABELS).clamp(-1, 1))


def test_training_gives_every_parameter_a_finite_gradient():
    vae = new_vae()
    vae(torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8) % 7)["loss"].backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_training_on_one_image_a_class_teaches_the_class():
    """Two classes, each one flat colour: after a short training the samples lean to their class's."""
    vae = new_vae(width=16, kl_warmup_fraction=0.0).train()
    labels = torch.arange(8) % 2 + 2
    images = torch.where(labels == 2, -0.6, 0.6).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    optimizer = torch.optim.Adam(vae.parameter_groups(3e-3), betas=vae.betas)
    for step in range(100):
        vae.progress = step / 100
        optimizer.zero_grad()
        vae(images, labels)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
    samples = vae.eval().sample(torch.tensor([2] * 8 + [3] * 8), seed=0)
    low, high = samples[:8].mean(), samples[8:].mean()
    assert high - low > 0.3, f"{low:.2f} and {high:.2f}, but -0.6 and 0.6 were taught"


@torch.no_grad()
def test_an_attacker_gets_reconstruction_and_evidence_lower_bound():
    vae, images = new_vae().eval(), torch.rand(3, 3, 32, 32) * 2 - 1
    labels = LABELS[:3]
    found = vae.membership_losses(images, labels, seed=3, noise_levels=1)
    mean, log_variance = vae.encode(images, labels)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    noise = torch.randn(8, generator=torch.Generator().manual_seed(3))

    def error(latent: torch.Tensor) -> torch.Tensor:
        likelihood = Normal(vae.decode(latent, labels), vae.log_sigma.exp())
        return -likelihood.log_prob(images).sum((1, 2, 3))

    kl = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(found["reconstruction"], error(mean), rtol=1e-4, atol=0.1)
    expected = error(mean + posterior.stddev * noise) + kl
    torch.testing.assert_close(found["elbo"], expected, rtol=1e-4, atol=0.1)
    assert vae.membership_statistic in found


def test_a_private_vaes_priors_and_deviation_are_fixed():
    settings = DPSettings(
        sampling_rate=0.1, steps=3, latent_size=4, decoder_sigma=0.2, public_lesions=30
    )
    vae = private_vae(32, settings, n_classes=7)
    fixed = {name for name, p in vae.named_parameters() if not p.requires_grad}
    assert fixed == {"class_mean", "class_log_deviation", "log_sigma"}
    assert float(vae.log_sigma.exp()) == pytest.approx(0.2)
