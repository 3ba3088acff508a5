"""Where a Vision Transformer looks: its attention maps, and what follows from them for the patches.

Rollout follows the attention alone (Abnar & Zuidema 2020); relevance weighs it by the gradient of one class
(Chefer, Gur & Wolf 2021). Whether such a map explains anything is for `explanation_checks` to find out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hamsynth_utils.core.errors import InputError

ATTENTION_METHODS = ("last block", "rollout", "relevance")
"""The maps that `patch_maps` makes."""


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
    return _spread(vit, maps, shares=True)


def attention_gradients(vit: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The `attention_maps` and the gradient of the logit of `labels` [N] by each: [blocks, N, heads, T, T].

    Weights get no gradient. Raises InputError as `attention_maps` does.
    """
    attentions = [_attention(block) for block in _transformer(vit).blocks]
    # With frozen weights only the images tie the maps to the logits.
    with torch.enable_grad(), _readable(vit, attentions) as maps:
        logits = vit(images.detach().clone().requires_grad_())
        gradients = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), maps)
    return _spread(vit, maps, shares=True).detach(), _spread(vit, gradients, shares=False)


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


def relevance(maps: Tensor, gradients: Tensor, read: slice = slice(0, 1)) -> Tensor:
    """How much each input token speaks for a class in the rows that the classifier reads: [N, T], >= 0.

    maps, gradients: of `attention_gradients`; read: as for `attention_rollout`. Only attention that raises
    the class's logit counts (Chefer, Gur & Wolf 2021, equations 5 and 6):
    A_block = mean over heads of max(gradient * A, 0), R = (I + A_last) ... (I + A_1).
    """
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    result = identity.expand(maps.shape[1], -1, -1)
    for attention, gradient in zip(maps, gradients, strict=True):
        result = result + (gradient * attention).clamp_min(0).mean(1) @ result
    return result[:, read].mean(1)


def patch_maps(
    vit: nn.Module, images: Tensor, labels: Tensor, batch: int = 32
) -> dict[str, Tensor]:
    """Each of the `ATTENTION_METHODS` for the patches of each image, [N, rows, columns] on the CPU, not negative.

    vit, images: as for `attention_maps`; labels [N]: the class whose relevance is asked for. `last block` is
    the mean over heads of what the tokens read take from each patch in the last block.
    """
    read = _read(vit)
    parts: dict[str, list[Tensor]] = {name: [] for name in ATTENTION_METHODS}
    for some, of_some in zip(images.split(batch), labels.split(batch), strict=True):
        maps, gradients = attention_gradients(vit, some, of_some)
        rows = (
            maps[-1].mean(1)[:, read].mean(1),
            attention_rollout(maps, read),
            relevance(maps, gradients, read),
        )
        for name, row in zip(ATTENTION_METHODS, rows, strict=True):
            parts[name].append(_on_patches(vit, row).cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def rollout_image(vit: nn.Module, images: Tensor) -> Tensor:
    """The attention rollout on the pixels: [N, H, W], 1 where even attention would have every patch.

    vit, images: as for `attention_maps`. Reads the class token if the model classifies by it, else the mean
    of the patch tokens. What goes to prefix tokens belongs to no pixel and is left out; patches are enlarged
    bilinearly. Attention shows where information came from, not why the model decided (Jain & Wallace 2019).
    """
    grid = _on_patches(vit, attention_rollout(attention_maps(vit, images), _read(vit)))
    relative = grid / grid.mean((1, 2), keepdim=True)
    return F.interpolate(relative[:, None], size=images.shape[-2:], mode="bilinear")[:, 0]


def _read(vit: nn.Module) -> slice:
    """The output tokens from which the model classifies."""
    transformer = _transformer(vit)
    by_class_token = getattr(transformer, "global_pool", "token") == "token"
    return slice(0, 1) if by_class_token else slice(transformer.num_prefix_tokens, None)


def _on_patches(vit: nn.Module, shares: Tensor) -> Tensor:
    """Values of tokens [N, T] as a map [N, rows, columns] of the patches."""
    transformer = _transformer(vit)
    patches = shares[:, transformer.num_prefix_tokens :]
    rows, columns = transformer.patch_embed.grid_size
    if patches.shape[1] != rows * columns:
        raise InputError(
            f"the model sees {patches.shape[1]} patches but has a grid of {rows} x {columns}"
        )
    return patches.reshape(-1, rows, columns)


def _spread(vit: nn.Module, maps: Sequence[Tensor], shares: bool) -> Tensor:
    """Maps of all blocks on all tokens, [blocks, N, heads, T, T], where some see pooled patches only.

    shares: what goes to a square of patches goes to each of them in equal parts, as attention does; else each
    gets the whole, as a gradient does. For the class token's row rollout and relevance are then what they are
    on the pooled tokens, since a pooled token is the mean of its patches.
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
        square = (torch.arange(rows) // side)[:, None] * (columns // side) + torch.arange(
            columns
        ) // side
        place = torch.cat([torch.arange(prefix), prefix + square.flatten()]).to(each.device)
        size = torch.ones(len(place), device=each.device)
        size[prefix:] = side**2 if shares else 1
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
        attention.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
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
