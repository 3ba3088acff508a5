import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.core.weights import read_weights
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.generators.latent import LatentGenerator
from hamsynth_utils.generators.loading import build_generator, generator_class
from hamsynth_utils.training.diagnostics import TrainingDiverged
from hamsynth_utils.training.loop import learning_rate_factor, resolve_precision, train
from hamsynth_utils.training.module import TrainableModule

LESIONS = make_phantom(120, seed=0)


class Mean(TrainableModule):
    """One number fitted to the images' mean; `poison` spoils the loss at a step."""

    def __init__(self, poison: dict[int, float] | None = None) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.0))
        self.poison, self.calls = poison or {}, 0

    def forward(self, images, labels):
        loss = (images.mean() - self.value) ** 2 * self.poison.get(self.calls, 1.0)
        self.calls += 1
        return {"loss": loss, "value": self.value.detach()}


def settings(**change) -> TrainingSettings:
    return TrainingSettings(
        **{"steps": 30, "batch_size": 16, "learning_rate": 0.05, "precision": "no", **change}
    )


def fit(module, folder, seed=0, **change):
    return train(module, LESIONS, settings(**change), folder, seed=seed, progress_bar=False)


def test_training_minimises_the_loss_and_leaves_weights_and_history(tmp_path):
    trained = fit(Mean(), tmp_path, steps=200)
    truth = float((LESIONS.images.float() / 127.5 - 1).mean())
    assert trained.module.value.item() == pytest.approx(truth, abs=0.02)
    assert trained.history["step"].iloc[-1] == 200 and not trained.loaded
    assert {p.name for p in tmp_path.iterdir()} == {
        "weights.safetensors",
        "history.csv",
        "snapshots",
    }


def test_finished_weights_are_loaded_not_trained_again(tmp_path):
    first = fit(Mean(), tmp_path)
    again = fit(Mean(poison={0: float("nan")}), tmp_path)  # would stop if it trained
    assert again.loaded
    assert torch.equal(again.module.value, first.module.value)
    pd.testing.assert_frame_equal(again.history, first.history, check_exact=False, atol=1e-6)


@pytest.mark.parametrize(
    ("poison", "reason"),
    [(float("nan"), "not a finite"), (float("inf"), "not a finite"), (1e7, "usually")],
)
def test_a_loss_gone_wrong_stops_and_keeps_the_last_good_checkpoint(tmp_path, poison, reason):
    with pytest.raises(TrainingDiverged, match=rf"step 20: .*{reason}.*last good checkpoint is"):
        fit(Mean(poison={20: poison}), tmp_path, checkpoint_seconds=1e-9)
    tensors, metadata = read_weights(tmp_path / "checkpoint.safetensors")
    assert int(metadata["step"]) == 20
    assert all(torch.isfinite(value).all() for value in tensors.values())
    assert not (tmp_path / "weights.safetensors").exists()


def test_an_empty_training_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no images"):
        train(
            Mean(), LESIONS.subset(np.arange(0)), settings(), tmp_path, seed=0, progress_bar=False
        )


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"checkpoint\.safetensors is damaged"):
        fit(Mean(), tmp_path)


def test_the_learning_rate_warms_up_and_decays_to_zero():
    for decay, middle in [("linear", 0.5), ("cosine", 0.5), ("none", 1.0)]:
        rule = settings(lr_schedule=decay, warmup_fraction=0.1)
        factors = [learning_rate_factor(step, 1000, rule) for step in range(1000)]
        assert factors[0] == pytest.approx(0.01) and max(factors) == pytest.approx(1.0, abs=1e-3)
        assert factors[550] == pytest.approx(middle, abs=0.01)
        assert factors[-1] == pytest.approx(1.0 if decay == "none" else 0.0, abs=2e-3)


class Linear(TrainableModule):
    """Notes the type that its layer computes in."""

    def __init__(self):
        super().__init__()
        self.layer, self.types = torch.nn.Linear(3, 1), set()

    def forward(self, images, labels):
        out = self.layer(images.mean((2, 3)))
        self.types.add(out.dtype)
        return {"loss": out.float().square().mean()}


def test_each_training_of_a_process_has_its_own_precision(tmp_path):
    for number, (precision, dtype) in enumerate(
        [("no", torch.float32), ("bf16", torch.bfloat16), ("no", torch.float32)]
    ):
        model = Linear()
        fit(model, tmp_path / str(number), steps=2, precision=precision)
        assert model.types == {dtype}


