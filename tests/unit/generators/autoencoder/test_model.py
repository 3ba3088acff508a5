import pytest
import torch

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import train_autoencoder, train_generator
from hamsynth_utils.generators.autoencoder.model import AutoencoderTraining
from hamsynth_utils.generators.autoencoder.perceptual import perceptual_distance
from hamsynth_utils.generators.loading import build_generator
from hamsynth_utils.training import diagnostics
from hamsynth_utils.training.diagnostics import TrainingDiverged


def training_of(profile_path: str, image_size: int = 64) -> AutoencoderTraining:
    torch.manual_seed(0)
    settings = load_profile(profile_path).autoencoder
    assert settings is not None
    return AutoencoderTraining(settings, image_size)


def blobs(n: int) -> torch.Tensor:
    """Discs of different colour, size and place on different grounds, [N, 3, 64, 64] in [-1, 1]."""
    rng = torch.Generator().manual_seed(1)
    place, size = (
        torch.rand(2, n, 1, 1, generator=rng) * 40 + 12,
        torch.rand(n, 1, 1, generator=rng) * 8 + 6,
    )
    y, x = torch.arange(64.0).view(64, 1), torch.arange(64.0)
    inside = (((y - place[0]) ** 2 + (x - place[1]) ** 2) < size**2)[:, None]
    ground, disc = (torch.rand(2, n, 3, 1, 1, generator=rng) * 1.6 - 0.8).unbind()
    return torch.where(inside, disc, ground)


@pytest.mark.parametrize(("factor", "side"), [(4, 16), (8, 8), (16, 4)])
def test_latents_have_the_shape_asked_for_and_decode_to_images(edited_tiny, factor, side):
    autoencoder = training_of(edited_tiny({"autoencoder": {"factor": factor}})).autoencoder.eval()
    latents = autoencoder.encode(blobs(3))
    assert latents.shape == (3, 4, side, side)
    assert autoencoder.decode(latents).shape == (3, 3, 64, 64)


def losses_and_pictures(training: AutoencoderTraining, progress: float):
    training.eval().progress = progress
    images = blobs(4)
    torch.manual_seed(2)
    losses = training(images, torch.zeros(4, dtype=torch.long))
    return losses, images, training.autoencoder.decode(training.autoencoder.encode(images))


def test_before_the_critic_the_loss_is_absolute_error_plus_perceptual_distance(edited_tiny):
    change = {
        "autoencoder": {"latent_noise_std": 0.0, "perceptual_weight": 0.7, "critic_from": 0.5}
    }
    losses, images, decoded = losses_and_pictures(training_of(edited_tiny(change)), progress=0.4)
    torch.manual_seed(2)
    torch.randn(4, 4, 8, 8)  # the noise, here times nothing
    expected = (decoded - images).abs().mean() + 0.7 * perceptual_distance(images, decoded).mean()
    torch.testing.assert_close(losses["loss"], expected)
    assert losses["gradient_penalty"] == 0
    chance = torch.tensor(2.0).log()
    torch.testing.assert_close(losses["generator"], chance)
    torch.testing.assert_close(losses["discriminator"], chance)


def test_the_critic_joins_with_its_weights(edited_tiny):
    change = {
        "latent_noise_std": 0.0, "critic_from": 0.5, "critic_weight": 0.3, "critic_gamma": 4.0
    }  # fmt: skip
    losses, *_ = losses_and_pictures(
        training_of(edited_tiny({"autoencoder": change})), progress=0.5
    )
    parts = losses["absolute_error"] + losses["perceptual"] + 0.3 * losses["generator"]
    expected = parts + losses["discriminator"] + 2.0 * losses["gradient_penalty"]
    torch.testing.assert_close(losses["loss"].detach(), expected)
    assert losses["generator"] > 0 and losses["gradient_penalty"] > 0


