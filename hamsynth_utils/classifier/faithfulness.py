"""Trying to prove a map of a Vision Transformer wrong: against lesions, hidden patches and shuffled weights.

Maps are [N, rows, columns] over the patches of N images, not negative; their order or their shares count.
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

SHARES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Shares of the patches that are hidden, or shown, one after the other."""


LIKE_RANDOM = 0.5
"""A map whose rank correlation with that of shuffled weights is not surely lower shows the architecture."""


NEEDED = ("deletion, random", "insertion, random", "shuffled weights")
"""The checks without which a map explains nothing."""


def share_inside(heat: Tensor, masks: np.ndarray | Tensor) -> np.ndarray:
    """Share of each map that lies on the lesion, in [0, 1]: [N].

    masks: bool [N, H, W]; a patch's value is spread evenly over its pixels, so that an even map's share is
    the lesion's share of the picture, and so is that of a map that is 0 everywhere.
    """
    heat = heat.double()
    inside = _per_patch(torch.as_tensor(masks), (heat.shape[1], heat.shape[2]))
    heat = torch.where(heat.sum((1, 2), keepdim=True) > 0, heat, torch.ones_like(heat))
    return ((heat * inside).sum((1, 2)) / heat.sum((1, 2))).numpy()


def centred_blobs(masks: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Maps [N, *grid] of a disc in the middle of the picture, as large as each lesion of masks [N, H, W].

    What somebody would draw who has not seen the picture, but knows that photographers centre their lesion.
    """
    side = [np.arange(size) - (size - 1) / 2 for size in masks.shape[1:]]
    nearest = np.hypot(side[0][:, None], side[1][None, :]).ravel().argsort(kind="stable")
    rank = np.empty(len(nearest), dtype=int)
    rank[nearest] = np.arange(len(nearest))
    discs = rank.reshape(1, *masks.shape[1:]) < masks.sum((1, 2))[:, None, None]
    return _per_patch(torch.as_tensor(discs), grid)


def rivals(shape: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    """Maps [N, rows, columns] that have not seen the image: `random` ones, and nearness to the `centre`."""
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
    """Probability of `labels` [N] while the highest patches are hidden, and while only they are shown.

    Twice [N, len(SHARES)]: deletion and insertion (Petsiuk, Das & Saenko 2018). images: what `vit` takes,
    [N, 3, H, W]; a hidden patch shows the image's mean colour. Such pictures are unlike any the model was
    trained on, so that part of a fall is their strangeness (Hooker et al. 2019): compare curves, not levels.
    """
    n, rows, columns = heat.shape
    place = (-heat.flatten(1)).argsort(dim=1, stable=True).argsort(1)  # [N, P], 0 is the highest
    grey = images.mean((2, 3), keepdim=True)

    def sure(count: int, hide: bool) -> Tensor:
        high = (place < count).view(n, 1, rows, columns)
        shown = F.interpolate(
            (~high if hide else high).float(), images.shape[2:], mode="nearest"
        ).bool()
        parts = [
            vit(torch.where(some.to(images.device), image, colour)).softmax(1)
            for some, image, colour in zip(
                shown.split(batch), images.split(batch), grey.split(batch), strict=True
            )
        ]
        return torch.cat(parts).gather(1, labels[:, None])[:, 0]

    counts = [round(share * rows * columns) for share in SHARES]
    everything, nothing = sure(0, hide=True), sure(0, hide=False)  # the ends of both curves
    deletion = [everything, *(sure(count, hide=True) for count in counts[1:-1]), nothing]
    insertion = [nothing, *(sure(count, hide=False) for count in counts[1:-1]), everything]
    both = (torch.stack(curve, dim=1).double().cpu().numpy() for curve in (deletion, insertion))
    return next(both), next(both)


def area(curve: np.ndarray) -> np.ndarray:
    """Area under each of `hiding_curves` [N, len(SHARES)] over the share of patches, in [0, 1]: [N]."""
    return np.trapezoid(curve, SHARES, axis=1)


def shuffled_weights(vit: nn.Module, blocks: int, seed: int) -> nn.Module:
    """A copy of a timm VisionTransformer whose head and last `blocks` blocks have lost what they learned.

    The numbers of each weight tensor are shuffled among themselves, which keeps their scale; with all blocks
    also those of the embeddings: the cascade of Adebayo et al. (2018). Raises InputError for more blocks than
    there are, or fewer than 0.
    """
    model = copy.deepcopy(vit)
    layers = list(model.blocks)  # type: ignore[arg-type]
    if not 0 <= blocks <= len(layers):
        raise InputError(f"{blocks} blocks cannot be shuffled: the model has {len(layers)}")
    whole = blocks == len(layers)
    parts: list[nn.Module] = [model] if whole else [*layers[len(layers) - blocks :], model.head]  # type: ignore[list-item]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in parts:
            for weight in part.parameters():
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    return model


def rank_correlation(first: Tensor, second: Tensor) -> np.ndarray:
    """Spearman's correlation over the patches of each pair of maps [N, rows, columns], in [-1, 1]: [N].

    0 where one of the two is the same everywhere.
    """
    a, b = (rankdata(each.flatten(1).numpy(), axis=1) for each in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    length = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return (a * b).sum(1) / np.where(length > 0, length, 1)


def verdict(checks: Mapping[str, Mapping[str, float]]) -> str:
    """What a map is worth, by rule; checks: differences with `low`, their interval's lower end, by name.

    Each difference is above 0 where the map does well, and passes if its whole interval is.
    """
    absent = [name for name in NEEDED if name not in checks]
    if absent:
        raise InputError(f"a verdict needs the check(s) {', '.join(absent)}")
    failed = [name for name, found in checks.items() if not found["low"] > 0]
    if not failed:
        return (
            "it marks what the model uses, surely better than chance and than the picture's middle"
        )
    words = ", ".join(failed)
    if set(failed) & set(NEEDED):
        return f"it explains nothing that could be verified (failed: {words})"
    return (
        f"it marks something that the model uses, but passes for no explanation (failed: {words})"
    )


def _per_patch(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of each patch that a mask [N, H, W] covers, [N, rows, columns]; borders may cut a pixel."""
    down, across = (_overlaps(*sizes) for sizes in zip(grid, masks.shape[1:], strict=True))
    return down @ masks.double() @ across.T


def _overlaps(patches: int, pixels: int) -> Tensor:
    """Share of each patch's side that each pixel takes: [patches, pixels], each row sums to 1."""
    start, pixel = (
        torch.arange(patches).double()[:, None] * pixels / patches,
        torch.arange(pixels).double(),
    )
    common = torch.minimum(start + pixels / patches, pixel + 1) - torch.maximum(start, pixel)
    return common.clamp_min(0) * patches / pixels
