"""The Vision Transformer (Dosovitskiy et al. 2021) and a linear probe on its features."""

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
from hamsynth_utils.training.module import BatchShard, TrainableModule


class Classifier(TrainableModule):
    """A timm ViT on images [N, 3, H, W] in [-1, 1] of any size: enlarged, normalised, classified.

    `forward` gives the losses and `logits` the prediction. Both take images, or the tokens [N, T,
    D] that `forward_frozen` made of them.

    Args:
        vit: the model; its head has K classes.
        settings: the profile's section `classifier`.
        pretrained: whether the weights are pretrained; if not, all learn at the head's rate.

    Attributes:
        class_weights: [K], how much an image of each class counts in the loss, at first equally.
            They belong to the training and are not saved with the weights.
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
        self.register_buffer("class_weights", torch.ones(vit.num_classes), persistent=False)
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
        """timm's stochastic depth, drawn for the images of all processes, see `BatchShard`."""
        if not path.training:
            return tokens
        # One factor per image of the whole batch [N * processes, 1, 1] -> this process's [N, 1, 1].
        ones = tokens.new_ones(len(tokens) * self.shard.processes, *[1] * (tokens.ndim - 1))
        return tokens * self.shard.take(DropPath.forward(path, ones))

    def frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        """What is not trained: the first `frozen_blocks` blocks and everything before them."""
        if not self.settings.frozen_blocks:
            return []
        vit = self.vit
        before = [vit.patch_embed, vit.pos_embed, vit.cls_token, vit.reg_token, vit.norm_pre]
        return [part for part in before if part is not None] + list(
            vit.blocks[: self.settings.frozen_blocks]
        )

    def train(self, mode: bool = True) -> Classifier:
        """As torch's, but the frozen parts stay in evaluation mode and drop no path."""
        super().train(mode)
        for frozen in self.frozen_parts():
            if isinstance(frozen, nn.Module):
                frozen.eval()
        return self

    def prepare(self, images: Tensor) -> Tensor:
        """Resize images to `input_size` and normalise them as in the ViT's pretraining.

        Args:
            images: float [N, 3, H, W] in [-1, 1].

        Returns:
            [N, 3, input_size, input_size].
        """
        size = self.settings.input_size
        if images.shape[-1] != size:
            images = F.interpolate(
                images, size=(size, size), mode="bicubic", antialias=True, align_corners=False
            )
        return ((images + 1) / 2 - self.mean) / self.std

    def forward_frozen(self, images: Tensor) -> Tensor:
        """The tokens after the frozen blocks, pooled if the settings ask for it.

        Args:
            images: float [N, 3, H, W] in [-1, 1].

        Returns:
            [N, T, D].
        """
        vit = self.vit
        patches = vit.patch_embed(self.prepare(images))  # [N, 3, S, S] -> [N, patches, D]
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(patches)))  # -> [N, T, D]
        for block in vit.blocks[: self.settings.frozen_blocks]:
            tokens = block(tokens)
        return tokens

    def features(self, images: Tensor) -> Tensor:
        """The class token and the mean patch token after the last block, concatenated.

        Args:
            images: float [N, 3, H, W] in [-1, 1].

        Returns:
            [N, 1, 2 * D].
        """
        tokens = self.forward_frozen(images)
        for block in self.vit.blocks[self.settings.frozen_blocks :]:
            tokens = block(tokens)
        tokens, prefix = self.vit.norm(tokens), self.vit.num_prefix_tokens
        mean_patch = tokens[:, prefix:].mean(1, keepdim=True)  # [N, 1, D]
        return torch.cat([tokens[:, :1], mean_patch], dim=2)

    def logits(self, images: Tensor) -> Tensor:
        """Unnormalised log probabilities.

        Args:
            images: float [N, 3, H, W] in [-1, 1], or their tokens [N, T, D].

        Returns:
            [N, K].
        """
        vit, tokens = self.vit, images if images.ndim == 3 else self.forward_frozen(images)
        for number in range(self.settings.frozen_blocks, len(vit.blocks)):
            block, is_last = vit.blocks[number], number + 1 == len(vit.blocks)
            class_token_only = is_last and vit.global_pool == "token"
            tokens = (
                last_block_class_token_only(block, tokens) if class_token_only else block(tokens)
            )
        return vit.forward_head(vit.norm(tokens)).float()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The `losses` of a batch.

        Args:
            images: float [N, 3, S, S] in [-1, 1], or their tokens [N, T, D].
            labels: int64 [N].

        Returns:
            As `losses`.
        """
        smoothing = self.settings.label_smoothing
        return losses(self.logits(images), labels, self.class_weights, smoothing, self.shard)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The head has its own rate; each block has `layer_decay` times that of the block after it.

        Without pretrained weights everything is as new as the head and learns at the head's rate.
        Frozen parameters are left out.
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
    """A linear classifier of the features of a ViT, see `Classifier.features`.

    Args:
        dimensions: D, the length of the features.
        settings: the profile's section `classifier`.
        n_classes: K, the number of classes.
    """

    class_weights: Tensor

    def __init__(self, dimensions: int, settings: ClassifierSettings, n_classes: int) -> None:
        super().__init__()
        self.settings, self.head = settings, nn.Linear(dimensions, n_classes)
        self.register_buffer("class_weights", torch.ones(n_classes), persistent=False)

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised log probabilities [N, K] of features [N, 1, D]."""
        return self.head(features[:, 0])

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The `losses` of a batch.

        Args:
            features: [N, 1, D].
            labels: int64 [N].

        Returns:
            As `losses`.
        """
        smoothing = self.settings.label_smoothing
        return losses(self.logits(features), labels, self.class_weights, smoothing, self.shard)


def losses(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor,
    label_smoothing: float,
    shard: BatchShard = TrainableModule.shard,
) -> dict[str, Tensor]:
    """Label-smoothed cross-entropy in nats, each image weighted by its class.

    The weight belongs to the image's own class. torch's `weight` also weights the other classes of
    the smoothed target: there the rarest class would take most of the smoothing of every image, and
    with it the prediction. The sum of the weights is that of the whole batch, so that several
    processes have the loss of one.

    Args:
        logits: [N, K].
        labels: int64 [N].
        class_weights: [K].
        label_smoothing: in [0, 1).
        shard: which images of the batch these are.

    Returns:
        `loss`, and `training_error`, the fraction of the images that is classified wrongly.
    """
    per_image = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    weights = class_weights[labels]
    loss = (weights * per_image).sum() / shard.all_reduce_mean(weights.sum())
    return {"loss": loss, "training_error": (logits.argmax(1) != labels).float().mean()}


def pool_patch_tokens_after(block: nn.Module, vit: VisionTransformer, side: int) -> None:
    """Make a block average its output patch tokens over squares of patches.

    Args:
        block: a block of `vit`.
        vit: the model.
        side: how many patches a side a square has.

    Raises:
        InputError: the patches do not form whole squares.
    """
    rows, columns = vit.patch_embed.grid_size
    if rows % side or columns % side:
        raise InputError(
            f"classifier.token_pool is {side}, but {rows} x {columns} patches make no whole "
            f"squares of {side}: take another input_size"
        )
    prefix, squares = vit.num_prefix_tokens, (rows // side, side, columns // side, side)

    def pool(_block: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
        """Average the patch tokens of a block's output; a forward hook of torch."""
        patches = tokens[:, prefix:].unflatten(
            1, squares
        )  # [N, rows / side, side, columns / side, side, D]
        pooled = patches.mean((2, 4)).flatten(1, 2)  # -> [N, patches / side^2, D]
        return torch.cat([tokens[:, :prefix], pooled], dim=1)

    block.register_forward_hook(pool)


