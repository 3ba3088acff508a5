"""The sections of a profile that describe the generators and the autoencoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hamsynth_utils.core.settings import Count, Fraction, Rate, Settings, TrainingSettings


class VAESettings(Settings):
    latent_size: Count = 128
    width: Count = 32
    kl_warmup_fraction: Fraction = 0.3
    free_nats: Annotated[float, Field(ge=0)] = 0.0
    perceptual_weight: Annotated[float, Field(ge=0)] = 0.0
    """Nats for each unit of perceptual distance between an image and its reconstruction."""
    fitted_prior: bool = False
    """Sample from a normal distribution fitted to the latents of training images rather than from N(0, I)."""
    training: TrainingSettings


class GANSettings(Settings):
    latent_size: Count = 128
    width: Count = 32
    discriminator_rate_factor: Rate = 1.0
    r1_r2_gamma: Rate = 5.0
    """Weight of the gradient penalties R1 + R2."""
    mode_seeking: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the term against images that are the same for different latents."""
    dcgan_demo_steps: Count = 1000
    """Optimizer steps of the textbook DCGAN that the chapter trains first, to show how it fails."""
    training: TrainingSettings


class AutoencoderSettings(Settings):
    factor: Literal[4, 8] = 8
    """The latents have image_size / factor positions a side, each of `channels` numbers."""
    channels: Count = 16
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 32
    perceptual_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the perceptual distance between an image and its reconstruction."""
    latent_noise_std: Annotated[float, Field(ge=0)] = 0.2
    """Standard deviation of the noise that the decoder must bear, where the latents' is one."""
    training: TrainingSettings


class LatentSettings(Settings):
    width: Count = 64
    dim_mults: tuple[Count, ...] = (1, 2, 4)
    autoencoder: AutoencoderSettings | None = None
    """Whose latents the U-Net works on; without one it works on the pixels, folded by `patch`."""
    patch: Literal[1, 2, 4] = 4
    """Space-to-depth: the U-Net sees image_size / patch pixels of 3 * patch**2 channels."""


class DiffusionSettings(LatentSettings):
    timesteps: Annotated[int, Field(ge=2)] = 1000
    objective: Literal["pred_noise", "pred_x0", "pred_v"] = "pred_x0"
    schedule_shift: Rate = 2.0
    """How much more noise than in the cosine schedule: the signal-to-noise ratio is divided by its square."""
    max_snr_weight: Annotated[float, Field(ge=1)] = 5.0
    """Upper bound of the loss weight SNR + 1 of pred_x0. Low: shapes are learned first; high: fine detail."""
    perceptual_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the perceptual distance between the clean image and the guess of it, for folded pixels."""
    cond_drop_prob: Annotated[float, Field(ge=0, le=1)] = 0.15
    guidance: Annotated[float, Field(ge=1)] = 1.5
    """Used until one of `guidance_scales` is chosen, on validation images, after the training."""
    guidance_scales: tuple[Annotated[float, Field(ge=1)], ...] = (1.0, 1.5, 2.0, 3.0)
    sampling_steps: Annotated[int, Field(ge=2)] = 15
    solver: Literal["ddim", "dpm++"] = "dpm++"
    curve_steps: tuple[Annotated[int, Field(ge=2)], ...] = (5, 10, 15, 30)
    """Numbers of steps with which the solvers are compared."""
    training: TrainingSettings

    @model_validator(mode="after")
    def one_perceptual_term(self) -> DiffusionSettings:
        if self.autoencoder is not None and self.perceptual_weight > 0:
            raise ValueError(
                "with an autoencoder, perceptual_weight must be 0: the autoencoder has one of its own"
            )
        return self


class FlowSettings(LatentSettings):
    cond_drop_prob: Annotated[float, Field(ge=0, le=1)] = 0.15
    guidance: Annotated[float, Field(ge=1)] = 1.5
    sampling_steps: Count = 6
    solver: Literal["euler", "midpoint"] = "midpoint"
    """Of second order, midpoint asks the network twice a step."""
    training: TrainingSettings
