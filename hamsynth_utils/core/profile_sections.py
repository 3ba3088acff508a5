"""The sections of a profile, except those of the generators (`generator_settings`)."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from hamsynth_utils.core.generator_settings import TextbookVAESettings
from hamsynth_utils.core.settings import Count, Fraction, Rate, Settings, TrainingSettings

Extractor = Literal["inception", "vit", "efficientnet_lite0"]
"""The feature extractors, see `metrics.features`."""


ImageSize = Literal[32, 64, 128, 256]


IMAGE_SIZES = get_args(ImageSize)
"""Height and width in pixels that an image can have."""


class DataSettings(Settings):
    """The images and their split."""

    image_size: ImageSize = 64
    """Height and width of an image in pixels."""
    phantom_images: Count
    """Images of the phantom; not used for a folder."""
    split_by: Literal["lesion", "image"] = "lesion"
    """What one part keeps together: whole lesions, or single images as in the source report."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of all images in the validation part."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of all images in the test part."""


class SynthesisSettings(Settings):
    """How many synthetic images a run draws, and for what."""

    minority_fraction: Annotated[float, Field(gt=0, le=1)]
    """Synthetic images raise a minority class to this fraction of the largest class."""
    evaluation_images: Annotated[int, Field(ge=50)]
    """Synthetic images, as the classes occur, on which fidelity is measured."""
    n_curve_images: Annotated[int, Field(ge=8)] = 400
    """Images per point of a curve: distance against minutes, steps or guidance."""
    batch_size: Count = 64
    """Images that are sampled at once."""


class ClassifierSettings(Settings):
    """The vision transformer that is fine-tuned, once per arm and seed."""

    model: str = "vit_small_patch14_dinov2"
    """Name of a vision transformer in timm."""
    depth: Count | None = None
    """Number of transformer blocks that are kept, from the first; None keeps all."""
    input_size: Count
    """Pixels a side to which images are enlarged before the patch embedding."""
    weights: str = "auto"
    """Source of the pretrained weights: `hub`, `none`, `auto`, or a .safetensors file."""
    frozen_blocks: Annotated[int, Field(ge=0)] = 0
    """Number of first blocks that stay pretrained, with cached outputs; 0 tunes all."""
    token_pool: Count = 1
    """Patch tokens behind the frozen blocks are averaged over squares of so many a side."""
    tta_views: Literal[1, 2, 8] = 2
    """Flips and quarter turns that a prediction averages; frozen blocks train on the same."""
    head_learning_rate: Rate = 1.0e-3
    """Highest learning rate of the linear head."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Learning rate of a block, as a multiple of that of the block after it."""
    drop_path: Fraction = 0.1
    """Stochastic depth: probability with which a residual branch is dropped in training."""
    label_smoothing: Fraction = 0.1
    """Probability mass that the target spreads over all classes."""
    training: TrainingSettings
    """The fine-tuning."""

    @model_validator(mode="after")
    def pooled_behind_frozen(self) -> ClassifierSettings:
        """Refuse pooled tokens without frozen blocks."""
        if self.token_pool > 1 and not self.frozen_blocks:
            raise ValueError(
                "token_pool averages tokens behind frozen blocks, but frozen_blocks is 0"
            )
        return self


class ProbeSettings(Settings):
    """A linear layer on the features of the pretrained ViT, for every arm and many seeds."""

    seeds: Annotated[int, Field(ge=2)] = 10
    """Number of probes per arm; their seeds are 0, 1, and so on."""
    tta_views: Literal[1, 2, 8] = 2
    """Flips and quarter turns per image whose features are computed."""
    ratios: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 1.0, 2.0, 4.0)
    """Synthetic images per real image in the minority classes, in the sweep."""
    training: TrainingSettings
    """The training of one linear layer."""


class EvaluationSettings(Settings):
    """The measurements of fidelity, and the bootstrap."""

    extractors: Annotated[tuple[Extractor, ...], Field(min_length=1)]
    """Networks whose features the distances between image sets use."""
    n_subsets: Annotated[int, Field(ge=2)] = 5
    """Random subsets behind each distance and each real-versus-real baseline."""
    n_resamples: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples of lesions behind each interval."""


class PrivacySettings(Settings):
    """The membership attacks on models, and the VAE for the attack on patients."""

    n_attacked: Annotated[int, Field(ge=100)] = 1000
    """Images of each group, trained on and held out, whose losses are compared."""
    noise_levels: Count = 4
    """Number of fixed times at which the denoising error is measured."""
    n_sibling_lesions: Annotated[int, Field(ge=10)] = 300
    """Lesions with several images, one of which is withheld from the attacked VAE."""
    n_other_images: Annotated[int, Field(ge=0)] | None = None
    """Images of other lesions in its training; None takes all of the training part."""
    attacked_vae: TextbookVAESettings = TextbookVAESettings(
        width=24,
        free_nats=8.0,
        training=TrainingSettings(steps=100, batch_size=32, learning_rate=2.0e-3, ema_decay=0.95),
    )
    """The attacked VAE. It works on pixels: an autoencoder would know the withheld images."""


class DPSettings(Settings):
    """The VAE that is trained with DP-SGD, once per budget and once without privacy."""

    epsilons: Annotated[tuple[Rate, ...], Field(min_length=3)] = (1.0, 3.0, 10.0)
    """The privacy budgets epsilon, ascending; one VAE per budget."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1.0e-5
    """Probability with which the bound by epsilon may fail; well below 1 / `public_lesions`."""
    public_lesions: Count = 5203
    """About how many lesions are trained on, known without counting them; here 70 % of HAM10000."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.06
    """Probability with which a lesion is drawn at a step."""
    steps: Count = 300
    """Optimizer steps of one training."""
    max_grad_norm: Rate = 1.0
    """Largest L2 norm of the gradient of one image; a longer one is scaled down."""
    learning_rate: Rate = 2.0e-3
    """Learning rate of Adam."""
    ema_decay: Fraction = 0.98
    """Decay per step of the moving average of the weights."""
    latent_size: Count = 32
    """Numbers of one latent z."""
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 8
    """Channels of the first convolution; deeper layers have a multiple of them."""
    decoder_sigma: Rate = 0.1
    """Fixed standard deviation of p(x | z); pixels lie in [-1, 1]."""
    micro_batch_size: Count = 32
    """Images whose gradients are in memory at once; does not change the result."""
    overfit_lesions: Annotated[int, Field(ge=10)] = 30
    """Lesions that a VAE memorizes on purpose, as a positive control of the attacks."""
    overfit_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """`sampling_rate` of the memorizing VAE."""
    overfit_steps: Count = 400
    """`steps` of the memorizing VAE."""

    @model_validator(mode="after")
    def rising(self) -> DPSettings:
        """Refuse budgets that do not ascend, and a delta that promises nothing."""
        if list(self.epsilons) != sorted(set(self.epsilons)):
            raise ValueError(f"epsilons must rise and not repeat: {list(self.epsilons)}")
        if self.delta * self.public_lesions >= 1:
            raise ValueError(
                f"delta is {self.delta:g} for {self.public_lesions} public_lesions: it must be "
                "well below one over their number, or giving one lesion away at random would "
                "count as private"
            )
        return self

    def of_few(self) -> DPSettings:
        """The settings of the VAE that memorizes `overfit_lesions`."""
        return self.model_copy(
            update={
                "sampling_rate": self.overfit_sampling_rate,
                "steps": self.overfit_steps,
                "public_lesions": self.overfit_lesions,
            }
        )
