"""Learning curves: distance to held-out images by training time, guidance and sampling steps.

The distance is measured in features that no generator was trained on, where they can be had. It is
also the measure by which snapshot, guidance and steps are chosen, always on validation images: the
test images and the training's own loss have no say.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError, NotMeasured
from hamsynth_utils.core.files import atomic_path, read_csv
from hamsynth_utils.core.paths import SNAPSHOTS, WEIGHTS
from hamsynth_utils.core.weights import read_metadata, read_weights, write_weights
from hamsynth_utils.data.lesion_set import LesionSet, to_uint8, to_unit_range
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import autoencoder_seconds
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.diffusion import SOLVERS, Diffusion
from hamsynth_utils.generators.latent import LatentGenerator
from hamsynth_utils.generators.loading import checkpoint_metadata, load_generator
from hamsynth_utils.metrics.features import DISTANCE_NAME, cached_features, extract, load_extractor
from hamsynth_utils.metrics.fidelity import (
    distance_of_all,
    precision_recall,
    standard_error,
)
from hamsynth_utils.metrics.power_spectrum import fine_power
from hamsynth_utils.metrics.privacy.membership_inference import guess_members, per_image_losses
from hamsynth_utils.metrics.privacy.nearest_neighbours import nearest_distances
from hamsynth_utils.training.loop import TrainingResult, mixed_precision

BATCH = 64
"""Images that are sampled at once."""


JUDGES = ("vit", "efficientnet_lite0")
"""The extractors that a curve may use, the preferred one first: no loss contains the ViT."""


class HeldoutDistance:
    """Measures images against held-out real images of a run, in the features of one extractor.

    Args:
        run: the run.

    Attributes:
        extractor_name: the first of JUDGES that the profile names and whose weights are there.
        title: what its Fréchet distance is called, such as FD-ViT.
        held_out: the validation part, H images.
        labels: int64 [N], in the proportions of the training images; N is
            `synthesis.n_curve_images`.
        real_baseline: `distance` of N training images, which show other lesions.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.held_out = run, run.images("validation")
        train = run.images("train")
        rng = torch.Generator().manual_seed(run.seed)
        order = torch.randperm(len(train), generator=rng)
        n_images = run.profile.synthesis.n_curve_images
        self.labels = train.labels[order[:n_images]]
        self.extractor_name, self.extractor = self._judge()
        self.title = DISTANCE_NAME[self.extractor_name]
        self.features = self._cached(self.held_out.images)
        self.train_features = self._cached(train.images)
        others = self.train_features[order[:n_images].numpy()]
        self.real_baseline = self._measured(others)
        self.real_nearest = nearest_distances(self.features, self.train_features)[0]

    def _judge(self) -> tuple[str, torch.nn.Module]:
        asked = self.run.profile.evaluation.extractors
        for name in JUDGES[:-1]:
            if name in asked:
                try:
                    return name, load_extractor(
                        name, self.run.device, classifier=self.run.profile.classifier
                    )
                except InputError:
                    continue  # run.paths.extractors says why, see the chapter on fidelity
        return JUDGES[-1], load_extractor(JUDGES[-1], self.run.device)

    def _cached(self, images: Tensor) -> np.ndarray:
        """Features of real images, kept in the run."""
        with self.run.stage_dir(self.run.paths.features) as folder:
            return cached_features(
                images,
                self.extractor_name,
                folder / f"{self.extractor_name}.npz",
                self.run.device,
                classifier=self.run.profile.classifier,
            )

    def _measured(self, features: np.ndarray) -> dict[str, float]:
        found = distance_of_all(
            self.features, features, self.run.profile.evaluation.n_subsets, self.run.seed
        )
        try:
            variety = precision_recall(self.features, features[: len(self.features)])
        except NotMeasured:
            variety = {}
        return {**found, **{name: variety.get(name, np.nan) for name in ("recall", "coverage")}}

    def distance(self, images: Tensor) -> dict[str, float]:
        """The distance between images and the held-out images, and the images' variety.

        Args:
            images: uint8 [N, 3, S, S].

        Returns:
            mean, low, high, n and n_subsets of `distance_of_all`; recall and coverage of as many
            images as there are held-out ones; `nearest`, the median distance of an image to the
            training image nearest to it, as a multiple of that of held-out images.
        """
        features = extract(images, self.extractor)
        nearest = nearest_distances(features, self.train_features)[0]
        ratio = float(np.median(nearest) / np.median(self.real_nearest))
        return {**self._measured(features), "nearest": ratio}

    def distance_of(self, generator: Generator, **sampling_kwargs: float | str) -> dict[str, float]:
        """`distance` of synthetic images, one for each of `labels`.

        Args:
            generator: draws the images.
            sampling_kwargs: passed on to `generator.sample`.
        """
        return self.distance(self.samples(generator, **sampling_kwargs))

    def samples(self, generator: Generator, **sampling_kwargs: float | str) -> Tensor:
        """Synthetic images uint8 [N, 3, S, S], one for each of `labels`.

        They are computed in `mixed_precision`, as trainings are.
        """
        generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batches = self.labels.split(BATCH)
        with mixed_precision(generator.device):
            images = [
                to_uint8(generator.sample(labels, BATCH * i, **sampling_kwargs)).cpu()
                for i, labels in enumerate(batches)
            ]
        return torch.cat(images)

    def membership(self, generator: Generator) -> float:
        """How well the generator's loss tells training images from held-out ones, as an AUROC.

        Args:
            generator: in any mode.

        Returns:
            0.5 if it does not, 1 if it always does. Held-out images of lesions that are trained on
            are left out; NaN if that leaves none, as a split by image may.
        """
        settings = self.run.profile.privacy
        train = self.run.images("train")
        known = self.held_out.table["lesion_id"].isin(train.table["lesion_id"])
        unseen = self.held_out.subset(np.flatnonzero(~known))
        rng = np.random.default_rng(self.run.seed)
        n_images = min(settings.n_attacked, len(unseen), len(train))
        if n_images == 0:
            return np.nan
        parts = [
            each.subset(np.sort(rng.choice(len(each), n_images, replace=False)))
            for each in (train, unseen)
        ]
        train_scores, held_out_scores = (
            -per_image_losses(generator, part, self.run.seed, settings.noise_levels)[
                generator.membership_statistic
            ].to_numpy()
            for part in parts
        )
        train_ids, held_out_ids = (part.table["lesion_id"] for part in parts)
        return guess_members(
            train_scores, held_out_scores, train_ids, held_out_ids, 2, self.run.seed
        )["value"]


