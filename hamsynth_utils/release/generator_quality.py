"""How good generators are, beside real images and beside what was asked of them.

Two extractors judge. EfficientNet-lite0 takes part in the autoencoder's loss, so that its distance
flatters every generator in the latents; the ViT's features are in no loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.core.weights import read_metadata
from hamsynth_utils.data.lesion_set import to_uint8
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.loading import load_generator
from hamsynth_utils.metrics.class_consistency import (
    class_consistency,
    fit_probe,
    probe_predictions,
)
from hamsynth_utils.metrics.features import DISTANCE_NAME, cached_features, extract, load_extractor
from hamsynth_utils.metrics.fidelity import frechet_distance, precision_recall
from hamsynth_utils.metrics.power_spectrum import radial_power

JUDGE, FLATTERED = "vit", "efficientnet_lite0"

N_IMAGES = 2000
"""Images on each side of a distance."""


PER_CLASS = 100
"""Images of each class that the probe names."""


BATCH = 100
"""Images that are sampled at once."""


SEED = 50_000_000
"""Of the first sampled image: far from the seeds of all images that runs make."""


@dataclass(frozen=True)
class Target:
    """What is asked of a generator; distances as multiples of the baseline where it says so.

    Attributes:
        measure: a column of `measure`.
        bound: the number.
        at_least: whether the value must reach it, or else must not exceed it.
    """

    measure: str
    bound: float
    at_least: bool

    def met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


def read_targets(path: Path | None = None) -> dict[str, tuple[Target, ...]]:
    """Read what is asked of each generator.

    Args:
        path: a YAML file, `book/generator_targets.yaml` by default.

    Returns:
        The targets by generator.
    """
    path = path or project_root() / "book/generator_targets.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        name: tuple(
            Target(measure, bound, side == "at_least")
            for side in ("at_most", "at_least")
            for measure, bound in sides.get(side, {}).items()
        )
        for name, sides in content.items()
    }


class Quality:
    """Measures generators beside the real images of a run.

    Args:
        run: the run; real features are kept in it.

    Raises:
        InputError: the ViT has no pretrained weights.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.parts = {part: run.images(part) for part in ("train", "validation", "test")}
        self.n_images = min(N_IMAGES, len(self.parts["test"]), len(self.parts["train"]))
        self.extractors = {
            name: load_extractor(name, run.device, classifier=run.profile.classifier)
            for name in (JUDGE, FLATTERED)
        }
        with run.stage_dir(run.paths.features) as folder:
            self.features = {
                (name, part): cached_features(
                    lesions.images,
                    name,
                    folder / f"{name}.npz",
                    run.device,
                    classifier=run.profile.classifier,
                )
                for name in self.extractors
                for part, lesions in self.parts.items()
            }
        rng = np.random.default_rng(run.seed)
        train = self.parts["train"]
        self.rows = np.sort(rng.choice(len(train), self.n_images, replace=False))
        self.labels = train.labels[torch.from_numpy(self.rows)]
        self.probe = fit_probe(
            self.features[JUDGE, "train"],
            train.labels,
            self.features[JUDGE, "validation"],
            self.parts["validation"].labels,
        )
        self.real_power = radial_power(train.images[torch.from_numpy(self.rows)]).mean(0)

    def baseline(self) -> dict[str, float]:
        """The same measures of test images, against the same training images."""
        test = self.parts["test"]
        features = {name: self.features[name, "test"][: self.n_images] for name in self.extractors}
        power = radial_power(test.images[: self.n_images]).mean(0)
        return {**self._distances(features), **self._spectrum(power), "consistency / real": 1.0}

    def measure(self, generator: Generator) -> dict[str, float]:
        """FD-ViT, FD-lite0, coverage, recall, class consistency and spectrum of a generator.

        The generator draws as many images as the baseline has, in the proportions of the training
        images, and PER_CLASS of each class for the consistency.

        Args:
            generator: draws the images.

        Returns:
            Values by name; `fine` is the power in the finer half of the spectrum and `peak` the
            largest at any frequency, both as multiples of the training images' power.
        """
        images = self._sampled(generator, self.labels, SEED)
        classes = self.parts["train"].labels.unique()
        asked = classes.repeat_interleave(PER_CLASS)
        named = extract(self._sampled(generator, asked, SEED + len(images)), self.extractors[JUDGE])
        consistency = self._consistency(named, asked)
        features = {name: extract(images, each) for name, each in self.extractors.items()}
        return {
            **self._distances(features),
            **self._spectrum(radial_power(images).mean(0)),
            "consistency / real": consistency["ratio"],
        }

    def _sampled(self, generator: Generator, labels: torch.Tensor, seed: int) -> torch.Tensor:
        batches = labels.split(BATCH)
        return torch.cat(
            [
                to_uint8(generator.sample(each, seed + BATCH * i)).cpu()
                for i, each in enumerate(batches)
            ]
        )

    def _distances(self, features: dict[str, np.ndarray]) -> dict[str, float]:
        real = {name: self.features[name, "train"][self.rows] for name in self.extractors}
        found = {
            DISTANCE_NAME[name]: frechet_distance(real[name], features[name])
            for name in self.extractors
        }
        variety = precision_recall(real[JUDGE], features[JUDGE])
        return {**found, "coverage": variety["coverage"], "recall": variety["recall"]}

    def _spectrum(self, power: np.ndarray) -> dict[str, float]:
        half = len(power) // 2
        return {
            "fine": float(power[half:].sum() / self.real_power[half:].sum()),
            "peak": float((power / self.real_power).max()),
        }

    def _consistency(self, features: np.ndarray, labels: torch.Tensor) -> dict[str, float]:
        classes, test = self.run.dataset.classes, self.parts["test"]
        table = pd.DataFrame(
            {
                "image_id": [f"synthetic-{i}" for i in range(len(labels))],
                "dx": [classes[label] for label in labels.tolist()],
            }
        )
        return class_consistency(
            probe_predictions(self.probe, features, table, classes),
            probe_predictions(self.probe, self.features[JUDGE, "test"], test.table, classes),
            test.table["lesion_id"],
            self.run.profile.evaluation.n_resamples,
            self.run.seed,
        )


