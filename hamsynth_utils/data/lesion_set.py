"""The `LesionSet`: images, labels and one table row per image, for real and synthetic images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import MAKE_AGAIN, damage_as_input_error, read_csv
from hamsynth_utils.data.dataset_info import ClassList

COLUMNS = ("image_id", "lesion_id", "dx", "age", "sex", "localization", "dataset", "synthetic")


@dataclass(frozen=True, eq=False)
class LesionSet:
    """Labelled lesion images. Rows, labels and images are in the same order.

    Attributes:
        images: uint8 [N, 3, H, W], RGB, 0 to 255.
        labels: int64 [N], positions in `classes`.
        table: N rows with the columns `COLUMNS`. `dx` is the short name of the class, `age` is in
            years, `synthetic` is a bool; a missing value is NaN.
        classes: the classes of the data set, which also occur without an image.

    Raises:
        InputError: if images, labels, table and classes do not fit together.
    """

    images: Tensor
    labels: Tensor
    table: pd.DataFrame
    classes: ClassList

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise InputError(
                "images must be uint8 [N, 3, H, W], not "
                f"{self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.images),):
            raise InputError(
                f"labels must be int64 [{len(self.images)}], not "
                f"{self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if len(self.table) != len(self.images):
            raise InputError(f"{len(self.images)} images but {len(self.table)} table rows")
        missing = [column for column in COLUMNS if column not in self.table]
        if missing:
            raise InputError(f"the table lacks the column(s) {', '.join(missing)}")
        if not np.array_equal(labels_of(self.table["dx"], self.classes), self.labels.numpy()):
            raise InputError("labels and the table's dx column disagree")

    def __len__(self) -> int:
        return len(self.images)

    def __add__(self, other: LesionSet) -> LesionSet:
        """Merge two sets: the images of `other` follow those of this set.

        Args:
            other: images of the same size and classes.

        Returns:
            The merged set.

        Raises:
            InputError: if the image sizes or the classes differ.
        """
        if self.images.shape[1:] != other.images.shape[1:]:
            raise InputError(
                f"cannot merge images of {self.image_size} and {other.image_size} pixels: "
                "make both sets at the same image_size"
            )
        if self.classes != other.classes:
            raise InputError(
                f"cannot merge a set of the classes {self.classes} with one of {other.classes}"
            )
        return LesionSet(
            torch.cat([self.images, other.images]),
            torch.cat([self.labels, other.labels]),
            pd.concat([self.table, other.table], ignore_index=True),
            self.classes,
        )

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    @property
    def counts(self) -> dict[str, int]:
        """Number of images per class, in the order of `classes`; 0 for a class without images."""
        numbers = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, numbers, strict=True))

    @property
    def present(self) -> list[str]:
        """The classes that have images, in the order of `classes`."""
        return [name for name, count in self.counts.items() if count]

    def present_of(self, *names: str) -> list[str]:
        """The classes to show where some are preferred.

        Args:
            names: short names of classes.

        Returns:
            Those of `names` that have images; `present` if none of them has.
        """
        return [name for name in names if self.counts[name]] or self.present

    def subset(self, index: np.ndarray | Tensor) -> LesionSet:
        """Select images.

        Args:
            index: integer positions [M], or a bool mask [N].

        Returns:
            The images at these positions, in the order of `index`.
        """
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        picked = torch.as_tensor(index, dtype=torch.int64)
        return LesionSet(
            self.images[picked],
            self.labels[picked],
            self.table.iloc[index].reset_index(drop=True),
            self.classes,
        )

    def require_real(self, what: str) -> None:
        """Check that a part that must be real holds no synthetic image.

        Args:
            what: the part as the message names it, for example "the images to predict".

        Raises:
            InputError: if any image is synthetic.
        """
        synthetic = self.table["synthetic"].to_numpy(dtype=bool)
        if synthetic.any():
            first = self.table["image_id"].iloc[int(np.flatnonzero(synthetic)[0])]
            raise InputError(
                f"{what} hold {int(synthetic.sum())} synthetic image(s), first {first}: refused"
            )

    def contents(self) -> list[str]:
        """SHA-256 of each image's pixels, in hexadecimal."""
        return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in self.images]

    def save(self, folder: Path) -> None:
        """Write `images.npy` and `table.csv`.

        Args:
            folder: an existing folder.
        """
        np.save(folder / "images.npy", self.images.numpy())
        self.table.to_csv(folder / "table.csv", index=False)

    @classmethod
    def load(cls, folder: Path, classes: ClassList) -> LesionSet:
        """Read what `save` wrote.

        Args:
            folder: the folder with `images.npy` and `table.csv`.
            classes: the classes of the data set.

        Returns:
            The same images, labels and table.

        Raises:
            InputError: if a file is empty or damaged, or the table has a diagnosis that is not one
                of the classes.
        """
        remedy = f"delete the folder {folder} and start again: it is made again"
        with damage_as_input_error(folder / "images.npy", remedy):
            images = torch.from_numpy(np.load(folder / "images.npy"))
        table = read_table(folder / "table.csv", remedy)
        with damage_as_input_error(folder / "table.csv", remedy):
            if len(table) != len(images):
                raise ValueError(f"it has {len(table)} rows for {len(images)} images")
        return cls(images, torch.from_numpy(labels_of(table["dx"], classes)), table, classes)


def labels_of(dx: pd.Series, classes: Sequence[str]) -> np.ndarray:
    """Labels of diagnoses.

    Args:
        dx: N diagnoses, short names of classes.
        classes: the names, in the order of the labels.

    Returns:
        int64 [N], the position of each diagnosis in `classes`.

    Raises:
        InputError: if a diagnosis is not one of the classes.
    """
    unknown = sorted(set(dx) - set(classes))
    if unknown:
        raise InputError(f"unknown diagnosis {unknown[0]!r}; known are {', '.join(classes)}")
    return dx.map({name: label for label, name in enumerate(classes)}).to_numpy(
        dtype=np.int64, copy=True
    )


def read_table(path: Path, remedy: str = MAKE_AGAIN) -> pd.DataFrame:
    """Read the table that `LesionSet.save` wrote.

    Args:
        path: the file `table.csv`.
        remedy: what to do if it is damaged, for the message.

    Returns:
        One row per image, with the columns `COLUMNS` and their types.

    Raises:
        InputError: if the file is empty or damaged.
    """
    text = dict.fromkeys(
        ["image_id", "lesion_id", "dx", "sex", "localization", "dataset"], "object"
    )
    return read_csv(path, remedy, dtype={**text, "age": "float64", "synthetic": "bool"})


def to_unit_range(images: Tensor) -> Tensor:
    """Scale pixels to the range that networks read.

    Args:
        images: uint8, 0 to 255, of any shape.

    Returns:
        float32 in [-1, 1], of the same shape.
    """
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Scale pixels back to whole numbers.

    Args:
        images: float, of any shape; values outside [-1, 1] are clamped.

    Returns:
        uint8, 0 to 255, rounded, of the same shape.
    """
    return ((images.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
