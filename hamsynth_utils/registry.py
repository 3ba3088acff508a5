"""The generators of the experiment, one line each.

A line says what must be known where no network is: which class of which file it is, what it is called and
which chapter trains it. All the rest the class itself says, see `generators.base.Generator`; it is imported
when it is first asked for, since that takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hamsynth_utils.settings import Settings

if TYPE_CHECKING:
    from hamsynth_utils.generators.base import Generator


@dataclass(frozen=True)
class Registration:
    """One generator.

    name: in profiles, folders and arms; the file is `generators/<name>.py`. class_name: in that file.
    title: in figures and cards. chapter: its notebook. in_every_run: a profile must have a section for it,
    since other chapters speak of it; any other is in a run whose profile has one.
    """

    name: str
    class_name: str
    title: str
    chapter: str
    in_every_run: bool = False

    @property
    def kind(self) -> type[Generator]:
        """The class, imported with all that its networks need."""
        return getattr(import_module(f"hamsynth_utils.generators.{self.name}"), self.class_name)

    def settings(self, content: Any) -> Settings:
        """Its settings, from plain values; raises pydantic.ValidationError."""
        return self.kind.settings_class.model_validate(content)


REGISTRY = {
    each.name: each
    for each in (
        Registration("vae", "VAE", "VAE", "02_vae", in_every_run=True),
        Registration("gan", "GAN", "GAN", "03_gan", in_every_run=True),
        Registration("diffusion", "Diffusion", "diffusion", "04_diffusion", in_every_run=True),
        Registration("flow", "Flow", "flow matching", "04_flow"),
    )
}
"""New ones come last: a generator's colour and the seeds of its images follow from its place."""
