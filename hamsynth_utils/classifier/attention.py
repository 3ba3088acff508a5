"""Attention maps of a Vision Transformer, and maps over the patches that follow from them.

Rollout uses the attention alone (Abnar & Zuidema 2020). Relevance weights the attention by the
gradient of one class (Chefer, Gur & Wolf 2021). The module `faithfulness` tests whether such a map
explains anything.
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
    """The attention softmax(Q K' / sqrt(d)) of every block (Vaswani et al. 2017, equation 1).

    Dropout and stochastic depth are off while the maps are read; the model is left as it was. Where
    patches are pooled after some block, the maps of the later blocks are spread over the patches
    that were pooled.

    Args:
        vit: a timm VisionTransformer, or a module that holds one.
        images: what `vit` takes, [N, 3, H, W].

    Returns:
        [blocks, N, heads, T, T]. The T tokens are the prefix tokens (class token, registers), then
        the patches row by row. Entry [..., i, j] is how much token i takes from token j; each row
        sums to 1.

    Raises:
        InputError: the model has no such blocks.
    """
    attentions = [_attention(block) for block in _transformer(vit).blocks]
    with _readable(vit, attentions) as maps:
        vit(images)
    return _spread(vit, maps, divide=True)


def attention_gradients(vit: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The `attention_maps` and the gradients of one logit by them; weights get no gradient.

    Args:
        vit: as for `attention_maps`.
        images: what `vit` takes, [N, 3, H, W].
        labels: the class whose logit is used, int64 [N].

    Returns:
        Maps and gradients, each [blocks, N, heads, T, T].

    Raises:
        InputError: the model has no such blocks.
    """
    attentions = [_attention(block) for block in _transformer(vit).blocks]
    # With frozen weights, only the images connect the maps with the logits.
    with torch.enable_grad(), _readable(vit, attentions) as maps:
        logits = vit(images.detach().clone().requires_grad_())
        gradients = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), maps)
    return _spread(vit, maps, divide=True).detach(), _spread(vit, gradients, divide=False)


def rollout(maps: Tensor) -> Tensor:
    """How much of each input token reaches each output token (Abnar & Zuidema 2020, section 3).

    Each block passes half of a token through its skip connection and half through the mean of its
    heads: A_block = (mean over heads + I) / 2, rollout = A_last ... A_2 A_1.

    Args:
        maps: attention [blocks, N, heads, T, T].

    Returns:
        [N, T, T], each row sums to 1.
    """
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    result = identity.expand(maps.shape[1], -1, -1)
    for attention in maps.mean(2):  # [N, T, T]
        result = (attention + identity) / 2 @ result
    return result


def attention_rollout(maps: Tensor, read: slice = slice(0, 1)) -> Tensor:
    """The `rollout` of the output tokens from which the model classifies, averaged.

    Args:
        maps: attention [blocks, N, heads, T, T].
        read: these output tokens; by default the first one, the class token.

    Returns:
        [N, T], each row sums to 1.
    """
    return rollout(maps)[:, read].mean(1)


def relevance(maps: Tensor, gradients: Tensor, read: slice = slice(0, 1)) -> Tensor:
    """How much each input token supports a class (Chefer, Gur & Wolf 2021, equations 5 and 6).

    Only attention that raises the class's logit counts:
    A_block = mean over heads of max(gradient * A, 0), R = (I + A_last) ... (I + A_1).

    Args:
        maps: attention [blocks, N, heads, T, T].
        gradients: of the class's logit, see `attention_gradients`.
        read: as for `attention_rollout`.

    Returns:
        [N, T], 0 or more.
    """
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    result = identity.expand(maps.shape[1], -1, -1)
    for attention, gradient in zip(maps, gradients, strict=True):
        result = result + (gradient * attention).clamp_min(0).mean(1) @ result
    return result[:, read].mean(1)


