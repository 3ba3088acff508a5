"""A class-conditional diffusion model (Ho et al. 2020) on an autoencoder's latents, or on folded pixels.

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
from hamsynth_utils.generators.base import seeded_noise
from hamsynth_utils.generators.latent import LatentGenerator, Prediction, guided
from hamsynth_utils.generators.perceptual import perceptual_distance

SOLVERS = ("ddim", "dpm++")


class Diffusion(LatentGenerator):
    """Denoises `process.model(x_t, t, y)`; trained with classes dropped, sampled with guidance."""

    name: ClassVar[str] = "diffusion"
    settings_class: ClassVar[type[Settings]] = DiffusionSettings
    membership_statistic: ClassVar[str] = "denoising"
    tables: ClassVar[tuple[str, ...]] = ("history", "snapshot_distances", "sampling")
    solvers: ClassVar[tuple[str, ...]] = SOLVERS
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)

    def __init__(self, image_size: int, settings: DiffusionSettings) -> None:
        super().__init__(image_size, settings)
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
            # Seen from x0, the loss of v-prediction weighs SNR + 1; unbounded, it would be all about
            # images that are hardly noisy.
            signal = self.process.alphas_cumprod
            self.process.loss_weight = (1 / (1 - signal)).clamp(max=settings.max_snr_weight)

    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Weighted squared error of the network's prediction at random times, per channel value.

        On top, for folded pixels, if `perceptual` is not 0, comes so many times the perceptual distance
        between the clean image and the guess of it. Its weight falls with the noise as the square root of the
        other one's: what cannot be seen any more need not look right.
        """
        with torch.no_grad():
            x = self.representation.encode(images)
        times = self.shifted_timesteps(self.shard.rand(len(images), device=images.device))
        noise = self.shard.randn(*x.shape, device=x.device)
        told = self.shard.rand(len(x), device=x.device) >= self.settings.cond_drop_prob
        errors, output, noisy = self.prediction_error(x, times, noise, labels, cond_keep_mask=told)
        error = errors.mean()
        if self.settings.perceptual_weight == 0:
            return {"loss": error}
        clean = self.representation.decode(self.predict_x0(output, noisy, times))
        visible = (self.process.loss_weight[times] / self.process.loss_weight.max()).sqrt()
        difference = (visible * perceptual_distance(images, clean)).mean()
        return {
            "loss": error + self.settings.perceptual_weight * difference,
            "error": error.detach(),
            "perceptual": difference.detach(),
        }

    def prediction_error(
        self, x: Tensor, times: Tensor, noise: Tensor, labels: Tensor, **told: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted squared error [N] of the prediction for x_t of x, times and noise; its output; and x_t.

        told: which of the labels the network is told, see denoising-diffusion-pytorch's Unet.
        """
        noisy = self.process.q_sample(x, times, noise)
        output = self.process.model(noisy, times, labels, **told).float()
        target = {
            "pred_noise": lambda: noise,
            "pred_x0": lambda: x,
            "pred_v": lambda: self.process.predict_v(x, times, noise),
        }[self.settings.objective]()
        errors = F.mse_loss(output, target, reduction="none").mean((1, 2, 3))
        return self.process.loss_weight[times] * errors, output, noisy

    def predict_x0(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The guess of x_0 that the network's output for x_t means."""
        if self.settings.objective == "pred_noise":
            return self.process.predict_start_from_noise(x, t, output)
        if self.settings.objective == "pred_v":
            return self.process.predict_start_from_v(x, t, output)
        return output

    def shifted_timesteps(self, uniform: Tensor) -> Tensor:
        """Places in [0, 1] on the cosine schedule -> times 0 to T - 1, more of them where noise is strong.

        Neighbouring pixels say nearly the same, so that the shape of a large image is still to be seen under
        noise that would hide a small one, and is decided where the schedule has few times left. The
        signal-to-noise ratio is divided by `schedule_shift`^2 (Hoogeboom et al. 2023, eq. 5):
        t = 2 / pi * atan(schedule_shift * tan(pi / 2 * u)).
        """
        angle = torch.atan(
            self.settings.schedule_shift * torch.tan(uniform.double() * torch.pi / 2)
        )
        return (angle * 2 / torch.pi * (self.settings.timesteps - 1)).round().long()

    @torch.no_grad()
    def denoise(self, labels: Tensor, seed: int, **how: Any) -> Iterator[Tensor]:
        """The guess of the clean image after each step, [N, 3, S, S] in [-1, 1]; the last is the sample."""
        for clean in self.path(labels, seed, **how):
            yield self.decode_images(clean)

    @property
    def offered_steps(self) -> tuple[int, ...]:
        return tuple(sorted({self.settings.sampling_steps, *self.settings.curve_steps}))

    def solve(self, x: Tensor, predict: Prediction, steps: int, solver: str) -> Iterator[Tensor]:
        """The guess of x_0 after each step of a solver; each step is one pass of the network.

        ddim: deterministic DDIM (Song et al. 2021, eq. 12 with sigma = 0).
        dpm++: DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), which draws a line through the last two
        guesses where DDIM takes the last one as it is. The first step, which has only one guess, and the
        last, where the line would reach too far, are DDIM's.
        """
        if not 2 <= steps <= self.settings.timesteps:
            raise InputError(f"steps must lie in 2 to {self.settings.timesteps}, but is {steps}")
        times, alpha, sigma, log_snr = self.schedule(steps)
        last = None
        for step, time in enumerate(times):
            clean = predict(x, time)
            yield clean
            if step + 1 == len(times):
                return
            toward = clean
            if solver == "dpm++" and last is not None and step + 2 < len(times):
                ratio = (log_snr[step + 1] - log_snr[step]) / (log_snr[step] - log_snr[step - 1])
                toward = clean + 0.5 * ratio * (clean - last)
            noise = (x - alpha[step] * toward) / sigma[step]
            x = alpha[step + 1] * toward + sigma[step + 1] * noise
            last = clean

    def schedule(self, steps: int) -> tuple[list[int], list[float], list[float], list[float]]:
        """Of so many steps, noisiest first: the times, alpha and sigma of x_t = alpha x_0 + sigma noise, and
        log(alpha / sigma). Times that fall together are taken once."""
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
        """The guess of x_0 from x_t with guidance, cut off at the representation's limit."""
        t = torch.as_tensor(time, device=x.device).expand(len(x))
        clean = self.predict_x0(guided(self.process.model, x, t, labels, guidance), x, t)
        return clean.float().clamp(-self.representation.limit, self.representation.limit)

    def membership_losses(
        self, images: Tensor, labels: Tensor, seed: int, noise_levels: int
    ) -> dict[str, Tensor]:
        """`denoising`, the weighted squared error it was trained by, at `noise_levels` fixed times and noises
        (Carlini et al. 2023; Matsumoto et al. 2023); and `autoencoder`, if it has one, see there."""
        x = self.representation.encode(images)
        places = (torch.arange(noise_levels) + 0.5) / noise_levels
        noises = seeded_noise(self.shape, seed, noise_levels, self.device)
        errors = torch.zeros(len(x), device=self.device)
        for time, noise in zip(self.shifted_timesteps(places).tolist(), noises, strict=True):
            t = torch.full((len(x),), time, device=self.device)
            error, _, _ = self.prediction_error(
                x, t, noise.expand_as(x), labels, cond_drop_prob=0.0
            )
            errors += error / noise_levels
        return {"denoising": errors, **self.representation_losses(images, x)}
