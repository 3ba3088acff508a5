"""A class-conditional diffusion model (Ho et al. 2020) on an autoencoder's latents, or on pixels.

The U-Net and the forward process are denoising-diffusion-pytorch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.generator_settings import DiffusionSettings
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.generators.autoencoder.perceptual import perceptual_distance
from hamsynth_utils.generators.base import seeded_noise
from hamsynth_utils.generators.latent import Prediction, SolverGenerator, guided

SOLVERS = ("ddim", "dpm++")


class Diffusion(SolverGenerator):
    """`process.model(x_t, t, y)` denoises x_t; classes are dropped in training for guidance.

    Args:
        image_size: S, height and width in pixels.
        settings: the profile's section `diffusion`.
        n_classes: K, the number of classes.

    Raises:
        InputError: there are more sampling steps than timesteps.
    """

    name: ClassVar[str] = "diffusion"
    settings_class: ClassVar[type[Settings]] = DiffusionSettings
    membership_statistic: ClassVar[str] = "denoising"
    tables: ClassVar[tuple[str, ...]] = ("history", "snapshot_distances", "sampling")
    solvers: ClassVar[tuple[str, ...]] = SOLVERS
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    time_dtype: ClassVar[torch.dtype] = torch.int64

    def __init__(self, image_size: int, settings: DiffusionSettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        if settings.sampling_steps > settings.timesteps:
            raise InputError(
                f"diffusion.sampling_steps ({settings.sampling_steps}) must not exceed "
                f"diffusion.timesteps ({settings.timesteps})"
            )
        self.process = GaussianDiffusion(
            self.new_network(),
            image_size=self.shape[-1],
            timesteps=settings.timesteps,
            objective=settings.objective,
            beta_schedule="cosine",
        )
        if settings.objective == "pred_x0":
            # As a loss of x_0, the loss of v-prediction has the weight SNR + 1. Without a bound,
            # images that are hardly noisy would dominate it.
            signal = self.process.alphas_cumprod
            self.process.loss_weight = (1 / (1 - signal)).clamp(max=settings.max_snr_weight)

    def training_step(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the weighted squared error of the prediction at random times, per value.

        On pixels a perceptual term can be added: `perceptual_weight` times the perceptual distance
        between the clean image and the prediction of it. The term's weight falls with the noise as
        the square root of the error's weight, since details that the noise hides cannot be
        predicted.

        Args:
            x: of the training images, [N, *shape].
            labels: int64 [N].

        Returns:
            `loss`; with a perceptual term also its parts `error` and `perceptual`.
        """
        times = self.shifted_timesteps(self.shard.rand(len(x), device=x.device))
        noise = self.shard.randn(*x.shape, device=x.device)
        condition_mask = self.shard.rand(len(x), device=x.device) >= self.settings.cond_drop_prob
        errors, output, x_t = self.prediction_error(
            x, times, noise, labels, cond_keep_mask=condition_mask
        )
        error = errors.mean()
        if self.settings.perceptual_weight == 0:
            return {"loss": error}
        images = self.representation.decode(x)  # [N, *shape] -> [N, 3, S, S], exact
        clean = self.representation.decode(self.predict_x0(output, x_t, times))  # [N, 3, S, S]
        visible = (self.process.loss_weight[times] / self.process.loss_weight.max()).sqrt()
        difference = (visible * perceptual_distance(images, clean)).mean()
        return {
            "loss": error + self.settings.perceptual_weight * difference,
            "error": error.detach(),
            "perceptual": difference.detach(),
        }

    def prediction_error(
        self, x: Tensor, times: Tensor, noise: Tensor, labels: Tensor, **conditioning: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Noise x and compare the network's output with its target.

        Args:
            x: data [N, *shape].
            times: int64 [N] in 0 to T - 1.
            noise: [N, *shape].
            labels: int64 [N].
            conditioning: which labels the network sees, as denoising-diffusion-pytorch's Unet takes
                it.

        Returns:
            The weighted squared error [N], the network's output [N, *shape], and x_t [N, *shape].
        """
        x_t = self.process.q_sample(x, times, noise)
        output = self.process.model(x_t, times, labels, **conditioning).float()
        target = {
            "pred_noise": lambda: noise,
            "pred_x0": lambda: x,
            "pred_v": lambda: self.process.predict_v(x, times, noise),
        }[self.settings.objective]()
        errors = F.mse_loss(output, target, reduction="none").mean((1, 2, 3))
        return self.process.loss_weight[times] * errors, output, x_t

    def predict_x0(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The prediction of x_0 that follows from the output of the network for x_t.

        Args:
            output: the output, [N, *shape]; its meaning is the setting `objective`.
            x: x_t, [N, *shape].
            t: int64 [N], timesteps.

        Returns:
            [N, *shape].
        """
        if self.settings.objective == "pred_noise":
            return self.process.predict_start_from_noise(x, t, output)
        if self.settings.objective == "pred_v":
            return self.process.predict_start_from_v(x, t, output)
        return output

    def shifted_timesteps(self, uniform: Tensor) -> Tensor:
        """Positions on the cosine schedule to timesteps, more of them where noise is strong.

        Neighbouring pixels are nearly equal. Noise that hides the shapes of a small image therefore
        leaves those of a large image visible, and the schedule has few timesteps where it would
        hide these. So the signal-to-noise ratio is divided by `schedule_shift`^2 (Hoogeboom et al.
        2023, eq. 5): t = 2 / pi * atan(schedule_shift * tan(pi / 2 * u)).

        Args:
            uniform: positions u in [0, 1], any shape.

        Returns:
            int64 timesteps in 0 to T - 1, of the same shape.
        """
        angle = torch.atan(
            self.settings.schedule_shift * torch.tan(uniform.double() * torch.pi / 2)
        )
        return (angle * 2 / torch.pi * (self.settings.timesteps - 1)).round().long()

    @torch.no_grad()
    def denoise(self, labels: Tensor, seed: int, **sampling_kwargs: Any) -> Iterator[Tensor]:
        """The prediction of the clean image after each step; the last one is the sample.

        Args:
            labels: int64 [N].
            seed: of the first image.
            sampling_kwargs: as for `guided_trajectory`.

        Yields:
            Images [N, 3, S, S] in [-1, 1].
        """
        for clean in self.seeded_trajectory(labels, seed, **sampling_kwargs):
            yield self.decode_images(clean)

    @property
    def offered_steps(self) -> tuple[int, ...]:
        """The settings' number of steps, and those with which the solvers are compared."""
        return tuple(sorted({self.settings.sampling_steps, *self.settings.curve_steps}))

    def solver_steps(
        self, x: Tensor, predict: Prediction, steps: int, solver: str
    ) -> Iterator[Tensor]:
        """The prediction of x_0 after each step; each step evaluates the network once.

        ddim: deterministic DDIM (Song et al. 2021, eq. 12 with sigma = 0). dpm++: DPM-Solver++(2M)
        (Lu et al. 2022, algorithm 2). It extrapolates linearly from the last two predictions, where
        DDIM uses the last one. Its first step has only one prediction, and in its last step the
        extrapolation would reach too far: these two steps are DDIM's.

        Args:
            x: the noise [N, *shape].
            predict: the prediction of x_0 at (x_t, t).
            steps: 2 to the settings' timesteps.
            solver: `ddim` or `dpm++`.

        Raises:
            InputError: `steps` is out of range.
        """
        if not 2 <= steps <= self.settings.timesteps:
            raise InputError(f"steps must lie in 2 to {self.settings.timesteps}, but is {steps}")
        times, alpha, sigma, log_snr = self.schedule(steps)
        previous = None
        for step, time in enumerate(times):
            clean = predict(x, time)
            yield clean
            if step + 1 == len(times):
                return
            target = clean
            if solver == "dpm++" and previous is not None and step + 2 < len(times):
                ratio = (log_snr[step + 1] - log_snr[step]) / (log_snr[step] - log_snr[step - 1])
                target = clean + 0.5 * ratio * (clean - previous)
            noise = (x - alpha[step] * target) / sigma[step]
            x = alpha[step + 1] * target + sigma[step + 1] * noise
            previous = clean

    def schedule(self, steps: int) -> tuple[list[int], list[float], list[float], list[float]]:
        """The timesteps of a solver, noisiest first; those that coincide are taken once.

        Args:
            steps: how many steps.

        Returns:
            The timesteps, alpha and sigma of x_t = alpha x_0 + sigma noise, and log(alpha / sigma).
        """
        times = self.shifted_timesteps(torch.linspace(1, 0, steps)).unique().flip(0)
        signal = self.process.alphas_cumprod.double().cpu()[times]
        log_snr = (signal / (1 - signal)).log().div(2)
        return (
            times.tolist(),
            signal.sqrt().tolist(),
            (1 - signal).sqrt().tolist(),
            log_snr.tolist(),
        )

    @torch.no_grad()
    def predict(self, x: Tensor, time: float | Tensor, labels: Tensor, guidance: float) -> Tensor:
        """As `SolverGenerator.predict`: x_0 at a timestep, clipped to the limit of x."""
        t = torch.as_tensor(time, device=x.device).expand(len(x))
        clean = self.predict_x0(guided(self.process.model, x, t, labels, guidance), x, t)
        return clean.float().clamp(-self.representation.limit, self.representation.limit)

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """`denoising`, the training error at fixed times and noises, and `representation_losses`.

        Carlini et al. 2023; Matsumoto et al. 2023.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N].
            seed: of the noises.
            noise_levels: how many pairs of a time and a noise.

        Returns:
            Errors [N] by name.
        """
        x = self.representation.encode(images)
        positions = (torch.arange(noise_levels) + 0.5) / noise_levels
        noises = seeded_noise(self.shape, seed, noise_levels, self.device)
        errors = torch.zeros(len(x), device=self.device)
        for time, noise in zip(self.shifted_timesteps(positions).tolist(), noises, strict=True):
            t = torch.full((len(x),), time, device=self.device)
            error, _, _ = self.prediction_error(
                x, t, noise.expand_as(x), labels, cond_drop_prob=0.0
            )
            errors += error / noise_levels
        return {"denoising": errors, **self.representation_losses(images, x)}
