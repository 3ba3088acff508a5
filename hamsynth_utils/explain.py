"""Where a Vision Transformer looks: its attention maps, and their rollout from the output to the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hamsynth_utils.errors import InputError


@torch.no_grad()
def attention_maps(vit: nn.Module, images: Tensor) -> Tensor:
    """softmax(Q K' / sqrt(d)) of every block: [blocks, N, heads, T, T], each row sums to 1.

    vit: a timm VisionTransformer, or a module that holds one. images: what `vit` takes, [N, 3, H, W].
    T counts the prefix tokens (class token, registers) first, then the patches row by row; entry [..., i, j]
    is how much token i takes from token j (Vaswani et al. 2017, equation 1). Dropout and stochastic depth
    are off while the maps are read; the model is left as it was. Where patches are pooled behind some block,
    the maps of the blocks after it are spread over the patches that were pooled.

    Raises InputError for a model without such blocks.
    """
    attentions = [_attention(block) for block in _transformer(vit).blocks]
    with _readable(vit, attentions) as maps:
        vit(images)
    return _spread(vit, maps)


def rollout(maps: Tensor) -> Tensor:
    """How much of each input token reaches each output token: [N, T, T], each row sums to 1.

    maps: [blocks, N, heads, T, T]. Each block passes on half of a token by its skip connection and half by
    the mean of its heads, and blocks follow one another as matrix products (Abnar & Zuidema 2020, section 3):
    A_block = (mean over heads + I) / 2, rollout = A_last ... A_2 A_1.
    """
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    result = identity.expand(maps.shape[1], -1, -1)
    for attention in maps.mean(2):
        result = (attention + identity) / 2 @ result
    return result


def attention_rollout(maps: Tensor, read: slice = slice(0, 1)) -> Tensor:
    """The rows of the `rollout` that the classifier reads, averaged: [N, T], each sums to 1.

    maps: [blocks, N, heads, T, T]. read: the output tokens read; by default the first, the class token.
    """
    return rollout(maps)[:, read].mean(1)


def rollout_image(vit: nn.Module, images: Tensor) -> Tensor:
    """The attention rollout on the pixels: [N, H, W], 1 where even attention would have every patch.

    vit, images: as for `attention_maps`. Reads the class token if the model classifies by it, else the mean
    of the patch tokens. What goes to prefix tokens belongs to no pixel and is left out; patches are enlarged
    bilinearly. Attention shows where information came from, not why the model decided (Jain & Wallace 2019).
    """
    transformer = _transformer(vit)
    prefix = transformer.num_prefix_tokens
    by_class_token = getattr(transformer, "global_pool", "token") == "token"
    shares = attention_rollout(
        attention_maps(vit, images), slice(0, 1) if by_class_token else slice(prefix, None)
    )
    patches = shares[:, prefix:]
    rows, columns = transformer.patch_embed.grid_size
    if patches.shape[1] != rows * columns:
        raise InputError(f"the model sees {patches.shape[1]} patches but has a grid of {rows} x {columns}")
    relative = patches / patches.mean(1, keepdim=True)
    grid = relative.reshape(-1, 1, rows, columns)
    return F.interpolate(grid, size=images.shape[-2:], mode="bilinear")[:, 0]


def _spread(vit: nn.Module, maps: Sequence[Tensor]) -> Tensor:
    """Maps of all blocks on all tokens, [blocks, N, heads, T, T], where some see pooled patches only.

    What goes to a square of patches goes to each of them in equal parts. The class token's row of the rollout
    is then what it is on the pooled tokens, since a pooled token is the mean of its patches.
    """
    transformer = _transformer(vit)
    rows, columns = transformer.patch_embed.grid_size
    prefix, spread = transformer.num_prefix_tokens, []
    for each in maps:
        patches = each.shape[-1] - prefix
        side = math.isqrt(rows * columns // patches)
        if side < 2 or side**2 * patches != rows * columns:
            spread.append(each)
            continue
        square = (torch.arange(rows) // side)[:, None] * (columns // side) + torch.arange(columns) // side
        place = torch.cat([torch.arange(prefix), prefix + square.flatten()]).to(each.device)
        size = torch.ones(len(place), device=each.device)
        size[prefix:] = side**2
        spread.append(each[..., place, :][..., place] / size)
    return torch.stack(spread)


def _transformer(module: nn.Module) -> Any:
    """`module` itself or the one Vision Transformer inside it."""
    parts = ("blocks", "patch_embed", "num_prefix_tokens")
    for candidate in module.modules():
        if all(hasattr(candidate, part) for part in parts):
            return candidate
    raise InputError(
        f"{type(module).__name__} is no Vision Transformer of timm: there is no attention to show"
    )


def _attention(block: nn.Module) -> Any:
    """The one module in `block` that computes softmax attention."""
    found = [m for m in block.modules() if hasattr(m, "fused_attn") and hasattr(m, "attn_drop")]
    if len(found) != 1:
        raise InputError(
            f"a {type(block).__name__} has {len(found)} attention layers that can be read, not 1"
        )
    return found[0]


@contextmanager
def _readable(vit: nn.Module, attentions: list[Any]) -> Iterator[list[Tensor]]:
    """Evaluation mode, fused attention off and each block's attention recorded, while the `with` lasts."""
    maps: list[Tensor] = []
    training = {module: module.training for module in vit.modules()}
    fused = [attention.fused_attn for attention in attentions]
    # A fused kernel never forms the map; unfused, it is what goes into the attention's dropout.
    hooks = [
        attention.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0].detach()))
        for attention in attentions
    ]
    try:
        vit.eval()
        for attention in attentions:
            attention.fused_attn = False
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
        for attention, was in zip(attentions, fused, strict=True):
            attention.fused_attn = was
        for module, mode in training.items():
            module.training = mode
