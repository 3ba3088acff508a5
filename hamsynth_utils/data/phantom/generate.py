"""The phantom: procedural, stylised dermoscopy with HAM10000's classes, frequencies and table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.dataset_info import PHANTOM
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet, labels_of
from hamsynth_utils.data.phantom.render import lesion_mask, photograph

IMAGE_SHARES = dict(
    zip(PHANTOM.classes, np.array([327, 514, 1099, 115, 1113, 6705, 142]) / 10015, strict=True)
)
"""The fraction of HAM10000's images in each class."""


SEVERAL_PHOTOS = dict(zip(PHANTOM.classes, (0.34, 0.46, 0.39, 0.47, 0.63, 0.18, 0.35), strict=True))
"""The fraction of HAM10000's lesions with more than one photo, in each class."""


PHOTOS_IF_SEVERAL = np.array([0.7276, 0.2505, 0.0174, 0.0025, 0.0020])
"""The fractions of these lesions that have 2, 3, 4, 5 and 6 photos."""


AGE = dict(
    zip(
        PHANTOM.classes,
        ((67, 12), (67, 13), (64, 14), (53, 13), (61, 15), (47, 14), (52, 20)),
        strict=True,
    )
)
"""Mean and standard deviation of the age in years, in each class."""


MALE = dict(zip(PHANTOM.classes, (0.65, 0.63, 0.58, 0.48, 0.60, 0.52, 0.51), strict=True))
"""The fraction of male patients, in each class."""


SITES = ("back", "lower extremity", "trunk", "upper extremity", "abdomen", "face", "chest", "scalp")
"""The sites of lesions."""


SITE_SHARES = {
    "akiec": (0.12, 0.19, 0.01, 0.19, 0.02, 0.38, 0.05, 0.04),
    "bcc": (0.39, 0.12, 0.02, 0.11, 0.03, 0.20, 0.10, 0.03),
    "bkl": (0.20, 0.16, 0.09, 0.10, 0.08, 0.29, 0.05, 0.03),
    "df": (0.02, 0.74, 0.01, 0.19, 0.04, 0.00, 0.00, 0.00),
    "mel": (0.32, 0.19, 0.05, 0.20, 0.06, 0.11, 0.06, 0.01),
    "nv": (0.22, 0.26, 0.24, 0.10, 0.14, 0.01, 0.02, 0.01),
    "vasc": (0.13, 0.17, 0.30, 0.07, 0.23, 0.06, 0.04, 0.00),
}
"""The fraction of lesions at each of the `SITES`, in each class."""


CAMERAS = {
    "phantom_a": (1.00, 0.97, 0.96),
    "phantom_b": (1.02, 1.00, 0.93),
    "phantom_c": (0.96, 0.97, 1.00),
}
"""The three simulated sources, and the colour of their light as factors of RGB."""


CAMERA_SHARES = {
    "akiec": (0.02, 0.08, 0.90),
    "bcc": (0.02, 0.34, 0.64),
    "bkl": (0.18, 0.34, 0.48),
    "df": (0.42, 0.34, 0.24),
    "mel": (0.05, 0.55, 0.40),
    "nv": (0.70, 0.18, 0.12),
    "vasc": (0.56, 0.40, 0.04),
}
"""The fraction of lesions from each of the `CAMERAS`, in each class."""


MISSING = {"age": 0.010, "sex": 0.008, "localization": 0.025}
"""The fraction of lesions for which a value is missing, by column."""