def patch_maps(
    vit: nn.Module, images: Tensor, labels: Tensor, batch: int = 32
) -> dict[str, Tensor]:
    """Maps over the patches of each image by each of the `ATTENTION_METHODS`.

    `last block` is the attention of the last block, averaged over heads, from the tokens from which
    the model classifies to each patch.

    Args:
        vit: as for `attention_maps`.
        images: what `vit` takes, [N, 3, H, W].
        labels: the class for `relevance`, int64 [N].
        batch: how many images are evaluated at once.

    Returns:
        [N, rows, columns] by method, on the CPU, not negative.
    """
    read = _read_tokens(vit)
    parts: dict[str, list[Tensor]] = {name: [] for name in ATTENTION_METHODS}
    for some_images, some_labels in zip(images.split(batch), labels.split(batch), strict=True):
        maps, gradients = attention_gradients(vit, some_images, some_labels)
        rows = (  # [n, T] each
            maps[-1].mean(1)[:, read].mean(1),
            attention_rollout(maps, read),
            relevance(maps, gradients, read),
        )
        for name, row in zip(ATTENTION_METHODS, rows, strict=True):
            parts[name].append(_on_patches(vit, row).cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def rollout_image(vit: nn.Module, images: Tensor) -> Tensor:
    """The attention rollout as an image; patches are enlarged bilinearly.

    The rollout is that of the class token if the model classifies by it, else of the mean patch
    token. What goes to prefix tokens belongs to no pixel and is left out. Attention shows where
    information came from, not why the model decided (Jain & Wallace 2019).

    Args:
        vit: as for `attention_maps`.
        images: what `vit` takes, [N, 3, H, W].

    Returns:
        [N, H, W], relative to even attention, which is 1 everywhere.
    """
    grid = _on_patches(vit, attention_rollout(attention_maps(vit, images), _read_tokens(vit)))
    relative = grid / grid.mean((1, 2), keepdim=True)
    return F.interpolate(relative[:, None], size=images.shape[-2:], mode="bilinear")[:, 0]


def _read_tokens(vit: nn.Module) -> slice:
    """The output tokens from which the model classifies."""
    transformer = _transformer(vit)
    by_class_token = getattr(transformer, "global_pool", "token") == "token"
    return slice(0, 1) if by_class_token else slice(transformer.num_prefix_tokens, None)


def _on_patches(vit: nn.Module, values: Tensor) -> Tensor:
    """Values of tokens [N, T] as a map [N, rows, columns] of the patches."""
    transformer = _transformer(vit)
    patches = values[:, transformer.num_prefix_tokens :]
    rows, columns = transformer.patch_embed.grid_size
    if patches.shape[1] != rows * columns:
        raise InputError(
            f"the model sees {patches.shape[1]} patches but has a grid of {rows} x {columns}"
        )
    return patches.reshape(-1, rows, columns)


def _spread(vit: nn.Module, maps: Sequence[Tensor], divide: bool) -> Tensor:
    """Maps of all blocks on all tokens, where some blocks see pooled patches.

    divide: what goes to a square of patches is divided equally among them, as for attention;
    otherwise each patch gets the whole, as for a gradient. For the class token, rollout and
    relevance are then the same as on the pooled tokens, since a pooled token is the mean of its
    patches.
    """
    transformer = _transformer(vit)
    rows, columns = transformer.patch_embed.grid_size
    prefix, spread = transformer.num_prefix_tokens, []
    for pooled in maps:
        patches = pooled.shape[-1] - prefix
        side = math.isqrt(rows * columns // patches)
        if side < 2 or side**2 * patches != rows * columns:
            spread.append(pooled)
            continue
        # The number of the pooled patch that each patch belongs to, [rows, columns].
        row, column = torch.arange(rows) // side, torch.arange(columns) // side
        square = row[:, None] * (columns // side) + column
        source = torch.cat([torch.arange(prefix), prefix + square.flatten()]).to(pooled.device)
        size = torch.ones(len(source), device=pooled.device)  # [T]
        size[prefix:] = side**2 if divide else 1
        spread.append(pooled[..., source, :][..., source] / size)  # [N, heads, T, T]
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
    layers = [m for m in block.modules() if hasattr(m, "fused_attn") and hasattr(m, "attn_drop")]
    if len(layers) != 1:
        raise InputError(
            f"a {type(block).__name__} has {len(layers)} attention layers that can be read, not 1"
        )
    return layers[0]


@contextmanager
def _readable(vit: nn.Module, attentions: list[Any]) -> Iterator[list[Tensor]]:
    """Record each block's attention, in evaluation mode and without fused attention."""
    maps: list[Tensor] = []
    training = {module: module.training for module in vit.modules()}
    fused = [attention.fused_attn for attention in attentions]
    # A fused kernel never computes the map. Unfused, the map is the input of a dropout.
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
