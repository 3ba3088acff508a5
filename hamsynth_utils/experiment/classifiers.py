"""The classifiers of a run: fine-tuned ViTs, and probes on the features of a frozen one.

Each function loads what the run has already, and otherwise trains, tests and saves it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState
from tqdm import tqdm

from hamsynth_utils.classifier.model import Classifier, Probe
from hamsynth_utils.classifier.predict import predict
from hamsynth_utils.classifier.pretrained import Provenance, build_classifier, provenance_json
from hamsynth_utils.classifier.token_cache import CachedTokenData, CachedTokens, cached_tokens
from hamsynth_utils.core.arm_names import generator_of, known_arm, other_split
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path, read_json
from hamsynth_utils.core.paths import PROVENANCE, predictions_file
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.experiment.arms import (
    augmentation,
    class_weights,
    training_set,
    training_settings,
    trivial_augment,
)
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.metrics.classification import read_predictions
from hamsynth_utils.training.loop import TrainingResult, train

SYNTHETIC_VIEWS = 2
"""Views of a synthetic image that go through the frozen blocks: the image and its mirror image."""


@dataclass(frozen=True)
class ClassifierResult:
    """A fine-tuned classifier.

    Attributes:
        classifier: the trained model.
        training: its losses and snapshots.
        predictions: its predictions on the test part, one row per image.
        provenance: where its first weights came from.
    """

    classifier: Classifier
    training: TrainingResult
    predictions: pd.DataFrame
    provenance: Provenance


def fine_tune(
    run: Run, arm: str, seed: int, progress_bar: bool = True, split_by: str | None = None
) -> ClassifierResult:
    """Fine-tune and test the classifier of one arm and seed, or load it if it is finished.

    Args:
        run: the run.
        arm: what the classifier learns from.
        seed: the seed of its training, 0 or larger.
        progress_bar: whether to show one.
        split_by: the split of its data, `lesion` or `image`; the run's own by default. Under the
            other split only arms of real images are possible, because the generators have seen
            images of its test part.

    Returns:
        The classifier, its training and its predictions.

    Raises:
        InputError: if the arm is unknown, the seed is not a whole number from 0 up, the arm is not
            possible under the split, or its synthetic set is missing or too small.
    """
    generator = generator_of(known_arm(arm))
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"the classifier's seed must be a whole number from 0 up, not {seed!r}")
    settings, real = run.profile.classifier, run.training_images(split_by)
    if generator and split_by not in (None, run.profile.data.split_by):
        raise InputError(
            f"the arm {arm} under the split by {split_by}: its generator has seen images of that "
            "test part. Take an arm of real images, "
            f"or a run whose profile says split_by: {split_by}"
        )
    made_by = run.generator_seed_for(seed)
    synthetic = run.synthetic_set(generator, made_by) if generator else None
    images = training_set(arm, real, synthetic, run.profile.synthesis.minority_fraction)
    with run.shared_stage_dir(run.paths.classifier(arm, seed, split_by)) as folder:
        classifier, provenance = build_classifier(settings, seed, len(real.classes))
        classifier.to(run.device).class_weights.copy_(class_weights(arm, images.counts))
        source, tokens = _frozen_views(run, classifier, arm, images, synthetic, progress_bar)
        training = train(
            classifier,
            source,
            training_settings(arm, settings.training, len(real)),
            folder,
            seed=seed,
            augment=augmentation(arm),
            description={"arm": arm, **({"generator_seed": str(made_by)} if generator else {})},
            progress_bar=progress_bar,
        )
        with PartialState().main_process_first():  # the first writes, the others find the files
            provenance = _keep_provenance(folder / PROVENANCE, provenance, training.loaded)
            for part in ("validation", "test"):
                target = run.paths.predictions(arm, part, seed, split_by)
                if not target.is_file():
                    with atomic_path(target) as path:
                        predicted = predict(classifier, run.images(part, split_by), tokens=tokens)
                        predicted.to_csv(path, index=False)
        return ClassifierResult(
            classifier, training, run.predictions(arm, "test", seed, split_by), provenance
        )


def _keep_provenance(record: Path, provenance: Provenance, loaded: bool) -> Provenance:
    """Where the first weights came from, as recorded by the training; written by the first
    process."""
    if loaded and record.is_file():
        return Provenance(**read_json(record))
    if PartialState().is_main_process:
        with atomic_path(record) as path:
            path.write_text(json.dumps(provenance_json(provenance), indent=1), encoding="utf-8")
    return provenance


def _frozen_views(
    run: Run,
    classifier: Classifier,
    arm: str,
    images: LesionSet,
    synthetic: LesionSet | None,
    progress: bool,
) -> tuple[LesionSet | CachedTokenData, CachedTokens | None]:
    """The training data of an arm, and the tokens of all real images.

    Without frozen blocks these are images and no tokens, otherwise tokens of the images.
    """
    if not classifier.settings.frozen_blocks:
        return images, None
    folder = run.paths.tokens
    real = cached_tokens(classifier, run.lesions(), folder, progress=progress)
    if synthetic is not None:
        added = cached_tokens(
            classifier, synthetic, folder, progress=progress, n_views=SYNTHETIC_VIEWS
        )
        return CachedTokenData(images, real + added), real
    if arm == "augment":
        return CachedTokenData(
            images, cached_tokens(classifier, images, folder, trivial_augment, run.seed, progress)
        ), real
    return CachedTokenData(images, real), real


@dataclass(frozen=True)
class ProbeJob:
    """One probe of a run.

    Attributes:
        arm: what the probe learns from.
        seed: the seed of its training.
        ratio: synthetic images per real image of the minority classes; None for the arm's own
            number.
        split_by: the split of its data; None for the run's own.
    """

    arm: str
    seed: int
    ratio: float | None = None
    split_by: str | None = None

    def folder(self, run: Run) -> Path:
        """The folder of this probe in a run."""
        return run.paths.probe(self.arm, self.seed, self.ratio, self.split_by)

    def predictions(self, run: Run, part: str) -> Path:
        """The table of this probe's predictions.

        Args:
            run: the run of the probe.
            part: `validation` or `test`.

        Returns:
            The path of the file, whether it exists or not.
        """
        return self.folder(run) / predictions_file(part)


def jobs_of(run: Run) -> list[ProbeJob]:
    """All probes of a run.

    For each seed these are every arm, each generator with each ratio, and every arm of real images
    under the other split.
    """
    settings, arms, generators = (
        run.profile.probe,
        run.profile.possible_arms,
        run.profile.generators,
    )
    seeds, other = range(settings.seeds), other_split(run.profile.data.split_by)
    real = [arm for arm in arms if generator_of(arm) is None]
    return [
        *(ProbeJob(arm, seed) for arm in arms for seed in seeds),
        *(
            ProbeJob(arm, seed, ratio)
            for arm in generators
            for ratio in settings.ratios
            for seed in seeds
        ),
        *(ProbeJob(arm, seed, split_by=other) for arm in real for seed in seeds),
    ]


def run_probes(
    run: Run, jobs: Sequence[ProbeJob], progress: bool = True
) -> dict[ProbeJob, pd.DataFrame]:
    """Train and test probes, or load their predictions.

    Args:
        run: the run.
        jobs: the probes.
        progress: whether to show a progress bar.

    Returns:
        The predictions of each probe on the test part of its split, one row per image.

    Raises:
        InputError: if a synthetic set is missing or too small.
    """
    missing = [job for job in jobs if not job.predictions(run, "test").is_file()]
    if missing:
        shared = ProbeRunner(run, progress)
        for job in tqdm(missing, "probes", disable=not progress):
            shared.train(job)
    return {
        job: read_predictions(job.predictions(run, "test"), run.dataset.classes) for job in jobs
    }


def pretrained_vit(run: Run) -> tuple[Classifier, Provenance]:
    """The ViT of the classifiers before any training, and where its weights came from."""
    settings = run.profile.classifier.model_copy(
        update={"frozen_blocks": 0, "tta_views": run.profile.probe.tta_views}
    )
    vit, origin = build_classifier(settings, seed=0, n_classes=len(run.dataset.classes))
    return vit.to(run.device), origin


def features_of(
    run: Run, vit: Classifier, lesions: LesionSet, progress: bool = True
) -> CachedTokens:
    """The features of each view of images, see `Classifier.features`; cached in the run.

    Args:
        run: the run.
        vit: the network, see `pretrained_vit`.
        lesions: N images.
        progress: whether to show a progress bar.
    """
    return cached_tokens(vit, lesions, run.paths.probe_features, progress=progress, features=True)


class ProbeRunner:
    """Trains probes of one run; reads or computes images and features once for all of them.

    Args:
        run: the run.
        progress: whether to show progress bars.
    """

    def __init__(self, run: Run, progress: bool) -> None:
        self.run, self.progress = run, progress
        self.vit, _ = pretrained_vit(run)
        self.real = features_of(run, self.vit, run.lesions(), progress)
        self.synthetic: dict[str, tuple[LesionSet, CachedTokens]] = {}
        self.part = functools.cache(lambda name, split_by: run.images(name, split_by))

    def train(self, job: ProbeJob) -> None:
        """Train one probe and save its predictions on the validation and the test part.

        Args:
            job: the probe.

        Raises:
            InputError: if the arm is not possible under the split, or its synthetic set is missing
                or too small.
        """
        run = self.run
        images, tokens = self._training_data(job)
        n_real = len(self.part("train", job.split_by))
        with run.stage_dir(job.folder(run)) as folder:
            torch.manual_seed(job.seed)
            probe = Probe(tokens.dimensions, self.vit.settings, len(run.dataset.classes))
            probe.to(run.device).class_weights.copy_(class_weights(job.arm, images.counts))
            train(
                probe,
                CachedTokenData(images, tokens),
                training_settings(job.arm, run.profile.probe.training, n_real),
                folder,
                seed=job.seed,
                description={"arm": job.arm},
                progress_bar=False,
            )
            for part in ("validation", "test"):
                with atomic_path(job.predictions(run, part)) as path:
                    tested = self.part(part, job.split_by)
                    predict(probe, tested, tokens=self.real).to_csv(path, index=False)

    def _training_data(self, job: ProbeJob) -> tuple[LesionSet, CachedTokens]:
        """The training images of a probe, and the features of these and of all real images."""
        run, generator = self.run, generator_of(job.arm)
        if generator and job.split_by is not None:
            raise InputError(
                f"the generator of {job.arm} has seen images of the other split's test part"
            )
        real, tokens, synthetic = self.part("train", job.split_by), self.real, None
        if generator:
            if generator not in self.synthetic:
                images = run.synthetic_set(generator)
                features = features_of(run, self.vit, images, self.progress)
                self.synthetic[generator] = images, features
            synthetic, added = self.synthetic[generator]
            tokens = tokens + added
        images = training_set(
            job.arm, real, synthetic, run.profile.synthesis.minority_fraction, job.ratio
        )
        if job.arm == "augment":
            tokens = cached_tokens(
                self.vit,
                images,
                run.paths.probe_features,
                trivial_augment,
                run.seed,
                self.progress,
                features=True,
            )
        return images, tokens
