"""The folders of the project and of a run: every path that more than one module uses."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from hamsynth_utils.core.errors import InputError

WEIGHTS = "weights.safetensors"
"""The file of trained weights, in the folder of every training."""


HISTORY = "history.csv"
"""The table of losses, in the folder of every training."""


CHECKPOINT = "checkpoint.safetensors"
"""The state of a training that has not ended yet, in its folder."""


SNAPSHOTS = "snapshots"
"""The folder of the averaged weights before the end of a training, in its folder."""


PROVENANCE = "provenance.json"
"""The file that says where the first weights of a classifier came from, in its folder."""


LATENTS = "latents.safetensors"
"""The training images, encoded by the autoencoder in whose folder the file is."""


AUTOENCODER_HISTORY = "autoencoder_history"
"""The metadata key of the autoencoder's losses, in the checkpoint of a generator that uses one."""


LONGEST_NAME = 200
"""How many bytes the name of a run may have. File systems allow 255, for temporary names too."""


PACKAGE = Path(__file__).resolve().parent.parent


def checkout() -> Path | None:
    """The checkout that this package is part of, None if the package was installed without one."""
    folder = PACKAGE.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def project_root() -> Path:
    """The folder of `profiles/`, `notebooks/`, `book/` and the rest of the project.

    Returns:
        The checkout, or the copy of its files in an installed package.
    """
    return checkout() or PACKAGE / "project"


def runs_folder() -> Path:
    """The folder of all runs.

    Returns:
        The folder in HAMSYNTH_RUNS, where `~` is the user's home; else `runs/` of the checkout, or
        of the current folder if there is no checkout.
    """
    return expanded(os.environ.get("HAMSYNTH_RUNS") or str((checkout() or Path.cwd()) / "runs"))


def checked_run_name(name: str) -> str:
    """Check that a run's name is a plain folder name.

    Args:
        name: the name.

    Returns:
        The same name.

    Raises:
        InputError: if the name is empty, too long, a path, or not printable.
    """
    plain = name not in {"", ".", ".."} and not {"/", "\\"} & set(name) and not _has_no_text(name)
    if not plain or len(os.fsencode(name)) > LONGEST_NAME:
        shown = repr(name) if len(name) <= 60 else f"{name[:40]!r}... of {len(name)} letters"
        raise InputError(
            f"the run's name must be a plain folder name of at most {LONGEST_NAME} bytes, "
            f"not {shown}"
        )
    return name


def run_folder(run: str) -> Path:
    """The folder of a run.

    Args:
        run: its name in the `runs_folder`, or the path of the folder itself.

    Returns:
        The path of the folder, whether it exists or not.
    """
    folder = expanded(run)
    return folder if RunPaths(folder).record.is_file() else runs_folder() / run


def absolute_path(path: str) -> str:
    """The absolute form of a path that a user gives, where `~` is the user's home."""
    return str(expanded(path).absolute())


def expanded(path: str) -> Path:
    """A path that a user gives, where `~` is the user's home.

    Args:
        path: the path.

    Raises:
        InputError: if the path cannot be printed, or begins with the `~` of an unknown home.
    """
    if _has_no_text(path):
        raise InputError(
            f"{path!r} has a control character, or bytes that are not UTF-8: rename that folder"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error} Write the path without ~") from error


def _has_no_text(path: str) -> bool:
    """Whether a path has control characters, or bytes that are not UTF-8."""
    return any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in path)


def checkpoint_of(name: str, folder: Path | None = None) -> Path:
    """The file of a generator's released checkpoint.

    Args:
        name: the generator.
        folder: where checkpoints lie; `checkpoints/` of the project by default.

    Returns:
        The path of the file, whether it exists or not.
    """
    return (folder or project_root() / "checkpoints") / f"{name}.safetensors"


