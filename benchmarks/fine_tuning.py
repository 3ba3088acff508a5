"""Fine-tuning behind frozen, cached blocks against the naive loop that tunes the whole ViT.

    HAMSYNTH_WEIGHTS=path/to/weights python benchmarks/fine_tuning.py path/to/ham10000

All train the arm of real images for the profile's steps, batches and rates, with flips and quarter
turns, and predict the test part over the same views. The naive side tunes every block on whole
images in float32; a third does so in the precision of the package's loop, to part what the cache
brings from what the precision does. Ours has the profile's frozen blocks, run once, and its pooled
tokens.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import contest
import pandas as pd

from hamsynth_utils.classifier.predict import predict
from hamsynth_utils.classifier.pretrained import build_classifier
from hamsynth_utils.classifier.token_cache import CachedTokenData, cached_tokens
from hamsynth_utils.data.augmentation import flip_and_turn
from hamsynth_utils.metrics import comparison
from hamsynth_utils.training.loop import train

TRAININGS = 30
"""Ten arms of three seeds, which share the tokens of the real images."""


@dataclass(frozen=True)
class Tuned:
    """Result of one side: seconds spent once, seconds of a training, its steps and predictions."""

    name: str
    once: float
    training: float
    steps: int
    predictions: pd.DataFrame


def tuned(options: argparse.Namespace, name: str, precision: str = "auto", **change: int) -> Tuned:
    """One side, with the profile's settings but for `change`."""
    run = contest.open_run(options)
    settings = run.profile.classifier.model_copy(update=change)
    length = settings.training.model_copy(update={"precision": precision})
    if options.steps:
        length = length.model_copy(update={"steps": options.steps, "epochs": None})
    classifier, _ = build_classifier(settings, options.seed, len(run.dataset.classes))
    lesions, test = run.images("train"), run.images("test")
    once, tokens, source = 0.0, None, lesions
    with TemporaryDirectory() as folder:
        if settings.frozen_blocks:
            began = time.monotonic()
            tokens = cached_tokens(classifier, lesions + test, Path(folder), progress=True)
            once, source = time.monotonic() - began, CachedTokenData(lesions, tokens)
        began = time.monotonic()
        training = train(
            classifier, source, length, Path(folder), seed=options.seed, augment=flip_and_turn
        )
        seconds = time.monotonic() - began
        predictions = predict(classifier, test, tokens=tokens)
    return Tuned(name, once, seconds, int(training.history["step"].iloc[-1]), predictions)


def our_side(options: argparse.Namespace) -> Tuned:
    return tuned(options, "frozen blocks cached")


def naive_side(options: argparse.Namespace) -> Tuned:
    return tuned(
        options, "whole images, every block, float32", precision="no", frozen_blocks=0, token_pool=1
    )


def other_side(options: argparse.Namespace) -> Tuned:
    return tuned(options, "whole images, every block", frozen_blocks=0, token_pool=1)


def main() -> None:
    parser = contest.parser(__doc__, minutes=0)
    parser.add_argument("--steps", type=int, help="steps of each training instead of the profile's")
    options = parser.parse_args()
    sides = contest.side_by_side(options, our_side, naive_side, other_side)
    run = contest.open_run(options, contest.CORES)
    lesions, draws = run.images("test").table["lesion_id"], run.profile.evaluation.n_resamples
    rows, found = [], {}
    for side in sides:
        row = {
            "loop": side.name,
            "once, min": side.once / 60,
            "a training, min": side.training / 60,
            f"{TRAININGS} trainings, min": (side.once + TRAININGS * side.training) / 60,
            "steps/s": side.steps / side.training,
        }
        for metric in ("accuracy", "balanced_accuracy"):
            statistic = comparison.statistics(run.dataset.classes)[metric]
            one = comparison.estimate(
                statistic, {options.seed: side.predictions}, lesions, draws, options.seed
            )
            found[side.name, metric] = one
            row[metric.replace("_", " ")] = one.value
            row[f"{metric.replace('_', ' ')}, 95 %"] = f"{one.low:.3f} to {one.high:.3f}"
        rows.append(row)
    table = pd.DataFrame(rows)
    whole = table[f"{TRAININGS} trainings, min"]
    gap = comparison.difference(found[sides[0].name, "accuracy"], found[sides[1].name, "accuracy"])
    remark = (
        f"Accuracy, ours minus naive: {gap['value']:+.3f} ({gap['low']:+.3f} to "
        f"{gap['high']:+.3f}). The loop over whole images in the package's precision took "
        f"{whole[2] / whole[0]:.1f} times as long."
    )
    options.samples = len(lesions)
    contest.report(
        "fine_tuning",
        table,
        options,
        {
            f"minutes of {TRAININGS} trainings, naive over ours": (whole[1] / whole[0], ">=", 8),
            "accuracy, ours minus naive, upper end of its 95 % interval": (gap["high"], ">=", 0.0),
        },
        remark,
        "test images, intervals: 95 % over their lesions",
    )


if __name__ == "__main__":
    main()
