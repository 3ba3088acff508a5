"""The generators of a report's page: trained networks as ONNX files, which a browser can run."""

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

from hamsynth_utils.checkpoints import WEIGHTS, checkpoint_of
from hamsynth_utils.data.lesions import CLASS_NAMES, CLASSES
from hamsynth_utils.figures import ARM_NAMES
from hamsynth_utils.generators import Generator, load_generator
from hamsynth_utils.generators.diffusion import Diffusion
from hamsynth_utils.generators.gan import GAN
from hamsynth_utils.generators.vae import VAE
from hamsynth_utils.profile import GENERATORS
from hamsynth_utils.registry import REGISTRY
from hamsynth_utils.synthesis import LICENCE, NOTICE
from hamsynth_utils.weights import sha256_of

LIMIT = 25 * 10**6
"""Bytes that all networks of a page may have together."""
OPSET = 17
LEAST_HALVED = 256
"""Tensors with fewer values stay in full precision: halving them would save nothing."""


def write_playground(target: Path, folder: Path, data: str) -> None:
    """Put the networks of a run's page into `target`, and `networks.js`, which describes them, beside them.

    folder, data: of the run. Its own networks are shown if its data is the phantom and they fit the `LIMIT`,
    else those of `checkpoints/`: what has learned from photographs of people is shown only if released.
    """
    own = _present({name: folder / f"generators/{name}/{WEIGHTS}" for name in GENERATORS})
    released = _present({name: checkpoint_of(name) for name in GENERATORS})
    if data == "phantom" and own:
        networks, size = _export_all(own, target)
        if size <= LIMIT:
            note = "These are this run's own. They have learned to draw the phantom, which is not skin."
            return _describe(target, networks, " ".join(filter(None, [note, _not_shown(folder)])))
        why = f"This run's own would take {size / 1e6:.0f} MB, and a page may have {LIMIT / 1e6:.0f} MB."
    elif data == "phantom":
        why = "This run has trained no network of its own."
    else:
        why = "What this run itself has trained has learned from photographs of people, and is not released."
    networks, size = _export_all(released, target)
    if size > LIMIT:
        raise ValueError(f"the released networks take {size / 1e6:.0f} MB, more than a page may have")
    shown = f"Shown are the released ones, trained on HAM10000; they and their images are {LICENCE}."
    _describe(target, networks, f"{why} {shown if networks else 'No released ones are at hand.'}")


def export(generator: Generator, target: Path) -> dict[str, Any]:
    """Write the parts of a generator as `target/<name>-<part>.onnx`, and return what a page must know.

    Weights are stored in half precision; the arithmetic is in single precision. All parts work on one image.
    decode: noise [1, ...], label int64 [1] -> image [1, 3, S, S] in [-1, 1]; of a diffusion model it takes
    the latents in the noise's place, which the part denoise guesses: noisy [1, ...], time int64 [1], label,
    guidance [] -> clean [1, ...].
    """
    target.mkdir(parents=True, exist_ok=True)
    parts, facts = PARTS[type(generator)](generator)
    for part, (module, inputs) in parts.items():
        _write(module, inputs, target / f"{generator.name}-{part}.onnx")
    title, shape = ARM_NAMES[generator.name], next(iter(parts["decode"][1].values())).shape[1:]
    return {"title": title, "size": generator.image_size, **facts, "shape": tuple(shape)}


Parts = dict[str, tuple[nn.Module, dict[str, Tensor]]]
"""The networks of a generator by name, each with an example of its inputs by theirs."""
LABEL = torch.tensor([0])


def _parts_of_vae(vae: VAE) -> tuple[Parts, dict[str, Any]]:
    noise = torch.zeros(1, vae.settings.latent_size)
    return {"decode": (_DecodeNoise(vae), {"noise": noise, "label": LABEL})}, {}


def _parts_of_gan(gan: GAN) -> tuple[Parts, dict[str, Any]]:
    noise = torch.zeros(1, gan.settings.latent_size)
    return {"decode": (gan.synthesis, {"noise": noise, "label": LABEL})}, {}


def _parts_of_diffusion(diffusion: Diffusion) -> tuple[Parts, dict[str, Any]]:
    settings, noise = diffusion.settings, torch.zeros(1, *diffusion.shape)
    asked = {"noisy": noise, "time": torch.tensor([1]), "label": LABEL, "guidance": torch.tensor(2.0)}
    facts = {
        "guidance": settings.guidance, "steps": settings.sampling_steps, "solver": settings.solver,
        "schedules": {number: _schedule(diffusion, number)
                      for number in sorted({settings.sampling_steps, *settings.curve_steps})},
    }  # fmt: skip
    decode = _DecodeLatents(diffusion), {"noise": noise}
    return {"denoise": (_Denoise(diffusion), asked), "decode": decode}, facts


