"""The gallery: some images of a run's synthetic sets, with measurements of every image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hamsynth_utils.classifier.attention import patch_maps
from hamsynth_utils.classifier.model import Classifier
from hamsynth_utils.classifier.pretrained import load_classifier
from hamsynth_utils.core.paths import WEIGHTS, RunPaths
from hamsynth_utils.data.augmentation import views
from hamsynth_utils.data.dataset_info import describe_data
from hamsynth_utils.data.lesion_set import labels_of, to_unit_range
from hamsynth_utils.data.synthetic import MANIFEST
from hamsynth_utils.metrics.privacy.nearest_neighbours import NEAR_QUANTILE, nearest_aligned
from hamsynth_utils.report.interactive.assets import (
    SyntheticSets,
    base64_text,
    load_synthetic_sets,
    write_script,
)

MAX_IMAGES = 8
"""Images per class and generator on the page, at most; fewer if they would exceed `MAX_BYTES`."""


MAX_BYTES = 4_500_000
"""Limit for all files of the page together; with its frame, a page may have 5 MB."""


def write_gallery(target: Path, folder: Path, record: dict[str, Any]) -> None:
    """Write the images of the gallery and their measurements.

    The images of each class and generator have their own script, which the page loads when it shows
    them. Real images are used for measurements and are not written. A run without synthetic sets,
    or without the classifier of the arm real, gets a page that says so.

    Args:
        target: the folder for `gallery.js` and the scripts of the images.
        folder: the run folder.
        record: the content of its `run.yaml`.
    """
    sets, dataset = load_synthetic_sets(folder, record), describe_data(record["data"])
    weights = RunPaths(folder).classifier("real", record["profile"]["seeds"][0]) / WEIGHTS
    if sets is None or not weights.is_file():
        return write_script(target / "gallery.js", "hamsynthGallery", {"images": []}, dataset)
    classifier = load_classifier(sets.run.profile.classifier, weights)
    chosen = {
        name: manifest.groupby("dx", sort=False).head(MAX_IMAGES)
        for name, manifest in sets.manifests.items()
    }
    train = sets.run.images("train").images
    heldout = torch.cat([sets.run.images(part).images for part in ("validation", "test")])
    images = [
        image
        for name, rows in chosen.items()
        for image in _measured_images(sets, name, rows, classifier, train)
    ]
    distances, _ = nearest_aligned(heldout.numpy(), train.numpy())
    n_each = _images_that_fit(images)
    images = [image for image in images if image["rank"] < n_each]
    write_script(
        target / "gallery.js",
        "hamsynthGallery",
        {
            "images": [
                {key: value for key, value in image.items() if key != "png"} for image in images
            ],
            "columns": MANIFEST,
            "each": n_each,
            "phantom": record["data"] == "phantom",
            "of": {name: len(manifest) for name, manifest in sets.manifests.items()},
            "heldout": {
                "n": len(distances),
                "near": round(float(np.quantile(distances, NEAR_QUANTILE)), 2),
                "median": round(float(np.median(distances)), 2),
            },
        },
        dataset,
    )
    for generator, dx in sorted({(image["generator"], image["dx"]) for image in images}):
        files = {
            i["image_id"]: i["png"] for i in images if (i["generator"], i["dx"]) == (generator, dx)
        }
        text = f"Object.assign(hamsynthGallery.files ||= {{}}, {json.dumps(files)});\n"
        (target / f"{generator}-{dx}.js").write_text(text, encoding="utf-8")


@torch.no_grad()
def _measured_images(
    sets: SyntheticSets,
    name: str,
    rows: pd.DataFrame,
    classifier: Classifier,
    train: torch.Tensor,
) -> list[dict[str, Any]]:
    """For each image: its row of the manifest, and the measurements that the page shows.

    These are `rank`, its position in its class; `distance` to the nearest training image, see
    `nearest_aligned`; `p`, the classifier's seven probabilities; `map`, the attention rollout on
    the patches row by row, `side` patches per row, where 100 is uniform attention; and `png`, the
    file.
    """
    images = sets.images(name, rows)
    seen = to_unit_range(images)
    p = torch.stack(
        [classifier.logits(view).softmax(1) for view in views(seen, classifier.settings.tta_views)]
    ).mean(0)
    labels = torch.from_numpy(labels_of(rows["dx"], sets.run.dataset.classes))
    heat = patch_maps(classifier.vit, classifier.prepare(seen), labels)["rollout"]
    heat = 100 * heat / heat.mean((1, 2), keepdim=True)
    distances, _ = nearest_aligned(images.numpy(), train.numpy())
    ranks = rows.groupby("dx").cumcount()
    return [
        {
            **row,
            "rank": rank,
            "distance": round(float(distance), 2),
            "p": [round(share, 4) for share in shares],
            "side": heat.shape[2],
            "map": grid.flatten().round().int().tolist(),
            "png": base64_text((sets.folder(name) / row["file"]).read_bytes()),
        }
        for row, rank, distance, shares, grid in zip(
            rows[MANIFEST].to_dict("records"),
            ranks.tolist(),
            distances,
            p.tolist(),
            heat,
            strict=True,
        )
    ]


def _images_that_fit(images: list[dict[str, Any]]) -> int:
    """How many images per class and generator fit into `MAX_BYTES`."""
    sizes = np.zeros(MAX_IMAGES)
    for image in images:
        sizes[image["rank"]] += len(json.dumps(image))
    return int((sizes.cumsum() <= MAX_BYTES).sum())
