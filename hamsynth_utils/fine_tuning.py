"""The classifiers of a run: each fine-tuned in its room and tested there, or found and read back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd
from accelerate import PartialState

from hamsynth_utils.arms import augmentation, change_once, class_weights, training_set, training_settings
from hamsynth_utils.classifier import Classifier, predict
from hamsynth_utils.data.lesions import LesionSet
from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics.classification import read_predictions
from hamsynth_utils.pretrained import Provenance, build_classifier, provenance_json
from hamsynth_utils.profile import generator_of, known_arm
from hamsynth_utils.rooms import classifier_room, part_of, room_of_all, synthetic_of, training_part
from hamsynth_utils.run import Run
from hamsynth_utils.tokens import Tokens, TokenViews, kept_tokens
from hamsynth_utils.training import Training, train
from hamsynth_utils.writing import replacing

SYNTHETIC_VIEWS = 2
"""A synthetic image and its mirror image go through frozen blocks: who wants more views draws more images."""


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned classifier, its training, its predictions on the test part and where its weights began."""

    classifier: Classifier
    training: Training
    predictions: pd.DataFrame
    provenance: Provenance


def fine_tune(
    run: Run, arm: str, seed: int, progress_bar: bool = True, protocol: str | None = None
) -> FineTuned:
    """The run's classifier of one arm and seed, in `classifiers/<arm>/seed-<seed>/`.

    protocol: trained and tested under this split, the run's own if left out. Under the other one only arms of
    real images can be had, since the generators have seen images that are in its test part.
    """
    generator = generator_of(known_arm(arm))
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"the classifier's seed must be a whole number from 0 up, not {seed!r}")
    settings, real = run.profile.classifier, training_part(run, protocol)
    if generator and protocol not in (None, run.profile.data.protocol):
        raise InputError(
            f"the arm {arm} under the split by {protocol}: its generator has seen images of that test part. "
            f"Take an arm of real images, or a run whose profile says protocol: {protocol}"
        )
    synthetic = synthetic_of(run, generator) if generator else None
    images = training_set(arm, real, synthetic, run.profile.synthesis.minority_share)
    with room_of_all(run, classifier_room(run, arm, seed, protocol)) as folder:
        record = folder / "provenance.json"
        classifier, provenance = build_classifier(settings, seed)
        classifier.to(run.device).class_weights.copy_(class_weights(arm, images.labels))
        source, tokens = _frozen_views(run, classifier, arm, images, synthetic, progress_bar)
        training = train(
            classifier, source, training_settings(arm, settings.training, len(real)), folder, seed=seed,
            augment=augmentation(arm), description={"arm": arm}, progress_bar=progress_bar,
        )  # fmt: skip
        state = PartialState()
        with state.main_process_first():  # the first writes, the others find it written
            if training.loaded and record.is_file():
                provenance = Provenance(**json.loads(record.read_text()))
            elif state.is_main_process:
                with replacing(record) as path:
                    path.write_text(json.dumps(provenance_json(provenance), indent=1))
            for part in ("validation", "test"):
                target = folder / ("predictions.csv" if part == "test" else "validation_predictions.csv")
                if not target.is_file():
                    with replacing(target) as path:
                        predicted = predict(classifier, part_of(run, part, protocol), tokens=tokens)
                        predicted.to_csv(path, index=False)
        return FineTuned(classifier, training, read_predictions(folder / "predictions.csv"), provenance)


def _frozen_views(
    run: Run, classifier: Classifier, arm: str, images: LesionSet, synthetic: LesionSet | None, progress: bool
) -> tuple[LesionSet | TokenViews, Tokens | None]:
    """An arm's training images and no tokens; with frozen blocks, their tokens and all real ones'."""
    if not classifier.settings.frozen:
        return images, None
    folder = run.folder / "classifiers" / "tokens"
    real = kept_tokens(classifier, run.lesions(), folder, progress=progress)
    if synthetic is not None:
        made = kept_tokens(classifier, synthetic, folder, progress=progress, count=SYNTHETIC_VIEWS)
        return TokenViews(images, real + made), real
    if arm == "augment":
        return TokenViews(
            images, kept_tokens(classifier, images, folder, change_once, run.seed, progress)
        ), real
    return TokenViews(images, real), real
