"""The generators of the experiment, one line each.

A line says what must be known without loading a network. `generators.loading.generator_class`
imports the class itself when a network is needed, because that import takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from hamsynth_utils.core.generator_settings import (
    DiffusionSettings,
    FlowSettings,
    GANSettings,
    VAESettings,
)
from hamsynth_utils.core.settings import Settings


@dataclass(frozen=True)
class Registration:
    """One generator.

    Attributes:
        name: used in profiles, folders and arms; the module is `generators/<name>.py`.
        class_name: the class in that module.
        settings_class: the generator's section of a profile; it has a field `training`.
        title: used in figures and cards.
        chapter: the notebook that trains the generator.
        in_every_run: whether a profile must have a section for the generator, because other
            chapters use it. Any other generator is in those runs whose profile has its section.
    """

    name: str
    class_name: str
    settings_class: type[Settings]
    title: str
    chapter: str
    in_every_run: bool = False


REGISTRY = {
    registration.name: registration
    for registration in (
        Registration("vae", "VAE", VAESettings, "VAE", "02_vae", in_every_run=True),
        Registration("gan", "GAN", GANSettings, "GAN", "03_gan", in_every_run=True),
        Registration(
            "diffusion",
            "Diffusion",
            DiffusionSettings,
            "diffusion",
            "04_diffusion",
            in_every_run=True,
        ),
        Registration("flow", "Flow", FlowSettings, "flow matching", "05_flow", in_every_run=True),
    )
}
"""New generators come last: the position sets a generator's colour and the seeds of its images."""
