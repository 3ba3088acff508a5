"""Tests of an explanation map of a ViT: lesions, hidden patches and shuffled weights.

Maps are [N, rows, columns] over the patches of N images and not negative. Only their order or their
proportions count.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from hamsynth_utils.core.errors import InputError

FRACTIONS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""The fractions of the patches that `hiding_curves` hides or shows."""


LIKE_RANDOM = 0.5
"""A map shows the architecture if its rank correlation with that of shuffled weights is not surely
lower."""


REQUIRED_CHECKS = ("deletion, random", "insertion, random", "shuffled weights")
"""A map that fails one of these checks explains nothing."""


def fraction_inside(heat: Tensor, masks: np.ndarray | Tensor) -> np.ndarray:
    """The fraction of each map that lies on the lesion.

    A patch's value is spread evenly over its pixels. An even map therefore has the fraction of the
    image that the lesion covers, and so has a map that is 0 everywhere.

    Args:
        heat: maps [N, rows, columns].
        masks: lesions, bool [N, H, W].

    Returns:
        Fractions [N] in [0, 1].
    """
    heat = heat.double()
    inside = _per_patch(torch.as_tensor(masks), (heat.shape[1], heat.shape[2]))
    heat = torch.where(heat.sum((1, 2), keepdim=True) > 0, heat, torch.ones_like(heat))
    return ((heat * inside).sum((1, 2)) / heat.sum((1, 2))).numpy()


