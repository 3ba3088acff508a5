"""The external test set of a run: opened once, when the classifiers are finished, and never learned from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from hamsynth_utils.checkpoints import WEIGHTS
from hamsynth_utils.classifier import predict
from hamsynth_utils.data.external import (
    RECORD,
    check_external,
    read_external,
    read_opening,
    refuse_another,
    refuse_shared,
    shared_photos,
)
from hamsynth_utils.data.lesions import LesionSet
from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics.classification import read_predictions
from hamsynth_utils.pretrained import load_classifier
from hamsynth_utils.profile import ARMS
from hamsynth_utils.run import Run
from hamsynth_utils.weights import sha256_of
from hamsynth_utils.writing import replacing


@dataclass(frozen=True)
class Opened:
    """An external set that a run has opened.

    record: what `external.json` holds. predictions: of each classifier that was finished then, by arm and
    seed, in the order of the lesions. late: classifiers that were finished only after, which are not tested.
    """

    lesions: LesionSet
    record: dict[str, Any]
    predictions: dict[str, dict[int, pd.DataFrame]]
    late: list[str]


def finished_classifiers(run: Run) -> dict[str, Path]:
    """The weights of each finished classifier of the run, by `<arm>/seed-<seed>`."""
    paths = run.folder.glob(f"classifiers/*/seed-*/{WEIGHTS}")
    named = [(path.parent.parent.name, int(path.parent.name.removeprefix("seed-")), path) for path in paths]
    known = sorted((ARMS.index(arm), seed, path) for arm, seed, path in named if arm in ARMS)
    return {f"{ARMS[arm]}/seed-{seed}": path for arm, seed, path in known}


def open_external(run: Run, source: str, progress_bar: bool = True) -> Opened:
    """Test the run's finished classifiers on the external set in `source`, once.

    source: a folder, or `phantom` for a run on the phantom. At the first call the opening is recorded in
    `external.json`, before anything is predicted; the predictions are kept in
    `classifiers/<arm>/seed-<seed>/external_predictions.csv` and read at every later call. Nothing is trained.
    Raises InputError as `read_external` does; for photos that the run has too, all listed in
    `external/shared.csv`; before the classifier of the real images alone is finished; where the run has
    opened another set; or where a classifier was trained anew since.
    """
    check_external(source, run.data)
    external = read_external(source, run.profile.data.image_size, run.seed + 1, progress_bar)
    lesions = external.lesions
    with run.room("external") as room:
        record, finished = read_opening(run.folder), finished_classifiers(run)
        if record is None:
            shared = shared_photos(lesions, run.lesions(), run.split())
            with replacing(room / "shared.csv") as path:
                shared.to_csv(path, index=False)
            refuse_shared(shared, len(lesions))
            if not any(name.startswith("real/") for name in finished):
                first = run.profile.seeds[0]
                run.require(
                    f"classifiers/real/seed-{first}/{WEIGHTS}", f"05_vit with arm 'real' and seed {first}"
                )
            record = {
                "opened": datetime.now(UTC).isoformat(timespec="seconds"),
                "folder": Path(source).expanduser().name,
                "images": len(lesions),
                "classes": lesions.counts,
                "sha256": external.sha256,
                "classifiers": {name: sha256_of(path) for name, path in finished.items()},
            }
            with replacing(run.folder / RECORD) as path:
                path.write_text(json.dumps(record, indent=1))
        refuse_another(run.folder, external)
        predictions: dict[str, dict[int, pd.DataFrame]] = {}
        for name, weights in record["classifiers"].items():
            arm, seed = name.split("/seed-")
            predictions.setdefault(arm, {})[int(seed)] = _predictions(run, name, weights, lesions)
    return Opened(
        lesions, record, predictions, [name for name in finished if name not in record["classifiers"]]
    )


def _predictions(run: Run, name: str, sha256: str, lesions: LesionSet) -> pd.DataFrame:
    """Those of one classifier, kept or made now; its weights must be those of the opening."""
    weights = run.require(f"classifiers/{name}/{WEIGHTS}", "05_vit")
    if sha256_of(weights) != sha256:
        raise InputError(
            f"{weights} was trained anew after the external set had been opened: it is not tested on it. "
            "Take another name (RUN=...)"
        )
    target = weights.with_name("external_predictions.csv")
    if not target.is_file():
        classifier = load_classifier(run.profile.classifier, weights).to(run.device)
        with replacing(target) as path:
            predict(classifier, lesions).to_csv(path, index=False)
    return lesions.table[["image_id"]].merge(read_predictions(target), validate="one_to_one")
