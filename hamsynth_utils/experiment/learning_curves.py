"""Learning curves: distance to held-out images by training time, guidance and sampling steps.

Each point uses few images, so that a curve takes little time. Compare points of one curve with each
other, but not with the distances of another table.
"""

from __future__ import annotations

import time

import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.core.files import atomic_path, read_csv
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.data.lesion_set import to_uint8
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import autoencoder_seconds
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.diffusion import SOLVERS, Diffusion
from hamsynth_utils.generators.loading import checkpoint_metadata, load_generator
from hamsynth_utils.metrics.features import extract, load_extractor
from hamsynth_utils.metrics.fidelity import distance_with_interval, subset_std
from hamsynth_utils.training.loop import TrainingResult

BATCH = 64
"""Images that are sampled at once."""


class HeldoutFrechet:
    """Measures FD-lite0 between images and held-out real images of a run.

    Args:
        run: the run.

    Attributes:
        labels: int64 [N], of the held-out images. N is `synthesis.n_curve_images`, or the size of
            the validation part if that is smaller.
        real_baseline: the distance between the held-out images and N training images, which show
            other lesions.
    """

    def __init__(self, run: Run) -> None:
        held_out, train = run.images("validation"), run.images("train")
        rng = torch.Generator().manual_seed(run.seed)
        n_images = run.profile.synthesis.n_curve_images
        picked = torch.randperm(len(held_out), generator=rng)[:n_images]
        others = torch.randperm(len(train), generator=rng)[: len(picked)]
        self.run, self.labels = run, held_out.labels[picked]
        self.extractor = load_extractor("efficientnet_lite0", run.device)
        self.features = extract(held_out.images[picked], self.extractor)
        self.real_baseline = self.distance(train.images[others])

    def distance(self, images: Tensor) -> dict[str, float]:
        """FD-lite0 between images and the held-out images.

        Args:
            images: uint8 [N, 3, S, S].

        Returns:
            mean, low, high, n and n_subsets, over subsets of half of the images.
        """
        features, run = extract(images, self.extractor), self.run
        return distance_with_interval(
            self.features, features, len(features) // 2, run.profile.evaluation.n_subsets, run.seed
        )

    def distance_of(self, generator: Generator, **sampling_kwargs: float | str) -> dict[str, float]:
        """The distance of synthetic images, one for each of `labels`.

        Args:
            generator: draws the images.
            sampling_kwargs: passed on to `generator.sample`.

        Returns:
            As `distance`.
        """
        batches = self.labels.split(BATCH)
        images = [
            to_uint8(generator.sample(labels, BATCH * i, **sampling_kwargs)).cpu()
            for i, labels in enumerate(batches)
        ]
        return self.distance(torch.cat(images))


def snapshot_distances(
    run: Run, name: str, training: TrainingResult, evaluator: HeldoutFrechet
) -> pd.DataFrame:
    """The distance at each snapshot of a training; computed once and kept in the run.

    Args:
        run: the run.
        name: the generator.
        training: its training.
        evaluator: measures the distance.

    Returns:
        One row per snapshot: step, minutes (with those of the autoencoder), loss, the distance's
        mean, low, high, n and n_subsets, and real_baseline.
    """
    with run.stage_dir(run.paths.generator(name)):
        path = run.paths.snapshot_distances(name)
        if not path.is_file():
            before = autoencoder_seconds(run, name)
            rows = []
            for step, weights in training.snapshots.items():
                logged = training.history[training.history["step"] <= step].iloc[-1]
                found = evaluator.distance_of(
                    load_generator(weights, name, run.dataset.classes).to(run.device)
                )
                minutes = (before + logged["seconds"]) / 60
                loss, real = logged["loss"], evaluator.real_baseline["mean"]
                rows.append(
                    {"step": step, "minutes": minutes, "loss": loss, **found, "real_baseline": real}
                )
            with atomic_path(path) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
        return read_csv(path)


def format_snapshot_distances(distances: pd.DataFrame) -> str:
    """The table of `snapshot_distances` as text to print."""
    columns = ["step", "minutes", "loss", "mean", "low", "high", "real_baseline", "n"]
    digits = {"minutes": 1, "loss": 3, "mean": 0, "low": 0, "high": 0, "real_baseline": 0}
    return (
        distances[columns].round(digits).rename(columns={"mean": "FD-lite0"}).to_string(index=False)
    )


