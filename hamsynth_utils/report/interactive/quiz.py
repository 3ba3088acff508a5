"""The quiz: the reader tells real from synthetic images of a run, and so does a probe."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hamsynth_utils.data.dataset_info import ClassList, describe_data
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.metrics.features import extract, load_extractor
from hamsynth_utils.report.interactive.assets import (
    SyntheticSets,
    base64_text,
    load_synthetic_sets,
    write_script,
)

PAIRS = 10
"""Pairs of a real and a synthetic image of the same class."""


MAX_TRAINING_IMAGES = 150
"""Most synthetic images that train the probe, beside as many real images of the same classes."""


EXTRACTOR = "efficientnet_lite0"


MARK = "not_for_publication"
"""The key of a `run.yaml` that keeps the run's real images out of its page."""


def write_quiz(target: Path, folder: Path, record: dict[str, Any]) -> None:
    """Write `quiz.js`: the images of the quiz, the source of each, and the answer of a probe.

    The real images are held-out images. A run with the key `not_for_publication` gets no images,
    except on the phantom, which shows nobody. Then, and in a run without synthetic sets, the page
    says so.

    Args:
        target: the folder for `quiz.js`.
        folder: the run folder.
        record: the content of its `run.yaml`.
    """
    dataset = describe_data(record["data"])
    if record["data"] != "phantom" and record.get(MARK):
        return write_script(
            target / "quiz.js", "hamsynthQuiz", {"images": [], "marked": True}, dataset
        )
    sets = load_synthetic_sets(folder, record)
    if sets is None:
        return write_script(
            target / "quiz.js", "hamsynthQuiz", {"images": [], "marked": False}, dataset
        )
    rng = np.random.default_rng(sets.run.seed)
    heldout = _heldout(sets)
    real, synthetic = _pairs(heldout.table, heldout.classes, sets.manifests, rng)
    shown = torch.cat([heldout.images[real], _synthetic_images(sets, synthetic)])
    truth = [("real", heldout.table["dx"].iloc[row]) for row in real]
    truth += list(zip(synthetic["generator"], synthetic["dx"], strict=True))
    probabilities, accuracy, learned = _probe(sets, set(synthetic["image_id"]), shown, rng)
    usual = float(np.median(mean_abs_laplacian(heldout.images)))
    images = [
        {
            "source": source,
            "dx": dx,
            "grain": round(float(fine) / usual, 3),
            "synthetic": round(float(share), 3),
            "png": base64_text(_png(pixels)),
        }
        for (source, dx), fine, share, pixels in zip(
            truth, mean_abs_laplacian(shown), probabilities, shown, strict=True
        )
    ]
    order = rng.permutation(len(images))
    write_script(
        target / "quiz.js",
        "hamsynthQuiz",
        {
            "images": [images[i] for i in order],
            "phantom": record["data"] == "phantom",
            "probe": {"extractor": EXTRACTOR, "n": learned, "accuracy": accuracy},
        },
        dataset,
    )


def mean_abs_laplacian(images: Tensor) -> np.ndarray:
    """The mean absolute Laplacian of the grey levels: how much neighbouring pixels differ.

    Args:
        images: uint8 [N, 3, H, W].

    Returns:
        float [N] in grey levels, 0 for a uniform image.
    """
    grey = images.float().mean(1)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (inner - around / 4).abs().mean((1, 2)).numpy()


def _heldout(sets: SyntheticSets) -> LesionSet:
    return sets.run.images("validation") + sets.run.images("test")


def _pairs(
    real: pd.DataFrame,
    class_list: ClassList,
    manifests: dict[str, pd.DataFrame],
    rng: np.random.Generator,
) -> tuple[list[int], pd.DataFrame]:
    """Rows of held-out images, one per lesion, and as many synthetic images of the same classes.

    Classes and generators take turns, so that none of them is a clue. There are fewer than `PAIRS`
    only if no class has more images of both kinds.
    """
    order = real.iloc[rng.permutation(len(real))]
    order = order[~order["lesion_id"].duplicated()]
    real_rows = {dx: list(order.index[order["dx"] == dx]) for dx in class_list}
    rows = {
        (name, dx): list(each.index[each["dx"] == dx])
        for name, each in manifests.items()
        for dx in class_list
    }
    classes = [class_list[i] for i in rng.permutation(len(class_list))]
    real_images: list[int] = []
    synthetic: list[pd.Series] = []
    for turn in range(PAIRS * len(classes) * len(manifests)):
        dx, name = classes[turn % len(classes)], list(manifests)[turn % len(manifests)]
        if len(real_images) < PAIRS and real_rows[dx] and rows[name, dx]:
            real_images.append(real_rows[dx].pop())
            synthetic.append(manifests[name].loc[rows[name, dx].pop()])
    return real_images, pd.DataFrame(synthetic)


def _synthetic_images(sets: SyntheticSets, rows: pd.DataFrame) -> Tensor:
    """The images of rows of several manifests, in the order of the rows."""
    return torch.cat(
        [
            sets.images(row.generator, rows.iloc[i : i + 1])
            for i, row in enumerate(rows.itertuples())
        ]
    )


def _probe(
    sets: SyntheticSets, shown_ids: set[str], shown: Tensor, rng: np.random.Generator
) -> tuple[np.ndarray, float, int]:
    """The probability of a logistic regression that each shown image is synthetic.

    The probe learns from training images and from synthetic images that are not shown. Returns the
    probabilities, the balanced accuracy of the probe (five folds by lesion), and its number of
    images.
    """
    train, each = (
        sets.run.images("train"),
        MAX_TRAINING_IMAGES // (len(sets.run.dataset.classes) * len(sets.manifests)),
    )
    synthetic = pd.concat(
        [
            manifest[~manifest["image_id"].isin(shown_ids)].groupby("dx").head(each)
            for manifest in sets.manifests.values()
        ]
    )
    order = rng.permutation(len(train))
    of_class = {dx: order[(train.table["dx"] == dx).to_numpy()[order]] for dx in train.classes}
    # As many of each class on both sides; otherwise the probe would learn which classes are rare.
    counts = {
        dx: min(len(of_class[dx]), int((synthetic["dx"] == dx).sum())) for dx in train.classes
    }
    real = train.subset(np.concatenate([of_class[dx][:count] for dx, count in counts.items()]))
    synthetic = synthetic.sample(frac=1, random_state=sets.run.seed)
    synthetic = pd.concat(
        [synthetic[synthetic["dx"] == dx].head(count) for dx, count in counts.items()]
    )
    extractor = load_extractor(EXTRACTOR)
    features = extract(
        torch.cat([real.images, _synthetic_images(sets, synthetic), shown]), extractor
    )
    known, unknown = np.split(features, [len(real) + len(synthetic)])
    is_synthetic = np.arange(len(known)) >= len(real)
    lesions = np.concatenate([real.table["lesion_id"], synthetic["image_id"]])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    predicted = cross_val_predict(probe, known, is_synthetic, groups=lesions, cv=GroupKFold(5))
    accuracy = float(
        np.mean(
            [
                (predicted == is_synthetic)[is_synthetic == truth_value].mean()
                for truth_value in (False, True)
            ]
        )
    )
    return (
        probe.fit(known, is_synthetic).predict_proba(unknown)[:, 1],
        round(accuracy, 3),
        len(known),
    )


def _png(pixels: Tensor) -> bytes:
    """The image as a PNG without its label; the page shows the label after the answer."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
