"""Where a classifier's weights come from: a model hub, a file, or random numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from glob import escape
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
from hamsynth_utils.core.paths import expanded
from hamsynth_utils.core.profile_sections import ClassifierSettings
from hamsynth_utils.core.weights import read_weights, sha256_of

HUB_SECONDS = 5.0
"""How long the model hub may take to answer before it counts as out of reach."""


HUB_NAME = "model.safetensors"
"""What a model hub calls a file of weights, whatever the model is."""


Loaded = tuple[VisionTransformer, str, str]
"""A model with pretrained weights, and the source and detail of its `Provenance`."""


@dataclass(frozen=True)
class Provenance:
    """Where a classifier's first weights came from.

    Attributes:
        model: timm's name of the model.
        source: `hub`, `file` or `random`.
        detail: the address of the hub, or the name and hash of the file.
        tried: the messages of the sources that failed before.
    """

    model: str
    source: str
    detail: str
    tried: tuple[str, ...] = ()


def build_classifier(
    settings: ClassifierSettings, seed: int, n_classes: int
) -> tuple[Classifier, Provenance]:
    """A ViT with a new head, and where its other weights came from.

    Patch embedding and positions are resampled to `input_size`. The settings' `weights` are one of:

    - `hub`: timm's pretrained weights, from the model hub.
    - a path: a .safetensors file with timm's names.
    - `none`: random weights.
    - `auto`: if HAMSYNTH_WEIGHTS names a folder, the file `<model>*.safetensors` in it, or
      `model.safetensors`, as a model hub calls it. Otherwise the hub, then random weights, and
      `Provenance.tried` says what failed.

    Args:
        settings: the profile's section `classifier`.
        seed: of all random weights.
        n_classes: how many classes the head has; 0 for no head.

    Returns:
        The classifier, on the CPU, and its provenance.

    Raises:
        InputError: the weights that were asked for, by the settings or by HAMSYNTH_WEIGHTS, are
            not there, cannot be read or do not fit; or blocks are to be frozen but no pretrained
            weights are available.
    """
    torch.manual_seed(seed)
    if not timm.is_model(settings.model) or "vit" not in settings.model:
        raise InputError(f"classifier.model {settings.model!r} is not a timm vision transformer")
    tried: list[str] = []
    for source in _sources(settings, n_classes):
        try:
            vit, name, detail = source()
        except InputError as error:
            if settings.weights != "auto" or weights_folder():
                raise
            tried.append(str(error))
        else:
            origin = Provenance(settings.model, name, detail, tuple(tried))
            return Classifier(vit, settings, pretrained=True), origin
    if settings.frozen_blocks:
        why = "; ".join(tried) or "classifier.weights is none"
        raise InputError(
            f"classifier.frozen_blocks is {settings.frozen_blocks}, but random blocks must not be "
            f"frozen: {why}. Name a folder of weights (WEIGHTS=... of make report), or set "
            "frozen_blocks to 0"
        )
    vit = create_vit(settings, settings.depth, n_classes)
    origin = Provenance(settings.model, "random", "no pretrained weights", tuple(tried))
    return Classifier(vit, settings, pretrained=False), origin


def _sources(settings: ClassifierSettings, n_classes: int) -> list[Callable[[], Loaded]]:
    """Where to look for pretrained weights, in this order."""
    if settings.weights == "none":
        return []
    if settings.weights == "hub":
        return [lambda: _from_hub(settings, n_classes)]
    if settings.weights == "auto":
        folder = [lambda: _from_folder(settings, n_classes)]
        return folder if weights_folder() else [lambda: _from_hub(settings, n_classes), *folder]
    return [lambda: _from_file(settings, Path(settings.weights).expanduser(), n_classes)]


def create_vit(
    settings: ClassifierSettings, depth: int | None, n_classes: int, **options: Any
) -> VisionTransformer:
    """A vision transformer of the settings.

    Args:
        settings: the profile's section `classifier`.
        depth: the number of blocks; None for the model's own.
        n_classes: how many classes the head has; 0 for no head.
        options: as for `timm.create_model`.

    Returns:
        The network, with random weights unless `options` ask for others.

    Raises:
        InputError: if there are fewer blocks than the settings need.
    """
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
                f"classifier.depth is {settings.depth}, but these weights have "
                f"{len(vit.blocks)} blocks"
            )
        vit.blocks = vit.blocks[: settings.depth]
    if settings.frozen_blocks > len(vit.blocks):
        raise InputError(
            f"classifier.frozen_blocks is {settings.frozen_blocks}, but there are "
            f"{len(vit.blocks)} blocks"
        )
    return vit


def _from_hub(settings: ClassifierSettings, n_classes: int) -> Loaded:
    if hub.HF_HUB_OFFLINE:
        raise InputError("the model hub was not asked: HF_HUB_OFFLINE is set")
    try:
        requests.head(hub.ENDPOINT, timeout=HUB_SECONDS)
        vit = create_vit(settings, None, n_classes, pretrained=True)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"the model hub {hub.ENDPOINT} gave no weights ({type(error).__name__})"
        ) from error
    return vit, "hub", f"{settings.model} from {hub.ENDPOINT}"


def weights_folder() -> Path | None:
    """The folder of pretrained weights that HAMSYNTH_WEIGHTS (WEIGHTS of make) names, if any."""
    folder = os.environ.get("HAMSYNTH_WEIGHTS")
    return expanded(folder) if folder else None


def _from_folder(settings: ClassifierSettings, n_classes: int) -> Loaded:
    folder = weights_folder()
    if folder is None:
        raise InputError("HAMSYNTH_WEIGHTS names no folder of weights")
    if not folder.is_dir():
        raise InputError(f"WEIGHTS names {folder}, but there is no such folder")
    names = sorted(path.name for path in folder.iterdir())
    fitting = [name for name in names if fnmatch(name, f"{escape(settings.model)}*.safetensors")]
    fitting += [HUB_NAME] if HUB_NAME in names else []
    if not fitting:
        raise InputError(
            f"WEIGHTS names {folder}, but it holds neither {settings.model}*.safetensors nor "
            f"{HUB_NAME}: it holds {', '.join(names[:5]) or 'nothing'}"
            + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        )
    return _from_file(settings, folder / fitting[0], n_classes)


def _from_file(settings: ClassifierSettings, path: Path, n_classes: int) -> Loaded:
    tensors, _ = read_weights(path)
    depth = _blocks(tensors)
    if depth == 0:
        raise InputError(f"{path} holds no vision transformer: it has no blocks")
    try:
        vit = create_vit(
            settings, depth, n_classes, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
        )
    except (RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{path} does not fit {settings.model}: {str(error).splitlines()[-1].strip()}"
        ) from error
    missing = [key for key in vit.state_dict() if key not in tensors and not key.startswith("head")]
    if missing:
        raise InputError(
            f"{path} does not fit {settings.model}: it lacks {len(missing)} tensors, "
            f"first {missing[0]}"
        )
    return vit, "file", f"{path.name}, sha256 {sha256_of(path)[:16]}"


def _blocks(names: Iterable[str]) -> int:
    return 1 + max(
        (int(name.split(".")[1]) for name in names if name.startswith("blocks.")), default=-1
    )


def load_classifier(settings: ClassifierSettings, path: Path) -> Classifier:
    """The fine-tuned classifier in a .safetensors file, in evaluation mode on the CPU.

    All weights are in the file: no model hub is asked, and nothing is trained.

    Args:
        settings: the settings that it was trained with.
        path: the file.

    Raises:
        InputError: the file is missing or damaged, or holds another network.
    """
    tensors, _ = read_weights(path)
    if "vit.head.bias" not in tensors:
        raise InputError(f"{path} does not fit {settings.model}: it holds no classifier")
    depth = _blocks(name.removeprefix("vit.") for name in tensors)
    vit = create_vit(settings, depth, n_classes=len(tensors["vit.head.bias"]))
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
