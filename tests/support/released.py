"""A run that has a synthetic set and measurements of it, as its chapters leave them, without the training."""

import json
from pathlib import Path

import pandas as pd
import torch
import yaml

from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.weights import write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.generators.loading import build_generator, checkpoint_metadata
from hamsynth_utils.generators.synthetic_sets import synthesize

CLASSES = HAM10000.classes.names

GENERATOR = "gan"
COUNTS = {"df": 3, "mel": 2, "vasc": 1}


def finished_run(folder: Path, profile_path: str) -> Path:
    """A run with a synthetic set of six images that passes every limit."""
    torch.manual_seed(0)
    profile = load_profile(profile_path)
    generator = build_generator(GENERATOR, profile, n_classes=7)
    room = folder / f"generators/{GENERATOR}/seed-0"
    about = {
        "trained_on": "abc",
        "counts": json.dumps({dx: 10 for dx in CLASSES}),
        "seed": "3",
        "steps": "6",
    }
    write_weights(
        room / "weights.safetensors",
        generator.state_dict(),
        {**checkpoint_metadata(generator, HAM10000), **about},
    )
    pd.DataFrame({"step": [6], "seconds": [90.0], "loss": [1.25]}).to_csv(
        room / "history.csv", index=False
    )
    synthesize(room / "weights.safetensors", COUNTS, 5, room / "synthetic", progress=False)
    record = {
        "profile": profile.model_dump(mode="json"),
        "data": "phantom",
        "seed": 3,
        "device": "CPU, 2 cores",
        "threads": 1,
        "python": "3.12.1",
        "git_commit": "abc123",
        "versions": {"torch": "9.8.7"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    (folder / "metrics").mkdir()
    for name, table in tables().items():
        table.to_csv(folder / f"metrics/{name}.csv", index=False)
    return folder


def tables() -> dict[str, pd.DataFrame]:
    """The tables of the chapters on privacy, fairness and evaluation, of a generator that passes."""
    privacy = [
        (generator, measure, value, max(0.0, value - 0.04), value + 0.04)
        for generator in (GENERATOR, "vae")
        for measure, value in {
            "near_duplicate_rate": 0.005,
            "near_duplicate_rate_pixels": 0.004,
            "authenticity": 0.6,
            "neighbour_ratio": 0.9,
            "c_t": 0.3,
            "membership_auroc_nearest": 0.51,
            "membership_auroc_loss": 0.54,
            "membership_tpr_loss": 0.02,
            "patient_auroc": 0.52,
        }.items()
    ]
    fairness = [
        (arm, attribute, "largest_gap_recall", 0.2, 0.1, 0.35)
        for arm in ("real", GENERATOR)
        for attribute in ("sex", "age_band", "localization")
    ]
    fidelity = [
        (measure, mean, mean - 0.02, mean + 0.02, reference, generator)
        for measure, mean in {"frechet": 120.0, "coverage": 0.7}.items()
        for reference in ("heldout", "train")
        for generator in (GENERATOR, "real_baseline")
    ]
    consistency = {
        "generator": GENERATOR,
        "extractor": "vit",
        "generator_seed": 0,
        "n_synthetic": 400,
        "n_real": 300,
        "synthetic": 0.4,
        "real": 0.5,
        "ratio": 0.8,
        "ratio_low": 0.7,
        "ratio_high": 0.9,
    }
    ends = ["value", "low", "high"]
    return {
        "privacy": pd.DataFrame(privacy, columns=["generator", "measure", *ends]).assign(
            n=300, lesions=200, extractor="efficientnet_lite0", generator_seed=0
        ),
        "fairness": pd.DataFrame(fairness, columns=["arm", "attribute", "measure", *ends]).assign(
            n=400, lesions=300, seeds=2
        ),
        "fidelity": pd.DataFrame(
            fidelity, columns=["measure", "mean", "low", "high", "reference", "generator"]
        ).assign(n=200, n_subsets=5, extractor="vit", generator_seed=0),
        "class_consistency": pd.DataFrame([consistency]),
    }


def change(folder: Path, table: str, measure: str, **values: float) -> None:
    """Overwrite numbers of the generator in one of the run's tables."""
    path = folder / f"metrics/{table}.csv"
    frame = pd.read_csv(path)
    here = frame["measure"] == measure
    here &= frame["generator" if "generator" in frame else "arm"] == GENERATOR
    assert here.any()
    for column, value in values.items():
        frame.loc[here, column] = value
    frame.to_csv(path, index=False)
