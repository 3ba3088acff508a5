"""Linear probes: every arm of the experiment in seconds, on the features of the ViT as it was pretrained.

A probe can learn only what these features already separate. It answers with many seeds, for every arm and
ratio, what fine-tuning can afford to ask only a few times.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from tqdm import tqdm

from hamsynth_utils.arms import change_once, class_weights, training_set, training_settings
from hamsynth_utils.classifier import Classifier, Probe, predict
from hamsynth_utils.data.lesions import LesionSet
from hamsynth_utils.errors import InputError
from hamsynth_utils.metrics.classification import read_predictions
from hamsynth_utils.pretrained import Provenance, build_classifier
from hamsynth_utils.profile import generator_of, other_protocol
from hamsynth_utils.rooms import part_of, synthetic_of
from hamsynth_utils.run import Run
from hamsynth_utils.tokens import Tokens, TokenViews, kept_tokens
from hamsynth_utils.training import train
from hamsynth_utils.writing import replacing

FEATURES = "probes/features"


@dataclass(frozen=True)
class ProbeJob:
    """One probe: an arm, its seed; with `ratio`, so many synthetic images for each real one of the minority
    classes; with `protocol`, under that split instead of the run's own."""

    arm: str
    seed: int
    ratio: float | None = None
    protocol: str | None = None

    @property
    def room(self) -> str:
        """Its folder in the run."""
        ratio = "" if self.ratio is None else f"-ratio-{self.ratio:g}"
        protocol = "" if self.protocol is None else f"-{self.protocol}-split"
        return f"probes/{self.arm}{ratio}{protocol}/seed-{self.seed}"


def jobs_of(run: Run) -> list[ProbeJob]:
    """A run's probes, for each seed: every arm; each generator and ratio; real arms under the other split."""
    settings, arms, generators = run.profile.probe, run.profile.possible_arms, run.profile.generators
    seeds, other = range(settings.seeds), other_protocol(run.profile.data.protocol)
    real = [arm for arm in arms if generator_of(arm) is None]
    return [
        *(ProbeJob(arm, seed) for arm in arms for seed in seeds),
        *(ProbeJob(arm, seed, ratio) for arm in generators for ratio in settings.ratios for seed in seeds),
        *(ProbeJob(arm, seed, protocol=other) for arm in real for seed in seeds),
    ]


def run_probes(run: Run, jobs: Sequence[ProbeJob], progress: bool = True) -> dict[ProbeJob, pd.DataFrame]:
    """The predictions of each probe on the test part of its split; made where they are not there yet.

    Raises InputError if a synthetic set is missing or too small.
    """
    missing = [job for job in jobs if not (run.folder / job.room / "predictions.csv").is_file()]
    if missing:
        shared = _Shared(run, progress)
        for job in tqdm(missing, "probes", disable=not progress):
            shared.make(job)
    return {job: read_predictions(run.folder / job.room / "predictions.csv") for job in jobs}


def untuned_vit(run: Run) -> tuple[Classifier, Provenance]:
    """The classifier's ViT as its training finds it, and where its weights came from."""
    settings = run.profile.classifier.model_copy(update={"frozen": 0, "views": run.profile.probe.views})
    vit, origin = build_classifier(settings, seed=0)
    return vit.to(run.device), origin


def features_of(run: Run, vit: Classifier, lesions: LesionSet, progress: bool = True) -> Tokens:
    """Its features of each view of the images, see `Classifier.features`; kept in `probes/features/`."""
    return kept_tokens(vit, lesions, run.folder / FEATURES, progress=progress, features=True)


class _Shared:
    """What many probes have in common: images and features, each read or computed once."""

    def __init__(self, run: Run, progress: bool) -> None:
        self.run, self.progress = run, progress
        self.vit, _ = untuned_vit(run)
        self.real = features_of(run, self.vit, run.lesions(), progress)
        self.made: dict[str, tuple[LesionSet, Tokens]] = {}
        self.part = functools.cache(lambda name, protocol: part_of(run, name, protocol))

    def make(self, job: ProbeJob) -> None:
        run, generator = self.run, generator_of(job.arm)
        if generator and job.protocol is not None:
            raise InputError(f"the generator of {job.arm} has seen images of the other split's test part")
        real, tokens, synthetic = self.part("train", job.protocol), self.real, None
        if generator:
            if generator not in self.made:
                found = synthetic_of(run, generator)
                self.made[generator] = found, features_of(run, self.vit, found, self.progress)
            synthetic, more = self.made[generator]
            tokens = tokens + more
        images = training_set(job.arm, real, synthetic, run.profile.synthesis.minority_share, job.ratio)
        if job.arm == "augment":
            tokens = kept_tokens(
                self.vit, images, run.folder / FEATURES, change_once, run.seed, self.progress, features=True
            )
        with run.room(job.room) as folder:
            torch.manual_seed(job.seed)
            probe = Probe(tokens.dimensions, self.vit.settings).to(run.device)
            probe.class_weights.copy_(class_weights(job.arm, images.labels))
            length = training_settings(job.arm, run.profile.probe.training, len(real))
            train(
                probe, TokenViews(images, tokens), length, folder, seed=job.seed,
                description={"arm": job.arm}, progress_bar=False,
            )  # fmt: skip
            for part, name in (("validation", "validation_predictions"), ("test", "predictions")):
                with replacing(folder / f"{name}.csv") as path:
                    tested = self.part(part, job.protocol)
                    predict(probe, tested, tokens=self.real).to_csv(path, index=False)
