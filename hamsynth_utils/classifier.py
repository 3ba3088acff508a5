"""The Vision Transformer (Dosovitskiy et al. 2021): built, given weights, and asked to predict."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import numpy as np
import pandas as pd
import requests
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from timm.data import resolve_data_config
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from hamsynth_utils.data.augment import views
from hamsynth_utils.data.lesions import CLASSES, LesionSet, to_unit_range
from hamsynth_utils.errors import InputError
from hamsynth_utils.profile import ClassifierSettings
from hamsynth_utils.tokens import Tokens
from hamsynth_utils.trainable import Trainable
from hamsynth_utils.weights import read_weights, sha256_of

HUB_SECONDS = 5.0
"""How long the model hub may take to answer before it counts as out of reach."""

PROBABILITIES = [f"p_{name}" for name in CLASSES]


@dataclass(frozen=True)
class Provenance:
    """Where a classifier's first weights came from: hub, file or random, and what had failed before."""

    model: str
    source: str
    detail: str
    tried: tuple[str, ...] = ()


class Classifier(Trainable):
    """A timm ViT on images [N, 3, H, W] in [-1, 1] of any size: enlarged, normalised, classified.

    forward in training gives the loss by name (label-smoothed cross-entropy in nats); `logits` gives [N, 7].
    Both also take what `trunk` made of the images, tokens [N, T, D], in place of them.
    class_weights: [7], how much an image of each class counts in the loss; equal ones at first. They belong
    to the training and are not saved with the weights.
    """

    mean: Tensor
    std: Tensor
    class_weights: Tensor

    def __init__(self, vit: VisionTransformer, settings: ClassifierSettings, pretrained: bool) -> None:
        super().__init__()
        self.vit, self.settings, self.pretrained = vit, settings, pretrained
        config = resolve_data_config({}, model=vit)
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("class_weights", torch.ones(len(CLASSES)), persistent=False)
        for frozen in self.frozen_parts():
            frozen.requires_grad_(False)

    def frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        """What stays as it was pretrained: with `frozen` blocks also all that comes before them."""
        if not self.settings.frozen:
            return []
        vit = self.vit
        before = [vit.patch_embed, vit.pos_embed, vit.cls_token, vit.reg_token, vit.norm_pre]
        return [part for part in before if part is not None] + list(vit.blocks[: self.settings.frozen])

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

    def trunk(self, images: Tensor) -> Tensor:
        """Tokens [N, T, D] of images [N, 3, H, W] in [-1, 1] after the frozen blocks."""
        vit = self.vit
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(self.prepare(images)))))
        for block in vit.blocks[: self.settings.frozen]:
            tokens = block(tokens)
        return tokens

    def features(self, images: Tensor) -> Tensor:
        """Class token and mean patch token after the last block, side by side: [N, 1, 2 * D]."""
        tokens = self.trunk(images)
        for block in self.vit.blocks[self.settings.frozen :]:
            tokens = block(tokens)
        tokens, prefix = self.vit.norm(tokens), self.vit.num_prefix_tokens
        return torch.cat([tokens[:, :1], tokens[:, prefix:].mean(1, keepdim=True)], dim=2)

    def logits(self, images: Tensor) -> Tensor:
        """Unnormalised log probabilities [N, 7] of images [N, 3, H, W] in [-1, 1], or of their tokens."""
        vit, tokens = self.vit, images if images.ndim == 3 else self.trunk(images)
        blocks = list(vit.blocks[self.settings.frozen :])
        for block in blocks[:-1]:
            tokens = block(tokens)
        for block in blocks[-1:]:
            tokens = class_token(block, tokens) if vit.global_pool == "token" else block(tokens)
        return vit.forward_head(vit.norm(tokens)).float()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return losses(self.logits(images), labels, self.class_weights, self.settings.label_smoothing)

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
                rate = learning_rate * self.settings.layer_decay ** (blocks - 1 - int(name.split(".")[1]))
            else:
                top = name.startswith(("norm.", "fc_norm."))
                rate = learning_rate * self.settings.layer_decay ** (0 if top else blocks)
            decay = {} if parameter.ndim > 1 else {"weight_decay": 0.0}
            groups.append({"params": [parameter], "lr": rate, **decay})
        return groups


class Probe(Trainable):
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
        return losses(self.logits(features), labels, self.class_weights, self.settings.label_smoothing)


