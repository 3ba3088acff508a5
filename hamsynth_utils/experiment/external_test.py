"""The external test: a run is tested once on images from elsewhere, which it never learns from."""

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
from hamsynth_utils.core.files import atomic_path, read_json
from hamsynth_utils.core.paths import WEIGHTS, RunPaths, seed_of
from hamsynth_utils.core.weights import sha256_of
from hamsynth_utils.data.augmentation import views
from hamsynth_utils.data.duplicates import SAME_PHOTO, thumbnails
from hamsynth_utils.data.external import ExternalSet, check_external, read_external
from hamsynth_utils.data.layouts import first_names
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.split import Split
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.metrics.classification import read_predictions
from hamsynth_utils.metrics.privacy.nearest_neighbours import nearest_distances


def nearest_photos(images: Tensor, others: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The distance of each image to the most similar one of other images.

    The distance is the root mean squared difference of two thumbnails, `THUMBNAIL` pixels wide, in
    grey levels. Equal pixels have the distance 0. A photo that was compressed again or resized has
    a small one.

    Args:
        images: uint8 [N, 3, H, W].
        others: uint8 [M, 3, H, W].

    Returns:
        The distances [N], and the row in `others` of the most similar image [N].
    """
    a, b = (thumbnails(these).flatten(1).numpy() for these in (images, others))
    distance, row = nearest_distances(a, b)
    return distance / np.sqrt(a.shape[1]), row


def shared_photos(external: LesionSet, lesions: LesionSet, split: Split) -> pd.DataFrame:
    """The images of an external set that the run has too.

    The function compares pixels, not file names. A photo is shared if it, or a flip or a quarter
    turn of it, has a distance to a photo of the run below `SAME_PHOTO`. Measured on HAM10000 at 64
    pixels:

    - 1,000 random photos have a distance of at most 0.7 to themselves as JPEG of quality 75, of at
      most 0.2 at half the resolution, and of at most 1.1 with both.
    - None of 3,004 held-out photos is within 3 of a training photo of another lesion; the nearest
      is at 5.4. None of all 10,015 photos, in all views, is within 3 of a photo of another lesion;
      the nearest is at 4.5.
    - Of 3,207 pairs of photos of one lesion, 13 count as one photo.

    Copies that were cropped, recoloured, or turned by other angles are not found.

    Args:
        external: the external set.
        lesions: all images of the run.
        split: the split of the run.

    Returns:
        One row per shared image: image_id, run_image_id, part (of the run), distance.
    """
    found_in = [nearest_photos(view, lesions.images) for view in views(external.images, 8)]
    distances, rows = (np.stack(values) for values in zip(*found_in, strict=True))  # [8, N] each
    nearest = distances.argmin(axis=0)[None]
    distance, row = (np.take_along_axis(x, nearest, axis=0)[0] for x in (distances, rows))
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
    """Refuse an external set that shares images with the run.

    Args:
        shared: the shared images, see `shared_photos`.
        images: the number of images of the external set.

    Raises:
        InputError: if an image is shared; the message names the first ones.
    """
    if shared.empty:
        return
    counts = shared["part"].value_counts()
    present = [part for part in ("train", "validation", "test") if part in counts]
    parts = ", ".join(f"{counts[part]:,} of its {part} part" for part in present)
    named = [f"{row.image_id} is {row.run_image_id} ({row.part})" for row in shared.itertuples()]
    raise InputError(
        f"{len(shared):,} of the {images:,} images of the external set are photos that the run has "
        f"too ({parts}): {first_names(named)}. What a run has seen is no external test: take them "
        "out, or take another set"
    )


def read_opening(folder: Path) -> dict[str, Any] | None:
    """The record of a run's external test.

    Args:
        folder: the run folder.

    Returns:
        None if the run has no external test. Otherwise `opened` (time, UTC), `folder` (name of the
        external set), `images` (their number), `classes` (number of images by class), `sha256` (of
        the set's content) and `classifiers` (SHA-256 of the weights by `<arm>/seed-<seed>`).
    """
    path = RunPaths(folder).external_record
    return read_json(path) if path.is_file() else None


def require_same_external_set(folder: Path, external: ExternalSet) -> None:
    """Refuse a second external set.

    Args:
        folder: the run folder.
        external: the external set.

    Raises:
        InputError: if the run was tested on another external set.
    """
    record = read_opening(folder)
    if record is not None and record["sha256"] != external.sha256:
        raise InputError(
            f"{folder} has opened the external set {record['folder']} ({record['images']:,} "
            f"images) on {record['opened']}, and this is another: a run is tested outside once. "
            "Take another name (RUN=...)"
        )


@dataclass(frozen=True)
class ExternalTest:
    """The external test of a run.

    Attributes:
        lesions: the external set.
        record: the record of the test, see `read_opening`.
        predictions: of each tested classifier, by arm and seed; rows in the order of the lesions.
        late: the classifiers that were finished after the test, by `<arm>/seed-<seed>`; they are
            not tested.
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
    """Test the finished classifiers of a run on an external set, once.

    The first call records the test before any prediction, so that nothing can be chosen by its
    result. The predictions are kept beside each classifier; later calls read them. Nothing is
    trained.

    Args:
        run: the run.
        source: a folder, or `phantom` for a run on the phantom.
        progress_bar: whether to show one.

    Returns:
        The external set, the record of the test and the predictions.

    Raises:
        InputError: if `read_external` refuses the set, if the run has photos of the set (all are
            listed in `external/shared.csv`), if the classifier of real images alone is not
            finished, if the run was tested on another set, or if a classifier was trained again
            after the test.
    """
    check_external(source, run.data)
    external = read_external(source, run.profile.data.image_size, run.seed + 1, progress_bar)
    lesions = external.lesions
    with run.stage_dir(run.paths.external) as folder:
        record, finished = read_opening(run.folder), finished_classifiers(run)
        if record is None:
            shared = shared_photos(lesions, run.lesions(), run.split())
            with atomic_path(folder / "shared.csv") as path:
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
                path.write_text(json.dumps(record, indent=1), encoding="utf-8")
        require_same_external_set(run.folder, external)
        predictions: dict[str, dict[int, pd.DataFrame]] = {}
        for name, weights in record["classifiers"].items():
            classifier = run.paths.classifiers / name
            arm, seed = classifier.parent.name, seed_of(classifier)
            found = _predictions(run, arm, seed, weights, lesions)
            predictions.setdefault(arm, {})[seed] = found
    return ExternalTest(
        lesions,
        record,
        predictions,
        [name for name in finished if name not in record["classifiers"]],
    )


def _predictions(run: Run, arm: str, seed: int, sha256: str, lesions: LesionSet) -> pd.DataFrame:
    """The predictions of one classifier, whose weights must have the recorded SHA-256."""
    weights = run.require(run.paths.classifier(arm, seed) / WEIGHTS, "06_vit")
    if sha256_of(weights) != sha256:
        raise InputError(
            f"{weights} was trained anew after the external set had been opened: it is not tested "
            "on it. Take another name (RUN=...)"
        )
    target = run.paths.predictions(arm, "external", seed)
    if not target.is_file():
        classifier = load_classifier(run.profile.classifier, weights).to(run.device)
        with atomic_path(target) as path:
            predict(classifier, lesions).to_csv(path, index=False)
    return lesions.table[["image_id"]].merge(
        read_predictions(target, lesions.classes), validate="one_to_one"
    )
