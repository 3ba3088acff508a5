"""Run folders that look finished, without any training: executed notebooks and small networks."""

import base64
import io
import json
from pathlib import Path

import matplotlib.image
import numpy as np
import torch
import yaml
from chapters import CHAPTERS
from conftest import TINY, merged

from hamsynth_utils.classifier.pretrained import build_classifier
from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.weights import write_weights
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.generators.loading import build_generator, checkpoint_metadata
from hamsynth_utils.generators.synthetic_sets import synthesize

CLASSES = HAM10000.classes.names


EXECUTIONS = ("real-0", "real-1", "gan-0", "diffusion-0", "real-0-image")


DATA = "/secret place/skin pictures"


PROFILE = "/secret place/my profile.yaml"


def make_run(folder: Path) -> Path:
    (folder / "notebooks").mkdir(parents=True)
    record = {
        "profile": {
            **load_profile("smoke").model_dump(mode="json"),
            "seeds": [0, 1],
            "arms": ["real", "gan", "diffusion"],
        },
        "data": DATA,
        "seed": 3,
        "device": "CPU, 2 cores",
        "threads": 1,
        "python": "3.12.1",
        "git_commit": "abc123",
        "versions": {"torch": "9.8.7"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    for name in (*CHAPTERS, *(f"06_vit-{execution}" for execution in EXECUTIONS)):
        (folder / f"notebooks/{name}.ipynb").write_text(
            json.dumps(executed(name, folder)), encoding="utf-8"
        )
    (folder / "notebooks/03_gan.partial.ipynb").write_text("not even JSON", encoding="utf-8")
    return folder


def executed(name: str, folder: Path) -> dict:
    """A notebook with everything a chapter has: glue, equations, a numbered figure, a citation, a fold."""
    chapter = name[:2]
    png = io.BytesIO()
    matplotlib.image.imsave(png, np.zeros((8, 8)), format="png")
    glued = {
        "output_type": "display_data",
        "data": {"text/plain": "0.8123"},
        "metadata": {
            "scrapbook": {"mime_prefix": "application/papermill.record/", "name": "accuracy"}
        },
    }
    glued["data"] = {"application/papermill.record/text/plain": "0.8123"}
    figure = {
        "output_type": "display_data",
        "data": {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": "<Figure>"},
        "metadata": {},
    }
    said = {
        "output_type": "stream",
        "name": "stdout",
        "text": [f"{name} wrote {folder}/data from {DATA}/HAM.csv\n"],
    }
    mathematics = f"$$\n\\mathcal{{L}} = \\boldsymbol{{x}}_t^2\n$$ (eq-{chapter}-loss)\n\nsee {{eq}}`eq-{chapter}-loss`"
    words = "Accuracy {glue:text}`accuracy:.2f`, {cite}`ho2020ddpm`, a lesion, "
    words += f"{{numref}}`fig-{chapter}-loss`.\n\n:::{{dropdown}} Solution\nSeven.\n:::"
    caption = {"caption": "Accuracy is {glue:text}`accuracy:.3f`.", "name": f"fig-{chapter}-loss"}
    cells = [
        cell("markdown", f"# Chapter {chapter}\n\n{mathematics}"),
        cell("code", 'data = "phantom"', tags=["parameters"]),
        cell(
            "code",
            f'# Parameters\ndata = "{DATA}"\nprofile = "{PROFILE}"',
            tags=["injected-parameters"],
        ),
        cell(
            "code",
            "from hamsynth_utils.metrics import accuracy\nglue('accuracy', 0.8123)",
            outputs=[glued],
            tags=["per-arm"],
        ),
        cell(
            "code",
            "show()",
            [figure, said],
            ["per-arm"],
            {"image": {"alt": "A black square"}, "figure": caption},
        ),
        cell("markdown", words),
        cell("code", f"# check eq-{chapter}-loss (ho2020ddpm): this cell against numpy.mean\n1"),
    ]
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "papermill": {
                "duration": 90.0,
                "output_path": f"{folder}/notebooks/{name}.ipynb",
                "parameters": {"data": DATA, "profile": PROFILE},
            },
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def cell(
    kind: str,
    source: str,
    outputs: list[dict] | None = None,
    tags: list[str] | None = None,
    mystnb: dict | None = None,
) -> dict:
    metadata = {"tags": tags or []} | ({"mystnb": mystnb} if mystnb else {})
    code = {"outputs": outputs or [], "execution_count": 1} if kind == "code" else {}
    return {
        "cell_type": kind,
        "id": f"c{abs(hash(source)) % 10**8}",
        "metadata": metadata,
        "source": [source],
        **code,
    }


def own_networks(folder: Path, names: tuple[str, ...] = GENERATORS) -> Path:
    """A run folder with small networks in it, as good as untrained, in single precision."""
    (folder / "tiny.yaml").parent.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    torch.manual_seed(0)
    for name in names:
        generator = build_generator(name, load_profile(str(folder / "tiny.yaml")), n_classes=7)
        with torch.no_grad():
            for parameter in generator.parameters():
                # Not as they begin, where a prior is the standard one and an output layer may be zero.
                parameter.add_(0.1 * torch.randn_like(parameter))
        room = folder / f"generators/{name}/seed-0"
        counts = json.dumps(dict.fromkeys(CLASSES, 10))
        about = {
            **checkpoint_metadata(generator, HAM10000),
            "trained_on": "abc",
            "counts": counts,
            "seed": "3",
            "steps": "6",
        }
        write_weights(room / "weights.safetensors", generator.state_dict(), about)
        (room / "history.csv").write_text("step,seconds,loss\n6,90.0,1.25\n", encoding="utf-8")
    return folder


SYNTHETIC_PER_CLASS = 12


def finish_run(folder: Path) -> Path:
    """A run on the phantom with small synthetic sets of untrained networks and an untrained classifier."""
    make_run(folder)
    (folder / "run.yaml").unlink()
    own_networks(folder)
    (folder / "tiny.yaml").write_text(
        yaml.safe_dump(merged(TINY, {"data": {"phantom_images": 700}})), encoding="utf-8"
    )
    run = Run.open("tiny", str(folder / "tiny.yaml"), root=folder.parent)
    run.split()
    for number, name in enumerate(run.profile.generators):
        synthesize(
            run.paths.generator_weights(name),
            dict.fromkeys(CLASSES, SYNTHETIC_PER_CLASS),
            1000 * number,
            run.paths.synthetic(name),
            progress=False,
        )
    classifier, _ = build_classifier(run.profile.classifier, 0, n_classes=7)
    with torch.no_grad():
        for parameter in classifier.vit.head.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    write_weights(
        run.paths.classifier("real", 0) / "weights.safetensors", classifier.state_dict(), {}
    )
    return folder