@dataclass(frozen=True)
class RunPaths:
    """The paths inside a run folder; none of them has to exist.

    Attributes:
        folder: the run folder.
        split_by: how the run splits its data, `lesion` or `image`.
    """

    folder: Path
    split_by: str = "lesion"

    @property
    def record(self) -> Path:
        """The YAML file that says what made the run."""
        return self.folder / "run.yaml"

    @property
    def data(self) -> Path:
        """The folder of the images and of the split."""
        return self.folder / "data"

    @property
    def lesions(self) -> Path:
        """The folder that `LesionSet.load` reads."""
        return self.data / "lesions"

    @property
    def lesion_images(self) -> Path:
        """The array of all images."""
        return self.lesions / "images.npy"

    @property
    def lesion_table(self) -> Path:
        """The table of the images, one row per image."""
        return self.lesions / "table.csv"

    @property
    def lesion_index(self) -> Path:
        """The table of the source files, one row per file; not there for the phantom."""
        return self.lesions / "index.csv"

    @property
    def skipped(self) -> Path:
        """The table of the images that were left out as broken; not there for the phantom."""
        return self.lesions / "skipped.csv"

    def split(self, split_by: str | None = None) -> Path:
        """The table that says which image is in which part.

        Args:
            split_by: `lesion` or `image`; the run's own way to split by default.
        """
        own = split_by in (None, self.split_by)
        return self.data / ("split.csv" if own else f"split-{split_by}.csv")

    @property
    def generators(self) -> Path:
        """The folder of all generators."""
        return self.folder / "generators"

    def generator(self, name: str, seed: int = 0) -> Path:
        """The folder of one training of a generator: weights, history and synthetic images.

        Args:
            name: the generator.
            seed: the generator seed. The first seed of every run is 0.
        """
        return self.generators / name / seed_folder(seed)

    def generator_weights(self, name: str, seed: int = 0) -> Path:
        """The weights of one training of a generator.

        Args:
            name: the generator.
            seed: the generator seed.
        """
        return self.generator(name, seed) / WEIGHTS

    def generator_history(self, name: str, seed: int = 0) -> Path:
        """The losses of one training of a generator.

        Args:
            name: the generator.
            seed: the generator seed.
        """
        return self.generator(name, seed) / HISTORY

    def snapshot_distances(self, name: str, seed: int = 0) -> Path:
        """The distance to real images at each snapshot of one training.

        Args:
            name: the generator.
            seed: the generator seed.
        """
        return self.generator(name, seed) / "snapshot_distances.csv"

    def sampling_curves(self, name: str, seed: int = 0) -> Path:
        """The distance to real images by guidance, solver and steps.

        Args:
            name: the generator.
            seed: the generator seed.
        """
        return self.generator(name, seed) / "sampling.csv"

    def synthetic(self, name: str, seed: int = 0) -> Path:
        """The folder of the synthetic set that one training of a generator made.

        Args:
            name: the generator.
            seed: the generator seed.
        """
        return self.generator(name, seed) / "synthetic"

    def trained_generators(self) -> list[tuple[str, int]]:
        """The name and seed of each generator or autoencoder that has weights, sorted."""
        found = self.generators.glob(f"*/seed-*/{WEIGHTS}")
        return sorted((path.parent.parent.name, seed_of(path.parent)) for path in found)

    def autoencoder(self, seed: int = 0) -> Path:
        """The folder of the autoencoder that the generators of a seed share.

        Args:
            seed: the generator seed.
        """
        return self.generators / "autoencoder" / seed_folder(seed)

    @property
    def classifiers(self) -> Path:
        """The folder of all classifiers."""
        return self.folder / "classifiers"

    def classifier(self, arm: str, seed: int, split_by: str | None = None) -> Path:
        """The folder of one classifier.

        Args:
            arm: what the classifier learns from.
            seed: the seed of its training.
            split_by: the split of its data; the run's own by default.
        """
        return self.classifiers / self.classifier_name(arm, seed, split_by)

    def classifier_name(self, arm: str, seed: int, split_by: str | None = None) -> str:
        """The name of one classifier: arm and seed, as in `real/seed-0`.

        Args:
            arm: what the classifier learns from.
            seed: the seed of its training.
            split_by: the split of its data; the run's own by default.
        """
        own = split_by in (None, self.split_by)
        return f"{arm if own else f'{arm}-{split_by}-split'}/{seed_folder(seed)}"

    def classifier_history(self, arm: str, seed: int) -> Path:
        """The losses of one classifier under the run's own split.

        Args:
            arm: what the classifier learns from.
            seed: the seed of its training.
        """
        return self.classifier(arm, seed) / HISTORY

    def classifier_seeds(self, arm: str, split_by: str | None = None) -> list[int]:
        """The seeds of the classifiers of one arm that have predictions on the test part.

        Args:
            arm: what the classifiers learn from.
            split_by: the split of their data; the run's own by default.

        Returns:
            The seeds, ascending.
        """
        arm_folder = self.classifier(arm, 0, split_by).parent
        return sorted(seed_of(path.parent) for path in arm_folder.glob(f"*/{TEST_PREDICTIONS}"))

    def predictions(self, arm: str, part: str, seed: int, split_by: str | None = None) -> Path:
        """The predictions of one classifier.

        Args:
            arm: what the classifier learns from.
            part: `validation`, `test` or `external`.
            seed: the seed of its training.
            split_by: the split of its data; the run's own by default.
        """
        return self.classifier(arm, seed, split_by) / predictions_file(part)

    def classifier_files(self, name: str) -> list[Path]:
        """The files of this name in the folders of all classifiers, under either split, sorted."""
        return sorted(self.classifiers.glob(f"*/seed-*/{name}"))

    @property
    def tokens(self) -> Path:
        """The cached tokens of the classifiers' frozen blocks."""
        return self.classifiers / "tokens"

    def probe(
        self, arm: str, seed: int, ratio: float | None = None, split_by: str | None = None
    ) -> Path:
        """The folder of one probe.

        Args:
            arm: what the probe learns from.
            seed: the seed of its training.
            ratio: synthetic images per real image of the minority classes; None for the arm's own
                number.
            split_by: the split of its data; None for the run's own.
        """
        of_ratio = "" if ratio is None else f"-ratio-{ratio:g}"
        of_split = "" if split_by is None else f"-{split_by}-split"
        return self.folder / f"probes/{arm}{of_ratio}{of_split}/{seed_folder(seed)}"

    @property
    def probe_features(self) -> Path:
        """The cached features that the probes learn from."""
        return self.folder / "probes/features"

    @property
    def features(self) -> Path:
        """The cached features of the feature extractors."""
        return self.folder / "features"

    def private(self, name: str) -> Path:
        """The folder of one training with differential privacy."""
        return self.folder / "private" / name

    def attacked(self, name: str) -> Path:
        """The folder of the generator that is trained again to be attacked."""
        return self.folder / "privacy" / name

    @property
    def metrics(self) -> Path:
        """The folder of the tables."""
        return self.folder / "metrics"

    def table(self, name: str) -> Path:
        """The CSV file of one table."""
        return self.metrics / f"{name}.csv"

    @property
    def extractors(self) -> Path:
        """The JSON file that says which feature extractors were used, and their weights."""
        return self.metrics / "extractors.json"

    @property
    def external(self) -> Path:
        """The folder of the external test."""
        return self.folder / "external"

    @property
    def external_record(self) -> Path:
        """The JSON file that says which external set was tested, and when."""
        return self.folder / "external.json"

    @property
    def exports(self) -> Path:
        """The table of the synthetic sets that were exported, one row per export."""
        return self.folder / "exports.csv"

    @property
    def notebooks(self) -> Path:
        """The folder of the executed notebooks."""
        return self.folder / "notebooks"

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.folder / "logs"

    @property
    def site(self) -> Path:
        """The folder of the report in HTML."""
        return self.folder / "site"

    @property
    def site_index(self) -> Path:
        """The first page of the report."""
        return self.site / "index.html"


def seed_folder(seed: int) -> str:
    """The name of the folder of one seed."""
    return f"seed-{seed}"


def seed_of(folder: Path) -> int:
    """The seed that a folder is named after, see `seed_folder`."""
    return int(folder.name.removeprefix("seed-"))


TEST_PREDICTIONS = "predictions.csv"
"""The predictions on the test part, in the folder of a classifier or probe."""


def predictions_file(part: str) -> str:
    """The name of the file of predictions on `validation`, `test` or `external` images."""
    return TEST_PREDICTIONS if part == "test" else f"{part}_{TEST_PREDICTIONS}"
