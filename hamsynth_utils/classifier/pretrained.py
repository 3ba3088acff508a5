"""Where a classifier's weights come from: a model hub, a file, chance, or a training that is finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import requests
import timm
import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer

from hamsynth_utils.classifier.model import Classifier
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile_sections import ClassifierSettings
from hamsynth_utils.core.weights import read_weights, sha256_of

HUB_SECONDS = 5.0
"""How long the model hub may take to answer before it counts as out of reach."""


@dataclass(frozen=True)
class Provenance:
    """Where a classifier's first weights came from: hub, file or random, and what had failed before."""

    model: str
    source: str
    detail: str
    tried: tuple[str, ...] = ()


def build_classifier(
    settings: ClassifierSettings, seed: int, n_classes: int
) -> tuple[Classifier, Provenance]:
    """A ViT with a new head for `n_classes` classes (0: no head), and where its other weights came from.

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
        sources = [
            lambda: _from_hub(settings, n_classes),
            lambda: _from_folder(settings, n_classes),
        ]
    elif settings.weights == "hub":
        sources = [lambda: _from_hub(settings, n_classes)]
    elif settings.weights == "none":
        sources = []
    else:
        sources = [lambda: _from_file(settings, Path(settings.weights).expanduser(), n_classes)]
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
        if settings.frozen_blocks:
            why = "; ".join(tried) or "classifier.weights is none"
            raise InputError(
                f"classifier.frozen_blocks is {settings.frozen_blocks}, but random blocks must not be frozen: {why}. "
                "Name a folder of weights (WEIGHTS=... of make report), or set frozen to 0"
            )
        vit = _create(settings, settings.depth, n_classes)
    return Classifier(vit, settings, source != "random"), Provenance(
        settings.model, source, detail, tuple(tried)
    )


def _create(
    settings: ClassifierSettings, depth: int | None, n_classes: int, **options: Any
) -> VisionTransformer:
    if depth is not None:
        options["depth"] = depth
    vit: Any = timm.create_model(
        settings.model,
        img_size=settings.input_size,
        num_classes=n_classes,
        drop_path_rate=settings.drop_path,
        **options,
    )
    if settings.depth is not None:
        if settings.depth > len(vit.blocks):
            raise InputError(
                f"classifier.depth is {settings.depth}, but these weights have {len(vit.blocks)} blocks"
            )
        vit.blocks = vit.blocks[: settings.depth]
    if settings.frozen_blocks > len(vit.blocks):
        raise InputError(
            f"classifier.frozen_blocks is {settings.frozen_blocks}, but there are {len(vit.blocks)} blocks"
        )
    return vit


def _from_hub(settings: ClassifierSettings, n_classes: int) -> tuple[VisionTransformer, str, str]:
    if hub.HF_HUB_OFFLINE:
        raise InputError("the model hub was not asked: HF_HUB_OFFLINE is set")
    try:
        requests.head(hub.ENDPOINT, timeout=HUB_SECONDS)
        vit = _create(settings, None, n_classes, pretrained=True)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"the model hub {hub.ENDPOINT} gave no weights ({type(error).__name__})"
        ) from error
    return vit, "hub", f"{settings.model} from {hub.ENDPOINT}"


def _from_folder(
    settings: ClassifierSettings, n_classes: int
) -> tuple[VisionTransformer, str, str]:
    folder = os.environ.get("HAMSYNTH_WEIGHTS")
    if not folder:
        raise InputError("HAMSYNTH_WEIGHTS names no folder of weights")
    found = sorted(Path(folder).expanduser().glob(f"{settings.model}*.safetensors"))
    if not found:
        raise InputError(f"the folder HAMSYNTH_WEIGHTS holds no {settings.model}*.safetensors")
    return _from_file(settings, found[0], n_classes)


def _from_file(
    settings: ClassifierSettings, path: Path, n_classes: int
) -> tuple[VisionTransformer, str, str]:
    tensors, _ = read_weights(path)
    depth = _blocks(tensors)
    if depth == 0:
        raise InputError(f"{path} holds no vision transformer: it has no blocks")
    try:
        vit = _create(
            settings, depth, n_classes, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
        )
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
    return 1 + max(
        (int(name.split(".")[1]) for name in names if name.startswith("blocks.")), default=-1
    )


def load_classifier(settings: ClassifierSettings, path: Path) -> Classifier:
    """The fine-tuned classifier in a .safetensors file, in evaluation mode on the CPU.

    All its weights are in that file: nothing is asked of a model hub, and nothing is trained. Raises
    InputError for a file that is missing, damaged, or of another network than the settings'.
    """
    tensors, _ = read_weights(path)
    if "vit.head.bias" not in tensors:
        raise InputError(f"{path} does not fit {settings.model}: it holds no classifier")
    depth = _blocks(name.removeprefix("vit.") for name in tensors)
    vit = _create(settings, depth, n_classes=len(tensors["vit.head.bias"]))
    classifier = Classifier(vit, settings, pretrained=False)
    try:
        classifier.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not fit {settings.model}: {str(error).splitlines()[-1].strip()}"
        ) from error
    return classifier.eval()


def provenance_json(provenance: Provenance) -> dict[str, Any]:
    """The provenance as plain values for `provenance.json`."""
    return asdict(provenance)
