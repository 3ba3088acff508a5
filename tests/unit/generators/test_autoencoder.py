import pytest
import torch

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import train_autoencoder, train_generator
from hamsynth_utils.generators.autoencoder import Autoencoder
from hamsynth_utils.generators.loading import build_generator
from hamsynth_utils.generators.perceptual import perceptual_distance


def autoencoder_of(profile_path: str) -> Autoencoder:
    torch.manual_seed(0)
    settings = load_profile(profile_path).diffusion.autoencoder
    assert settings is not None
    return Autoencoder(settings)


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


@pytest.mark.parametrize(("factor", "side"), [(4, 16), (8, 8)])
def test_latents_have_the_shape_asked_for_and_decode_to_images(edited_tiny, factor, side):
    autoencoder = autoencoder_of(
        edited_tiny({"diffusion": {"autoencoder": {"factor": factor}}})
    ).eval()
    latents = autoencoder.encode(blobs(3))
    assert latents.shape == (3, 4, side, side)
    assert autoencoder.decode(latents).shape == (3, 3, 64, 64)


def test_the_loss_is_absolute_error_plus_perceptual_distance(edited_tiny):
    change = {"diffusion": {"autoencoder": {"latent_noise_std": 0.0, "perceptual_weight": 0.7}}}
    autoencoder = autoencoder_of(edited_tiny(change)).eval()
    images = blobs(4)
    torch.manual_seed(2)
    losses = autoencoder(images, torch.zeros(4, dtype=torch.long))
    decoded = autoencoder.decode(autoencoder.encode(images))
    torch.manual_seed(2)
    torch.randn(4, 4, 8, 8)  # the noise, here times nothing
    expected = (decoded - images).abs().mean() + 0.7 * perceptual_distance(images, decoded).mean()
    torch.testing.assert_close(losses["loss"], expected)


@pytest.mark.slow
def test_a_short_training_reconstructs_and_normalises(edited_tiny):
    autoencoder = autoencoder_of(
        edited_tiny({"diffusion": {"autoencoder": {"channels": 8, "width": 16}}})
    ).train()
    images, labels = blobs(64), torch.zeros(64, dtype=torch.long)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    for step in range(120):
        batch = slice(16 * (step % 4), 16 * (step % 4) + 16)
        optimizer.zero_grad()
        autoencoder(images[batch], labels[batch])["loss"].backward()
        optimizer.step()
    autoencoder.eval()
    with torch.no_grad():
        latents = autoencoder.encode(images)
        error = (autoencoder.decode(latents) - images).abs().mean()
    mean_image_error = (images - images.mean(0)).abs().mean()
    assert error < 0.5 * mean_image_error, (
        f"{error:.3f}, and {mean_image_error:.3f} by the mean image"
    )
    spread = latents.var((0, 2, 3))
    assert latents.mean((0, 2, 3)).abs().max() < 0.5 and spread.min() > 0.4 and spread.max() < 2.5


def test_diffusion_never_changes_its_autoencoder(edited_tiny, tmp_path):
    run = Run.open("a", edited_tiny({}), root=tmp_path)
    first = train_autoencoder(run, progress_bar=False)
    diffusion = train_generator(run, "diffusion", progress_bar=False).module
    assert train_autoencoder(run).loaded
    for name, value in first.module.state_dict().items():
        torch.testing.assert_close(diffusion.representation.state_dict()[name], value, msg=name)


def test_a_profile_without_autoencoder_has_none_to_train(edited_tiny, tmp_path):
    run = Run.open("a", edited_tiny({"diffusion": {"autoencoder": None}}), root=tmp_path)
    with pytest.raises(InputError, match="no autoencoder"):
        train_autoencoder(run)
    images = blobs(2)
    folded = build_generator("diffusion", run.profile, n_classes=7).representation
    assert torch.equal(folded.decode(folded.encode(images)), images)


def test_two_perceptual_terms_are_refused(edited_tiny):
    with pytest.raises(InputError, match="perceptual_weight must be 0"):
        load_profile(edited_tiny({"diffusion": {"perceptual_weight": 0.3}}))