def snapshot_distances(
    run: Run, name: str, training: TrainingResult, evaluator: HeldoutDistance
) -> pd.DataFrame:
    """Distance and memorization at each snapshot of a training; computed once, kept in the run.

    The snapshot of the smallest distance becomes the generator of the run, see `choose_snapshot`.

    Args:
        run: the run.
        name: the generator.
        training: its training; its module gets the chosen weights.
        evaluator: measures the distance.

    Returns:
        One row per snapshot: step, minutes (with those of the autoencoder), loss, the values of
        `HeldoutDistance.distance`, `membership` (an AUROC), real_baseline, `measure` (the name of
        the distance) and `chosen`.
    """
    with run.stage_dir(run.paths.generator(name)):
        path = run.paths.snapshot_distances(name)
        if not path.is_file():
            before = autoencoder_seconds(run, name)
            rows = []
            for step, weights in snapshot_files(run, name, training).items():
                logged = training.history[training.history["step"] <= step].iloc[-1]
                generator = load_generator(weights, name, run.dataset.classes).to(run.device)
                rows.append(
                    {
                        "step": step,
                        "minutes": (before + logged["seconds"]) / 60,
                        "loss": logged["loss"],
                        **evaluator.distance_of(generator),
                        "membership": evaluator.membership(generator),
                        "real_baseline": evaluator.real_baseline["mean"],
                        "measure": evaluator.title,
                    }
                )
            table = pd.DataFrame(rows)
            table["chosen"] = table.index == table["mean"].idxmin()
            choose_snapshot(run, name, training, int(table.loc[table["chosen"], "step"].iloc[0]))
            with atomic_path(path) as temporary:
                table.to_csv(temporary, index=False)
        return read_csv(path)


def snapshot_files(run: Run, name: str, training: TrainingResult) -> dict[int, Path]:
    """The weights at the snapshots of a training, also after one of them was chosen.

    Args:
        run: the run.
        name: the generator.
        training: its training.

    Returns:
        Files by step, the end of the training last. A released checkpoint has only the chosen one.
    """
    folder, last = run.paths.generator(name), max(training.snapshots)
    chosen = int(read_metadata(folder / WEIGHTS).get("steps", last))
    if chosen == last:
        return training.snapshots
    at_end = folder / SNAPSHOTS / f"{last}.safetensors"
    if at_end.is_file():
        return {**training.snapshots, last: at_end}
    return {chosen: folder / WEIGHTS}


