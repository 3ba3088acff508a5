"""Shared by the interactive pages: the synthetic sets of a run, and scripts that hold the data."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.core.arm_names import ARM_NAMES, GENERATORS
from hamsynth_utils.core.profile import parse_profile
from hamsynth_utils.data.dataset_info import DatasetInfo
from hamsynth_utils.data.synthetic import NOTICE, read_manifest, verified_image
from hamsynth_utils.experiment.run import Run


@dataclass(frozen=True)
class SyntheticSets:
    """The synthetic sets of a run.

    Attributes:
        run: a run with a split and at least one synthetic set.
        manifests: the manifest of each set by generator. The rows are shuffled by the run's seed,
            so that the first rows are a random sample.
    """

    run: Run
    manifests: dict[str, pd.DataFrame]

    def folder(self, generator: str) -> Path:
        """The folder of a generator's set."""
        return self.run.paths.synthetic(generator)

    def images(self, generator: str, rows: pd.DataFrame) -> Tensor:
        """Read and verify some images of a set.

        Args:
            generator: the generator.
            rows: N rows of its manifest.

        Returns:
            uint8 [N, 3, S, S].

        Raises:
            InputError: if an image was altered.
        """
        pixels = [verified_image(self.folder(generator), row) for row in rows.to_dict("records")]
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def load_synthetic_sets(folder: Path, record: dict[str, Any]) -> SyntheticSets | None:
    """Load the synthetic sets of a run.

    Args:
        folder: the run folder.
        record: the content of its `run.yaml`.

    Returns:
        The sets; None if the run has no split or no synthetic set.
    """
    run = Run(folder, parse_profile(record["profile"]), record["data"], record["seed"])
    names = [name for name in GENERATORS if run.has_synthetic_set(name)]
    if not names or not run.paths.lesions.is_dir() or not run.paths.split().is_file():
        return None
    manifests = {
        name: read_manifest(run.paths.synthetic(name)).sample(frac=1, random_state=run.seed)
        for name in names
    }
    return SyntheticSets(run, manifests)


def write_script(path: Path, name: str, value: dict[str, Any], dataset: DatasetInfo) -> None:
    """Write data for a page as a script, because a page from the file system cannot read JSON.

    Args:
        path: the script.
        name: the variable of `window` that gets the data.
        value: the data. Classes, names of generators, notice and licence are added.
        dataset: the data set of the run.
    """
    value |= {
        "classes": [{"dx": dx, "name": name} for dx, name in dataset.classes.long_names.items()],
        "titles": {name: ARM_NAMES[name] for name in GENERATORS},
        "notice": NOTICE,
        "licence": dataset.licence,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"window.{name} = {json.dumps(value, allow_nan=False)};\n", encoding="utf-8")


def base64_text(content: bytes) -> str:
    """Encode bytes.

    Args:
        content: any bytes.

    Returns:
        The bytes in base64.
    """
    return base64.b64encode(content).decode()