PARTS: dict[type[Generator], Callable[[Any], tuple[Parts, dict[str, Any]]]] = {
    VAE: _parts_of_vae, GAN: _parts_of_gan, Diffusion: _parts_of_diffusion,
}  # fmt: skip
"""How a page samples a generator; one that is not here is not shown in pages."""


def _schedule(diffusion: Diffusion, steps: int) -> dict[str, list]:
    # Without log(alpha / sigma), which may be infinite, for which JSON has no word; the page takes the log.
    return dict(zip(("time", "alpha", "sigma"), diffusion.schedule(steps)[:3], strict=True))


class _DecodeNoise(nn.Module):
    """What `VAE.sample` does with noise. ONNX can solve no equations: the prior's root stands ready."""

    root: Tensor

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae
        ones = torch.eye(vae.settings.latent_size)
        middle = vae.to_prior(torch.zeros(1, len(ones)), torch.tensor([0]))
        self.register_buffer("root", (vae.to_prior(ones, torch.zeros(len(ones)).long()) - middle).detach())

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        drawn = noise @ self.root
        if self.vae.settings.fitted_prior:
            drawn = drawn + self.vae.prior_mean[label]
        return self.vae.decode(drawn, label).clamp(-1, 1)


class _DecodeLatents(nn.Module):
    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.representation = diffusion.representation

    def forward(self, clean: Tensor) -> Tensor:
        return self.representation.decode(clean).clamp(-1, 1)


class _Denoise(nn.Module):
    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, noisy: Tensor, time: Tensor, label: Tensor, guidance: Tensor) -> Tensor:
        return self.diffusion.predict_clean(noisy, time, label, guidance)  # type: ignore[arg-type]


def _write(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        # It warns of what the trace holds fixed: one image, and a guidance that is not skipped at 1.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), tuple(inputs.values()), path, input_names=list(inputs), output_names=["out"],
            dynamo=False, opset_version=OPSET,
        )  # fmt: skip
    model = onnx.load(path)
    _halve(model)
    onnx.save(model, path)


def _halve(model: onnx.ModelProto) -> None:
    """Store the large weights in half precision, each with a cast behind it; what is too large stays."""
    casts = []
    for stored in model.graph.initializer:
        values = onnx.numpy_helper.to_array(stored)
        if stored.data_type != onnx.TensorProto.FLOAT or values.size < LEAST_HALVED:
            continue
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if np.isfinite(halved).all():
            name = f"{stored.name}.half"
            casts.append(onnx.helper.make_node("Cast", [name], [stored.name], to=onnx.TensorProto.FLOAT))
            stored.CopyFrom(onnx.numpy_helper.from_array(halved, name))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _present(paths: dict[str, Path]) -> dict[str, Path]:
    """Those of the files that are there, and of generators that a page can sample."""
    return {name: path for name, path in paths.items() if path.is_file() and REGISTRY[name].kind in PARTS}


def _not_shown(folder: Path) -> str:
    """Which generators of the run a page cannot sample; "" if it can all."""
    names = [
        each.title for name, each in REGISTRY.items()
        if (folder / f"generators/{name}/{WEIGHTS}").is_file() and each.kind not in PARTS
    ]  # fmt: skip
    return f"No way is written yet to draw in a browser with: {', '.join(names)}." if names else ""


def _export_all(paths: dict[str, Path], target: Path) -> tuple[dict[str, Any], int]:
    """Descriptions of the generators in `paths`, now the only ones in `target`, and their files' bytes."""
    for old in target.glob("*.onnx"):
        old.unlink()
    networks = {
        name: {**export(load_generator(path, name), target), "checkpoint": sha256_of(path)}
        for name, path in paths.items()
    }
    return networks, sum(path.stat().st_size for path in target.glob("*.onnx"))


def _describe(target: Path, networks: dict[str, Any], note: str) -> None:
    """As a script and not as JSON, since a page that is opened from the file system may read only those."""
    about = {
        "note": note, "notice": NOTICE, "licence": LICENCE, "networks": networks,
        "classes": [{"dx": dx, "name": CLASS_NAMES[dx]} for dx in CLASSES],
    }  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    (target / "networks.js").write_text(f"window.hamsynthNetworks = {json.dumps(about, allow_nan=False)};\n")
