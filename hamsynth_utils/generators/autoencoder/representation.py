"""What a generator in latents works on: images as fewer positions with more channels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn


class Representation(nn.Module, ABC):
    """Images [N, 3, S, S] in [-1, 1] to x [N, channels, S / factor, S / factor], and back.

    Attributes:
        factor: how many pixels a side one position of x stands for.
        channels: how many numbers a position has.
        limit: x of images lies in [-limit, limit], or nearly so; sampled x is clipped to it.
    """

    factor: int
    channels: int
    limit: float

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> x [N, channels, S / factor, S / factor]."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """[N, channels, S / factor, S / factor] -> images [N, 3, S, S], roughly in [-1, 1]."""


class PixelUnshuffle(Representation):
    """Space to depth: every block of factor x factor pixels becomes the channels of one position.

    It learns nothing and loses nothing.

    Args:
        factor: pixels a side of a block.
    """

    limit = 1.0

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor, self.channels = factor, 3 * factor**2

    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, 3 factor^2, S / factor, S / factor]."""
        return F.pixel_unshuffle(images, self.factor)

    def decode(self, x: Tensor) -> Tensor:
        """[N, 3 factor^2, S / factor, S / factor] -> [N, 3, S, S]."""
        return F.pixel_shuffle(x, self.factor)
