"""The Vision Transformer (Dosovitskiy et al. 2021) and a linear probe on it: what is trained and predicts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import resolve_data_config
from timm.layers import Attention, DropPath
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile_sections import ClassifierSettings
from hamsynth_utils.data.lesion_set import CLASSES
from hamsynth_utils.training.module import BatchShard, TrainableModule

PROBABILITIES = [f"p_{name}" for name in CLASSES]


class Classifier(TrainableModule):
    """A timm ViT on images [N, 3, H, W] in [-1, 1] of any size: enlarged, normalised, classified.

    forward in training gives the loss by name (label-smoothed cross-entropy in nats); `logits` gives [N, 7].
    Both also take what `trunk` made of the images, tokens [N, T, D], in place of them.
    class_weights: [7], how much an image of each class counts in the loss; equal ones at first. They belong
    to the training and are not saved with the weights.
    """

    mean: Tensor
    std: Tensor
    class_weights: Tensor

    def __init__(
        self, vit: VisionTransformer, settings: ClassifierSettings, pretrained: bool
    ) -> None:
        super().__init__()
        self.vit, self.settings, self.pretrained = vit, settings, pretrained
        config = resolve_data_config({}, model=vit)
        self.register_buffer(
            "mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("class_weights", torch.ones(len(CLASSES)), persistent=False)
        for frozen in self.frozen_parts():
            frozen.requires_grad_(False)
        if settings.frozen_blocks and settings.token_pool > 1:
            pool_patch_tokens_after(
                vit.blocks[settings.frozen_blocks - 1], vit, settings.token_pool
            )
        for path in vit.modules():
            if isinstance(path, DropPath):
                path.forward = partial(self._drop_path, path)  # type: ignore[method-assign]

    def _drop_path(self, path: DropPath, tokens: Tensor) -> Tensor:
        """timm's own, drawn for the images of all processes, see `BatchShard`."""
        if not path.training:
            return tokens
        everyone = tokens.new_ones(len(tokens) * self.shard.processes, *[1] * (tokens.ndim - 1))
        return tokens * self.shard.take(DropPath.forward(path, everyone))

    def frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        """What stays as it was pretrained: with `frozen` blocks also all that comes before them."""
        if not self.settings.frozen_blocks:
            return []
        vit = self.vit
        before = [vit.patch_embed, vit.pos_embed, vit.cls_token, vit.reg_token, vit.norm_pre]
        return [part for part in before if part is not None] + list(
            vit.blocks[: self.settings.frozen_blocks]
        )

    def train(self, mode: bool = True) -> Classifier:
        """As usual, but what is frozen drops no path."""
        super().train(mode)
        for frozen in self.frozen_parts():
            if isinstance(frozen, nn.Module):
                frozen.eval()
        return self

    def prepare(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] -> what the ViT reads: input_size pixels a side, its own mean and deviation."""
        size = self.settings.input_size
        if images.shape[-1] != size:
            images = F.interpolate(
                images, size=(size, size), mode="bicubic", antialias=True, align_corners=False
            )
        return ((images + 1) / 2 - self.mean) / self.std

    def forward_frozen(self, images: Tensor) -> Tensor:
        """Tokens [N, T, D] of images [N, 3, H, W] in [-1, 1] after the frozen blocks, pooled if they are."""
        vit = self.vit
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(self.prepare(images)))))
        for block in vit.blocks[: self.settings.frozen_blocks]:
            tokens = block(tokens)
        return tokens

    def features(self, images: Tensor) -> Tensor:
        """Class token and mean patch token after the last block, side by side: [N, 1, 2 * D]."""
        tokens = self.forward_frozen(images)
        for block in self.vit.blocks[self.settings.frozen_blocks :]:
            tokens = block(tokens)
        tokens, prefix = self.vit.norm(tokens), self.vit.num_prefix_tokens
        return torch.cat([tokens[:, :1], tokens[:, prefix:].mean(1, keepdim=True)], dim=2)

    def logits(self, images: Tensor) -> Tensor:
        """Unnormalised log probabilities [N, 7] of images [N, 3, H, W] in [-1, 1], or of their tokens."""
        vit, tokens = self.vit, images if images.ndim == 3 else self.forward_frozen(images)
        blocks = list(vit.blocks[self.settings.frozen_blocks :])
        for block in blocks[:-1]:
            tokens = block(tokens)
        for block in blocks[-1:]:
            tokens = (
                last_block_class_token_only(block, tokens)
                if vit.global_pool == "token"
                else block(tokens)
            )
        return vit.forward_head(vit.norm(tokens)).float()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        smoothing = self.settings.label_smoothing
        return losses(self.logits(images), labels, self.class_weights, smoothing, self.shard)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The head at its own rate; each block at `layer_decay` times the rate of the block above it.

        Without pretrained weights everything is as new as the head and learns at the head's rate. What is
        frozen is left out.
        """
        blocks = len(self.vit.blocks)
        groups = []
        for name, parameter in self.vit.named_parameters():
            if not parameter.requires_grad:
                continue
            if name.startswith("head") or not self.pretrained:
                rate = self.settings.head_learning_rate
            elif name.startswith("blocks."):
                rate = learning_rate * self.settings.layer_decay ** (
                    blocks - 1 - int(name.split(".")[1])
                )
            else:
                top = name.startswith(("norm.", "fc_norm."))
                rate = learning_rate * self.settings.layer_decay ** (0 if top else blocks)
            decay = {} if parameter.ndim > 1 else {"weight_decay": 0.0}
            groups.append({"params": [parameter], "lr": rate, **decay})
        return groups


