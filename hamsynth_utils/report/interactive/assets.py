"""What the pages that answer have in common: a finished run's sets, and the scripts that carry their data."""

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
    """A run whose data are split and that has synthetic sets.

    manifests: of each set, by generator, shuffled by the run's seed, so that the first rows are a fair draw.
    """

    run: Run
    manifests: dict[str, pd.DataFrame]

    def folder(self, generator: str) -> Path:
        return self.run.paths.synthetic(generator)

    def images(self, generator: str, rows: pd.DataFrame) -> Tensor:
        """Images of some rows, verified: uint8 [N, 3, S, S]; raises InputError for one that was altered."""
        pixels = [verified_image(self.folder(generator), row) for row in rows.to_dict("records")]
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def load_synthetic_sets(folder: Path, record: dict[str, Any]) -> SyntheticSets | None:
    """Those of a run folder and its `run.yaml`; None where it has no split data or no synthetic set."""
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
    """`window.<name> = value;`, beside what every such page says of classes and generators.

    A script and not JSON, since a page that is opened from the file system may read nothing else.
    """
    value |= {
        "classes": [{"dx": dx, "name": name} for dx, name in dataset.classes.long_names.items()],
        "titles": {name: ARM_NAMES[name] for name in GENERATORS},
        "notice": NOTICE,
        "licence": dataset.licence,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"window.{name} = {json.dumps(value, allow_nan=False)};\n")


def base64_text(content: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(content).decode()
