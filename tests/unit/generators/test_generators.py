import json
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.weights import write_weights
from hamsynth_utils.data.dataset_info import HAM10000, ClassList
from hamsynth_utils.generators.base import Generator, seeded_noise
from hamsynth_utils.generators.latent import SolverGenerator
from hamsynth_utils.generators.loading import (
    FORMAT,
    build_generator,
    checkpoint_metadata,
    load_generator,
)

CLASSES = HAM10000.classes.names

LABELS = torch.arange(7)


@pytest.fixture
def profile(tiny_profile):
    return load_profile(tiny_profile)


@pytest.fixture(params=GENERATORS)
def generator(request, profile):
    torch.manual_seed(0)
    return build_generator(request.param, profile, n_classes=7).eval()


def test_samples_have_the_shape_range_and_classes_asked_for(generator):
    images = generator.sample(LABELS, seed=3)
    assert images.shape == (7, 3, 64, 64)
    assert images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1


def test_each_image_depends_on_its_own_seed_only(generator):
    whole = generator.sample(LABELS, seed=10)
    alone = generator.sample(LABELS[4:5], seed=14)
    torch.testing.assert_close(whole[4:5], alone, atol=2e-4, rtol=0)
    assert not torch.allclose(whole[4:5], generator.sample(LABELS[4:5], seed=15), atol=1e-2)
    assert torch.equal(whole, generator.sample(LABELS, seed=10))


def test_sampling_leaves_the_global_random_state_alone(generator):
    before = torch.random.get_rng_state()
    generator.sample(LABELS[:2], seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "labels", [torch.tensor([7]), torch.tensor([-1]), torch.tensor([0.5]), torch.tensor([[1]])]
)
def test_labels_that_are_no_class_are_refused(generator, labels):
    with pytest.raises(InputError, match="labels must"):
        generator.sample(labels, seed=0)


def test_training_gives_every_parameter_a_finite_gradient(generator):
    x = generator.train().representation.encode(torch.rand(8, 3, 64, 64) * 2 - 1)
    losses = generator(x, torch.arange(8) % 7)
    losses["loss"].backward()
    without = [
        name
        for name, p in generator.named_parameters()
        if p.requires_grad and (p.grad is None or not torch.isfinite(p.grad).all())
    ]
    assert not [name for name in without if "null_classes_emb" not in name]
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("name", ["vae", "diffusion", "flow"])
def test_training_on_one_image_a_class_teaches_the_class(name, edited_tiny):
    """Two classes, each one flat colour: after a short training the samples lean to their class's."""
    change = {
        "vae": {"width": 32},
        "diffusion": {"width": 16, "guidance": 1.0, "sampling_steps": 10},
        "flow": {"width": 16, "guidance": 1.0, "sampling_steps": 5},
    }[name]
    profile = {name: {**change, "autoencoder": None}, "data": {"image_size": 32}}
    torch.manual_seed(0)
    generator = build_generator(name, load_profile(edited_tiny(profile)), n_classes=7).train()
    labels = torch.arange(8) % 2 + 2
    images = torch.where(labels == 2, -0.6, 0.6).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    x = generator.representation.encode(images)
    optimizer = torch.optim.Adam(generator.parameter_groups(3e-3), betas=generator.betas)
    for step in range(100):
        generator.progress = step / 100
        optimizer.zero_grad()
        generator(x, labels)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimizer.step()
    samples = generator.eval().sample(torch.tensor([2] * 8 + [3] * 8), seed=0)
    low, high = samples[:8].mean(), samples[8:].mean()
    assert high - low > 0.3, f"{low:.2f} and {high:.2f}, but -0.6 and 0.6 were taught"


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_the_diffusion_loss_is_the_librarys(edited_tiny, objective):
    diffusion = build_generator(
        "diffusion",
        load_profile(edited_tiny({"diffusion": {"objective": objective, "autoencoder": None}})),
        n_classes=7,
    )
    images, labels = torch.rand(6, 3, 64, 64) * 2 - 1, torch.arange(6)
    torch.manual_seed(4)
    x = F.pixel_unshuffle(images, 4)
    ours = diffusion.training_step(x, labels)
    torch.manual_seed(4)
    times = diffusion.shifted_timesteps(torch.rand(6))
    noise, condition_mask = (
        torch.randn(6, 48, 16, 16),
        torch.rand(6) >= diffusion.settings.cond_drop_prob,
    )
    theirs = diffusion.process.p_losses(
        x,
        times,
        classes=labels,
        noise=noise,
        cond_keep_mask=condition_mask,
    )
    torch.testing.assert_close(ours["loss"], theirs)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_the_perceptual_term_of_a_perfect_prediction_is_nothing(edited_tiny, objective):
    change = {"diffusion": {"objective": objective, "perceptual_weight": 1.0, "autoencoder": None}}
    diffusion = build_generator("diffusion", load_profile(edited_tiny(change)), n_classes=7)
    images, labels = torch.rand(6, 3, 64, 64) * 2 - 1, torch.arange(6)
    folded, noise = F.pixel_unshuffle(images, 4), torch.randn(6, 48, 16, 16)
    assert diffusion.training_step(folded, labels)["perceptual"] > 0.05
    times = torch.full((6,), 20)
    noisy = diffusion.process.q_sample(folded, times, noise)
    velocity = diffusion.process.predict_v(folded, times, noise)
    perfect = {"pred_noise": noise, "pred_x0": folded, "pred_v": velocity}[objective]
    torch.testing.assert_close(
        diffusion.predict_x0(perfect, noisy, times), folded, atol=1e-3, rtol=0
    )