def choose_snapshot(run: Run, name: str, training: TrainingResult, step: int) -> None:
    """Make a snapshot the generator of the run; the last weights stay among the snapshots.

    Args:
        run: the run.
        name: the generator.
        training: its training; its module gets the weights, too.
        step: the snapshot's step.
    """
    folder, last = run.paths.generator(name), max(training.snapshots)
    files = snapshot_files(run, name, training)
    tensors, metadata = read_weights(folder / WEIGHTS)
    if metadata["steps"] == str(step):
        return
    at_end = folder / SNAPSHOTS / f"{last}.safetensors"
    if not at_end.is_file():  # else a snapshot was chosen before
        write_weights(at_end, tensors, metadata)
    tensors, chosen = read_weights(files[step])
    write_weights(folder / WEIGHTS, tensors, {**metadata, "steps": chosen["steps"]})
    training.module.load_state_dict(tensors)


def reconstruction_distances(
    run: Run, generator: LatentGenerator, evaluator: HeldoutDistance, lesions: LesionSet
) -> pd.DataFrame:
    """How much of a latent generator's distance its decoder costs, and how much the rest.

    Held-out images are encoded and decoded: no generator on these latents can do better than that.

    Args:
        run: the run.
        generator: the generator.
        evaluator: measures the distances.
        lesions: held-out images to encode, other ones than those of the evaluator.

    Returns:
        Three rows, `images as they are`, `encoded and decoded` and `samples`, with the values of
        `HeldoutDistance.distance` and `fine`, the power in the finer half of the spectrum as a
        fraction of that of the images.
    """
    with torch.no_grad():
        decoded = [
            to_uint8(generator.reconstruct(to_unit_range(images).to(generator.device))).cpu()
            for images in lesions.images.split(BATCH)
        ]
    pictures = {
        "images as they are": lesions.images,
        "encoded and decoded": torch.cat(decoded),
        "samples": evaluator.samples(generator),
    }
    rows = [
        {
            "images": title,
            **evaluator.distance(images),
            "fine": fine_power(images) / fine_power(lesions.images),
        }
        for title, images in pictures.items()
    ]
    return pd.DataFrame(rows)


def format_snapshot_distances(distances: pd.DataFrame) -> str:
    """The table of `snapshot_distances` as text to print."""
    measure = str(distances["measure"].iloc[0])
    digits = {"minutes": 1, "loss": 3, "mean": 1, "low": 1, "high": 1, "real_baseline": 1}
    digits |= {"recall": 2, "coverage": 2, "nearest": 2, "membership": 3}
    columns = ["step", *digits, "n", "chosen"]
    return distances[columns].round(digits).rename(columns={"mean": measure}).to_string(index=False)


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
        for step, weights in snapshot_files(run, name, training).items()
    }


def sampling_curves(run: Run, diffusion: Diffusion, evaluator: HeldoutDistance) -> pd.DataFrame:
    """The distance by guidance scale, and by solver and steps; computed once and kept in the run.

    The function chooses the guidance scale by `chosen_guidance` and writes it into the settings of
    the generator and of its weights. The synthetic set of the run is sampled with this scale.

    Args:
        run: the run.
        diffusion: the trained generator; its guidance scale is set.
        evaluator: measures the distance.

    Returns:
        One row per point: curve (`guidance` or `steps`), solver, steps, guidance, passes (of the
        network per image), seconds, the values of `HeldoutDistance.distance`, real_baseline and
        measure.
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
    """The largest guidance scale that costs neither distance nor variety.

    More guidance shows the classes more clearly, but makes the images more alike. The scale may
    therefore grow only as long as distance and coverage cannot be told from the best ones: they
    must lie within one standard error (the one-standard-error rule, Breiman et al. 1984, section
    3.4.3). That of the distance is the standard deviation over subsets of half of the images (the
    delete-half jackknife, Shao & Wu 1989), that of the coverage the one of a fraction of n images.

    Args:
        curve: columns guidance, mean, high, n_subsets, coverage and n.
    """
    least = curve.loc[curve["mean"].idxmin()]
    near = curve["mean"] <= least["mean"] + standard_error(
        least["high"], least["mean"], int(least["n_subsets"])
    )
    most = curve["coverage"].max()
    if np.isfinite(most):
        error = np.sqrt(most * (1 - most) / least["n"])
        near &= (curve["coverage"] >= most - error) | (curve.index == least.name)
    return float(curve.loc[near, "guidance"].max())


def _set_guidance(diffusion: Diffusion, guidance: float) -> None:
    diffusion.settings = diffusion.settings.model_copy(update={"guidance": guidance})


def _point(
    curve: str, diffusion: Diffusion, evaluator: HeldoutDistance, **sampling_kwargs: float | str
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
        "measure": evaluator.title,
    }