def last_block_class_token_only(block: nn.Module, tokens: Tensor) -> Tensor:
    """`block(tokens)[:, :1]` for a fraction of the work.

    The head reads only the class token of the last block. So queries, projection and MLP are
    computed for one token instead of T; keys and values are needed for all.

    Args:
        block: the last block of a timm VisionTransformer.
        tokens: [N, T, D].

    Returns:
        The class token after the block, [N, 1, D].
    """
    attention = getattr(block, "attn", None)
    if type(block) is not Block or type(attention) is not Attention or attention.gate is not None:
        return block(tokens)[:, :1]
    n, heads, head_dim = len(tokens), attention.num_heads, attention.head_dim
    dim = attention.attn_dim  # heads * head_dim
    query_weight, key_value_weight = attention.qkv.weight.split([dim, 2 * dim])
    bias = attention.qkv.bias
    query_bias, key_value_bias = (None, None) if bias is None else bias.split([dim, 2 * dim])

    normed = block.norm1(tokens)  # [N, T, D]
    query = F.linear(normed[:, :1], query_weight, query_bias)  # [N, 1, dim]
    query = query.view(n, 1, heads, head_dim).transpose(1, 2)  # -> [N, heads, 1, head_dim]
    key_value = F.linear(normed, key_value_weight, key_value_bias)  # [N, T, 2 dim]
    key_value = key_value.view(n, -1, 2, heads, head_dim)  # -> [N, T, 2, heads, head_dim]
    key, value = key_value.permute(2, 0, 3, 1, 4)  # -> 2 x [N, heads, T, head_dim]
    attended = F.scaled_dot_product_attention(  # [N, heads, 1, head_dim]
        attention.q_norm(query),
        attention.k_norm(key),
        value,
        dropout_p=attention.attn_drop.p if block.training else 0.0,
    )
    attended = attended.transpose(1, 2).flatten(2)  # -> [N, 1, heads, head_dim] -> [N, 1, dim]
    attended = attention.proj_drop(attention.proj(attention.norm(attended)))  # [N, 1, D]
    token = tokens[:, :1] + block.drop_path1(block.ls1(attended))  # [N, 1, D]
    return token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))