def test_ddim_through_every_time_agrees_with_the_librarys(edited_tiny):
    """Our sampler without guidance against denoising-diffusion-pytorch's ddim_sample at eta 0, same noise."""
    torch.manual_seed(0)
    change = {"diffusion": {"schedule_shift": 1.0, "autoencoder": None}}
    diffusion = build_generator("diffusion", load_profile(edited_tiny(change)), n_classes=7)
    process = diffusion.eval().process
    torch.nn.init.normal_(process.model.final_conv.weight, std=0.3)
    labels = torch.tensor([1, 5])
    process.ddim_sampling_eta = 0.0
    # Guidance 1 is not guidance at all, but the library then forgets to return a pair.
    process.model.forward_with_cond_scale = lambda x, t, classes, **_: (
        process.model(x, t, classes, cond_drop_prob=0.0),
        None,
    )
    noise = seeded_noise((48, 16, 16), 7, 2, torch.device("cpu"))
    with patch("torch.randn", return_value=noise):
        expected = process.ddim_sample(labels, noise.shape) * 2 - 1
    ours = F.pixel_unshuffle(diffusion.sample(labels, 7, guidance=1.0, steps=50, solver="ddim"), 4)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_shifted_times_divide_the_signal_to_noise_ratio(edited_tiny):
    def snr(shift):
        change = {"diffusion": {"schedule_shift": shift, "timesteps": 1000}}
        diffusion = build_generator("diffusion", load_profile(edited_tiny(change)), n_classes=7)
        signal = diffusion.process.alphas_cumprod[
            diffusion.shifted_timesteps(torch.linspace(0.2, 0.8, 5))
        ]
        return signal / (1 - signal)

    torch.testing.assert_close(snr(1.0) / snr(3.0), torch.full((5,), 9.0), rtol=0.08, atol=0)


def test_guidance_moves_away_from_the_unconditional_guess(edited_tiny):
    change = {"diffusion": {"autoencoder": None}}
    diffusion = build_generator("diffusion", load_profile(edited_tiny(change)), n_classes=7).eval()
    torch.nn.init.normal_(diffusion.process.model.final_conv.weight, std=0.05)
    x, t, labels = torch.randn(3, 48, 16, 16), torch.full((3,), 20), torch.tensor([0, 1, 2])
    with_class = diffusion.process.model(x, t, labels, cond_drop_prob=0.0)
    without = diffusion.process.model(x, t, labels, cond_drop_prob=1.0)
    expected = (without + 2.5 * (with_class - without)).clamp(-1, 1)
    torch.testing.assert_close(diffusion.predict(x, t, labels, 2.5), expected, atol=1e-5, rtol=1e-4)