def losses(
    logits: Tensor, labels: Tensor, class_weights: Tensor, label_smoothing: float
) -> dict[str, Tensor]:
    """Label-smoothed, class-weighted cross-entropy in nats, and the share of images that are wrong."""
    loss = F.cross_entropy(logits, labels, class_weights, label_smoothing=label_smoothing)
    return {"loss": loss, "training_error": (logits.argmax(1) != labels).float().mean()}


def class_token(block: nn.Module, tokens: Tensor) -> Tensor:
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
    query = F.linear(normed[:, :1], query_weight, query_bias).view(n, 1, heads, size).transpose(1, 2)
    others = F.linear(normed, other_weight, other_bias).view(n, -1, 2, heads, size)
    key, value = others.permute(2, 0, 3, 1, 4)
    answer = F.scaled_dot_product_attention(
        attention.q_norm(query), attention.k_norm(key), value,
        dropout_p=attention.attn_drop.p if block.training else 0.0,
    )  # fmt: skip
    answer = attention.proj_drop(attention.proj(attention.norm(answer.transpose(1, 2).flatten(2))))
    token = tokens[:, :1] + block.drop_path1(block.ls1(answer))
    return token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))


def build_classifier(settings: ClassifierSettings, seed: int) -> tuple[Classifier, Provenance]:
    """A ViT with a new seven-class head, and where its other weights came from.

    `hub`: timm's pretrained weights. A path: a .safetensors file in timm's names. `none`: random.
    `auto`: the hub, then `<model>*.safetensors` in the folder HAMSYNTH_WEIGHTS, then random; what failed
    on the way is in `Provenance.tried`. Patch embedding and positions are resampled to `input_size`.
    Raises InputError where the weights asked for cannot be had or do not fit, and where blocks are to stay
    as they were pretrained but no pretrained weights can be had.
    """
    torch.manual_seed(seed)
    if not timm.is_model(settings.model) or "vit" not in settings.model:
        raise InputError(f"classifier.model {settings.model!r} is not a timm vision transformer")
    tried: list[str] = []
    sources: list[Callable[[], tuple[VisionTransformer, str, str]]]
    if settings.weights == "auto":
        sources = [lambda: _from_hub(settings), lambda: _from_folder(settings)]
    elif settings.weights == "hub":
        sources = [lambda: _from_hub(settings)]
    elif settings.weights == "none":
        sources = []
    else:
        sources = [lambda: _from_file(settings, Path(settings.weights).expanduser())]
    vit, source, detail = None, "random", "no pretrained weights"
    for attempt in sources:
        try:
            vit, source, detail = attempt()
            break
        except InputError as error:
            if settings.weights != "auto":
                raise
            tried.append(str(error))
    if vit is None:
        if settings.frozen:
            why = "; ".join(tried) or "classifier.weights is none"
            raise InputError(
                f"classifier.frozen is {settings.frozen}, but random blocks must not be frozen: {why}. "
                "Name a folder of weights (WEIGHTS=... of make report), or set frozen to 0"
            )
        vit = _create(settings, depth=settings.depth)
    return Classifier(vit, settings, source != "random"), Provenance(
        settings.model, source, detail, tuple(tried)
    )


def _create(settings: ClassifierSettings, depth: int | None, **options: Any) -> VisionTransformer:
    if depth is not None:
        options["depth"] = depth
    vit: Any = timm.create_model(
        settings.model,
        img_size=settings.input_size,
        num_classes=len(CLASSES),
        drop_path_rate=settings.drop_path,
        **options,
    )
    if settings.depth is not None:
        if settings.depth > len(vit.blocks):
            raise InputError(
                f"classifier.depth is {settings.depth}, but these weights have {len(vit.blocks)} blocks"
            )
        vit.blocks = vit.blocks[: settings.depth]
    if settings.frozen > len(vit.blocks):
        raise InputError(f"classifier.frozen is {settings.frozen}, but there are {len(vit.blocks)} blocks")
    return vit


def _from_hub(settings: ClassifierSettings) -> tuple[VisionTransformer, str, str]:
    if hub.HF_HUB_OFFLINE:
        raise InputError("the model hub was not asked: HF_HUB_OFFLINE is set")
    try:
        requests.head(hub.ENDPOINT, timeout=HUB_SECONDS)
        vit = _create(settings, depth=None, pretrained=True)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"the model hub {hub.ENDPOINT} gave no weights ({type(error).__name__})") from error
    return vit, "hub", f"{settings.model} from {hub.ENDPOINT}"


