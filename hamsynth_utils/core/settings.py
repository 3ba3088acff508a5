"""What every section of a profile is made of, and the settings of one training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
"""A number from 0 up to, but not including, 1."""


Count = Annotated[int, Field(ge=1)]
"""A whole number from 1 up."""


MAX_SEED = 2**31 - 1
"""The largest seed that every library takes, and a few more after it."""


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
"""A seed of random numbers."""


Rate = Annotated[float, Field(gt=0)]
"""A number above 0."""


class Settings(BaseModel):
    """Base of all sections: frozen; refuses unknown keys and values of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TrainingSettings(Settings):
    """One training: exactly one of `steps` and `epochs` sets its length."""

    steps: Count | None = None
    """Length of the training in optimizer steps."""
    epochs: Count | None = None
    """Length of the training in passes over the training images."""
    batch_size: Count
    """Images per optimizer step, over all processes together."""
    learning_rate: Rate
    """Highest learning rate of AdamW, reached at the end of the warm-up."""
    warmup_fraction: Fraction = 0.05
    """Fraction of the steps over which the learning rate rises linearly from 0."""
    lr_schedule: Literal["none", "linear", "cosine"] = "linear"
    """How the learning rate falls to 0 after the warm-up; `none` keeps it constant."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW (Loshchilov & Hutter 2019)."""
    gradient_clip: Rate = 1.0
    """Largest L2 norm of the gradient of a step; a longer gradient is scaled down to this norm."""
    ema_decay: Fraction = 0.99
    """Largest decay per step of the moving average of the weights, see `moving_average`."""
    class_balance_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Class sampling: 0 as the classes occur, 1 all equally often, between them a power of both."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision; `auto` takes the best that the device supports, `no` is float32."""
    compile: bool = False
    """Whether torch.compile translates the network: minutes at the start, faster steps after."""
    checkpoint_seconds: Rate = 20.0
    """Seconds between two checkpoints from which an interrupted training resumes."""

    @model_validator(mode="after")
    def one_length(self) -> TrainingSettings:
        """Refuse both or neither of `steps` and `epochs`."""
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self

    def total_steps(self, images: int) -> int:
        """Optimizer steps of this training.

        Args:
            images: number of training images.

        Returns:
            `steps`, or the steps of `epochs` passes, at least one step per pass.
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * max(1, images // self.batch_size)