def test_dpm_solver_is_nearer_the_exact_path_than_ddim_which_is_of_first_order(edited_tiny):
    """Where the data are N(m, s^2) the best guess and the path (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2),
    which is constant, are known."""
    change = {"diffusion": {"autoencoder": None, "timesteps": 1000, "schedule_shift": 1.0}}
    diffusion = build_generator("diffusion", load_profile(edited_tiny(change)), n_classes=7).eval()
    signal, mean, deviation = diffusion.process.alphas_cumprod.double(), 0.3, 0.5

    def best_guess(x, t, labels, guidance):
        a = signal[t].view(-1, 1, 1, 1)
        return mean + a.sqrt() * deviation**2 / (a * deviation**2 + 1 - a) * (x - a.sqrt() * mean)

    diffusion.predict = best_guess
    noise = seeded_noise(diffusion.shape, 3, 2, torch.device("cpu")).double()
    begin, end = signal[-1], signal[0]
    scale = (begin * deviation**2 + 1 - begin).sqrt()
    at_end = (
        end.sqrt() * mean
        + (end * deviation**2 + 1 - end).sqrt() * (noise - begin.sqrt() * mean) / scale
    )
    exact = best_guess(at_end, torch.zeros(2, dtype=torch.long), None, None)

    def error(solver, steps):
        *_, clean = diffusion.seeded_trajectory(
            torch.tensor([1, 2]), 3, guidance=1.0, steps=steps, solver=solver
        )
        return float((clean - exact).abs().max())

    assert error("ddim", 40) == pytest.approx(error("ddim", 20) / 2, rel=0.1)
    assert error("dpm++", 20) < error("dpm++", 10) / 4
    assert error("dpm++", 20) < error("ddim", 20) / 10


@pytest.mark.parametrize(
    "bad",
    [
        {"guidance": 0.5},
        {"guidance": float("nan")},
        {"steps": 1},
        {"steps": 51},
        {"solver": "euler"},
    ],
)
def test_a_wrong_guidance_number_of_steps_or_solver_is_refused(profile, bad):
    with pytest.raises(InputError, match=r"must|no solver is called 'euler'; there are ddim, dpm"):
        build_generator("diffusion", profile, n_classes=7).sample(LABELS[:1], 0, **bad)


def test_weights_round_trip(generator, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, generator.state_dict(), checkpoint_metadata(generator, HAM10000))
    loaded = load_generator(path)
    assert loaded.name == generator.name
    assert torch.equal(loaded.sample(LABELS, 1), generator.sample(LABELS, 1))