def test_auto_precision_is_bfloat16_only_where_the_processor_has_it():
    expected = "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no"
    if not torch.cuda.is_available():
        assert resolve_precision("auto") == expected
    assert resolve_precision("no") == "no"


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    import torch
    from hamsynth_utils.data.phantom.generate import make_phantom
    from hamsynth_utils.generators.loading import build_generator
    from hamsynth_utils.core.profile import load_profile
    from hamsynth_utils.experiment.stages import flip_and_turn
    from hamsynth_utils.training.loop import train
    torch.set_num_threads(1)
    profile, name, folder = load_profile(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    settings = profile.generator_settings(name)
    torch.manual_seed(0)
    train(build_generator(name, profile, n_classes=7), make_phantom(120, seed=0), settings.training, folder, seed=4,
          augment=flip_and_turn, progress_bar=False)
""")


def slow_but(*quick: str) -> list:
    """Every generator; all but these are left to the slow tests."""
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in GENERATORS
    ]


@pytest.mark.parametrize("name", slow_but("vae", "gan"))
def test_a_killed_training_goes_on_to_the_same_weights_bit_for_bit(name, edited_tiny, tmp_path):
    """kill -9 in the middle of training, then start again: the weights of an unbroken run."""
    profile = edited_tiny({name: {"training": {"steps": 40, "checkpoint_seconds": 1e-9}}})
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    command = [sys.executable, "-c", KILLED, profile, name]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    process = subprocess.Popen([*command, str(tmp_path / "killed")])
    checkpoint = tmp_path / "killed/checkpoint.safetensors"
    while not checkpoint.is_file() or int(read_weights(checkpoint)[1]["step"]) < 5:
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = int(read_weights(checkpoint)[1]["step"])
    assert reached < 40 and not (tmp_path / "killed/weights.safetensors").exists()
    subprocess.run([*command, str(tmp_path / "killed")], check=True)
    whole, killed = (
        read_weights(tmp_path / folder / "weights.safetensors")[0] for folder in ("whole", "killed")
    )
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
    histories = [
        pd.read_csv(tmp_path / folder / "history.csv").drop(columns="seconds")
        for folder in ("whole", "killed")
    ]
    pd.testing.assert_frame_equal(*histories)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_two_processes_have_the_losses_of_one(name, tiny_profile, tmp_path):
    """The command of the package's own documentation, with two CPU processes, against one."""
    command = [
        "-m",
        "hamsynth_utils.cli",
        "train",
        "generator",
        name,
        "--profile",
        tiny_profile,
    ]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes"]
    environment = {**os.environ, "HAMSYNTH_RUNS": str(tmp_path), "ACCELERATE_USE_CPU": "true"}
    for count in ("1", "2"):
        subprocess.run([*launch, count, *command, "--run", count], env=environment, check=True)
    for part in (
        ("autoencoder", name) if issubclass(generator_class(name), LatentGenerator) else (name,)
    ):
        one, two = (
            pd.read_csv(tmp_path / count / f"generators/{part}/seed-0/history.csv").drop(
                columns="seconds"
            )
            for count in ("1", "2")
        )
        pd.testing.assert_frame_equal(one, two, rtol=2e-3)
        # Not only what it sees: what it has learned.
        ones, twos = (
            read_weights(tmp_path / count / f"generators/{part}/seed-0/weights.safetensors")[0]
            for count in ("1", "2")
        )
        for key, value in ones.items():
            torch.testing.assert_close(value, twos[key], rtol=0.02, atol=2e-3, msg=f"{part}: {key}")


def test_the_same_seed_gives_the_same_weights_and_another_does_not(edited_tiny, tmp_path):
    profile = load_profile(edited_tiny({}))
    results = []
    for number, seed in enumerate([0, 0, 1]):
        (tmp_path / str(number)).mkdir()
        torch.manual_seed(0)
        vae = build_generator("vae", profile, n_classes=7)
        train(
            vae,
            LESIONS,
            profile.vae.training,
            tmp_path / str(number),
            seed=seed,
            progress_bar=False,
        )
        results.append(json.dumps([p.sum().item() for p in vae.parameters()]))
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize(
    ("most", "message"),
    [(6, "batch_size of 16; a batch_size of 4 fits"), (0, "not even a batch_size of 1 fits")],
)
def test_out_of_memory_names_a_batch_size_that_fits(tmp_path, most, message):
    class Hungry(Mean):
        def forward(self, images, labels):
            if len(images) > most:
                torch.empty(2**60)  # what a CPU's allocator refuses
            return super().forward(images, labels)

    with pytest.raises(InputError, match=message):
        fit(Hungry(), tmp_path)


def test_other_errors_of_a_step_are_not_taken_for_a_lack_of_memory(tmp_path):
    class Wrong(Mean):
        def forward(self, images, labels):
            return {"loss": images @ labels}

    with pytest.raises(RuntimeError, match=r"size|shape|dtype|dimension"):
        fit(Wrong(), tmp_path)


def test_snapshots_are_what_a_training_was_before_its_end(tmp_path):
    """A rate that does not decay: half of 40 steps are 20 steps."""
    half, whole = tmp_path / "half", tmp_path / "whole"
    short = fit(Mean(), half, steps=20, lr_schedule="none", warmup_fraction=0.0)
    trained = fit(Mean(), whole, steps=40, lr_schedule="none", warmup_fraction=0.0)
    assert list(trained.snapshots) == [5, 10, 20, 40]
    assert torch.equal(read_weights(trained.snapshots[20])[0]["value"], short.module.value)
    assert torch.equal(read_weights(trained.snapshots[40])[0]["value"], trained.module.value)
    assert fit(Mean(), whole, steps=40).snapshots == trained.snapshots  # loaded


def test_weights_of_another_model_are_refused_with_their_file(tmp_path):
    class Two(Mean):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(torch.zeros(2))

    train(Mean(), LESIONS, settings(), tmp_path, seed=0, progress_bar=False)
    with pytest.raises(InputError, match=r"weights\.safetensors does not fit this model.*other"):
        train(Two(), LESIONS, settings(), tmp_path, seed=0, progress_bar=False)
