"""The sections of a profile but for those of the generators, which stand beside each generator."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hamsynth_utils.core.settings import Count, Fraction, Rate, Settings, TrainingSettings

Extractor = Literal["inception", "vit", "efficientnet_lite0"]


class DataSettings(Settings):
    """Images and their split; shares are of all images."""

    image_size: Literal[32, 64, 128] = 64
    phantom_images: Count
    split_by: Literal["lesion", "image"] = "lesion"
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2


class SynthesisSettings(Settings):
    """How many synthetic images: minority classes are brought up to `minority_fraction` of the largest
    class; on top, `evaluation_images` are drawn as the classes occur, to measure fidelity on."""

    minority_fraction: Annotated[float, Field(gt=0, le=1)]
    evaluation_images: Annotated[int, Field(ge=50)]
    n_curve_images: Annotated[int, Field(ge=8)] = 400
    """Images behind each point of a curve: distance against minutes, steps or guidance."""
    batch_size: Count = 64


class ClassifierSettings(Settings):
    model: str = "vit_small_patch14_dinov2"
    depth: Count | None = None
    """Keep only the first `depth` blocks; all of them if left out."""
    input_size: Count
    """Images are enlarged to this many pixels before the patch embedding."""
    weights: str = "auto"
    """`hub`, `none`, `auto`, or a .safetensors file."""
    frozen_blocks: Annotated[int, Field(ge=0)] = 0
    """So many blocks, from the first, stay as they were pretrained; what they make of each view of an image
    is computed once and kept. With 0 everything is tuned, end to end."""
    token_pool: Count = 1
    """Behind the frozen blocks, patch tokens are averaged over squares of so many a side, so that the blocks
    that learn have fewer tokens to work on."""
    tta_views: Literal[1, 2, 8] = 2
    """Flips and quarter turns of an image over which a prediction is averaged; with frozen blocks the
    augmentation draws from the same ones."""
    head_learning_rate: Rate = 1.0e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    drop_path: Fraction = 0.1
    label_smoothing: Fraction = 0.1
    training: TrainingSettings

    @model_validator(mode="after")
    def pooled_behind_frozen(self) -> ClassifierSettings:
        if self.token_pool > 1 and not self.frozen_blocks:
            raise ValueError(
                "token_pool averages tokens behind frozen blocks, but frozen_blocks is 0"
            )
        return self


class ProbeSettings(Settings):
    """A linear layer on the features of the ViT as it was pretrained: every arm, many seeds, in minutes."""

    seeds: Annotated[int, Field(ge=2)] = 10
    tta_views: Literal[1, 2, 8] = 2
    """Flips and quarter turns of each image of which features are computed."""
    ratios: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 1.0, 2.0, 4.0)
    """Synthetic images for each real one in the minority classes, in the sweep over each generator."""
    training: TrainingSettings


class EvaluationSettings(Settings):
    extractors: Annotated[tuple[Extractor, ...], Field(min_length=1)]
    n_subsets: Annotated[int, Field(ge=2)] = 5
    """Random subsets behind each distance and each floor."""
    n_resamples: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap draws over lesions behind each interval."""


class PrivacySettings(Settings):
    """The attacks that have the model, and the VAE that is trained for the attack on patients."""

    n_attacked: Annotated[int, Field(ge=100)] = 1000
    """Photographs of each kind, trained on and held out, whose losses are compared."""
    noise_levels: Count = 4
    """At so many fixed times the denoising error of a diffusion model is measured."""
    n_sibling_lesions: Annotated[int, Field(ge=10)] = 300
    """Lesions with several photographs, of each of which one is withheld from that VAE."""
    n_other_images: Annotated[int, Field(ge=0)] | None = None
    """Photographs of other lesions that it is trained on, too; all of the training part's if left out."""
    training: TrainingSettings | None = None
    """How it is trained; as the run's VAE if left out."""


class DPSettings(Settings):
    """The VAE that is trained with differential privacy, once for each budget and once without."""

    epsilons: Annotated[tuple[Rate, ...], Field(min_length=3)] = (1.0, 3.0, 10.0)
    """The budgets, rising."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1.0e-5
    """The probability with which the bound by epsilon may fail; well below one over the lesions."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.06
    """The probability with which a lesion is drawn at a step."""
    steps: Count = 300
    max_grad_norm: Rate = 1.0
    """The length to which the gradient of one photograph is cut."""
    learning_rate: Rate = 2.0e-3
    ema_decay: Fraction = 0.98
    latent_size: Count = 32
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 8
    decoder_sigma: Rate = 0.1
    """The fixed standard deviation of p(x | z), where black is -1 and white 1."""
    micro_batch_size: Count = 32
    """Photographs whose gradients lie in memory together; of no influence on what is learned."""
    overfit_lesions: Annotated[int, Field(ge=10)] = 30
    """Lesions that the chapter has a VAE learn by heart, to see whether the attacks find them."""
    overfit_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    overfit_steps: Count = 400

    @model_validator(mode="after")
    def rising(self) -> DPSettings:
        if list(self.epsilons) != sorted(set(self.epsilons)):
            raise ValueError(f"epsilons must rise and not repeat: {list(self.epsilons)}")
        return self

    def of_few(self) -> DPSettings:
        """The settings with which a few lesions are learned by heart."""
        return self.model_copy(
            update={"sampling_rate": self.overfit_sampling_rate, "steps": self.overfit_steps}
        )
