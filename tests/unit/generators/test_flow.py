"""The flow-matching model where its velocity is known in closed form."""

import math

import pytest
import torch
from scipy import integrate

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.generators.base import seeded_noise
from hamsynth_utils.generators.flow import TIME_SCALE, Flow
from hamsynth_utils.generators.loading import build_generator

MEAN, DEVIATION = 0.3, 0.5
LABELS = torch.arange(7)


@pytest.fixture
def flow(edited_tiny) -> Flow:
    torch.manual_seed(0)
    change = {"flow": {"autoencoder": None, "cond_drop_prob": 0.5}, "data": {"image_size": 32}}
    return build_generator("flow", load_profile(edited_tiny(change)), n_classes=7).eval()


def best_velocity(x: torch.Tensor, t: torch.Tensor | float) -> torch.Tensor:
    """The mean velocity at x where the data are N(MEAN, DEVIATION^2), each value by itself."""
    variance = (1 - t) ** 2 + t**2 * DEVIATION**2
    return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * (x - t * MEAN)


class Best(torch.nn.Module):
    """Plays the network that has learned all there is, and is off by `off`."""

    off = 0.0

    def forward(
        self, x: torch.Tensor, times: torch.Tensor, labels: torch.Tensor, **told: object
    ) -> torch.Tensor:
        return best_velocity(x, (times / TIME_SCALE).view(-1, 1, 1, 1)) + self.off


def test_the_best_velocity_leads_every_noise_to_its_place_in_the_data(flow):
    """The path is t m + sqrt((1 - t)^2 + t^2 s^2) x_0; Euler errs by the step, midpoint by its square or less."""
    flow.predict = lambda x, time, *_: best_velocity(x, time)
    noise = seeded_noise(flow.shape, 3, 2, torch.device("cpu"))

    def error(solver: str, steps: int) -> float:
        *_, end = flow.seeded_trajectory(LABELS[:2], 3, guidance=1.0, steps=steps, solver=solver)
        return float((end - (MEAN + DEVIATION * noise)).abs().max())

    assert error("euler", 160) == pytest.approx(error("euler", 80) / 2, rel=0.1)
    assert error("midpoint", 20) < error("midpoint", 10) / 3.5
    assert error("midpoint", 20) < error("euler", 40) / 3
    _, half, _ = flow.seeded_trajectory(LABELS[:2], 3, guidance=1.0, steps=2, solver="euler")
    torch.testing.assert_close(half, noise + best_velocity(noise, 0.0) / 2)


def test_where_all_images_are_one_a_single_step_arrives(flow):
    flow.predict = lambda x, time, *_: (MEAN - x) / (1 - time)
    *_, end = flow.seeded_trajectory(LABELS[:2], 0, guidance=1.0, steps=1, solver="euler")
    torch.testing.assert_close(end, torch.full_like(end, MEAN))


def test_no_velocity_has_a_smaller_loss_than_the_best_whose_loss_is_known(flow):
    """The least is the integral of s^2 / ((1 - t)^2 + t^2 s^2), which is pi s / 2; being off by d adds d^2."""
    least = integrate.quad(lambda t: DEVIATION**2 / ((1 - t) ** 2 + (t * DEVIATION) ** 2), 0, 1)[0]
    assert least == pytest.approx(math.pi * DEVIATION / 2)
    flow.network = Best()
    torch.manual_seed(1)
    x = MEAN + DEVIATION * torch.randn(4000, *flow.shape)
    labels, losses = torch.zeros(len(x), dtype=torch.long), []
    for off in (0.0, 0.4):
        flow.network.off = off
        torch.manual_seed(2)
        losses.append(float(flow.training_step(x, labels)["loss"]))
    assert losses[0] == pytest.approx(least, rel=0.02)
    assert losses[1] - losses[0] == pytest.approx(0.4**2, rel=0.05)


def test_guidance_goes_from_the_output_without_class_past_the_one_with_it(flow):
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, labels = torch.randn(3, *flow.shape), LABELS[:3]
    times = torch.full((3,), TIME_SCALE * 0.4)
    with torch.no_grad():
        told = flow.network(x, times, labels, cond_drop_prob=0.0)
        untold = flow.network(x, times, labels, cond_drop_prob=1.0)
        torch.testing.assert_close(flow.predict(x, 0.4, labels, 1.0), told)
        found = flow.predict(x, 0.4, labels, 2.5)
    torch.testing.assert_close(found, untold + 2.5 * (told - untold), atol=1e-5, rtol=1e-4)


def test_an_attacker_gets_the_error_at_fixed_places_of_fixed_lines(flow):
    images, labels = torch.rand(3, 3, 32, 32) * 2 - 1, LABELS[:3]
    with torch.no_grad():
        found = flow.membership_losses(images, labels, seed=5, noise_levels=2)
        x, errors = flow.representation.encode(images), []
        for time, noise in zip(
            (0.25, 0.75), seeded_noise(flow.shape, 5, 2, torch.device("cpu")), strict=True
        ):
            velocity = flow.predict((1 - time) * noise + time * x, time, labels, 1.0)
            errors.append((velocity - (x - noise)).square().flatten(1).mean(1))
    torch.testing.assert_close(found["velocity"], (errors[0] + errors[1]) / 2)


@pytest.mark.parametrize(("solver", "passes"), [("euler", 3), ("midpoint", 6)])
def test_an_image_costs_as_many_passes_as_the_solver_asks_for(flow, solver, passes):
    asked = []
    flow.network.register_forward_hook(lambda module, given, output: asked.append(len(output)))
    flow.sample(LABELS[:1], 0, guidance=1.0, steps=3, solver=solver)
    assert sum(asked) == passes


@pytest.mark.parametrize(
    "bad", [{"guidance": 0.5}, {"guidance": float("nan")}, {"steps": 0}, {"solver": "ddim"}]
)
def test_a_wrong_guidance_number_of_steps_or_solver_is_refused(flow, bad):
    with pytest.raises(
        InputError, match=r"must|no solver is called 'ddim'; there are euler, midpoint"
    ):
        flow.sample(LABELS[:1], 0, **bad)
