"""Building generators, and loading them from checkpoints; `core/registry.py` lists them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile_sections import IMAGE_SIZES
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.core.weights import read_weights
from hamsynth_utils.data.dataset_info import DatasetInfo
from hamsynth_utils.generators.base import Generator

if TYPE_CHECKING:
    from hamsynth_utils.core.profile import Profile

MADE_WITH = ("hamsynth", "torch", "denoising-diffusion-pytorch")
"""The packages whose versions a checkpoint records."""


FORMAT = "3"
"""The checkpoint format. It is raised when older files no longer mean what they meant."""


UNREGISTERED = {"textbook_vae": "TextbookVAE"}
"""Generators of no experiment whose checkpoints can be loaded, as the privately trained VAE's."""


def generator_class(generator_name: str) -> type[Generator]:
    """The class of a generator, imported with everything that its networks need.

    Args:
        generator_name: its name, in the registry or in `UNREGISTERED`.
    """
    module = import_module(f"hamsynth_utils.generators.{generator_name}")
    class_name = UNREGISTERED.get(generator_name) or REGISTRY[generator_name].class_name
    return getattr(module, class_name)


def build_generator(generator_name: str, profile: Profile, n_classes: int) -> Generator:
    """An untrained generator of the profile's image size.

    Args:
        generator_name: its name in the registry.
        profile: the settings and the image size.
        n_classes: K, the number of classes.

    Returns:
        The generator, on the CPU.

    Raises:
        InputError: the profile has no such generator.
    """
    settings = profile.generator_settings(generator_name)
    return generator_class(generator_name)(profile.data.image_size, settings, n_classes)


def checkpoint_metadata(generator: Generator, dataset: DatasetInfo) -> dict[str, str]:
    """The metadata of a checkpoint from which `load_generator` can rebuild the generator.

    Args:
        generator: the generator whose weights are saved.
        dataset: the data set of its training images.
    """
    return {
        "format": FORMAT,
        "made_with": ", ".join(f"{name} {version(name)}" for name in MADE_WITH),
        "generator": generator.name,
        "settings": json.dumps(generator.settings.model_dump(mode="json")),
        "image_size": str(generator.image_size),
        "dataset": dataset.to_json(),
    }


def dataset_of(path: Path, metadata: dict[str, str]) -> DatasetInfo:
    """The data set of a checkpoint's training images.

    Args:
        path: the file, for the message.
        metadata: the file's metadata, see `read_metadata`.

    Raises:
        InputError: the metadata do not describe a data set.
    """
    try:
        return DatasetInfo.from_json(metadata.get("dataset", ""))
    except InputError as error:
        raise InputError(
            f"{path} does not say which classes it was trained on ({error}): train anew"
        ) from error


def load_generator(
    path: Path,
    generator_name: str | None = None,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
) -> Generator:
    """The trained generator in a .safetensors file, in evaluation mode on the CPU.

    Args:
        path: the file.
        generator_name: refuse a file that holds another generator.
        classes: refuse a generator that was trained on other classes.
        image_size: refuse a generator of images of another size; in pixels a side.

    The file may come from anybody. Before any memory is taken for the network that it describes,
    its tensors must fit that network, and must be finite. A change of a finite weight is not
    noticed: for that, the SHA-256 of the file is on its model card and in every manifest.

    Raises:
        InputError: the file is missing or damaged, holds no generator or another one, or has
            another format, class list, image size or network.
    """
    tensors, metadata = read_weights(path)
    _require_readable(path, metadata, generator_name)
    trained_on = dataset_of(path, metadata).classes
    if classes is not None and tuple(classes) != trained_on.names:
        raise InputError(
            f"{path} was trained on the classes {trained_on}, not {', '.join(classes)}"
        )
    made_with = metadata.get("made_with", "another version")
    cls = generator_class(metadata["generator"])
    try:
        settings = cls.settings_class.model_validate_json(metadata.get("settings", ""))
    except ValidationError as error:
        unknown = ", ".join(
            ".".join(map(str, each["loc"])) or each["msg"] for each in error.errors()
        )
        raise InputError(
            f"{path} was made with {made_with}, whose settings this version does not know: "
            f"{unknown}"
        ) from error
    stored_size = metadata.get("image_size", "")
    if stored_size not in map(str, IMAGE_SIZES):
        raise InputError(f"{path} is damaged: its images would have {stored_size!r} pixels a side")
    if image_size is not None and image_size != int(stored_size):
        raise InputError(
            f"{path} draws images of {stored_size} pixels a side, not of {image_size}: take a "
            "checkpoint of that size, or train one"
        )
    network = int(stored_size), settings, len(trained_on)
    try:
        _require_fit(tensors, cls, network)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{path}, made with {made_with}, does not fit this version's {cls.name}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    generator = cls(*network)
    generator.load_state_dict(tensors)
    return generator.eval()


def _require_fit(
    tensors: dict[str, Tensor], cls: type[Generator], network: tuple[int, Any, int]
) -> None:
    """Refuse tensors that are not those of this network; no memory is taken for the network."""
    with torch.device("meta"):
        blank = cls(*network)
    types = {name: value.dtype for name, value in blank.state_dict().items()}
    for name, value in tensors.items():
        if name in types and value.is_floating_point() != types[name].is_floating_point:
            raise ValueError(f"{name} holds numbers of the type {value.dtype}")
        if not value.isfinite().all():
            raise ValueError(f"{name} holds values that are no finite numbers")
    blank.load_state_dict(tensors, assign=True)


def _require_readable(path: Path, metadata: dict[str, str], generator_name: str | None) -> None:
    """Refuse a checkpoint of another generator or format."""
    stored_name = metadata.get("generator")
    if stored_name not in REGISTRY and stored_name not in UNREGISTERED:
        raise InputError(f"{path} holds no generator (its metadata says {stored_name!r})")
    if generator_name is not None and generator_name != stored_name:
        raise InputError(f"{path} holds a {stored_name}, not a {generator_name}")
    if metadata.get("format") != FORMAT:
        made_with = metadata.get("made_with", "another version")
        raise InputError(
            f"{path} was made with {made_with}, in format {metadata.get('format')}; this is "
            f"hamsynth {version('hamsynth')}, which reads format {FORMAT}: use that version, or "
            "train anew"
        )