def _from_folder(settings: ClassifierSettings) -> tuple[VisionTransformer, str, str]:
    folder = os.environ.get("HAMSYNTH_WEIGHTS")
    if not folder:
        raise InputError("HAMSYNTH_WEIGHTS names no folder of weights")
    found = sorted(Path(folder).expanduser().glob(f"{settings.model}*.safetensors"))
    if not found:
        raise InputError(f"the folder HAMSYNTH_WEIGHTS holds no {settings.model}*.safetensors")
    return _from_file(settings, found[0])


def _from_file(settings: ClassifierSettings, path: Path) -> tuple[VisionTransformer, str, str]:
    tensors, _ = read_weights(path)
    depth = _blocks(tensors)
    if depth == 0:
        raise InputError(f"{path} holds no vision transformer: it has no blocks")
    try:
        vit = _create(settings, depth=depth, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    except (RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{path} does not fit {settings.model}: {str(error).splitlines()[-1].strip()}"
        ) from error
    missing = [key for key in vit.state_dict() if key not in tensors and not key.startswith("head")]
    if missing:
        raise InputError(
            f"{path} does not fit {settings.model}: it lacks {len(missing)} tensors, first {missing[0]}"
        )
    return vit, "file", f"{path.name}, sha256 {sha256_of(path)[:16]}"


def _blocks(names: Iterable[str]) -> int:
    return 1 + max((int(name.split(".")[1]) for name in names if name.startswith("blocks.")), default=-1)


def load_classifier(settings: ClassifierSettings, path: Path) -> Classifier:
    """The fine-tuned classifier in a .safetensors file, in evaluation mode on the CPU.

    All its weights are in that file: nothing is asked of a model hub, and nothing is trained. Raises
    InputError for a file that is missing, damaged, or of another network than the settings'.
    """
    tensors, _ = read_weights(path)
    vit = _create(settings, depth=_blocks(name.removeprefix("vit.") for name in tensors))
    classifier = Classifier(vit, settings, pretrained=False)
    try:
        classifier.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not fit {settings.model}: {str(error).splitlines()[-1].strip()}"
        ) from error
    return classifier.eval()


def refuse_synthetic(lesions: LesionSet, what: str) -> None:
    """Raises InputError if any image of a part that must be real is synthetic."""
    made = lesions.table["synthetic"].to_numpy(dtype=bool)
    if made.any():
        first = lesions.table["image_id"].iloc[int(np.flatnonzero(made)[0])]
        raise InputError(f"{what} hold {int(made.sum())} synthetic image(s), first {first}: refused")


@torch.no_grad()
def predict(
    classifier: Classifier | Probe, lesions: LesionSet, batch_size: int = 64, tokens: Tokens | None = None
) -> pd.DataFrame:
    """Columns image_id, dx (the truth) and p_akiec ... p_vasc, averaged over the views of the settings.

    tokens: what the frozen blocks made of these images (`hamsynth_utils.tokens`), so as not to make it again;
    a probe knows nothing else.
    Raises InputError if any image is synthetic: validation and test are on real images only.
    """
    refuse_synthetic(lesions, "the images to predict")
    device, count = next(classifier.parameters()).device, classifier.settings.views
    rows = None if tokens is None else tokens.rows_of(lesions)
    classifier.eval()
    parts = []
    for start in range(0, len(lesions), batch_size):
        if tokens is None or rows is None:
            images = to_unit_range(lesions.images[start : start + batch_size].to(device))
            seen = views(images, count)
        else:
            some = rows[start : start + batch_size]
            seen = [tokens.take(some, np.full(len(some), view)).to(device) for view in range(count)]
        parts.append(torch.stack([classifier.logits(view).softmax(1) for view in seen]).mean(0).cpu())
    frame = lesions.table[["image_id", "dx"]].reset_index(drop=True)
    return pd.concat([frame, pd.DataFrame(torch.cat(parts).double().numpy(), columns=PROBABILITIES)], axis=1)


def provenance_json(provenance: Provenance) -> dict[str, Any]:
    """The provenance as plain values for `provenance.json`."""
    return asdict(provenance)
