import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import LesionSet
from hamsynth_utils.data.phantom.generate import make_phantom

CLASSES = HAM10000.classes.names
PROBABILITIES = HAM10000.classes.probability_columns

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def ham10000_folder() -> Path:
    """The real HAM10000: `HAMSYNTH_TEST_DATA`, or `shared/ham10000` beside the project.

    Tests on real images are skipped where it is missing, but not in CI, unless `HAMSYNTH_TEST_DATA=skip`.
    """
    if os.environ.get("HAMSYNTH_TEST_DATA") == "skip":
        pytest.skip("HAMSYNTH_TEST_DATA=skip")
    folder = Path(os.environ.get("HAMSYNTH_TEST_DATA", ROOT.parent / "shared/ham10000"))
    if not (folder / "HAM10000_metadata.csv").is_file():
        message = f"no HAM10000 at {folder}: name its folder in HAMSYNTH_TEST_DATA"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


TINY = {
    "threads": 1,
    "data": {"phantom_images": 1000},
    "autoencoder": {
        "channels": 4,
        "width": 8,
        "decoder_blocks": 1,
        "training": {"steps": 6, "batch_size": 8, "learning_rate": 1.0e-3},
    },
    "vae": {
        "blocks": 2,
        "layers": 1,
        "width": 32,
        "textbook_steps": 4,
        "training": {"steps": 6, "batch_size": 8, "learning_rate": 1.0e-3},
    },
    "gan": {
        "latent_size": 8,
        "width": 8,
        "discriminator_width": 8,
        "dcgan_demo_steps": 4,
        "training": {"steps": 6, "batch_size": 8, "learning_rate": 1.0e-3},
    },
    "diffusion": {
        "width": 8,
        "dim_mults": [1, 2],
        "timesteps": 50,
        "sampling_steps": 4,
        "training": {"steps": 6, "batch_size": 8, "learning_rate": 1.0e-3},
    },
    "flow": {
        "width": 8,
        "dim_mults": [1, 2],
        "sampling_steps": 2,
        "solver": "euler",
        "training": {"steps": 6, "batch_size": 8, "learning_rate": 1.0e-3},
    },
    "synthesis": {"minority_fraction": 0.1, "evaluation_images": 80},
    "classifier": {
        "model": "vit_tiny_patch16_224",
        "depth": 1,
        "input_size": 32,
        "weights": "none",
        "training": {"steps": 6, "batch_size": 16, "learning_rate": 1.0e-3},
    },
    "probe": {
        "seeds": 2,
        "tta_views": 1,
        "ratios": [1.0],
        "training": {"steps": 6, "batch_size": 16, "learning_rate": 1.0e-2},
    },
    "evaluation": {"extractors": ["efficientnet_lite0"], "n_subsets": 2, "n_resamples": 100},
    "privacy": {
        "n_attacked": 100,
        "noise_levels": 1,
        "n_sibling_lesions": 10,
        "n_other_images": 0,
        "attacked_vae": {
            "latent_size": 8,
            "width": 8,
            "training": {"steps": 6, "batch_size": 8, "learning_rate": 1.0e-3},
        },
    },
    "dp": {
        "sampling_rate": 0.02,
        "steps": 3,
        "latent_size": 4,
        "overfit_lesions": 10,
        "overfit_steps": 3,
    },
}
"""Every setting as small as possible: the pipeline in seconds, to test that it runs, not what it finds."""


def merged(base: dict, change: dict) -> dict:
    """`base` with `change` laid over it, section by section."""
    both = dict(base)
    for key, value in change.items():
        both[key] = merged(base[key], value) if isinstance(value, dict) and key in base else value
    return both


@pytest.fixture
def edited_tiny(tmp_path):
    """Writes the tiny profile with a change laid over it; always the same path, as a run knows its profile."""

    def write(change: dict) -> str:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(merged(TINY, change)), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def lesions() -> LesionSet:
    """A small phantom."""
    return make_phantom(150, seed=0)


@pytest.fixture
def tiny_profile(edited_tiny) -> str:
    return edited_tiny({})


def link_slice(
    source: Path, target: Path, images_per_class: int, nv: int = 1, copy: bool = False
) -> Path:
    """A small HAM10000 of `source`'s layout: whole lesions, up to so many images a class, of nv `nv` times."""
    table = pd.read_csv(source / "HAM10000_metadata.csv")
    most = table["dx"].map(lambda dx: images_per_class * (nv if dx == "nv" else 1))
    lesions = table.drop_duplicates("lesion_id")
    lesions = lesions[lesions.groupby("dx").cumcount() < most[lesions.index]]["lesion_id"]
    table = table[table["lesion_id"].isin(lesions)]
    table = table[table.groupby("dx").cumcount() < most[table.index]]
    folder = target / "HAM10000_images_part_1"
    folder.mkdir(parents=True)
    for image_id in table["image_id"]:
        (file,) = source.glob(f"HAM10000_images_part_*/{image_id}.jpg")
        if copy:
            shutil.copy(file, folder)
        else:
            (folder / file.name).symlink_to(file)
    table.to_csv(target / "HAM10000_metadata.csv", index=False)
    return target


@pytest.fixture(scope="session")
def ham10000_slice(ham10000_folder, tmp_path_factory) -> Path:
    """Up to 40 real images a class, of nv 200, as links, in the official layout."""
    return link_slice(ham10000_folder, tmp_path_factory.mktemp("slice") / "ham10000", 40, nv=5)


@pytest.fixture
def ham10000_copy(ham10000_folder, tmp_path) -> Path:
    """Up to 12 real images a class, as files that a test may spoil."""
    return link_slice(ham10000_folder, tmp_path / "ham10000", 12, copy=True)


def make_predictions(n: int, seed: int = 0, skill: float = 1.5, classes: int = 7) -> pd.DataFrame:
    """A predictions table of `n` images of the first `classes` classes, the later ones more frequent."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(
        classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    )
    logits = generator.normal(size=(n, 7))
    logits[np.arange(n), labels] += skill
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    frame = pd.DataFrame(p, columns=list(PROBABILITIES))
    frame.insert(0, "dx", np.array(CLASSES)[labels])
    frame.insert(0, "image_id", [f"IMAGE_{i:05d}" for i in range(n)])
    return frame


ISIC_ORDER = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""The classes in the order of ISIC 2018's tables."""


def isic_ids(lesions: LesionSet) -> list[str]:
    return [f"ISIC_{34524 + number:07}" for number in range(len(lesions))]


def isic_truth(lesions: LesionSet, order: tuple[str, ...] = ISIC_ORDER) -> pd.DataFrame:
    """A one-hot table as ISIC 2018 Task 3 has it."""
    table = pd.DataFrame({"image": isic_ids(lesions)})
    for name in order:
        table[name] = (lesions.table["dx"].str.upper() == name).astype(float)
    return table


def picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def write_isic_test_set(folder: Path, lesions: LesionSet) -> Path:
    """The images and their truth in the layout of ISIC 2018 Task 3's test set."""
    (folder / "ISIC2018_Task3_Test_Input").mkdir(parents=True)
    for image_id, image in zip(isic_ids(lesions), lesions.images, strict=True):
        picture(image).save(folder / f"ISIC2018_Task3_Test_Input/{image_id}.jpg", quality=95)
    isic_truth(lesions).to_csv(folder / "ISIC2018_Task3_Test_GroundTruth.csv", index=False)
    return folder
