"""Rotations, flips and zooms of whole batches: a lesion has no up and no left.

Every image of a batch is turned by its own draw. Corners that a turn would leave empty show the mirrored
image, never black: black corners would be a mark by which a network could tell augmented images.
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
    generator: torch.Generator,
    *,
    rotation: Rotation = "quarter",
    flips: bool = True,
    zoom: float = 0.0,
) -> Tensor:
    """Images turned, flipped and enlarged at random, in the shape, type and range they came in.

    images: float [N, 3, H, W] in [-1, 1]. generator: the source of every draw.
    rotation: "quarter" turns by 0, 90, 180 or 270 degrees, "any" by any angle. flips: left-right and
    up-down, each for half of the images. zoom: enlarges by a factor between 1 and 1 + zoom.
    Quarter turns and flips move pixels without changing them; any angle and zoom interpolate bilinearly.
    Raises InputError for a wrong type, shape or setting.
    """
    _check(rotation, zoom)
    return _apply(images, _draw(len(images), generator), rotation, flips, zoom)


def views(images: Tensor, count: int) -> list[Tensor]:
    """`count` views of images [N, 3, H, H]: themselves; and their mirror images; and both turned.

    1, 2, or 8: all the flips and quarter turns that there are, pixels moved and not changed. Each view has
    the shape of `images`. Raises InputError for another count.
    """
    if count not in (1, 2, 8):
        raise InputError(f"there are 1, 2 or 8 views of an image, not {count}")
    sides = [images, images.flip(3)][: min(count, 2)]
    return [side.rot90(quarter, (2, 3)) for quarter in range(max(1, count // 2)) for side in sides]


class LesionAugmentation(v2.Transform):
    """`augment` as a torchvision transform, for `v2.Compose`; takes a batch, or (batch, labels).

    Labels pass through. rotation, flips, zoom: as in `augment`. generator: the source of every draw,
    advanced by each call.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        rotation: Rotation = "quarter",
        flips: bool = True,
        zoom: float = 0.0,
    ) -> None:
        super().__init__()
        _check(rotation, zoom)
        self.generator, self.rotation, self.flips, self.zoom = generator, rotation, flips, zoom

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One draw an image, shared by every image tensor of the call."""
        batches = [x for x in flat_inputs if isinstance(x, Tensor) and x.ndim == 4]
        if not batches:
            raise InputError(
                "LesionAugmentation takes a batch of images: float [N, 3, H, W] in [-1, 1]"
            )
        return {"draws": _draw(len(batches[0]), self.generator)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The batch, changed by the draws."""
        return _apply(inpt, params["draws"], self.rotation, self.flips, self.zoom)

    def extra_repr(self) -> str:
        """The settings, as `print` shows them."""
        return f"rotation={self.rotation!r}, flips={self.flips}, zoom={self.zoom}"


def _check(rotation: str, zoom: float) -> None:
    if rotation not in ("none", "quarter", "any"):
        raise InputError(f"rotation must be none, quarter or any, not {rotation!r}")
    if not 0 <= zoom <= 4:
        raise InputError(f"zoom must be between 0 (no zoom) and 4 (up to fivefold), not {zoom!r}")


def _draw(images: int, generator: torch.Generator) -> Tensor:
    """Uniform draws [4, N] in [0, 1): turn, left-right flip, up-down flip, zoom."""
    return torch.rand(4, images, generator=generator, device=generator.device)


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
    """Turn by `angle` [N] (radians, counter-clockwise) and enlarge by `factor` [N] about the centre."""
    cos, sin, zero = angle.cos() / factor, angle.sin() / factor, torch.zeros_like(angle)
    # Where each output pixel comes from: the turn back, [N, 2, 3].
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3).to(images.dtype)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
