"""The external test set of a run: opened once, when the classifiers are finished, and never learned from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from hamsynth_utils.classifier.predict import predict
from hamsynth_utils.classifier.pretrained import load_classifier
from hamsynth_utils.core.arm_names import ARMS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.paths import WEIGHTS, RunPaths, seed_of
from hamsynth_utils.core.weights import sha256_of
from hamsynth_utils.data.duplicates import SAME_PHOTO, thumbnails
from hamsynth_utils.data.external import ExternalSet, check_external, read_external
from hamsynth_utils.data.layouts import first_names
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.split import Split
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.metrics.classification import read_predictions
from hamsynth_utils.metrics.privacy.nearest_neighbours import nearest_distances


def nearest_photos(images: Tensor, others: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """How far each image [N, 3, H, W] is from the most similar of the others [M, 3, H, W], and its row: [N].

    The distance is the root mean squared difference of two `THUMBNAIL` pixels wide pictures, in grey levels:
    0 for equal pixels, small for one photo that was stored again or at another resolution.
    """
    a, b = (thumbnails(these).flatten(1).numpy() for these in (images, others))
    distance, row = nearest_distances(a, b)
    return distance / np.sqrt(a.shape[1]), row


def shared_photos(external: LesionSet, lesions: LesionSet, split: Split) -> pd.DataFrame:
    """Images of the external set that the run has too: image_id, run_image_id, part of the run, distance.

    Compared is what the pictures show, not what the files are called: a photo is shared where it is nearer
    than `SAME_PHOTO` to one of the run's. On HAM10000 at 64 pixels, 1,000 random photos stored again as JPEG
    of quality 75 came within 0.7 of themselves, at half the resolution within 0.2, with both within 1.1. Not
    one of 3,004 held-out photos came within 3 of a training photo of another lesion (the nearest: 5.4), nor
    any of all 10,015 photos of one of another lesion (4.5). Of 3,207 pairs of photos of one lesion, a grey
    zone, 13 count as one photo. Turned, flipped, cropped or recoloured copies are not found.
    """
    distance, row = nearest_photos(external.images, lesions.images)
    part = np.full(len(lesions), "train", dtype=object)
    part[split.validation], part[split.test] = "validation", "test"
    found = pd.DataFrame(
        {
            "image_id": external.table["image_id"].to_numpy(),
            "run_image_id": lesions.table["image_id"].to_numpy()[row],
            "part": part[row],
            "distance": distance,
        }
    )
    return found[distance < SAME_PHOTO].reset_index(drop=True)


def require_no_overlap(shared: pd.DataFrame, images: int) -> None:
    """Raises InputError if any of the external set's so many images is `shared`, naming them."""
    if shared.empty:
        return
    counts = shared["part"].value_counts()
    present = [part for part in ("train", "validation", "test") if part in counts]
    parts = ", ".join(f"{counts[part]:,} of its {part} part" for part in present)
    named = [f"{row.image_id} is {row.run_image_id} ({row.part})" for row in shared.itertuples()]
    raise InputError(
        f"{len(shared):,} of the {images:,} images of the external set are photos that the run has too "
        f"({parts}): {first_names(named)}. What a run has seen is no external test: take them out, or take "
        "another set"
    )


def read_opening(folder: Path) -> dict[str, Any] | None:
    """What a run's folder records of its external set, None if it has opened none.

    opened: when, UTC; folder: the set's name; images; classes: images of each; sha256: of the set's content;
    classifiers: those finished then, `<arm>/seed-<seed>`, with the SHA-256 of their weights.
    """
    path = RunPaths(folder).external_record
    return json.loads(path.read_text()) if path.is_file() else None


def require_same_external_set(folder: Path, external: ExternalSet) -> None:
    """Raises InputError if the run in `folder` has opened another external set than this one."""
    record = read_opening(folder)
    if record is not None and record["sha256"] != external.sha256:
        raise InputError(
            f"{folder} has opened the external set {record['folder']} ({record['images']:,} images) on "
            f"{record['opened']}, and this is another: a run is tested outside once. Take another name "
            "(RUN=...)"
        )


@dataclass(frozen=True)
class ExternalTest:
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
    folders = [path.parent for path in run.paths.classifier_files(WEIGHTS)]
    named = [(folder.parent.name, seed_of(folder)) for folder in folders]
    known = sorted((ARMS.index(arm), seed) for arm, seed in named if arm in ARMS)
    names = [run.paths.classifier_name(ARMS[arm], seed) for arm, seed in known]
    return {name: run.paths.classifiers / name / WEIGHTS for name in names}


def run_external_test(run: Run, source: str, progress_bar: bool = True) -> ExternalTest:
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
    with run.stage_dir(run.paths.external) as room:
        record, finished = read_opening(run.folder), finished_classifiers(run)
        if record is None:
            shared = shared_photos(lesions, run.lesions(), run.split())
            with atomic_path(room / "shared.csv") as path:
                shared.to_csv(path, index=False)
            require_no_overlap(shared, len(lesions))
            if not any(name.startswith("real/") for name in finished):
                first = run.profile.seeds[0]
                run.require(
                    run.paths.classifier("real", first) / WEIGHTS,
                    f"06_vit with arm 'real' and seed {first}",
                )
            record = {
                "opened": datetime.now(UTC).isoformat(timespec="seconds"),
                "folder": Path(source).expanduser().name,
                "images": len(lesions),
                "classes": lesions.counts,
                "sha256": external.sha256,
                "classifiers": {name: sha256_of(path) for name, path in finished.items()},
            }
            with atomic_path(run.paths.external_record) as path:
                path.write_text(json.dumps(record, indent=1))
        require_same_external_set(run.folder, external)
        predictions: dict[str, dict[int, pd.DataFrame]] = {}
        for name, weights in record["classifiers"].items():
            folder = run.paths.classifiers / name
            arm, seed = folder.parent.name, seed_of(folder)
            found = _predictions(run, arm, seed, weights, lesions)
            predictions.setdefault(arm, {})[seed] = found
    return ExternalTest(
        lesions,
        record,
        predictions,
        [name for name in finished if name not in record["classifiers"]],
    )


def _predictions(run: Run, arm: str, seed: int, sha256: str, lesions: LesionSet) -> pd.DataFrame:
    """Those of one classifier, kept or made now; its weights must be those of the opening."""
    weights = run.require(run.paths.classifier(arm, seed) / WEIGHTS, "06_vit")
    if sha256_of(weights) != sha256:
        raise InputError(
            f"{weights} was trained anew after the external set had been opened: it is not tested on it. "
            "Take another name (RUN=...)"
        )
    target = run.paths.predictions(arm, "external", seed)
    if not target.is_file():
        classifier = load_classifier(run.profile.classifier, weights).to(run.device)
        with atomic_path(target) as path:
            predict(classifier, lesions).to_csv(path, index=False)
    return lesions.table[["image_id"]].merge(read_predictions(target), validate="one_to_one")
