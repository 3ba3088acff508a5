"""The project's files in a wheel, as package data in `hamsynth_utils/project`.

The trained weights in `checkpoints/` stay outside, since their licence is another one. An editable
install needs no copies: it is the checkout itself.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROJECT = (
    "Snakefile",
    "_config.yml",
    "_toc.yml",
    "benchmarks/representation.csv",  # which chapters read
    "benchmarks/sampling.csv",
    "book",
    "notebooks",
    "profiles",
    "results/cpu-ham10000",
)


class ProjectFiles(BuildHookInterface):
    """Adds the project's files to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Hatchling calls this before each build; `version` is `standard` or `editable`."""
        if version != "standard":
            return
        root = Path(self.root)
        for path in (path for name in PROJECT for path in (root / name, *(root / name).rglob("*"))):
            name = path.relative_to(root)
            # Not the hidden copies of notebooks that JupyterLab keeps, in which real images may be.
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                build_data["force_include"][str(name)] = f"hamsynth_utils/project/{name.as_posix()}"
