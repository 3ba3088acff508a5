"""What every section of a profile is made of, and the settings of one training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]


Count = Annotated[int, Field(ge=1)]


Rate = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Frozen; refuses unknown keys and values of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TrainingSettings(Settings):
    """One training: exactly one of `steps` and `epochs` says how long."""

    steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count
    learning_rate: Rate
    warmup_fraction: Fraction = 0.05
    lr_schedule: Literal["none", "linear", "cosine"] = "linear"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    gradient_clip: Rate = 1.0
    ema_decay: Fraction = 0.99
    class_balance_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0 draws classes as they occur, 1 draws each class equally often, between: a power in between."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    checkpoint_seconds: Rate = 20.0

    @model_validator(mode="after")
    def one_length(self) -> TrainingSettings:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self

    def total_steps(self, images: int) -> int:
        """Optimizer steps of this training on `images` training images."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * max(1, images // self.batch_size)
