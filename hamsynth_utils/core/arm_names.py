"""The names of the arms of the experiment, and of the ways to split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.registry import REGISTRY

GENERATORS: tuple[str, ...] = tuple(REGISTRY)
"""The names of all registered generators."""


CHEAP_ARMS = ("real", "weighted", "oversample", "augment")
"""The arms without synthetic images."""


ARMS: tuple[str, ...] = (*CHEAP_ARMS, *GENERATORS, *(f"{name}_only" for name in GENERATORS))
"""What a classifier is trained on, see `experiment.arms`.

Real images alone; real images with more weight or augmentation (`CHEAP_ARMS`); real images and
those of one generator; or the images of that generator alone (`_only`).
"""


def known_arm(arm: str) -> str:
    """Check the name of an arm.

    Args:
        arm: the name.

    Returns:
        The same name.

    Raises:
        InputError: if the name is not in `ARMS`.
    """
    if arm not in ARMS:
        raise InputError(f"no arm is called {arm!r}; there are {', '.join(ARMS)}")
    return arm


Arm = Annotated[str, AfterValidator(known_arm)]


def other_split(split_by: str) -> Literal["lesion", "image"]:
    """The other way to split.

    Args:
        split_by: `lesion` or `image`.

    Returns:
        `image` for `lesion`, `lesion` for `image`.
    """
    return "image" if split_by == "lesion" else "lesion"


def generator_of(arm: str) -> str | None:
    """The generator of an arm.

    Args:
        arm: an arm of `ARMS`.

    Returns:
        The generator whose images the arm is trained on; None for an arm of real images alone.
    """
    name = arm.removesuffix("_only")
    return name if name in GENERATORS else None


ARM_NAMES = {
    "real": "real only",
    "weighted": "class weights",
    "oversample": "oversampling",
    "augment": "augmentation",
    **{name: each.title for name, each in REGISTRY.items()},
    **{f"{name}_only": f"{each.title} alone" for name, each in REGISTRY.items()},
}
"""The name of each arm in tables, figures and texts."""
