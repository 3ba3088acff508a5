"""The `Run`: a folder with one subfolder per stage, and `run.yaml`, which says what made it.

A `Run` gives its images, synthetic sets, predictions and tables by name and seed, and knows where
every file lies. It reads images and split once.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
import yaml
from accelerate import PartialState
from filelock import FileLock, Timeout

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import (
    atomic_path,
    damage_as_input_error,
    oserror_as_input_error,
    read_csv,
)
from hamsynth_utils.core.paths import RunPaths, checked_run_name, expanded, runs_folder
from hamsynth_utils.core.profile import Profile, load_profile, parse_profile, read_record
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.core.settings import MAX_SEED
from hamsynth_utils.data import ham10000
from hamsynth_utils.data.dataset_info import DatasetInfo, describe_data
from hamsynth_utils.data.duplicates import repeated_photos
from hamsynth_utils.data.layouts import find_layout
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.data.split import Split, make_split
from hamsynth_utils.data.synthetic import read_manifest, read_synthetic
from hamsynth_utils.experiment.provenance import (
    ordered_union,
    record_of,
    require_same_settings,
)
from hamsynth_utils.metrics.classification import read_predictions

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Run:
    """A run folder and what made it.

    Attributes:
        folder: the run folder.
        profile: the settings. Its seeds and arms are those of the run, whatever the profile's file
            says.
        data: "phantom" or a folder of HAM10000.
        seed: the seed of the run.
    """

    folder: Path
    profile: Profile
    data: str
    seed: int
    _loaded: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        name: str,
        profile: str = "smoke",
        data: str = "phantom",
        seed: int = 0,
        root: Path | None = None,
        seeds: Sequence[int] | None = None,
        arms: Sequence[str] | None = None,
    ) -> Run:
        """Create a run, or open an existing one that was made with the same profile, data and seed.

        Args:
            name: name of the run.
            profile: name of a profile, or a YAML file.
            data: "phantom" or a folder of HAM10000.
            seed: the seed of the run.
            root: the folder of all runs, by default the `runs_folder`.
            seeds: seeds of the classifiers. A run can gain seeds, but not lose any. By default
                those that the run has; in a new run those of the profile.
            arms: arms of the classifiers, as `seeds`.

        Returns:
            The run.

        Raises:
            InputError: if a value has a wrong type, the run was made with other values, the data
                changed since, or the folder cannot be written.
        """
        _check_parameters(name, profile, data, seed)
        root = root or runs_folder()
        asked = load_profile(profile)
        asked = asked.with_classifiers(
            asked.seeds if seeds is None else seeds, asked.arms if arms is None else arms
        )
        run = cls(root / name, asked, data_source(data), seed)
        torch.set_num_threads(int(os.environ.get("HAMSYNTH_THREADS") or run.profile.threads))
        record = run.paths.record
        with run.stage_dir(""):
            now = record_of(run.profile, run.data, run.seed, run.device)
            if record.is_file():
                before = read_record(run.folder)
                require_same_settings(run.folder, before, now, {"seeds": seeds, "arms": arms})
                recorded = parse_profile(before["profile"])
                # New seeds come last, since chapters look at the first seed more closely.
                extended = recorded.with_classifiers(
                    ordered_union(recorded.seeds, seeds), ordered_union(recorded.arms, arms)
                )
                run = replace(run, profile=extended)
                description = {**before, "profile": extended.model_dump(mode="json")}
            else:
                before, description = None, now
                if run.data != "phantom":
                    find_layout(Path(run.data))
            if description != before:
                with atomic_path(record) as path:
                    path.write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
        return run

    @property
    def device(self) -> torch.device:
        """The accelerator if there is one, else the CPU."""
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

    @property
    def paths(self) -> RunPaths:
        """Where the files of the run lie."""
        return RunPaths(self.folder, self.profile.data.split_by)

    def generator_seed_for(self, classifier_seed: int) -> int:
        """The seed of the generators whose synthetic images a classifier learns from.

        The classifier's seed and the generator's seed at the same place of the profile's two lists
        belong together, if the lists are of equal length. Otherwise every classifier learns from
        the first generator seed.
        """
        seeds, generator_seeds = self.profile.seeds, self.profile.generator_seeds
        paired = len(seeds) == len(generator_seeds) and classifier_seed in seeds
        return generator_seeds[seeds.index(classifier_seed) if paired else 0]

    def load_once(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """Load something at the first call, and return the same object at later calls.

        Args:
            key: names what is loaded.
            load: called without arguments at the first call for this key.

        Returns:
            What `load` returned at the first call.
        """
        if key not in self._loaded:
            self._loaded[key] = load()
        return self._loaded[key]

    @property
    def dataset(self) -> DatasetInfo:
        """The description of the run's data set: its classes, licence and citation."""
        return describe_data(self.data)

    @contextmanager
    def stage_dir(self, name: str | Path) -> Iterator[Path]:
        """The folder of one stage, created and locked for this process while the `with` lasts.

        A process that finds the folder locked by another process says so and waits.

        Args:
            name: the folder: one of `paths`, or relative to the run folder.

        Yields:
            The folder.

        Raises:
            InputError: if the folder cannot be written.
        """
        folder = self.folder / name
        with oserror_as_input_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            with oserror_as_input_error(folder):
                lock.acquire(timeout=1)
        except Timeout:
            print(
                f"{folder} is being written by another process: waiting for it to end",
                file=sys.stderr,
            )
            lock.acquire()
        try:
            yield folder
        finally:
            lock.release()

    @contextmanager
    def shared_stage_dir(self, name: str | Path) -> Iterator[Path]:
        """`stage_dir` for all processes of one training together; the first process holds the lock.

        Args:
            name: as for `stage_dir`.

        Yields:
            The folder.
        """
        if PartialState().is_main_process:
            with self.stage_dir(name) as folder:
                yield folder
        else:
            yield self.folder / name

    def lesions(self, skip_broken: bool = False) -> LesionSet:
        """All images of the run, read from the source once and cached in `data/`.

        The cache is read at the first call; later calls return the same object.

        Args:
            skip_broken: leave out images that cannot be decoded, and list them in a table.

        Returns:
            The images in the order of the source.

        Raises:
            InputError: if the source is not complete, or holds an image that cannot be decoded.
        """
        return self.load_once("lesions", lambda: self._load_lesions(skip_broken))

    def _load_lesions(self, skip_broken: bool) -> LesionSet:
        with self.stage_dir(self.paths.data):
            cache = self.paths.lesions
            if not cache.is_dir():
                settings = self.profile.data
                with atomic_path(cache) as path:
                    path.mkdir()
                    if self.data == "phantom":
                        lesions = make_phantom(
                            settings.phantom_images, settings.image_size, seed=self.seed
                        )
                    else:
                        reading = ham10000.read_ham10000(
                            Path(self.data), settings.image_size, skip_broken=skip_broken
                        )
                        lesions = reading.lesions
                        reading.index.to_csv(path / self.paths.lesion_index.name, index=False)
                        reading.skipped.to_csv(path / self.paths.skipped.name, index=False)
                    lesions.save(path)
            return LesionSet.load(cache, self.dataset.classes)

    def images(self, part: str, split_by: str | None = None) -> LesionSet:
        """The images of one part.

        Args:
            part: `train`, `validation` or `test`.
            split_by: `lesion` or `image`; the run's own way to split by default.

        Returns:
            The images of the part, in the order of `lesions`.
        """
        return self.lesions().subset(self.split(split_by).parts()[part])

    def training_images(self, split_by: str | None = None) -> LesionSet:
        """The real training images, for one process or for several.

        Of several processes, the first reads and splits the data and the others wait for it.

        Args:
            split_by: as for `images`.

        Returns:
            The images of the training part.

        Raises:
            InputError: if one of the images is synthetic.
        """
        with PartialState().main_process_first():
            lesions = self.images("train", split_by)
        lesions.require_real("the real training images")
        return lesions

    def skipped(self) -> pd.DataFrame:
        """The images left out as broken: columns image_id, reason."""
        path = self.paths.skipped
        if not path.is_file():
            return pd.DataFrame(columns=["image_id", "reason"])
        return read_csv(path, dtype="object")

    def split(self, split_by: str | None = None) -> Split:
        """The training, validation and test part of this run, made once and kept in `data/`.

        The table is read at the first call; later calls return the same object.

        Args:
            split_by: `lesion` or `image`; the run's own way to split by default.

        Returns:
            The row numbers of each part in `lesions`.
        """
        split_by = split_by or self.profile.data.split_by
        return self.load_once(("split", split_by), lambda: self._load_split(split_by))

    def _load_split(self, split_by: str) -> Split:
        lesions, settings = self.lesions(), self.profile.data
        with self.stage_dir(self.paths.data):
            path = self.paths.split(split_by)
            if not path.is_file():
                split = make_split(
                    split_by,
                    lesions.table,
                    lesions.classes,
                    self._pairs(lesions),
                    self.seed,
                    settings.validation_fraction,
                    settings.test_fraction,
                )
                part = np.full(len(lesions), "train", dtype=object)
                part[split.validation], part[split.test] = "validation", "test"
                with atomic_path(path) as temporary:
                    pd.DataFrame({"image_id": lesions.table["image_id"], "part": part}).to_csv(
                        temporary, index=False
                    )
            return _read_split(path, lesions)

    def training_fingerprint(self) -> str:
        """The SHA-256 of the sorted ids of the training images, in hexadecimal."""
        ids = sorted(self.lesions().table["image_id"].to_numpy()[self.split().train])
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()

    def near_duplicates(self) -> pd.DataFrame:
        """Pairs of near-duplicate images of different lesions.

        Returns:
            Columns image_id_a, image_id_b: the pairs that are known for the data, and the pairs
            that show one photo, see `repeated_photos`.
        """
        return self._pairs(self.lesions())

    def _pairs(self, lesions: LesionSet) -> pd.DataFrame:
        folder = Path(self.data)
        known = (
            ham10000.NO_PAIRS if self.data == "phantom" else ham10000.read_near_duplicates(folder)
        )
        return pd.concat([known, repeated_photos(lesions)], ignore_index=True)

    def has_synthetic_set(self, generator: str, seed: int = 0) -> bool:
        """Whether the synthetic set of a generator is finished.

        Args:
            generator: its name.
            seed: the generator seed.
        """
        return self.paths.synthetic(generator, seed).is_dir()

    def synthetic_set(self, generator: str, seed: int = 0) -> LesionSet:
        """The finished synthetic set of a generator, verified.

        The files are read at the first call; later calls return the same object.

        Args:
            generator: its name.
            seed: the generator seed.

        Returns:
            The images in the order of the manifest.

        Raises:
            InputError: if no generator has this name, if its notebook has not been run, if it was
                trained on other images than this run's training part, or if a file of the set was
                altered.
        """
        if generator not in REGISTRY:
            raise InputError(
                f"no generator is called {generator!r}; there are {', '.join(REGISTRY)}"
            )
        folder = self.require(self.paths.synthetic(generator, seed), REGISTRY[generator].chapter)
        trained_on = set(read_manifest(folder)["trained_on"])
        if trained_on != {self.training_fingerprint()}:
            raise InputError(
                f"{folder} comes from a generator trained on other images than this run's "
                "training part"
            )
        return self.load_once(folder, lambda: read_synthetic(folder, self.dataset.classes))

    def predictions(
        self, arm: str, part: str, seed: int, split_by: str | None = None
    ) -> pd.DataFrame:
        """The predictions of one classifier.

        Args:
            arm: what the classifier learns from.
            part: `validation`, `test` or `external`.
            seed: the seed of its training.
            split_by: the split of its data; the run's own by default.

        Returns:
            One row per image, see `read_predictions`.

        Raises:
            InputError: if the classifier is not finished.
        """
        path = self.paths.predictions(arm, part, seed, split_by)
        path = self.require(path, f"06_vit with arm {arm!r} and seed {seed}")
        return read_predictions(path, self.dataset.classes)

    def read_table(self, name: str, made_by: str) -> pd.DataFrame:
        """The table `metrics/<name>.csv`.

        Args:
            name: its name, without the ending.
            made_by: the notebook that writes it.

        Raises:
            InputError: if the notebook has not been run.
        """
        remedy = f"delete it and the executed notebook {made_by}, and start again"
        return read_csv(self.require(self.paths.table(name), made_by), remedy)

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Write the table `metrics/<name>.csv`, whole or not at all; the index is left out.

        Args:
            name: its name, without the ending.
            frame: the rows.
        """
        target = self.paths.table(name)
        with self.stage_dir(target.parent), atomic_path(target) as path:
            frame.to_csv(path, index=False)

    def require(self, path: str | Path, made_by: str) -> Path:
        """A file or folder of the run that must be there.

        Args:
            path: one of `paths`, or relative to the run folder.
            made_by: the notebook that makes it.

        Raises:
            InputError: naming the notebook, if it is not there.
        """
        full = self.folder / path
        if not full.exists():
            raise InputError(
                f"{full} is not there yet: run {made_by} with the same run, profile, data and seed"
            )
        return full


def _read_split(path: Path, lesions: LesionSet) -> Split:
    """The split in a table that must have one row per image, in the order of the images."""
    table = read_csv(path, dtype="object")
    with damage_as_input_error(path):
        if table["image_id"].tolist() != lesions.table["image_id"].tolist():
            raise ValueError(
                f"it must have one row for each of the {len(lesions)} images, in order"
            )
        parts = [table["part"].to_numpy() == name for name in ("train", "validation", "test")]
        if not np.logical_or.reduce(parts).all():
            raise ValueError("each part must be train, validation or test")
    return Split(*map(np.flatnonzero, parts))


def _check_parameters(name: Any, profile: Any, data: Any, seed: Any) -> None:
    """Raise InputError for a parameter of another type, or a name that is no plain folder name."""
    for key, value, kind in [
        ("run", name, str),
        ("profile", profile, str),
        ("data", data, str),
        ("seed", seed, int),
    ]:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f"the parameter {key} must be {kind.__name__}, but it is {value!r}")
    checked_run_name(name)
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"the seed must be a whole number from 0 to {MAX_SEED}, not {seed}")


def data_source(data: str) -> str:
    """The data of a run as the run keeps them.

    Args:
        data: "phantom", or a folder.

    Returns:
        "phantom", or the absolute path of the folder.

    Raises:
        InputError: if the folder does not exist.
    """
    if data == "phantom":
        return data
    path = expanded(data)
    if not path.is_dir():
        raise InputError(f"data is neither 'phantom' nor a folder: {data!r}")
    return str(path.resolve())
