"""The `LesionSet`: images, labels and one table row an image, real and synthetic alike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hamsynth_utils.core.errors import InputError


def refuse_synthetic(lesions: LesionSet, what: str) -> None:
    """Raises InputError if any image of a part that must be real is synthetic."""
    made = lesions.table["synthetic"].to_numpy(dtype=bool)
    if made.any():
        first = lesions.table["image_id"].iloc[int(np.flatnonzero(made)[0])]
        raise InputError(
            f"{what} hold {int(made.sum())} synthetic image(s), first {first}: refused"
        )


CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""The seven diagnoses of HAM10000, in the order of the labels 0 to 6."""


CLASS_NAMES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}


COLUMNS = ("image_id", "lesion_id", "dx", "age", "sex", "localization", "dataset", "synthetic")


@dataclass(frozen=True, eq=False)
class LesionSet:
    """Labelled lesion images.

    Attributes:
        images: uint8 [N, 3, H, W], RGB, 0 to 255.
        labels: int64 [N], index into `CLASSES`.
        table: N rows with the columns `COLUMNS`; `age` in years (NaN if unknown), `synthetic` a bool;
            any other missing value is NaN. Rows, labels and images are in the same order.

    Raises:
        InputError: if images, labels and table do not fit together.
    """

    images: Tensor
    labels: Tensor
    table: pd.DataFrame

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise InputError(
                f"images must be uint8 [N, 3, H, W], not {self.images.dtype} {tuple(self.images.shape)}"
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
        if not np.array_equal(labels_of(self.table["dx"]), self.labels.numpy()):
            raise InputError("labels and the table's dx column disagree")

    def __len__(self) -> int:
        return len(self.images)

    def __add__(self, other: LesionSet) -> LesionSet:
        """Both sets, one after the other; raises InputError if the image sizes differ."""
        if self.images.shape[1:] != other.images.shape[1:]:
            raise InputError(
                f"cannot merge images of {self.image_size} and {other.image_size} pixels: "
                "make both sets at the same image_size"
            )
        return LesionSet(
            torch.cat([self.images, other.images]),
            torch.cat([self.labels, other.labels]),
            pd.concat([self.table, other.table], ignore_index=True),
        )

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each class, in the order of `CLASSES`; a class without images counts 0."""
        numbers = torch.bincount(self.labels, minlength=len(CLASSES)).tolist()
        return dict(zip(CLASSES, numbers, strict=True))

    def subset(self, index: np.ndarray | Tensor) -> LesionSet:
        """The images at `index` (integers or a mask), in that order."""
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        picked = torch.as_tensor(index, dtype=torch.int64)
        return LesionSet(
            self.images[picked], self.labels[picked], self.table.iloc[index].reset_index(drop=True)
        )

    def contents(self) -> list[str]:
        """SHA-256 of each image's pixels, in hexadecimal."""
        return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in self.images]

    def save(self, folder: Path) -> None:
        """Write `images.npy` and `table.csv` to `folder`, which must exist."""
        np.save(folder / "images.npy", self.images.numpy())
        self.table.to_csv(folder / "table.csv", index=False)

    @classmethod
    def load(cls, folder: Path) -> LesionSet:
        """Read back what `save` wrote."""
        images = torch.from_numpy(np.load(folder / "images.npy"))
        table = read_table(folder / "table.csv")
        return cls(images, torch.from_numpy(labels_of(table["dx"])), table)


def labels_of(dx: pd.Series) -> np.ndarray:
    """int64 labels [N] of diagnoses; raises InputError for one that is not in `CLASSES`."""
    unknown = sorted(set(dx) - set(CLASSES))
    if unknown:
        raise InputError(f"unknown diagnosis {unknown[0]!r}; known are {', '.join(CLASSES)}")
    return dx.map({name: label for label, name in enumerate(CLASSES)}).to_numpy(
        dtype=np.int64, copy=True
    )


def read_table(path: Path) -> pd.DataFrame:
    """A table written by `LesionSet.save`, with its column types."""
    text = dict.fromkeys(
        ["image_id", "lesion_id", "dx", "sex", "localization", "dataset"], "object"
    )
    return pd.read_csv(path, dtype={**text, "age": "float64", "synthetic": "bool"})


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 0 to 255 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8 0 to 255, rounded; values outside [-1, 1] are clamped."""
    return ((images.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