class Probe(TrainableModule):
    """A linear layer on features [N, 1, D] of a ViT, see `Classifier.features`; else as a `Classifier`."""

    class_weights: Tensor

    def __init__(self, dimensions: int, settings: ClassifierSettings) -> None:
        super().__init__()
        self.settings, self.head = settings, nn.Linear(dimensions, len(CLASSES))
        self.register_buffer("class_weights", torch.ones(len(CLASSES)), persistent=False)

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised log probabilities [N, 7] of features [N, 1, D]."""
        return self.head(features[:, 0])

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        smoothing = self.settings.label_smoothing
        return losses(self.logits(features), labels, self.class_weights, smoothing, self.shard)


def losses(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor,
    label_smoothing: float,
    shard: BatchShard = TrainableModule.shard,
) -> dict[str, Tensor]:
    """Label-smoothed cross-entropy in nats, each image weighted by its class, and the share that is wrong.

    The weights are the images', and not those of the classes in the smoothed target as in torch's own
    `weight`: there the rarest class takes most of the smoothing of every image, and with it the answer.
    Their sum is that of the whole batch, so that several processes have the loss of one.
    """
    each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    weights = class_weights[labels]
    loss = (weights * each).sum() / shard.all_reduce_mean(weights.sum())
    return {"loss": loss, "training_error": (logits.argmax(1) != labels).float().mean()}


def pool_patch_tokens_after(block: nn.Module, vit: VisionTransformer, side: int) -> None:
    """From now on `block` of `vit` averages the patch tokens that it gives over squares of `side` a side.

    Raises InputError if the patches do not make whole squares.
    """
    rows, columns = vit.patch_embed.grid_size
    if rows % side or columns % side:
        raise InputError(
            f"classifier.token_pool is {side}, but {rows} x {columns} patches make no whole squares of {side}: "
            "take another input_size"
        )
    prefix, squares = vit.num_prefix_tokens, (rows // side, side, columns // side, side)

    def pool(_block: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
        patches = tokens[:, prefix:].unflatten(1, squares).mean((2, 4)).flatten(1, 2)
        return torch.cat([tokens[:, :prefix], patches], dim=1)

    block.register_forward_hook(pool)


def last_block_class_token_only(block: nn.Module, tokens: Tensor) -> Tensor:
    """`block(tokens)[:, :1]`, tokens [N, T, D], for a fraction of the work: only the class token asks.

    In the last block nothing else is read. Queries, projection and MLP are needed for one token of T.
    """
    attention = getattr(block, "attn", None)
    if type(block) is not Block or type(attention) is not Attention or attention.gate is not None:
        return block(tokens)[:, :1]
    normed = block.norm1(tokens)
    n, heads, size = len(tokens), attention.num_heads, attention.head_dim
    one, two = attention.attn_dim, 2 * attention.attn_dim
    bias = attention.qkv.bias
    query_weight, other_weight = attention.qkv.weight.split([one, two])
    query_bias, other_bias = (None, None) if bias is None else bias.split([one, two])
    query = (
        F.linear(normed[:, :1], query_weight, query_bias).view(n, 1, heads, size).transpose(1, 2)
    )
    others = F.linear(normed, other_weight, other_bias).view(n, -1, 2, heads, size)
    key, value = others.permute(2, 0, 3, 1, 4)
    answer = F.scaled_dot_product_attention(
        attention.q_norm(query),
        attention.k_norm(key),
        value,
        dropout_p=attention.attn_drop.p if block.training else 0.0,
    )
    answer = attention.proj_drop(attention.proj(attention.norm(answer.transpose(1, 2).flatten(2))))
    token = tokens[:, :1] + block.drop_path1(block.ls1(answer))
    return token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))