def quality_table(run: Run, checkpoints: dict[str, Path]) -> pd.DataFrame:
    """Measure generators from their files, with a verdict on each target.

    Args:
        run: a run on the data that the generators were trained on.
        checkpoints: the file of each generator, by name.

    Returns:
        One row per generator and measure: generator, measure, value, baseline, n, target and met
        (empty where nothing is asked).

    Raises:
        InputError: a file cannot be used, draws images of another size, or was trained on other
            images than the training part of the run, which would be judged as if it had not seen
            them.
    """
    for path in checkpoints.values():
        if read_metadata(path).get("trained_on") != run.training_fingerprint():
            raise InputError(
                f"{path} was not trained on the training images of this data set and split: its "
                "generator may have seen the images that it would be compared with"
            )
    size = run.profile.data.image_size
    generators = {
        name: load_generator(path, name, run.dataset.classes, size)
        for name, path in checkpoints.items()
    }
    quality = Quality(run)
    baseline = quality.baseline()
    scale = baseline[DISTANCE_NAME[FLATTERED]]
    rows, targets = [], read_targets()
    for name, generator in generators.items():
        found = quality.measure(generator.to(run.device))
        found["FD-lite0 / baseline"] = found[DISTANCE_NAME[FLATTERED]] / scale
        asked = {target.measure: target for target in targets.get(name, ())}
        for measure, value in found.items():
            target = asked.get(measure)
            rows.append(
                {
                    "generator": REGISTRY[name].title,
                    "measure": measure,
                    "value": value,
                    "baseline": 1.0 if measure == "FD-lite0 / baseline" else baseline[measure],
                    "n": quality.n_images,
                    "target": "" if target is None else str(target),
                    "met": "" if target is None else ("yes" if target.met(value) else "no"),
                }
            )
    return pd.DataFrame(rows)