def centred_blobs(masks: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Maps of a disc in the middle of the image, as large as each lesion.

    Someone who has not seen the image, but knows that photographers centre the lesion, would draw
    this map.

    Args:
        masks: lesions, bool [N, H, W].
        grid: rows and columns of the patches.

    Returns:
        [N, rows, columns].
    """
    side = [np.arange(size) - (size - 1) / 2 for size in masks.shape[1:]]
    nearest = np.hypot(side[0][:, None], side[1][None, :]).ravel().argsort(kind="stable")
    rank = np.empty(len(nearest), dtype=int)
    rank[nearest] = np.arange(len(nearest))
    discs = rank.reshape(1, *masks.shape[1:]) < masks.sum((1, 2))[:, None, None]
    return _per_patch(torch.as_tensor(discs), grid)


def baseline_maps(shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    """Maps that do not depend on the image: `random` ones, and closeness to the `centre`.

    Args:
        shape: [N, rows, columns] of the maps.
        seed: of the random numbers.
    """
    _, rows, columns = shape
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij"
    )
    # A little noise decides between patches that are equally near.
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return {"random": noise, "centre": (3 - x**2 - y**2).expand(shape) + 1e-4 * noise}


@torch.no_grad()
def hiding_curves(
    vit: nn.Module, images: Tensor, heat: Tensor, labels: Tensor, batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Deletion and insertion curves of a map (Petsiuk, Das & Saenko 2018).

    The highest patches are hidden (deletion), or only they are shown (insertion). A hidden patch
    has the image's mean colour. Such images are unlike those of the training, and part of a change
    is due to this (Hooker et al. 2019): compare curves with each other, not with a level.

    Args:
        vit: a model that gives logits.
        images: what `vit` takes, [N, 3, H, W].
        heat: a map of each image, [N, rows, columns].
        labels: the class whose probability is followed, int64 [N].
        batch: how many images are evaluated at once.

    Returns:
        The probability of the class at each of FRACTIONS, for deletion and for insertion, each
        [N, len(FRACTIONS)].
    """
    n, rows, columns = heat.shape
    rank = (
        (-heat.flatten(1)).argsort(dim=1, stable=True).argsort(1)
    )  # [N, patches], 0 is the highest
    rank = rank.view(n, rows, columns)

    def probability(shown: Tensor) -> Tensor:
        """The probabilities [N] where only the patches `shown` are visible."""
        return _masked_probability(vit, images, shown, labels, batch)

    counts = [round(fraction * rows * columns) for fraction in FRACTIONS]
    deletion = [probability(rank >= count) for count in counts]
    inner = [probability(rank < count) for count in counts[1:-1]]
    # The ends of both curves are the same images: everything shown, and nothing.
    insertion = [deletion[-1], *inner, deletion[0]]
    return _curve(deletion), _curve(insertion)


def _masked_probability(
    vit: nn.Module, images: Tensor, shown: Tensor, labels: Tensor, batch: int
) -> Tensor:
    """The probability [N] of `labels` where only the patches `shown` are visible."""
    masks = F.interpolate(shown[:, None].float(), images.shape[2:], mode="nearest").bool()
    grey = images.mean((2, 3), keepdim=True)  # [N, 3, 1, 1]
    probabilities = [
        vit(torch.where(mask.to(images.device), image, colour)).softmax(1)
        for mask, image, colour in zip(
            masks.split(batch), images.split(batch), grey.split(batch), strict=True
        )
    ]
    return torch.cat(probabilities).gather(1, labels[:, None])[:, 0]  # [N, classes] -> [N]


def _curve(points: list[Tensor]) -> np.ndarray:
    """Probabilities [N] at each fraction -> [N, fractions]."""
    return torch.stack(points, dim=1).double().cpu().numpy()


def area(curve: np.ndarray) -> np.ndarray:
    """The area under each of `hiding_curves` [N, len(FRACTIONS)]: [N] in [0, 1]."""
    return np.trapezoid(curve, FRACTIONS, axis=1)


def shuffled_weights(vit: nn.Module, blocks: int, seed: int) -> nn.Module:
    """A copy of a ViT with randomised last blocks (the cascade of Adebayo et al. 2018).

    The numbers of each weight tensor are shuffled among themselves, which keeps their scale. With
    all blocks, the embeddings are shuffled as well.

    Args:
        vit: a timm VisionTransformer.
        blocks: how many of the last blocks are shuffled.
        seed: of the order.

    Raises:
        InputError: the model has fewer blocks, or `blocks` is negative.
    """
    model = copy.deepcopy(vit)
    layers = list(model.blocks)  # type: ignore[arg-type]
    if not 0 <= blocks <= len(layers):
        raise InputError(f"{blocks} blocks cannot be shuffled: the model has {len(layers)}")
    whole = blocks == len(layers)
    head: nn.Module = model.head  # type: ignore[assignment]
    parts = [model] if whole else [*layers[len(layers) - blocks :], head]
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in parts:
            for weight in part.parameters():
                order = torch.randperm(weight.numel(), generator=rng).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    return model


def rank_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation over the patches of each pair of maps.

    Args:
        first: maps [N, rows, columns].
        second: the same shape.

    Returns:
        [N] in [-1, 1]; 0 where one of the two maps is the same everywhere.
    """
    a, b = (rankdata(each.flatten(1).numpy(), axis=1) for each in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    length = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return (a * b).sum(1) / np.where(length > 0, length, 1)


def map_verdict(checks: Mapping[str, Mapping[str, float]]) -> str:
    """What a map is worth, by rule.

    Args:
        checks: by name, a difference that is above 0 where the map does well. `low` is the lower
            end of its interval; the check passes if it is above 0.

    Returns:
        The verdict as text.

    Raises:
        InputError: one of REQUIRED_CHECKS is missing.
    """
    absent = [name for name in REQUIRED_CHECKS if name not in checks]
    if absent:
        raise InputError(f"a verdict needs the check(s) {', '.join(absent)}")
    failed = [name for name, difference in checks.items() if not difference["low"] > 0]
    if not failed:
        return (
            "it marks what the model uses, surely better than chance and than the picture's middle"
        )
    words = ", ".join(failed)
    if set(failed) & set(REQUIRED_CHECKS):
        return f"it explains nothing that could be verified (failed: {words})"
    return (
        f"it marks something that the model uses, but passes for no explanation (failed: {words})"
    )


def _per_patch(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """The fraction of each patch that a mask [N, H, W] covers, [N, rows, columns]."""
    down, across = (_overlaps(*sizes) for sizes in zip(grid, masks.shape[1:], strict=True))
    return down @ masks.double() @ across.T


def _overlaps(patches: int, pixels: int) -> Tensor:
    """The fraction of each patch's side that each pixel takes: [patches, pixels]."""
    start, pixel = (
        torch.arange(patches).double()[:, None] * pixels / patches,
        torch.arange(pixels).double(),
    )
    common = torch.minimum(start + pixels / patches, pixel + 1) - torch.maximum(start, pixel)
    return common.clamp_min(0) * patches / pixels
