"""All that can be known of a run before its first minute of computing, in one list of problems."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from hamsynth_utils.classifier.pretrained import build_classifier, create_vit, weights_folder
from hamsynth_utils.core.arm_names import other_split
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.machine import free_memory_mb, memory_limit_mb
from hamsynth_utils.core.paths import WEIGHTS, RunPaths, checked_run_name, project_root
from hamsynth_utils.core.profile import Profile, arms_from, load_profile, seeds_from, whole_number
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.core.settings import MAX_SEED
from hamsynth_utils.data.dataset_info import describe_data
from hamsynth_utils.data.external import check_external, read_external
from hamsynth_utils.data.files.metadata import read_metadata
from hamsynth_utils.data.layouts import find_layout
from hamsynth_utils.experiment.external_test import read_opening, require_same_external_set
from hamsynth_utils.experiment.pipeline import Request, Resources, classifier_executions
from hamsynth_utils.experiment.run import Run, data_source

Value = TypeVar("Value")


MB = 1_000_000


CHAPTER_MB = 1500
"""The memory of a chapter besides its images: that of the largest chapter of the profile smoke."""


REST_MB = 500
"""What a run keeps on disk besides images, classifiers and tokens: that of the profile smoke."""


FILES_PER_CLASSIFIER = 4
"""The weights of a classifier, and three snapshots of its training."""


@dataclass
class Problems:
    """The problems of a run that is about to begin, and what its user should know besides.

    Attributes:
        errors: what is wrong, one line each; nothing is computed if there is any.
        warnings: what will be missing or slow, one line each.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def attempt(self, check: Callable[..., Value], *arguments: Any, **named: Any) -> Value | None:
        """Call a check, and note its InputError.

        Args:
            check: the function.
            arguments: its arguments.
            named: its arguments by name.

        Returns:
            What the function returns; None after an error.
        """
        try:
            return check(*arguments, **named)
        except InputError as error:
            self.errors.append(" ".join(str(error).split()))
            return None

    def report(self) -> None:
        """Print the warnings.

        Raises:
            InputError: with all errors, if there is any.
        """
        for warning in self.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        errors = list(dict.fromkeys(self.errors))
        if len(errors) == 1:
            raise InputError(errors[0])
        if errors:
            listed = "\n".join(f"- {error}" for error in errors)
            raise InputError(f"{len(errors)} problems, and nothing was computed:\n{listed}")


def prepare_run(
    request: Request, seeds: str = "", arms: str = "", resources: Resources | None = None
) -> Run:
    """Create the run, or check that the existing one fits the request.

    Args:
        request: what is asked of the run.
        seeds: of its classifiers, as in `0,1,2`; those of the profile if empty.
        arms: as in `real,vae`; those of the profile if empty.
        resources: what its jobs may use, and where it stops; the defaults if None.

    Returns:
        The run. Nothing is computed.

    Raises:
        InputError: with all problems: an option that is not possible, a profile or data that cannot
            be read, an existing run that was made with other settings, pretrained weights that were
            asked for and are not there, an external test set that is no test set or is another than
            the one that the run has opened, or a disk or memory that is too small.
    """
    problems = Problems()
    problems.attempt(checked_run_name, request.name)
    problems.attempt(_check_relative_path, request.folder)
    problems.attempt(_check_temporary_folder)
    seed = problems.attempt(whole_number, "SEED (--seed)", request.seed, 0, MAX_SEED)
    profile = _profile(problems, request.profile, seeds, arms)
    is_new = not RunPaths(request.folder).lesions.is_dir()
    n_images = _count_images(problems, request.data) if is_new else None
    _check_resources(problems, resources or Resources(), profile, bool(request.external))
    if request.external:
        problems.attempt(check_external, request.external, request.data)
    run = None
    if profile:
        _check_weights(problems, request, profile)
        if is_new:
            problems.attempt(_check_size, problems, request, profile, n_images)
        if seed is not None:
            run = _opened(problems, request, seed, profile)
    problems.report()
    assert run is not None
    return run


def executions(profile: Profile, external: bool) -> list[str]:
    """The names of the executions of a run, at each of which `make report` can stop.

    Args:
        profile: the profile of the run.
        external: whether the run has an external test set.

    Returns:
        The names of the executed notebooks, without their ending, sorted.
    """
    chapters = {path.stem for path in (project_root() / "notebooks").glob("*.ipynb")}
    left_out = {REGISTRY[name].chapter for name in set(REGISTRY) - set(profile.generators)}
    left_out |= {"06_vit"} | (set() if external else {"16_external"})
    return sorted({*(chapters - left_out), *classifier_executions(profile.model_dump())})


def _profile(problems: Problems, name: str, seeds: str, arms: str) -> Profile | None:
    """The profile with the seeds and arms that the user wants."""
    wanted = problems.attempt(seeds_from, seeds) if seeds else None
    profile = problems.attempt(load_profile, name)
    if profile is None:
        return None
    named = arms_from(arms) if arms else profile.arms
    return problems.attempt(profile.with_classifiers, wanted or profile.seeds, named)


def _check_relative_path(folder: Path) -> None:
    """Refuse a run folder that Snakemake or Jupyter Book cannot work in because of its name."""
    if "[" in str(folder):
        raise InputError(
            f"{folder} has a square bracket, and Jupyter Book cannot build a report there: rename "
            "that folder, or name another one in HAMSYNTH_RUNS"
        )
    relative = os.path.relpath(project_root().resolve(), folder.resolve())
    if "{" in relative:
        raise InputError(
            f"the relative path from {folder} to {project_root()} has a brace, which "
            "Snakemake cannot read: rename that folder, or name another one in HAMSYNTH_RUNS"
        )