def snapshot_samples(
    run: Run, name: str, training: TrainingResult, per_class: int = 1
) -> dict[int, Tensor]:
    """Images from the same noise at each snapshot of a training.

    Args:
        run: the run.
        name: the generator.
        training: its training.
        per_class: images per class.

    Returns:
        Float [K * per_class, 3, S, S] in [-1, 1] by step, with the K classes that have training
        images.
    """
    labels = run.images("train").labels.unique().repeat_interleave(per_class)
    return {
        step: load_generator(weights, name, run.dataset.classes)
        .to(run.device)
        .sample(labels, run.seed)
        .cpu()
        for step, weights in training.snapshots.items()
    }


def sampling_curves(run: Run, diffusion: Diffusion, evaluator: HeldoutFrechet) -> pd.DataFrame:
    """The distance by guidance scale, and by solver and steps; computed once and kept in the run.

    The function chooses the guidance scale by `chosen_guidance` and writes it into the settings of
    the generator and of its weights. The synthetic set of the run is sampled with this scale.

    Args:
        run: the run.
        diffusion: the trained generator; its guidance scale is set.
        evaluator: measures the distance.

    Returns:
        One row per point: curve (`guidance` or `steps`), solver, steps, guidance, passes (of the
        network per image), seconds, the distance's mean, low, high, n and n_subsets, and
        real_baseline.
    """
    settings = run.profile.diffusion
    with run.stage_dir(run.paths.generator(diffusion.name)):
        path = run.paths.sampling_curves(diffusion.name)
        if not path.is_file():
            default = {"solver": settings.solver, "steps": settings.sampling_steps}
            rows = [
                _point("guidance", diffusion, evaluator, guidance=scale, **default)
                for scale in settings.guidance_scales
            ]
            best = chosen_guidance(pd.DataFrame(rows))
            for solver in SOLVERS:
                for steps in settings.curve_steps:
                    rows.append(
                        _point(
                            "steps", diffusion, evaluator, solver=solver, steps=steps, guidance=best
                        )
                    )
            _set_guidance(diffusion, best)
            weights = run.paths.generator_weights(diffusion.name)
            tensors, metadata = read_weights(weights)
            write_weights(
                weights, tensors, {**metadata, **checkpoint_metadata(diffusion, run.dataset)}
            )
            with atomic_path(path) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
        curves = read_csv(path)
    _set_guidance(diffusion, chosen_guidance(curves[curves["curve"] == "guidance"]))
    return curves


def chosen_guidance(curve: pd.DataFrame) -> float:
    """The largest guidance scale within one standard error of the smallest distance.

    More guidance shows the classes more clearly. The distance limits the scale only as far as it
    can tell two scales apart (the one-standard-error rule, Breiman et al. 1984, section 3.4.3). The
    distance is computed on subsets of half of the images. Their standard deviation is therefore the
    standard error of the distance on all images (the delete-half jackknife, Shao & Wu 1989).

    Args:
        curve: columns guidance, mean, high and n_subsets.
    """
    least = curve.loc[curve["mean"].idxmin()]
    error = subset_std(least["high"], least["mean"], int(least["n_subsets"]))
    return float(curve.loc[curve["mean"] <= least["mean"] + error, "guidance"].max())


def _set_guidance(diffusion: Diffusion, guidance: float) -> None:
    diffusion.settings = diffusion.settings.model_copy(update={"guidance": guidance})


def _point(
    curve: str, diffusion: Diffusion, evaluator: HeldoutFrechet, **sampling_kwargs: float | str
) -> dict:
    """One row of `sampling_curves`."""
    began = time.monotonic()
    found = evaluator.distance_of(diffusion, **sampling_kwargs)
    passes = int(sampling_kwargs["steps"]) * (1 if sampling_kwargs["guidance"] == 1 else 2)
    return {
        "curve": curve,
        **sampling_kwargs,
        "passes": passes,
        "seconds": time.monotonic() - began,
        **found,
        "real_baseline": evaluator.real_baseline["mean"],
    }
