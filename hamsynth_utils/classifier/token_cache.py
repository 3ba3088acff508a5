"""The tokens of images after the frozen blocks of a ViT: computed once, kept on disk, shared.

Flips and quarter turns give exactly eight views of an image. If the augmentation consists of these
views and the first blocks are frozen, the blocks after them only ever see eight inputs per image.
These inputs are computed once for all arms and seeds, instead of in every step of every training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
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
from hamsynth_utils.training.loop import mixed_precision, resolve_precision

if TYPE_CHECKING:
    from hamsynth_utils.classifier.model import Classifier

Compute = Callable[[Tensor, int], np.ndarray]
"""(images uint8 [n, 3, H, W], seed) -> tokens float16 [n, V, T, D]."""


IMAGES_PER_FILE = 256
"""How many images one file of tokens holds."""


BATCH = 32
"""How many images go through the blocks at once: their activations fit into a CPU's cache."""


@dataclass(frozen=True)
class CachedTokens:
    """The tokens of images, in files that are memory-mapped and not read as a whole.

    Attributes:
        ids: the image_id of every image, in the order of the files.
        files: float16 [images, V, T, D] each: views, tokens and dimensions. V may differ between
            files.
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
        """The row of each image among all cached images, int64 [N].

        Raises:
            InputError: an image has no cached tokens.
        """
        rows = self.ids.get_indexer(lesions.table["image_id"])
        if (rows < 0).any():
            first = lesions.table["image_id"].iloc[int(np.flatnonzero(rows < 0)[0])]
            raise InputError(
                f"no tokens were computed for {int((rows < 0).sum())} image(s), first {first}"
            )
        return rows

    def take(self, rows: np.ndarray, view: np.ndarray) -> Tensor:
        """Read tokens.

        Args:
            rows: which images, [B], see `align_table`.
            view: which view of each, [B]; counted modulo the V of the image's file.

        Returns:
            float32 [B, T, D].
        """
        starts = np.cumsum([0, *map(len, self.files)])
        numbers = np.searchsorted(starts, rows, side="right") - 1
        files = [self.files[number] for number in numbers]
        tokens = [
            file[row - starts[number], v % file.shape[1]]
            for file, number, row, v in zip(files, numbers, rows, view, strict=True)
        ]
        return torch.from_numpy(np.stack(tokens)).float()


@dataclass(frozen=True)
class CachedTokenData(TrainingData):
    """Cached tokens as training data: every batch has each image in one random view.

    Attributes:
        tokens: the tokens of `lesions`, possibly among others.
    """

    tokens: CachedTokens

    def batch_fn(self, device: torch.device) -> BatchFn:
        """The function that makes batches float32 [B, T, D]."""
        rows = self.tokens.align_table(self.lesions)

        def make_batch(index: Tensor, rng: torch.Generator) -> Tensor:
            """The tokens [N, T, D] of the images at `index`, each from a random view."""
            view = torch.randint(self.tokens.views, (len(index),), generator=rng, device=device)
            return self.tokens.take(rows[index.cpu().numpy()], view.cpu().numpy()).to(device)

        return make_batch


def cached_tokens(
    classifier: Classifier,
    lesions: LesionSet,
    folder: Path,
    extra_augment: Augment | None = None,
    seed: int = 0,
    progress: bool = False,
    features: bool = False,
    n_views: int | None = None,
) -> CachedTokens:
    """The tokens of every image in each of its views after the classifier's frozen blocks.

    The tokens are kept in `folder`. A file's name is a hash of the frozen weights, the settings and
    the images, so a file is never used for anything else. The tokens are computed in the precision
    of the training. Processes that need the same tokens share the work. A killed process loses only
    the file that it was computing.

    Args:
        classifier: the ViT whose blocks are used.
        lesions: N images.
        folder: where the files are kept.
        extra_augment: an augmentation of every view before it is computed; each view gets its own.
        seed: of `extra_augment`.
        progress: whether to show a progress bar.
        features: compute the features of the whole ViT instead, as if they were one token (T = 1).
        n_views: how many views of each image; None for the settings'.

    Returns:
        The tokens of all N images.
    """
    n_views = n_views or classifier.settings.tta_views
    identity = _identity(classifier, extra_augment, seed, features, n_views)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, images in enumerate(lesions.images.split(IMAGES_PER_FILE)):
        name = _digest(identity, images.contiguous().numpy().tobytes())
        files.append(_TokenFile(folder / f"{name}.npy", images, seed * 1_000_003 + number))

    def compute(images: Tensor, file_seed: int) -> np.ndarray:
        """The tokens of the images of one file."""
        return _compute(classifier, images, extra_augment, file_seed, features, n_views)

    _compute_unclaimed(files, compute, progress)
    _wait_for_others(files, compute)
    # As plain arrays, still mapped: indexing a memmap costs more than copying a token does.
    arrays = [np.asarray(np.load(file.path, mmap_mode="r")) for file in files]
    return CachedTokens(pd.Index(lesions.table["image_id"]), arrays)


@dataclass(frozen=True)
class _TokenFile:
    """A file of tokens, the images [n, 3, H, W] that it is computed from, and its own seed."""

    path: Path
    images: Tensor
    seed: int

    def write_if_missing(self, compute: Compute) -> None:
        """Compute the tokens and write them; call it only while holding the lock of `path`."""
        if not self.path.is_file():
            tokens = compute(self.images, self.seed)
            with atomic_path(self.path) as temporary, temporary.open("wb") as out:
                np.save(out, tokens)

    def lock(self, timeout: float) -> FileLock:
        """The lock of the file; -1 waits for it without limit."""
        return FileLock(f"{self.path}.lock", timeout=timeout)


def _compute_unclaimed(files: list[_TokenFile], compute: Compute, progress: bool) -> None:
    """First pass: compute each missing file that no other process is computing."""
    for file in tqdm(files, desc="frozen blocks", disable=not progress):
        if not file.path.is_file():
            with suppress(Timeout), file.lock(timeout=0):
                file.write_if_missing(compute)


def _wait_for_others(files: list[_TokenFile], compute: Compute) -> None:
    """Second pass: wait for the files of other processes, and compute those of a killed one."""
    for file in files:
        if not file.path.is_file():
            with file.lock(timeout=-1):
                file.write_if_missing(compute)


@torch.no_grad()
def _compute(
    classifier: Classifier,
    images: Tensor,
    extra_augment: Augment | None,
    seed: int,
    features: bool,
    n_views: int,
) -> np.ndarray:
    """float16 [N, V, T, D] of images uint8 [N, 3, H, W]."""
    device = next(classifier.parameters()).device
    forward = classifier.features if features else classifier.forward_frozen
    rng = torch.Generator(device).manual_seed(seed)
    classifier.eval()
    batches = []
    with mixed_precision(device, classifier.settings.training.precision):
        for batch in images.split(BATCH):
            batch_views = views(to_unit_range(batch.to(device)), n_views)  # V x [B, 3, H, W]
            if extra_augment is not None:
                batch_views = [extra_augment(view, rng) for view in batch_views]
            tokens = torch.stack([forward(view).float() for view in batch_views], dim=1)
            batches.append(tokens.half().cpu().numpy())  # [B, V, T, D]
    return np.concatenate(batches)


def _identity(
    classifier: Classifier, extra_augment: Augment | None, seed: int, features: bool, n_views: int
) -> str:
    """A hash of everything that the tokens depend on, except the images."""
    settings, weights = classifier.settings, classifier.state_dict()
    if not features:
        frozen = {id(p) for part in classifier.frozen_parts() for p in _tensors(part)}
        weights = {name: p for name, p in classifier.named_parameters() if id(p) in frozen}
    text = (
        f"{settings.input_size} {settings.frozen_blocks} {settings.token_pool} {n_views} "
        f"{features} {resolve_precision(settings.training.precision)} "
        + (f"{extra_augment.__name__} {seed}" if extra_augment else "")
    )
    # The head is new in every classifier and does not change the tokens.
    used = [value for name, value in weights.items() if not name.startswith("vit.head")]
    return _digest(text, *(value.detach().cpu().contiguous().numpy().tobytes() for value in used))


def _tensors(part: torch.nn.Module | torch.nn.Parameter) -> list[Tensor]:
    return list(part.parameters()) if isinstance(part, torch.nn.Module) else [part]


def _digest(text: str, *blobs: bytes) -> str:
    digest = hashlib.sha256(text.encode())
    for blob in blobs:
        digest.update(blob)
    return digest.hexdigest()[:32]