def test_bad_checkpoints_are_refused(generator, tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(InputError, match="no weights at"):
        load_generator(path)
    write_weights(path, generator.state_dict(), checkpoint_metadata(generator, HAM10000))
    other = next(name for name in GENERATORS if name != generator.name)
    with pytest.raises(InputError, match=f"holds a {generator.name}, not a {other}"):
        load_generator(path, other)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_generator(path)
    names = ("a", "b", "c", "d", "e", "f", "g")
    other_classes = ClassList(names, dict(zip(names, names, strict=True)), "a")
    about = checkpoint_metadata(generator, replace(HAM10000, classes=other_classes))
    write_weights(path, generator.state_dict(), about)
    assert load_generator(path).n_classes == 7
    with pytest.raises(InputError, match="trained on the classes a, b, c, d, e, f, g, not akiec, "):
        load_generator(path, classes=HAM10000.classes)
    write_weights(path, generator.state_dict(), about | {"dataset": "akiec,bcc"})
    with pytest.raises(InputError, match=r"does not say which classes .*: train anew"):
        load_generator(path)
    write_weights(
        path, generator.state_dict(), {**checkpoint_metadata(generator, HAM10000), "format": "0"}
    )
    with pytest.raises(InputError, match=r"made with hamsynth .*, in format 0; this is hamsynth"):
        load_generator(path)
    settings = {**json.loads(checkpoint_metadata(generator, HAM10000)["settings"]), "wings": 2}
    write_weights(
        path,
        generator.state_dict(),
        {**checkpoint_metadata(generator, HAM10000), "settings": json.dumps(settings)},
    )
    with pytest.raises(InputError, match=r"whose settings this version does not know: .*wings"):
        load_generator(path)
    write_weights(
        path,
        generator.state_dict(),
        {**checkpoint_metadata(generator, HAM10000), "image_size": "128"},
    )
    if not isinstance(generator, SolverGenerator):  # whose network fits any size
        with pytest.raises(InputError, match=r"does not fit this version's"):
            load_generator(path)
    state = generator.state_dict()
    state.pop(next(iter(state)))
    write_weights(path, state, checkpoint_metadata(generator, HAM10000))
    with pytest.raises(InputError, match="does not fit"):
        load_generator(path)
    write_weights(path, generator.state_dict(), {})
    with pytest.raises(InputError, match="holds no generator"):
        load_generator(path)


def test_a_checkpoint_of_the_first_release_says_which_version_reads_it(tmp_path):
    """Files of format 1 have settings under other names: their message comes before any about these."""
    path = tmp_path / "weights.safetensors"
    old = {
        "format": "1",
        "generator": "gan",
        "made_with": "hamsynth 0.1.0, torch 2.9.0",
        "image_size": "64",
        "classes": ",".join(CLASSES),
        "settings": json.dumps({"latent_size": 128, "penalty": 2.0}),
    }
    write_weights(path, {"weight": torch.zeros(1)}, old)
    with pytest.raises(
        InputError,
        match=rf"was made with hamsynth 0\.1\.0.*in format 1; this is hamsynth .*reads format {FORMAT}: use that "
        r"version, or train anew",
    ):
        load_generator(path)


def test_an_unknown_generator_is_refused(profile):
    with pytest.raises(InputError, match="no generator is called 'dream'"):
        build_generator("dream", profile, n_classes=7)


@pytest.mark.parametrize(
    "size", [32, 64, 128, pytest.param(256, marks=pytest.mark.slow)], ids=lambda size: f"{size}px"
)
@pytest.mark.parametrize("name", GENERATORS)
def test_every_image_size_is_trained_on_and_drawn(name, size, edited_tiny):
    profile = load_profile(edited_tiny({"data": {"image_size": size}}))
    torch.manual_seed(0)
    generator = build_generator(name, profile, n_classes=7).train()
    x = generator.representation.encode(torch.rand(2, 3, size, size) * 2 - 1)
    assert x.shape[1:] == generator.shape == (4, size // 8, size // 8)
    losses = generator.training_step(x, LABELS[:2])
    losses["loss"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    images = generator.eval().sample(LABELS[:1], 0)
    assert images.shape == (1, 3, size, size) and torch.isfinite(images).all()


def test_a_checkpoint_of_another_image_size_than_asked_for_is_refused(generator, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, generator.state_dict(), checkpoint_metadata(generator, HAM10000))
    assert load_generator(path, image_size=64).image_size == 64
    with pytest.raises(InputError, match=r"draws images of 64 pixels a side, not of 128: take a"):
        load_generator(path, image_size=128)


class OfPairs(Generator):
    """Its loss compares the images of a batch, and so is no number for one image."""

    name = "pairs"

    def __init__(self) -> None:
        super().__init__(8, None, n_classes=7)
        self.noise_shape, self.shade = (1,), torch.nn.Parameter(torch.zeros(()))

    def training_step(self, images, labels):
        return {"loss": (images + self.shade).var(0).mean()}

    def decode_noise(self, noise, labels):
        return noise[:, :, None, None].expand(-1, 3, 8, 8)


def test_a_loss_that_needs_two_images_attacks_nobody_in_silence():
    with pytest.raises(
        InputError,
        match="pairs: .*no number for one image alone.*OfPairs a membership_losses of its own",
    ):
        OfPairs().membership_losses(torch.rand(3, 3, 8, 8), torch.arange(3), seed=0, noise_levels=2)
