"""Real or synthetic? Twenty images of a run for the reader to tell apart, and a probe that has tried, too."""

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
"""A real and a synthetic image of the same class each."""


LEARNED = 150
"""Synthetic images, and as many real ones of the same classes, that the probe learns from, at most."""


EXTRACTOR = "efficientnet_lite0"


MARK = "not_for_publication"
"""The key of a `run.yaml` that keeps the run's real images out of its page."""


def write_quiz(target: Path, folder: Path, record: dict[str, Any]) -> None:
    """Write `quiz.js`: the images of a run's quiz, what each is, and what a probe says of it.

    Real images are held-out ones. None is written if the run is marked as not for publication, which does not
    matter on the phantom: it shows nobody. Then, and in a run without synthetic sets, the page says so.
    """
    dataset = describe_data(record["data"])
    if record["data"] != "phantom" and record.get(MARK):
        return write_script(
            target / "quiz.js", "hamsynthQuiz", {"images": [], "marked": True}, dataset
        )
    exhibits = load_synthetic_sets(folder, record)
    if exhibits is None:
        return write_script(
            target / "quiz.js", "hamsynthQuiz", {"images": [], "marked": False}, dataset
        )
    chance = np.random.default_rng(exhibits.run.seed)
    heldout = _heldout(exhibits)
    real, made = _pairs(heldout.table, heldout.classes, exhibits.manifests, chance)
    shown = torch.cat([heldout.images[real], _made(exhibits, made)])
    truth = [("real", heldout.table["dx"].iloc[row]) for row in real]
    truth += list(zip(made["generator"], made["dx"], strict=True))
    said, accuracy, learned = _probe(exhibits, set(made["image_id"]), shown, chance)
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
            truth, mean_abs_laplacian(shown), said, shown, strict=True
        )
    ]
    order = chance.permutation(len(images))
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
    """How much neighbouring pixels differ: the mean absolute Laplacian of the grey levels, [N].

    images: uint8 [N, 3, H, W]; the result is in grey levels, 0 for an even picture.
    """
    grey = images.float().mean(1)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (inner - around / 4).abs().mean((1, 2)).numpy()


def _heldout(exhibits: SyntheticSets) -> LesionSet:
    return exhibits.run.images("validation") + exhibits.run.images("test")


def _pairs(
    real: pd.DataFrame,
    class_list: ClassList,
    manifests: dict[str, pd.DataFrame],
    chance: np.random.Generator,
) -> tuple[list[int], pd.DataFrame]:
    """Rows of held-out images, one a lesion, and as many synthetic images of the same classes.

    Classes and generators take turns, so that none of them is a clue. Fewer than `PAIRS` only where no class
    has more of both.
    """
    order = real.iloc[chance.permutation(len(real))]
    order = order[~order["lesion_id"].duplicated()]
    photos = {dx: list(order.index[order["dx"] == dx]) for dx in class_list}
    rows = {
        (name, dx): list(each.index[each["dx"] == dx])
        for name, each in manifests.items()
        for dx in class_list
    }
    classes = [class_list[i] for i in chance.permutation(len(class_list))]
    found: list[int] = []
    made: list[pd.Series] = []
    for turn in range(PAIRS * len(classes) * len(manifests)):
        dx, name = classes[turn % len(classes)], list(manifests)[turn % len(manifests)]
        if len(found) < PAIRS and photos[dx] and rows[name, dx]:
            found.append(photos[dx].pop())
            made.append(manifests[name].loc[rows[name, dx].pop()])
    return found, pd.DataFrame(made)


def _made(exhibits: SyntheticSets, rows: pd.DataFrame) -> Tensor:
    """The images of rows of several manifests, in their order."""
    return torch.cat(
        [
            exhibits.images(row.generator, rows.iloc[i : i + 1])
            for i, row in enumerate(rows.itertuples())
        ]
    )


def _probe(
    exhibits: SyntheticSets, shown_ids: set[str], shown: Tensor, chance: np.random.Generator
) -> tuple[np.ndarray, float, int]:
    """A logistic regression's probability that each shown image is synthetic, and how good it is elsewhere.

    It learns from training images and from synthetic ones that are not shown. Returns the probabilities, its
    balanced accuracy on images it has not learned from (five folds, whole lesions), and n.
    """
    train, each = (
        exhibits.run.images("train"),
        LEARNED // (len(exhibits.run.dataset.classes) * len(exhibits.manifests)),
    )
    made = pd.concat(
        [
            manifest[~manifest["image_id"].isin(shown_ids)].groupby("dx").head(each)
            for manifest in exhibits.manifests.values()
        ]
    )
    order = chance.permutation(len(train))
    of_class = {dx: order[(train.table["dx"] == dx).to_numpy()[order]] for dx in train.classes}
    # As many of each class on both sides, or the probe would learn what is rare and not what is synthetic.
    counts = {dx: min(len(of_class[dx]), int((made["dx"] == dx).sum())) for dx in train.classes}
    real = train.subset(np.concatenate([of_class[dx][:count] for dx, count in counts.items()]))
    made = made.sample(frac=1, random_state=exhibits.run.seed)
    made = pd.concat([made[made["dx"] == dx].head(count) for dx, count in counts.items()])
    extractor = load_extractor(EXTRACTOR)
    features = extract(torch.cat([real.images, _made(exhibits, made), shown]), extractor)
    known, asked = np.split(features, [len(real) + len(made)])
    is_made = np.arange(len(known)) >= len(real)
    lesions = np.concatenate([real.table["lesion_id"], made["image_id"]])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    guessed = cross_val_predict(probe, known, is_made, groups=lesions, cv=GroupKFold(5))
    accuracy = float(
        np.mean([(guessed == is_made)[is_made == kind].mean() for kind in (False, True)])
    )
    return probe.fit(known, is_made).predict_proba(asked)[:, 1], round(accuracy, 3), len(known)


def _png(pixels: Tensor) -> bytes:
    """Without the label that the others carry, which would give the answer; the page says it afterwards."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