def test_each_side_gets_the_gradient_of_its_own_loss(edited_tiny):
    """The critic's own terms do not reach the autoencoder, nor the other way round."""
    training = training_of(edited_tiny({"autoencoder": {"critic_from": 0.0}})).train()
    labels = torch.zeros(4, dtype=torch.long)

    def gradients(weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        training.settings = training.settings.model_copy(update={"critic_weight": weight})
        training.zero_grad()
        torch.manual_seed(1)
        training(blobs(4), labels)["loss"].backward()
        return (
            training.autoencoder.colour_out.weight.grad.clone(),
            training.critic.pixel_critic.score.weight.grad.clone(),
        )

    little, much = gradients(1e-6), gradients(1.0)
    assert not torch.allclose(little[0], much[0], rtol=1e-3)
    torch.testing.assert_close(little[1], much[1])


@pytest.mark.slow
def test_a_short_training_reconstructs_and_normalises(edited_tiny):
    change = {"channels": 8, "width": 16, "critic_from": 1.0}
    training = training_of(edited_tiny({"autoencoder": change})).train()
    training.progress = 0.0
    images, labels = blobs(64), torch.zeros(64, dtype=torch.long)
    optimizer = torch.optim.Adam(training.parameters(), lr=3e-3)
    for step in range(120):
        batch = slice(16 * (step % 4), 16 * (step % 4) + 16)
        optimizer.zero_grad()
        training(images[batch], labels[batch])["loss"].backward()
        optimizer.step()
    autoencoder = training.autoencoder.eval()
    with torch.no_grad():
        latents = autoencoder.encode(images)
        error = (autoencoder.decode(latents) - images).abs().mean()
    mean_image_error = (images - images.mean(0)).abs().mean()
    assert error < 0.5 * mean_image_error, (
        f"{error:.3f}, and {mean_image_error:.3f} by the mean image"
    )
    spread = latents.var((0, 2, 3))
    assert latents.mean((0, 2, 3)).abs().max() < 0.5 and spread.min() > 0.4 and spread.max() < 2.5


def test_a_critic_that_always_wins_is_noticed(edited_tiny, tmp_path, monkeypatch):
    """Nothing moves the autoencoder, and nothing restrains the critic."""
    monkeypatch.setattr(diagnostics, "LOST_STEPS", 10)
    slow = {"steps": 200, "learning_rate": 1e-5, "lr_schedule": "none", "precision": "no"}
    change = {"critic_from": 0.0, "critic_gamma": 1e-6, "critic_rate_factor": 300.0}
    run = Run.open("a", edited_tiny({"autoencoder": change | {"training": slow}}), root=tmp_path)
    with pytest.raises(TrainingDiverged, match="discriminator has been below 0.05 since step"):
        train_autoencoder(run, progress_bar=False)


def test_all_generators_share_an_autoencoder_that_they_never_change(edited_tiny, tmp_path):
    run = Run.open("a", edited_tiny({}), root=tmp_path)
    first = train_autoencoder(run, progress_bar=False).module.autoencoder.state_dict()
    for name in ("vae", "gan", "diffusion", "flow"):
        generator = train_generator(run, name, progress_bar=False).module
        for key, value in generator.representation.state_dict().items():
            torch.testing.assert_close(value, first[key], msg=f"{name}: {key}")
    assert train_autoencoder(run).loaded


def test_a_profile_without_autoencoder_has_none_to_train(edited_tiny, tmp_path):
    run = Run.open("a", edited_tiny({"autoencoder": None}), root=tmp_path)
    with pytest.raises(InputError, match="no autoencoder"):
        train_autoencoder(run)
    images = blobs(2)
    folded = build_generator("diffusion", run.profile, n_classes=7).representation
    assert torch.equal(folded.decode(folded.encode(images)), images)


def test_one_generator_may_work_on_pixels(edited_tiny):
    profile = load_profile(edited_tiny({"gan": {"autoencoder": None}}))
    assert profile.gan.autoencoder is None
    assert profile.diffusion.autoencoder == profile.autoencoder


def test_an_autoencoder_of_ones_own_is_refused(edited_tiny):
    own = {"channels": 8, "training": {"steps": 6, "batch_size": 8, "learning_rate": 1.0e-3}}
    with pytest.raises(InputError, match="all generators share"):
        load_profile(edited_tiny({"flow": {"autoencoder": own}}))


def test_two_perceptual_terms_are_refused(edited_tiny):
    with pytest.raises(InputError, match="perceptual_weight must be 0"):
        load_profile(edited_tiny({"diffusion": {"perceptual_weight": 0.3}}))
