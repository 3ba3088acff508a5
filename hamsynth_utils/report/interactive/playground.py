"""The playground: trained generators as ONNX files, which a browser can run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from hamsynth_utils.core.arm_names import ARM_NAMES, GENERATORS
from hamsynth_utils.core.paths import RunPaths, checkpoint_of
from hamsynth_utils.core.weights import sha256_of
from hamsynth_utils.data.dataset_info import HAM10000, PHANTOM, DatasetInfo
from hamsynth_utils.data.synthetic import NOTICE
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.latent import SolverGenerator
from hamsynth_utils.generators.loading import load_generator

LIMIT = 30 * 10**6
"""Bytes that all networks of a page may have together."""


OPSET = 17


LEAST_HALVED = 256
"""Tensors with fewer values stay in full precision: halving them would save nothing."""


def write_playground(target: Path, folder: Path, data: str) -> None:
    """Write the networks of the playground, and `networks.js`, which describes them.

    The page shows the run's own networks if its data is the phantom and they fit into `LIMIT`.
    Otherwise the page shows the released checkpoints, because networks trained on photographs of
    people are not public. A released network that does not fit into `LIMIT` beside those before it
    is left out, and the page names it.

    Args:
        target: the folder for the networks.
        folder: the run folder.
        data: "phantom" or the folder of the run's data.
    """
    own = _present({name: RunPaths(folder).generator_weights(name) for name in GENERATORS})
    released = _present({name: checkpoint_of(name) for name in GENERATORS})
    if data == "phantom" and own:
        networks, size = _export_all(own, target)
        if size <= LIMIT:
            note = (
                "These are this run's own. They have learned to draw the phantom, "
                "which is not skin."
            )
            return _describe(target, networks, note, PHANTOM)
        why = (
            f"This run's own would take {size / 1e6:.0f} MB, "
            f"and a page may have {LIMIT / 1e6:.0f} MB."
        )
    elif data == "phantom":
        why = "This run has trained no network of its own."
    else:
        why = (
            "What this run itself has trained has learned from photographs of people, "
            "and is not released."
        )
    networks, _ = _export_all(released, target, LIMIT)
    shown = (
        f"Shown are the released ones, trained on {HAM10000.name}; they and their images are "
        f"{HAM10000.licence}."
    )
    if missing := [ARM_NAMES[name] for name in released if name not in networks]:
        shown += f" Left out, since a page may have {LIMIT / 1e6:.0f} MB: {', '.join(missing)}."
    note = f"{why} {shown if networks else 'No released ones are at hand.'}"
    _describe(target, networks, note, HAM10000)


def export(generator: Generator, target: Path) -> dict[str, Any]:
    """Write the parts of a generator as ONNX files and describe them.

    Weights are stored in half precision; the arithmetic is in single precision. All parts work on
    one image. `draw` takes noise [1, *shape] and label int64 [1], and gives an image [1, 3, S, S]
    in [-1, 1]. A `SolverGenerator` has two parts instead: `predict` takes x [1, *shape], time [1],
    label and guidance [], and gives the network's output [1, *shape]; `decode` takes x and gives
    the image.

    Args:
        generator: in evaluation mode, on the CPU.
        target: the folder for `<name>-<part>.onnx`.

    Returns:
        What a page must know: title, size, shape; of a `SolverGenerator` also its guidance and
        steps, and `paths`, what the page does for each number of steps, see
        `SolverGenerator.trace_solver`.
    """
    target.mkdir(parents=True, exist_ok=True)
    for part, (function, inputs) in generator.export_parts().items():
        _write(_Part(generator, function), inputs, target / f"{generator.name}-{part}.onnx")
    about: dict[str, Any] = {
        "title": ARM_NAMES[generator.name],
        "size": generator.image_size,
        "shape": generator.noise_shape,
    }
    if isinstance(generator, SolverGenerator):
        settings = generator.settings
        about |= {"guidance": settings.guidance, "steps": settings.sampling_steps}
        about["paths"] = {steps: _path(generator, steps) for steps in generator.offered_steps}
    return about


def _path(generator: SolverGenerator, steps: int) -> list[dict[str, Any]]:
    """The instructions of `trace_solver` as a page reads them: without a time, the sum is shown."""
    return [
        {"weights": weights} if time is None else {"time": time, "weights": weights}
        for weights, time in generator.trace_solver(steps)
    ]


class _Part(nn.Module):
    """A function of a generator as a network of its own."""

    def __init__(self, generator: Generator, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.generator, self.function = generator, function

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the function."""
        return self.function(*inputs)


def _write(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        # It warns of what the trace holds fixed: one image, and a guidance that is not skipped at
        # 1.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=["out"],
            dynamo=False,
            opset_version=OPSET,
        )
    model = onnx.load(path)
    _halve(model)
    onnx.save(model, path)


def _halve(model: onnx.ModelProto) -> None:
    """Store the large weights in half precision, each with a cast; too large values stay."""
    casts = []
    for stored in model.graph.initializer:
        values = onnx.numpy_helper.to_array(stored)
        if stored.data_type != onnx.TensorProto.FLOAT or values.size < LEAST_HALVED:
            continue
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if np.isfinite(halved).all():
            name = f"{stored.name}.half"
            casts.append(
                onnx.helper.make_node("Cast", [name], [stored.name], to=onnx.TensorProto.FLOAT)
            )
            stored.CopyFrom(onnx.numpy_helper.from_array(halved, name))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _present(paths: dict[str, Path]) -> dict[str, Path]:
    """Those of the files that are there."""
    return {name: path for name, path in paths.items() if path.is_file()}


def _export_all(
    paths: dict[str, Path], target: Path, limit: float = float("inf")
) -> tuple[dict[str, Any], int]:
    """Export the generators in `paths` as far as they fit; returns descriptions and their bytes."""
    for old in target.glob("*.onnx"):
        old.unlink()
    networks: dict[str, Any] = {}
    size = 0
    for name, path in paths.items():
        about = export(load_generator(path, name), target)
        files = list(target.glob(f"{name}-*.onnx"))
        more = sum(file.stat().st_size for file in files)
        if size + more > limit:
            for file in files:
                file.unlink()
            continue
        networks[name] = {**about, "checkpoint": sha256_of(path)}
        size += more
    return networks, size


def _describe(target: Path, networks: dict[str, Any], note: str, dataset: DatasetInfo) -> None:
    """Write a script, not JSON, because a page from the file system may read only scripts."""
    about = {
        "note": note,
        "notice": NOTICE,
        "licence": dataset.licence,
        "networks": networks,
        "classes": [{"dx": dx, "name": name} for dx, name in dataset.classes.long_names.items()],
    }
    target.mkdir(parents=True, exist_ok=True)
    (target / "networks.js").write_text(
        f"window.hamsynthNetworks = {json.dumps(about, allow_nan=False)};\n", encoding="utf-8"
    )
