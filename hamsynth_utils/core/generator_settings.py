"""The sections of a profile that describe the generators and the autoencoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hamsynth_utils.core.settings import Count, Fraction, Rate, Settings, TrainingSettings


class TextbookVAESettings(Settings):
    """The textbook's VAE on pixels, which chapter 2 and the private training use."""

    latent_size: Count = 128
    """Numbers of one latent z."""
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 32
    """Channels of the first convolution; deeper layers have a multiple of them."""
    kl_warmup_fraction: Fraction = 0.3
    """Fraction of the steps over which the weight of the KL term rises from 0 to 1."""
    free_nats: Annotated[float, Field(ge=0)] = 0.0
    """Nats of KL per image, over all latent numbers, that cost nothing (free bits)."""
    training: TrainingSettings
    """The training of encoder, decoder and priors."""


class AutoencoderSettings(Settings):
    """The autoencoder in whose latents the generators work."""

    factor: Literal[4, 8, 16] = 8
    """Downsampling: an image of S pixels a side has latents of S / factor positions a side."""
    channels: Count = 16
    """Numbers per latent position."""
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 32
    """Channels of the decoder's last residual blocks; deeper layers have a multiple of them."""
    decoder_blocks: Count = 2
    """Residual blocks of the decoder at each size."""
    perceptual_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the perceptual distance between an image and its reconstruction."""
    critic_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the loss against the critic; 0 for no critic."""
    critic_from: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Fraction of the steps before the critic begins."""
    critic_gamma: Rate = 1.0
    """Weight gamma of the gradient penalties R1 and R2 on the critic."""
    critic_rate_factor: Rate = 1.0
    """The critic's learning rate, as a multiple of the autoencoder's."""
    latent_noise_std: Annotated[float, Field(ge=0)] = 0.2
    """Standard deviation of the noise on the latents in training; the latents have 1."""
    training: TrainingSettings
    """The training of encoder and decoder."""


class LatentSettings(Settings):
    """What a generator works on: an autoencoder's latents, or pixels."""

    autoencoder: AutoencoderSettings | None = None
    """The autoencoder in whose latents the generator works; None: pixels, folded by `patch`."""
    patch: Literal[1, 2, 4] = 4
    """Space-to-depth: the generator sees image_size / patch pixels of 3 * patch**2 channels."""


class GANSettings(LatentSettings):
    """The class-conditional GAN."""

    latent_size: Count = 512
    """Numbers of one latent z; also of principal components that the generator starts from."""
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 96
    """Channels of the synthesis network's maps of full size; smaller maps have twice as many."""
    discriminator_width: Annotated[int, Field(gt=0, multiple_of=8)] = 64
    """Channels of the discriminator's first maps; later maps have twice as many."""
    discriminator_rate_factor: Rate = 1.0
    """The discriminator's learning rate, as a multiple of the generator's."""
    r1_r2_gamma: Rate = 1.0
    """Weight gamma of the gradient penalties R1 and R2 on the discriminator."""
    penalty_fraction: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Part of every batch on which R1 and R2 are measured."""
    augmentation_noise: Annotated[float, Field(ge=0)] = 0.1
    """Standard deviation of the noise on all latents that the discriminator sees."""
    mismatch_weight: Annotated[float, Field(ge=0)] = 0.2
    """Weight of the discriminator's loss on real latents with a wrong class."""
    dcgan_demo_steps: Count = 1000
    """Optimizer steps of the textbook DCGAN whose failure the chapter shows first."""
    training: TrainingSettings
    """The training of both networks."""


class VAESettings(LatentSettings):
    """The variational autoencoder with a learned prior."""

    posterior_std: Rate = 0.1
    """Standard deviation of the code around the encoder's output; the latents have 1."""
    blocks: Count = 2
    """Blocks of the prior; every other one goes through the positions backwards."""
    layers: Count = 3
    """Transformer layers of each block."""
    width: Annotated[int, Field(gt=0, multiple_of=32)] = 192
    """Numbers per position in the transformer."""
    guidance: Annotated[float, Field(ge=1)] = 1.5
    """How many times as far from the mean embedding a class is in sampling; 1 is no guidance."""
    textbook_steps: Count = 1000
    """Optimizer steps of the textbook's VAE, whose blurred samples the chapter shows first."""
    training: TrainingSettings
    """The training of the prior."""


class UNetSettings(LatentSettings):
    """The U-Net of diffusion and flow matching."""

    width: Count = 64
    """Channels of the first level of the U-Net."""
    dim_mults: tuple[Count, ...] = (1, 2, 4)
    """Channels of each level of the U-Net, as multiples of `width`."""


class DiffusionSettings(UNetSettings):
    """The diffusion model."""

    timesteps: Annotated[int, Field(ge=2)] = 1000
    """Number T of noise levels of the diffusion process."""
    objective: Literal["pred_noise", "pred_x0", "pred_v"] = "pred_x0"
    """What the U-Net predicts: the noise, the clean image x0, or v."""
    schedule_shift: Rate = 2.0
    """Divides the cosine schedule's signal-to-noise ratio by its square: more noise."""
    max_snr_weight: Annotated[float, Field(ge=1)] = 5.0
    """Largest loss weight SNR + 1 of pred_x0. Low favours shapes, high fine detail."""
    perceptual_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the perceptual distance of the predicted x0, for folded pixels."""
    cond_drop_prob: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Probability with which a training image has no label, for guidance."""
    guidance: Annotated[float, Field(ge=1)] = 1.5
    """Guidance scale until one of `guidance_scales` is chosen; 1 is no guidance."""
    guidance_scales: tuple[Annotated[float, Field(ge=1)], ...] = (1.0, 1.5, 2.0, 3.0)
    """Scales of which validation images choose one after the training."""
    sampling_steps: Annotated[int, Field(ge=2)] = 15
    """Solver steps per sample."""
    solver: Literal["ddim", "dpm++"] = "dpm++"
    """Sampler: DDIM (Song et al. 2021) or DPM-Solver++ 2M (Lu et al. 2022)."""
    curve_steps: tuple[Annotated[int, Field(ge=2)], ...] = (5, 10, 15, 30)
    """Numbers of steps at which the chapter compares the solvers."""
    training: TrainingSettings
    """The training of the U-Net."""

    @model_validator(mode="after")
    def one_perceptual_term(self) -> DiffusionSettings:
        """Refuse a perceptual term beside that of the autoencoder."""
        if self.autoencoder is not None and self.perceptual_weight > 0:
            raise ValueError(
                "with an autoencoder, perceptual_weight must be 0: "
                "the autoencoder has one of its own"
            )
        return self


class FlowSettings(UNetSettings):
    """The flow-matching model."""

    cond_drop_prob: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Probability with which a training image has no label, for guidance."""
    guidance: Annotated[float, Field(ge=1)] = 1.5
    """Guidance scale of the samples; 1 is no guidance."""
    sampling_steps: Annotated[int, Field(ge=1, le=1000)] = 6
    """Solver steps per sample."""
    solver: Literal["euler", "midpoint"] = "midpoint"
    """ODE solver: midpoint is of second order and evaluates the network twice per step."""
    training: TrainingSettings
    """The training of the U-Net."""