def _check_temporary_folder() -> None:
    """Refuse a machine on which nothing can be written for a moment, as every notebook does."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise InputError(
            f"{error.strerror}: free space there, or name another folder in TMPDIR"
        ) from error


def _count_images(problems: Problems, data: str) -> int | None:
    """The number of images of a folder; a class without images is a warning."""
    source = problems.attempt(data_source, data)
    if source is None or source == "phantom":
        return None
    layout = problems.attempt(find_layout, Path(source))
    table = None if layout is None else problems.attempt(read_metadata, layout)
    if table is None:
        return None
    absent = [name for name in describe_data(data).classes if name not in set(table["dx"])]
    if absent:
        problems.warnings.append(
            f"{data} has no image of the class {', '.join(absent)}: nothing is measured there"
        )
    return len(table)


def _check_resources(
    problems: Problems, resources: Resources, profile: Profile | None, external: bool
) -> None:
    """Check the options of `make report` that are no part of the run."""
    if resources.cores != "all":
        cores = os.cpu_count() or 1
        problems.attempt(whole_number, "CORES (--cores)", resources.cores, 1, cores)
    if resources.memory:
        limit = memory_limit_mb()
        problems.attempt(whole_number, "MEMORY (--memory), in MB,", resources.memory, 1, limit)
    if resources.until and profile:
        known = executions(profile, external)
        if resources.until not in known:
            problems.errors.append(
                f"UNTIL (--until) is {resources.until!r}, but this run has {', '.join(known)}"
            )


def _check_weights(problems: Problems, request: Request, profile: Profile) -> None:
    """Build a classifier, if pretrained weights were asked for and some are still to be trained."""
    settings, paths = profile.classifier, RunPaths(request.folder, profile.data.split_by)
    if all((paths.classifiers / name / WEIGHTS).is_file() for name in _classifiers(profile, paths)):
        return
    if settings.weights == "none" and weights_folder():
        problems.warnings.append(
            f"the weights in {weights_folder()} are not used: the profile {profile.name} says "
            "classifier.weights: none"
        )
    asked = settings.weights not in {"auto", "none"} or weights_folder() is not None
    if settings.frozen_blocks or (asked and settings.weights != "none"):
        n_classes = len(describe_data(request.data).classes)
        problems.attempt(build_classifier, settings, 0, n_classes)


def _classifiers(profile: Profile, paths: RunPaths) -> list[str]:
    """The folders of all classifiers of a run, in `paths.classifiers`."""
    other = other_split(profile.data.split_by)
    names = [paths.classifier_name(arm, seed) for arm in profile.arms for seed in profile.seeds]
    return names + [
        paths.classifier_name(arm, seed, other)
        for arm in profile.other_split_arms
        for seed in profile.seeds
    ]


def _check_size(
    problems: Problems, request: Request, profile: Profile, n_images: int | None
) -> None:
    """Compare memory and disk with an estimate of what a run needs that has no images yet."""
    n_images = n_images or profile.data.phantom_images
    images_mb = n_images * 3 * profile.data.image_size**2 / MB
    limit, free = memory_limit_mb(), free_memory_mb()
    needed = round(CHAPTER_MB + 3 * images_mb)
    estimate = f"a chapter needs about {needed:,} MB of memory (estimated from {n_images:,} images)"
    if limit < needed:
        problems.errors.append(
            f"{estimate}, but this machine, or its container, has {limit:,} MB: take a smaller "
            "profile, a machine with more memory, or a cluster (SLURM=1)"
        )
    elif free < needed:
        problems.warnings.append(f"{estimate}, and {free:,} MB are free: end other programs")
    paths = RunPaths(request.folder, profile.data.split_by)
    n_classifiers = len(_classifiers(profile, paths))
    weights_mb, tokens_mb = _classifier_mb(profile, n_images)
    files_mb = n_classifiers * FILES_PER_CLASSIFIER * weights_mb
    needed = round(REST_MB + images_mb + tokens_mb + files_mb)
    there = next(folder for folder in paths.folder.parents if folder.is_dir())
    free = shutil.disk_usage(there).free // MB
    if free < needed:
        problems.errors.append(
            f"the run needs about {needed:,} MB of disk (estimated from {n_classifiers} "
            f"classifiers and {n_images:,} images), but {there} has {free:,} MB: free space, or "
            "name another folder in HAMSYNTH_RUNS"
        )


def _classifier_mb(profile: Profile, n_images: int) -> tuple[float, float]:
    """The size in MB of one classifier's weights, and of the cached tokens of all real images."""
    settings = profile.classifier
    with torch.device("meta"):
        vit = create_vit(settings, settings.depth, n_classes=1)
    weights = sum(4 * tensor.numel() for tensor in vit.parameters()) / MB
    if not settings.frozen_blocks:
        return weights, 0.0
    tokens = vit.patch_embed.num_patches // settings.token_pool**2 + 1
    return weights, n_images * settings.tta_views * tokens * vit.embed_dim * 2 / MB


def _opened(problems: Problems, request: Request, seed: int, profile: Profile) -> Run | None:
    """The run, created if there is no problem so far; an existing run is compared anyway."""
    asked = (request.name, request.profile, request.data, seed)
    if problems.errors:
        if RunPaths(request.folder).record.is_file():
            problems.attempt(Run.open, *asked)
        return None
    run = problems.attempt(Run.open, *asked, seeds=profile.seeds, arms=profile.arms)
    if run and request.external:
        problems.attempt(_check_opened_set, run, request.external)
    return run


def _check_opened_set(run: Run, source: str) -> None:
    """Refuse another external test set than the one that the run has opened, if it has."""
    if read_opening(run.folder):
        external = read_external(source, run.profile.data.image_size, run.seed + 1, progress=False)
        require_same_external_set(run.folder, external)
