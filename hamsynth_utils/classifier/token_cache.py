"""What the frozen blocks of a ViT make of each view of an image: computed once, kept on disk, shared.

Flips and quarter turns of an image are eight views, exactly. An augmentation that draws from them, in front
of blocks that never change, gives every block after them one of eight inputs: these are computed once for
all arms and seeds, instead of in each step of each training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path
from hamsynth_utils.data.augmentation import views
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range
from hamsynth_utils.training.batches import Augment, BatchFn, TrainingData
from hamsynth_utils.training.loop import resolve_precision

if TYPE_CHECKING:
    from hamsynth_utils.classifier.model import Classifier

IMAGES_A_FILE = 256


BATCH = 32
"""Images that go through the blocks at once: what they leave behind fits a CPU's cache."""


@dataclass(frozen=True)
class CachedTokens:
    """Tokens of images by image_id: files of float16 [images, V, T, D], mapped and not read as a whole.

    V, the number of views, may differ between files.
    """

    ids: pd.Index
    files: list[np.ndarray]

    def __add__(self, other: CachedTokens) -> CachedTokens:
        return CachedTokens(self.ids.append(other.ids), self.files + other.files)

    @property
    def views(self) -> int:
        """The largest V."""
        return max(file.shape[1] for file in self.files)

    @property
    def dimensions(self) -> int:
        """D, the length of a token."""
        return self.files[0].shape[3]

    def align_table(self, lesions: LesionSet) -> np.ndarray:
        """Where each image lies, int64 [N]; raises InputError for one that is not there."""
        rows = self.ids.get_indexer(lesions.table["image_id"])
        if (rows < 0).any():
            first = lesions.table["image_id"].iloc[int(np.flatnonzero(rows < 0)[0])]
            raise InputError(
                f"no tokens were computed for {int((rows < 0).sum())} image(s), first {first}"
            )
        return rows

    def take(self, rows: np.ndarray, view: np.ndarray) -> Tensor:
        """Tokens float32 [B, T, D] of the images at `rows` [B], each in its view `view` [B] modulo its V."""
        starts = np.cumsum([0, *map(len, self.files)])
        numbers = np.searchsorted(starts, rows, side="right") - 1
        files = [self.files[number] for number in numbers]
        picked = [
            file[row - starts[number], v % file.shape[1]]
            for file, number, row, v in zip(files, numbers, rows, view, strict=True)
        ]
        return torch.from_numpy(np.stack(picked)).float()


@dataclass(frozen=True)
class CachedTokenData(TrainingData):
    """In every batch each image is in one of its views, drawn at random."""

    tokens: CachedTokens

    def batch_fn(self, device: torch.device) -> BatchFn:
        """Batches float32 [B, T, D]."""
        rows = self.tokens.align_table(self.lesions)

        def batch(index: Tensor, generator: torch.Generator) -> Tensor:
            view = torch.randint(
                self.tokens.views, (len(index),), generator=generator, device=device
            )
            return self.tokens.take(rows[index.cpu().numpy()], view.cpu().numpy()).to(device)

        return batch


def cached_tokens(
    classifier: Classifier,
    lesions: LesionSet,
    folder: Path,
    change: Augment | None = None,
    seed: int = 0,
    progress: bool = False,
    features: bool = False,
    count: int | None = None,
) -> CachedTokens:
    """The tokens of every image in each of its views after the classifier's frozen blocks.

    features: the features that the whole ViT makes of it instead, as if they were one token (T = 1).
    count: of so many views, those of the settings if left out.
    change: done to each view before it is computed, its draws from `seed`; each view gets its own.
    What is computed is kept in `folder`, under names that stand for the frozen weights, the settings and the
    images, so that nothing stale is ever read. It is computed in the precision of the training. Processes
    that need the same tokens share the work: each computes the files that no other has begun. A killed one
    loses the file it was at.
    """
    count = count or classifier.settings.tta_views
    identity = _identity(classifier, change, seed, features, count)
    folder.mkdir(parents=True, exist_ok=True)
    parts = lesions.images.split(IMAGES_A_FILE)
    paths = [
        folder / f"{_digest(identity, part.contiguous().numpy().tobytes())}.npy" for part in parts
    ]
    for patient in (False, True):  # the second time, wait for what others are computing
        bar = tqdm(
            list(zip(paths, parts, strict=True)),
            desc="frozen blocks",
            disable=not progress or patient,
        )
        for number, (path, part) in enumerate(bar):
            if path.is_file():
                continue
            try:
                with FileLock(f"{path}.lock", timeout=-1 if patient else 0):
                    if not path.is_file():
                        found = _compute(
                            classifier, part, change, seed * 1_000_003 + number, features, count
                        )
                        with atomic_path(path) as temporary, temporary.open("wb") as out:
                            np.save(out, found)
            except Timeout:
                continue
    # As plain arrays, still mapped: indexing a memmap costs more than copying a token does.
    return CachedTokens(
        pd.Index(lesions.table["image_id"]),
        [np.asarray(np.load(path, mmap_mode="r")) for path in paths],
    )


@torch.no_grad()
def _compute(
    classifier: Classifier,
    images: Tensor,
    change: Augment | None,
    seed: int,
    features: bool,
    count: int,
) -> np.ndarray:
    device = next(classifier.parameters()).device
    through = classifier.features if features else classifier.forward_frozen
    generator = torch.Generator(device).manual_seed(seed)
    classifier.eval()
    parts = []
    with _precision_of(classifier)[1]:
        for some in images.split(BATCH):
            seen = views(to_unit_range(some.to(device)), count)
            if change is not None:
                seen = [change(view, generator) for view in seen]
            tokens = torch.stack([through(view).float() for view in seen], dim=1)
            parts.append(tokens.half().cpu().numpy())
    return np.concatenate(parts)


def _precision_of(classifier: Classifier) -> tuple[str, torch.autocast]:
    """The precision of the training to come, by name and as what computes in it."""
    name = resolve_precision(classifier.settings.training.precision)
    dtype = torch.float16 if name == "fp16" else torch.bfloat16
    return name, torch.autocast(
        next(classifier.parameters()).device.type, dtype, enabled=name != "no"
    )


def _identity(
    classifier: Classifier, change: Callable | None, seed: int, features: bool, count: int
) -> str:
    """Stands for all that the tokens depend on but the images."""
    settings, weights = classifier.settings, classifier.state_dict()
    if not features:
        frozen = {id(p) for part in classifier.frozen_parts() for p in _tensors(part)}
        weights = {name: p for name, p in classifier.named_parameters() if id(p) in frozen}
    text = (
        f"{settings.input_size} {settings.frozen_blocks} {settings.token_pool} {count} {features} "
        f"{_precision_of(classifier)[0]} " + (f"{change.__name__} {seed}" if change else "")
    )
    # The head is new in every classifier and is not looked through.
    looked_through = [value for name, value in weights.items() if not name.startswith("vit.head")]
    return _digest(
        text, *(value.detach().cpu().contiguous().numpy().tobytes() for value in looked_through)
    )


def _tensors(part: torch.nn.Module | torch.nn.Parameter) -> list[Tensor]:
    return list(part.parameters()) if isinstance(part, torch.nn.Module) else [part]


def _digest(text: str, *blobs: bytes) -> str:
    digest = hashlib.sha256(text.encode())
    for blob in blobs:
        digest.update(blob)
    return digest.hexdigest()[:32]
