"""Images encoded once, for the training of generators that work on an autoencoder's latents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range
from hamsynth_utils.generators.autoencoder.representation import Representation
from hamsynth_utils.training.batches import BatchFn, TrainingData

BATCH = 256
"""Images that are encoded at once."""


VARIANTS = 8
"""The flips and quarter turns of a square."""


@dataclass(frozen=True)
class LatentData(TrainingData):
    """The latents of every image in all flips and quarter turns; a batch takes one of each image.

    Attributes:
        latents: [N, 8, C, h, w]; on disk and in memory bfloat16, whose rounding is far below the
            noise that the decoder tolerates.
    """

    latents: Tensor

    def batch_fn(self, device: torch.device) -> BatchFn:
        """The function that makes batches float32 [B, C, h, w] on `device`."""
        latents = self.latents.to(device)

        def make_batch(index: Tensor, rng: torch.Generator) -> Tensor:
            """The latents of the images at `index`, each in a random flip and turn."""
            variant = torch.randint(VARIANTS, index.shape, generator=rng, device=device)
            return latents[index, variant].float()

        return make_batch


def encoded(
    lesions: LesionSet, representation: Representation, cache: Path | None = None
) -> LatentData:
    """The latents of all flips and turns of all images, computed once and kept in a file.

    Args:
        lesions: the images.
        representation: encodes them, such as an `Autoencoder`.
        cache: the file; None to compute without one.

    Returns:
        The latents.

    Raises:
        InputError: the file holds the latents of other images or of another autoencoder.
    """
    if cache is None:
        return LatentData(lesions, _encode(lesions, representation))
    origin = {"images": _digest([lesions.images]), "encoder": _digest(_state(representation))}
    if cache.is_file():
        tensors, metadata = read_weights(cache)
        other = [name for name, value in origin.items() if metadata.get(name) != value]
        if other:
            whose = {"images": "other images", "encoder": "another autoencoder"}
            raise InputError(
                f"{cache} holds the latents of {' and of '.join(whose[name] for name in other)}: "
                "delete it, and it is computed again"
            )
        return LatentData(lesions, tensors["latents"])
    data = LatentData(lesions, _encode(lesions, representation))
    write_weights(cache, {"latents": data.latents}, origin)
    return data


@torch.no_grad()
def _encode(lesions: LesionSet, representation: Representation) -> Tensor:
    """[N, 8, C, h, w], bfloat16."""
    device = next((each.device for each in representation.parameters()), torch.device("cpu"))
    rows = []
    for images in lesions.images.split(BATCH):
        batch = to_unit_range(images.to(device))
        variants = [representation.encode(each).bfloat16().cpu() for each in flips_and_turns(batch)]
        rows.append(torch.stack(variants, dim=1))
    return torch.cat(rows)


def flips_and_turns(images: Tensor) -> Iterator[Tensor]:
    """The eight flips and quarter turns of images [N, C, S, S]."""
    for each in (images, images.flip(3)):
        for turns in range(4):
            yield each.rot90(turns, dims=(2, 3))


def _state(representation: Representation) -> list[Tensor]:
    return [value for _, value in sorted(representation.state_dict().items())]


def _digest(tensors: list[Tensor]) -> str:
    """SHA-256 of the values of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for each in tensors:
        digest.update(each.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
