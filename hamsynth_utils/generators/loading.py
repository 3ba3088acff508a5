"""Generators, all conditional on the class, behind one interface; `registry.py` lists them."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.core.weights import read_weights
from hamsynth_utils.data.lesion_set import CLASSES
from hamsynth_utils.generators.base import Generator

if TYPE_CHECKING:
    from hamsynth_utils.core.profile import Profile

MADE_WITH = ("hamsynth", "torch", "denoising-diffusion-pytorch")


def generator_class(name: str) -> type[Generator]:
    """The class of a registered generator, imported with all that its networks need."""
    return getattr(import_module(f"hamsynth_utils.generators.{name}"), REGISTRY[name].class_name)


def build_generator(name: str, profile: Profile) -> Generator:
    """An untrained generator of the profile's image size; raises InputError for one that is not in it."""
    settings = profile.generator_settings(name)
    return generator_class(name)(profile.data.image_size, settings)


FORMAT = "2"
"""Raised when weights of an older version no longer mean what they meant."""


def checkpoint_metadata(generator: Generator) -> dict[str, str]:
    """What must be stored beside its weights so that `load_generator` can rebuild it."""
    return {
        "format": FORMAT,
        "made_with": ", ".join(f"{name} {version(name)}" for name in MADE_WITH),
        "generator": generator.name,
        "settings": json.dumps(generator.settings.model_dump(mode="json")),
        "image_size": str(generator.image_size),
        "classes": ",".join(CLASSES),
    }


def load_generator(path: Path, name: str | None = None) -> Generator:
    """The trained generator in a .safetensors file, in evaluation mode on the CPU.

    name: refuse a file that holds another generator. Raises InputError for a file that is missing, cut
    short, of another format, class list or network, or not a generator's.
    """
    tensors, metadata = read_weights(path)
    kind_name = metadata.get("generator")
    if kind_name not in REGISTRY:
        raise InputError(f"{path} holds no generator (its metadata says {kind_name!r})")
    if name is not None and name != kind_name:
        raise InputError(f"{path} holds a {kind_name}, not a {name}")
    made_with = metadata.get("made_with", "another version")
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} was made with {made_with}, in format {metadata.get('format')}; this is "
            f"hamsynth {version('hamsynth')}, which reads format {FORMAT}: use that version, or train anew"
        )
    if metadata["classes"] != ",".join(CLASSES):
        raise InputError(
            f"{path} was trained on the classes {metadata['classes']}, not {','.join(CLASSES)}"
        )
    kind = generator_class(kind_name)
    try:
        settings = kind.settings_class.model_validate_json(metadata["settings"])
    except ValidationError as error:
        unknown = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        raise InputError(
            f"{path} was made with {made_with}, whose settings this version does not know: {unknown}"
        ) from error
    generator = kind(int(metadata["image_size"]), settings)
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"{path}, made with {made_with}, does not fit this version's {kind_name}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    return generator.eval()
