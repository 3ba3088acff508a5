"""Rotations, flips and zooms of batches of images: a lesion has no preferred orientation.

Every image of a batch has its own random rotation. Corners that a rotation would leave empty show
the mirrored image. They are never black, because a network could recognise augmented images by
black corners.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from hamsynth_utils.core.errors import InputError

Rotation = Literal["none", "quarter", "any"]


def augment(
    images: Tensor,
    rng: torch.Generator,
    *,
    rotation: Rotation = "quarter",
    flips: bool = True,
    zoom: float = 0.0,
) -> Tensor:
    """Rotate, flip and enlarge images at random.

    Quarter turns and flips move pixels without changing their values. Any other angle, and the
    zoom, interpolate bilinearly.

    Args:
        images: float [N, 3, H, W] in [-1, 1].
        rng: the source of randomness.
        rotation: "quarter" rotates by 0, 90, 180 or 270 degrees, "any" by any angle, "none" not at
            all.
        flips: whether to flip left-right and up-down, each for half of the images.
        zoom: enlarge by a factor from 1 to 1 + zoom; in [0, 4].

    Returns:
        The images, in the shape, type and range of the input.

    Raises:
        InputError: for a wrong type, shape or setting.
    """
    _check(rotation, zoom)
    return _apply(images, _draw(len(images), rng), rotation, flips, zoom)


def views(images: Tensor, count: int) -> list[Tensor]:
    """Flips and quarter turns of images, for predictions that are averaged over them.

    Args:
        images: [N, 3, H, H].
        count: 1 for the images alone, 2 for the images and their mirror images, 8 for all quarter
            turns of both.

    Returns:
        `count` tensors of the shape of `images`; pixels are moved, their values stay the same.

    Raises:
        InputError: for another count.
    """
    if count not in (1, 2, 8):
        raise InputError(f"there are 1, 2 or 8 views of an image, not {count}")
    sides = [images, images.flip(3)][: min(count, 2)]
    return [side.rot90(quarter, (2, 3)) for quarter in range(max(1, count // 2)) for side in sides]


class LesionAugmentation(v2.Transform):
    """`augment` as a torchvision transform, for `v2.Compose`.

    The transform takes a batch, or (batch, labels); labels pass unchanged.

    Args:
        rng: the source of randomness; each call advances it.
        rotation: as for `augment`.
        flips: as for `augment`.
        zoom: as for `augment`.
    """

    def __init__(
        self,
        rng: torch.Generator,
        *,
        rotation: Rotation = "quarter",
        flips: bool = True,
        zoom: float = 0.0,
    ) -> None:
        super().__init__()
        _check(rotation, zoom)
        self.rng, self.rotation, self.flips, self.zoom = rng, rotation, flips, zoom

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One draw per image, shared by every image tensor of the call."""
        batches = [x for x in flat_inputs if isinstance(x, Tensor) and x.ndim == 4]
        if not batches:
            raise InputError(
                "LesionAugmentation takes a batch of images: float [N, 3, H, W] in [-1, 1]"
            )
        return {"draws": _draw(len(batches[0]), self.rng)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change one input of a call.

        Args:
            inpt: float [N, 3, H, W] in [-1, 1]; the name is torchvision's.
            params: the uniform numbers that `make_params` drew.

        Returns:
            The augmented batch, of the same shape.
        """
        return _apply(inpt, params["draws"], self.rotation, self.flips, self.zoom)

    def extra_repr(self) -> str:
        """The settings, as `print` shows them."""
        return f"rotation={self.rotation!r}, flips={self.flips}, zoom={self.zoom}"


def _check(rotation: str, zoom: float) -> None:
    if rotation not in ("none", "quarter", "any"):
        raise InputError(f"rotation must be none, quarter or any, not {rotation!r}")
    if not 0 <= zoom <= 4:
        raise InputError(f"zoom must be between 0 (no zoom) and 4 (up to fivefold), not {zoom!r}")


def _draw(images: int, rng: torch.Generator) -> Tensor:
    """Uniform draws [4, N] in [0, 1): turn, left-right flip, up-down flip, zoom."""
    return torch.rand(4, images, generator=rng, device=rng.device)


def _apply(images: Tensor, draws: Tensor, rotation: Rotation, flips: bool, zoom: float) -> Tensor:
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(
            f"images must be float [N, 3, H, W], not {images.dtype} {tuple(images.shape)}"
        )
    if rotation != "none" and images.shape[2] != images.shape[3]:
        raise InputError(f"only square images can be turned, not {tuple(images.shape)}")
    turn, left_right, up_down, enlargement = draws.to(images.device)
    if flips:
        images = torch.where((left_right < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
        images = torch.where((up_down < 0.5).view(-1, 1, 1, 1), images.flip(2), images)
    if rotation == "quarter":
        turned, quarters = images.clone(), (4 * turn).long()
        for quarter in (1, 2, 3):
            turned[quarters == quarter] = images[quarters == quarter].rot90(quarter, (2, 3))
        images = turned
    if len(images) and (rotation == "any" or zoom > 0):
        angle = 2 * math.pi * turn if rotation == "any" else torch.zeros_like(turn)
        images = _turn_and_enlarge(images, angle, 1 + zoom * enlargement)
    return images


def _turn_and_enlarge(images: Tensor, angle: Tensor, factor: Tensor) -> Tensor:
    """Turn by `angle` [N] (radians, counter-clockwise) and enlarge by `factor` [N]."""
    cos, sin, zero = angle.cos() / factor, angle.sin() / factor, torch.zeros_like(angle)
    # Where each output pixel comes from: the turn back, [N, 2, 3].
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3).to(images.dtype)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def flip_and_turn(images: Tensor, rng: torch.Generator) -> Tensor:
    """Flip and quarter-turn images at random: exact, since pixels are only permuted.

    Skin lesions have no natural orientation.

    Args:
        images: float [N, 3, S, S] in [-1, 1].
        rng: the random source; each image gets its own flip and turn.

    Returns:
        Images of the same shape and range.
    """
    return augment(images, rng, rotation="quarter", flips=True)
