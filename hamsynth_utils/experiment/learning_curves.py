"""What more minutes, more steps or stronger guidance buy: distances to held-out images along a curve.

Each point stands on few images, so that a curve costs little: compare along it, not with another table.
"""

from __future__ import annotations

import time

import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.core.weights import read_weights, write_weights
from hamsynth_utils.data.lesion_set import CLASSES, to_uint8
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import autoencoder_seconds
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.diffusion import SOLVERS, Diffusion
from hamsynth_utils.generators.loading import checkpoint_metadata, load_generator
from hamsynth_utils.metrics.features import extract, load_extractor
from hamsynth_utils.metrics.fidelity import distance_with_interval, subset_std
from hamsynth_utils.training.loop import TrainingResult

BATCH = 64


class HeldoutFrechet:
    """Held-out real images of a run, by FD-lite0.

    labels: [N] of the held-out images, those that a generator is asked for; N is `synthesis.n_curve_images`,
    or as many as the validation part has.
    floor: the distance between the held-out images and training images, which are of other lesions.
    """

    def __init__(self, run: Run) -> None:
        held_out, train = run.images("validation"), run.images("train")
        draw = torch.Generator().manual_seed(run.seed)
        picked = torch.randperm(len(held_out), generator=draw)[
            : run.profile.synthesis.n_curve_images
        ]
        others = torch.randperm(len(train), generator=draw)[: len(picked)]
        self.run, self.labels = run, held_out.labels[picked]
        self.extractor = load_extractor("efficientnet_lite0", run.device)
        self.features = extract(held_out.images[picked], self.extractor)
        self.real_baseline = self.distance(train.images[others])

    def distance(self, images: Tensor) -> dict[str, float]:
        """FD-lite0 of images uint8 [N, 3, S, S]: mean, low, high, n and n_subsets, in draws of half of them."""
        found, run = extract(images, self.extractor), self.run
        return distance_with_interval(
            self.features, found, len(found) // 2, run.profile.evaluation.n_subsets, run.seed
        )

    def distance_of(self, generator: Generator, **how: float | str) -> dict[str, float]:
        """That of one image for each of `labels`; `how` is handed to `generator.sample`."""
        batches = self.labels.split(BATCH)
        made = [
            to_uint8(generator.sample(y, BATCH * i, **how)).cpu() for i, y in enumerate(batches)
        ]
        return self.distance(torch.cat(made))


def snapshot_distances(
    run: Run, name: str, training: TrainingResult, evaluator: HeldoutFrechet
) -> pd.DataFrame:
    """What the training's moments were worth: step, minutes, loss and distance; kept in `snapshot_distances.csv`."""
    with run.stage_dir(run.paths.generator(name)):
        path = run.paths.snapshot_distances(name)
        if not path.is_file():
            before = autoencoder_seconds(run, name)
            rows = []
            for step, weights in training.snapshots.items():
                logged = training.history[training.history["step"] <= step].iloc[-1]
                found = evaluator.distance_of(load_generator(weights, name).to(run.device))
                minutes = (before + logged["seconds"]) / 60
                loss, real = logged["loss"], evaluator.real_baseline["mean"]
                rows.append(
                    {"step": step, "minutes": minutes, "loss": loss, **found, "real_baseline": real}
                )
            with atomic_path(path) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
        return pd.read_csv(path)


def format_snapshot_distances(spent: pd.DataFrame) -> str:
    """A budget as a table to print, its distance called by its name."""
    columns = ["step", "minutes", "loss", "mean", "low", "high", "real_baseline", "n"]
    digits = {"minutes": 1, "loss": 3, "mean": 0, "low": 0, "high": 0, "floor": 0}
    return spent[columns].round(digits).rename(columns={"mean": "FD-lite0"}).to_string(index=False)


def snapshot_samples(
    run: Run, name: str, training: TrainingResult, per_class: int = 1
) -> dict[int, Tensor]:
    """The same latents at each moment of the training: images [7 * per_class, 3, S, S] in [-1, 1] by step."""
    labels = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    return {
        step: load_generator(weights, name).to(run.device).sample(labels, run.seed).cpu()
        for step, weights in training.snapshots.items()
    }


def sampling_curves(run: Run, diffusion: Diffusion, evaluator: HeldoutFrechet) -> pd.DataFrame:
    """Distance against the guidance scale and against solver and steps; kept in `sampling.csv`.

    The guidance scale of `chosen_guidance` is written into the settings of the weights: the run's synthetic
    set is sampled with it. Columns: curve (`guidance` or
    `steps`), solver, steps, guidance, passes (of the network for one image), seconds, and the distance's.
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
            _choose(diffusion, best)
            weights = run.paths.generator_weights(diffusion.name)
            tensors, metadata = read_weights(weights)
            write_weights(weights, tensors, {**metadata, **checkpoint_metadata(diffusion)})
            with atomic_path(path) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
        curves = pd.read_csv(path)
    _choose(diffusion, chosen_guidance(curves[curves["curve"] == "guidance"]))
    return curves


def chosen_guidance(curve: pd.DataFrame) -> float:
    """The strongest guidance whose distance is within one standard error of the smallest.

    The more guidance, the clearer the classes; the distance limits it as far as it can tell two scales apart
    (the one-standard-error rule, Breiman et al. 1984, section 3.4.3). The draws behind a distance are halves
    of the images, so their standard deviation is the standard error of the distance on all of them (the
    jackknife that leaves out half, Shao & Wu 1989). curve: columns guidance, mean, high and n_subsets.
    """
    least = curve.loc[curve["mean"].idxmin()]
    error = subset_std(least["high"], least["mean"], int(least["n_subsets"]))
    return float(curve.loc[curve["mean"] <= least["mean"] + error, "guidance"].max())


def _choose(diffusion: Diffusion, guidance: float) -> None:
    diffusion.settings = diffusion.settings.model_copy(update={"guidance": guidance})


def _point(curve: str, diffusion: Diffusion, evaluator: HeldoutFrechet, **how: float | str) -> dict:
    began = time.monotonic()
    found = evaluator.distance_of(diffusion, **how)
    passes = int(how["steps"]) * (1 if how["guidance"] == 1 else 2)
    return {
        "curve": curve,
        **how,
        "passes": passes,
        "seconds": time.monotonic() - began,
        **found,
        "real_baseline": evaluator.real_baseline["mean"],
    }
