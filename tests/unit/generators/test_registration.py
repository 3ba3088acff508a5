"""A new generator is one file and one line: a toy in a copy of the package goes all the way by itself."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.generators.loading import generator_class

TOY = '''
"""A colour for each class, and a little noise."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from hamsynth_utils.core.generator_settings import ToySettings
from hamsynth_utils.core.settings import Settings
from hamsynth_utils.generators.base import Generator


class Toy(Generator):
    name: ClassVar[str] = "toy"
    settings_class: ClassVar[type[Settings]] = ToySettings

    def __init__(self, image_size: int, settings: ToySettings, n_classes: int) -> None:
        super().__init__(image_size, settings, n_classes)
        self.noise_shape = (3, image_size, image_size)
        self.colour = nn.Parameter(torch.zeros(n_classes, 3))

    def training_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (images.mean((2, 3)) - self.colour[labels]).square().mean()}

    def decode_noise(self, noise: Tensor, labels: Tensor) -> Tensor:
        return (self.colour[labels][:, :, None, None] + self.settings.noise * noise).clamp(-1, 1)
'''
SETTINGS = """

class ToySettings(Settings):
    noise: float = 0.1
    training: TrainingSettings
"""
LINE = '        Registration("toy", "Toy", ToySettings, "toy paint", "05_toy"),\n'
WAY = """
import json, sys
from hamsynth_utils.notebook import plots
from hamsynth_utils.report.interactive import playground
from hamsynth_utils.experiment.arms import training_set
from hamsynth_utils.experiment.model_card import model_cards
from hamsynth_utils.metrics.privacy.membership_inference import MEMBERSHIP_STATISTIC, per_image_losses
from hamsynth_utils.experiment.classifiers import jobs_of
from hamsynth_utils.core.arm_names import generator_of
from hamsynth_utils.experiment.run import Run
from hamsynth_utils.experiment.stages import make_synthetic, train_generator

run = Run.open("a", sys.argv[1])
toy = train_generator(run, "toy", progress_bar=False).module
make_synthetic(run, "toy", progress_bar=False)
playground.write_playground(run.folder / "page", run.folder, "phantom")
train, made = run.images("train"), run.synthetic_set("toy")
colours = (toy.colour.detach().cpu() + 1) * 127.5
real, drawn = ([each.images[each.labels == i].float().mean((0, 2, 3)) for i in range(7)] for each in (train, made))
off = [max((a - b).abs().max().item() for a, b in zip(drawn, other)) for other in (colours, real)]
losses = per_image_losses(toy, train.subset(list(range(5))), seed=0)
images = train.images[:5].float().mean((2, 3)) / 127.5 - 1
expected = (images - toy.colour[train.labels[:5]].detach().cpu()).square().mean(1)
print(json.dumps({
    "manifest": sorted(set(made.table["dataset"])), "off": off,
    "name": [plots.ARM_NAMES["toy"], plots.ARM_NAMES["toy_only"]],
    "colours": [plots.ARM_COLOURS["toy"], plots.ARM_COLOURS["toy_only"]], "all": list(plots.ARM_COLOURS.values()),
    "attacked": [losses[MEMBERSHIP_STATISTIC["toy"]].tolist(), expected.tolist()],
    "arm": [generator_of("toy"), len(training_set("toy", train, made, 0.1)) - len(train), len(training_set("toy_only", train, made, 0.1)) - len(made)],
    "probed": [job.arm for job in jobs_of(run)], "arms": run.profile.arms,
    "card": "Generator: toy paint" in model_cards(run.folder), "in a page": (run.folder / "page/networks.js").read_text(),
}))
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """A checkout whose package has the toy, by one file and one line, and a run of it."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        ROOT / "hamsynth_utils",
        folder / "hamsynth_utils",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copytree(ROOT / "book/templates", folder / "book/templates")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "hamsynth_utils/generators/toy.py").write_text(TOY, encoding="utf-8")
    with (folder / "hamsynth_utils/core/generator_settings.py").open(
        "a", encoding="utf-8"
    ) as settings:
        settings.write(SETTINGS)
    registry = folder / "hamsynth_utils/core/registry.py"
    before, after = registry.read_text(encoding="utf-8").split("    )\n}\n")
    before = before.replace("    VAESettings,\n", "    ToySettings,\n    VAESettings,\n", 1)
    registry.write_text(f"{before}{LINE}    )\n}}\n{after}", encoding="utf-8")
    toy = {
        "training": {
            "steps": 120,
            "batch_size": 32,
            "learning_rate": 5.0e-2,
            "class_balance_power": 1.0,
            "ema_decay": 0.9,
        }
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump({**TINY, "toy": toy}), encoding="utf-8")
    return folder


def in_copy(folder: Path, *arguments: str, **more: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "HAMSYNTH_RUNS": str(folder / "runs"),
        **more,
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_a_toy_in_one_file_and_one_line_goes_all_the_way(copied):
    said = json.loads(in_copy(copied, "-c", WAY, "toy.yaml").splitlines()[-1])
    assert said["manifest"] == ["synthetic:toy"] and said["card"]
    from_its_own, from_real = said["off"]  # grey levels, the worst of all classes and channels
    assert from_its_own < 3 and from_real < 15, "the class drawn is not the class asked for"
    assert said["name"] == ["toy paint", "toy paint alone"]
    assert all(said["all"].count(colour) == 1 for colour in said["colours"])
    for found, expected in zip(*said["attacked"], strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    generator, more, alone = said["arm"]
    assert generator == "toy" and more > 0 and alone == 0
    assert {"toy", "toy_only"} <= set(said["probed"]) and "toy" in said["arms"]
    assert '"title": "toy paint"' in said["in a page"]


def test_a_generators_facts_agree_with_its_class():
    for name, each in REGISTRY.items():
        assert generator_class(name).name == name
        assert "training" in each.settings_class.model_fields
        assert (ROOT / f"notebooks/{each.chapter}.ipynb").is_file()
        assert f"- file: notebooks/{each.chapter}\n" in (ROOT / "_toc.yml").read_text(
            encoding="utf-8"
        )
    assert tuple(REGISTRY) == GENERATORS


WITHOUT = """
import sys
from hamsynth_utils.core.arm_names import ARMS
from hamsynth_utils.core.profile import load_profile

profile = load_profile(sys.argv[1])
print(profile.toy, "toy" in profile.generators, sorted(set(ARMS) - set(profile.possible_arms)))
for fails in (lambda: profile.generator_settings("toy"), lambda: load_profile(sys.argv[2])):
    try:
        fails()
    except ValueError as error:
        print(error)
"""


def test_a_profile_without_its_section_has_neither_the_generator_nor_its_arms(copied):
    (copied / "without.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    (copied / "asks.yaml").write_text(
        yaml.safe_dump({**TINY, "arms": ["real", "toy_only"]}), encoding="utf-8"
    )
    facts, *errors = in_copy(copied, "-c", WITHOUT, "without.yaml", "asks.yaml").splitlines()
    assert facts == "None False ['toy', 'toy_only']"
    assert "no section toy" in errors[0]
    assert "arms holds toy_only, but there is no section toy" in errors[1]


@pytest.mark.parametrize("section", ["absent", None])
def test_a_generator_of_every_run_must_have_its_section(edited_tiny, section, tmp_path):
    path = Path(edited_tiny({"gan": None}))
    if section == "absent":
        path.write_text(
            yaml.safe_dump({key: value for key, value in TINY.items() if key != "gan"}),
            encoding="utf-8",
        )
    with pytest.raises(ValueError, match="gan"):
        load_profile(str(path))