def make_phantom(images: int, image_size: int = 64, seed: int = 0) -> LesionSet:
    """Draw a phantom; the same arguments give the same bytes.

    Every phantom begins with three lesions of each class, so that even a small one can be split.
    After that, the fractions of the classes follow HAM10000. About 26 % of the lesions have 2 to 6
    photos, which differ in rotation, zoom, position, light and artifacts (hairs, ruler, bubbles).
    With the same seed and size, a smaller phantom is the beginning of a larger one.

    Args:
        images: number of photos, at least 1.
        image_size: height and width in pixels, at least 16.
        seed: at least 0.

    Returns:
        The photos, with the classes of `PHANTOM`.

    Raises:
        InputError: if an argument is not such a whole number.
    """
    for name, value, least in (
        ("images", images, 1),
        ("image_size", image_size, 16),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(
                f"make_phantom: {name} must be a whole number, {least} or more, not {value!r}"
            )
    rows: list[dict] = []
    pictures = np.empty((images, 3, image_size, image_size), dtype=np.uint8)
    for lesion, (dx, photos) in enumerate(_plan(images, seed)):
        patient = _patient(dx, np.random.default_rng([seed, lesion, 0, 1]))
        for photo in range(photos):
            pictures[len(rows)] = photograph(
                dx, CAMERAS[patient["dataset"]], image_size, seed, lesion, photo
            )
            rows.append(
                {
                    "image_id": f"PHANTOM_{len(rows) + 1:07d}",
                    "lesion_id": f"PHANTOM_L{lesion + 1:07d}",
                    "dx": dx,
                    **patient,
                    "synthetic": False,
                }
            )
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"age": "float64", "synthetic": "bool"}
    )
    labels = torch.from_numpy(labels_of(table["dx"], PHANTOM.classes))
    return LesionSet(torch.from_numpy(pictures), labels, table, PHANTOM.classes)


def phantom_masks(table: pd.DataFrame, image_size: int = 64, seed: int = 0) -> np.ndarray:
    """Masks of the lesions of a phantom.

    Args:
        table: N rows of the table of a phantom of this size and seed.
        image_size: height and width in pixels.
        seed: the seed of the phantom.

    Returns:
        bool [N, image_size, image_size], True on the lesion.
    """
    numbers = table["image_id"].str.removeprefix("PHANTOM_").astype(int).to_numpy()
    plan = _plan(int(numbers.max()), seed)
    photos = [(lesion, photo) for lesion, (_, number) in enumerate(plan) for photo in range(number)]
    masks = [
        lesion_mask(dx, image_size, seed, *photos[number - 1])
        for dx, number in zip(table["dx"], numbers, strict=True)
    ]
    return np.stack(masks)


def _plan(images: int, seed: int) -> list[tuple[str, int]]:
    """Class and photos of each lesion: the next class is furthest behind its share of images."""
    classes = PHANTOM.classes
    shares = np.array([IMAGE_SHARES[dx] for dx in classes])
    have = np.zeros(len(classes), dtype=int)
    lesions = np.zeros(len(classes), dtype=int)
    offsets = np.random.default_rng([seed, 2**32 - 1]).random(len(classes))
    limits = np.cumsum(PHOTOS_IF_SEVERAL) / PHOTOS_IF_SEVERAL.sum()
    plan: list[tuple[str, int]] = []
    while have.sum() < images:
        behind = shares * (have.sum() + 1) - have
        label = len(plan) % len(classes) if len(plan) < 3 * len(classes) else int(behind.argmax())
        dx = classes[label]
        # the golden ratio's multiples fill [0, 1) evenly: shares hold within each class, even for
        # 11 lesions
        quantile = (offsets[label] + lesions[label] * 0.6180339887) % 1.0
        several = SEVERAL_PHOTOS[dx]
        photos = 2 + int(np.searchsorted(limits, quantile / several)) if quantile < several else 1
        photos = min(photos, 6, images - int(have.sum()))
        have[label] += photos
        lesions[label] += 1
        plan.append((dx, photos))
    return plan


def _patient(dx: str, rng: np.random.Generator) -> dict:
    """Age (years, in steps of five), sex, site and source of one lesion, a few of them missing."""
    mean, deviation = AGE[dx]
    patient = {
        "age": float(np.clip(5 * np.round(rng.normal(mean, deviation) / 5), 5, 85)),
        "sex": "male" if rng.random() < MALE[dx] else "female",
        "localization": str(rng.choice(SITES, p=SITE_SHARES[dx])),
        "dataset": str(rng.choice(list(CAMERAS), p=CAMERA_SHARES[dx])),
    }
    missing = {column: np.nan for column, share in MISSING.items() if rng.random() < share}
    return {**patient, **missing}
