import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import TINY, merged
from torch import nn

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import WEIGHTS
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.core.weights import read_weights
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.generators.loading import build_generator
from hamsynth_utils.training import loop
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


@pytest.fixture
def windows_of_four(monkeypatch):
    """A training of 40 steps whose losses are read four at a time, like those of 800 steps."""
    monkeypatch.setattr(loop, "LOGGED_ROWS", 10)


@pytest.mark.parametrize(
    ("poison", "reason"),
    [(float("nan"), "not a finite"), (float("inf"), "not a finite"), (1e12, "usually")],
)
def test_a_divergence_within_a_window_is_noticed_at_its_end_and_nothing_bad_is_kept(
    windows_of_four, tmp_path, poison, reason
):
    """The step is named, and no file has seen it."""
    module = Mean(poison={21: poison})
    with pytest.raises(TrainingDiverged, match=rf"step 21: .*{reason}.*last good checkpoint is"):
        fit(module, tmp_path, steps=40, checkpoint_seconds=1e-9)
    assert module.calls == 24  # to the end of the window, and no further
    tensors, metadata = read_weights(tmp_path / "checkpoint.safetensors")
    assert int(metadata["step"]) == 20
    assert all(torch.isfinite(value).all() for value in tensors.values())
    assert [row["step"] for row in json.loads(metadata["history"])] == [4, 8, 12, 16, 20]
    assert not (tmp_path / "weights.safetensors").exists()
    assert not (tmp_path / "history.csv").exists()


def test_a_snapshot_is_never_written_from_a_window_that_diverged(windows_of_four, tmp_path):
    """The snapshot after 5 steps lies within a window: its losses are read before it is written."""
    module = Mean(poison={4: float("nan")})
    with pytest.raises(TrainingDiverged, match=r"step 4: .*last good checkpoint is"):
        fit(module, tmp_path, steps=40, checkpoint_seconds=1e-9)
    assert module.calls == 5 and not (tmp_path / "snapshots").exists()
    assert int(read_weights(tmp_path / "checkpoint.safetensors")[1]["step"]) == 4
    later = tmp_path / "later"
    with pytest.raises(TrainingDiverged, match=r"step 6"):
        fit(Mean(poison={6: float("nan")}), later, steps=40, checkpoint_seconds=1e-9)
    tensors, metadata = read_weights(later / "snapshots/5.safetensors")
    assert metadata["steps"] == "5" and torch.isfinite(tensors["value"])


def test_a_row_of_the_history_is_the_mean_of_all_losses_since_the_row_before(
    windows_of_four, tmp_path
):
    """Also of those that a snapshot has read, in the middle of a window."""

    class Counting(Mean):
        def forward(self, images, labels):
            return {**super().forward(images, labels), "count": torch.tensor(float(self.calls))}

    history = fit(Counting(), tmp_path, steps=40).history
    assert list(history["step"]) == list(range(4, 41, 4))
    np.testing.assert_allclose(history["count"], history["step"] - 1.5)


def test_a_network_is_compiled_if_the_settings_say_so(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(Mean, "compile", lambda self: compiled.append(self), raising=False)
    plain, fast = fit(Mean(), tmp_path / "plain"), fit(Mean(), tmp_path / "fast", compile=True)
    assert compiled == [fast.module] and plain.module is not fast.module
    assert torch.equal(plain.module.value, fast.module.value)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="needs a C++ compiler")
def test_a_compiled_training_gives_the_same_weights_and_files_that_anybody_reads(tmp_path):
    plain = fit(Mean(), tmp_path / "plain", steps=5)
    fast = fit(Mean(), tmp_path / "fast", steps=5, compile=True)
    assert read_weights(tmp_path / "fast/weights.safetensors")[0].keys() == {"value"}
    torch.testing.assert_close(fast.module.value, plain.module.value)
    assert fit(Mean(), tmp_path / "fast").loaded


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
    import torch
    from hamsynth_utils.experiment.run import Run
    from hamsynth_utils.experiment.stages import train_autoencoder, train_generator
    torch.set_num_threads(1)
    profile, name, folder = sys.argv[1:]
    run = Run.open(folder, profile)
    if name == "autoencoder":
        train_autoencoder(run, progress_bar=False)
    else:
        train_generator(run, name, progress_bar=False)
""")


def slow_but(*quick: str) -> list:
    """The autoencoder and every generator; all but these are left to the slow tests."""
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.slow)
        for name in ("autoencoder", *GENERATORS)
    ]


@pytest.mark.parametrize("name", slow_but("autoencoder"))
def test_a_killed_training_goes_on_to_the_same_weights_bit_for_bit(name, edited_tiny, tmp_path):
    """kill -9 in the middle of training, then start again: the weights of an unbroken run."""
    training = {"steps": 40, "checkpoint_seconds": 1e-9}
    change = {name: {"training": training}, "data": {"phantom_images": 300, "image_size": 32}}
    profile = edited_tiny(change)
    command = [sys.executable, "-c", KILLED, profile, name]
    environment = {**os.environ, "HAMSYNTH_RUNS": str(tmp_path)}
    subprocess.run([*command, "whole"], check=True, env=environment)
    process = subprocess.Popen([*command, "killed"], env=environment)
    whole, killed = (
        tmp_path / folder / f"generators/{name}/seed-0" for folder in ("whole", "killed")
    )
    checkpoint = killed / "checkpoint.safetensors"
    while not checkpoint.is_file() or int(read_weights(checkpoint)[1]["step"]) < 5:
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = int(read_weights(checkpoint)[1]["step"])
    assert reached < 40 and not (killed / "weights.safetensors").exists()
    subprocess.run([*command, "killed"], check=True, env=environment)
    ours, theirs = (read_weights(folder / "weights.safetensors")[0] for folder in (whole, killed))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    histories = [
        pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (whole, killed)
    ]
    pd.testing.assert_frame_equal(*histories)


@pytest.fixture(scope="module")
def trained_twice(tmp_path_factory):
    """Trains a network of one run in one process and in two, without rounding to 16 bits."""
    root = tmp_path_factory.mktemp("processes")
    exact = {name: {"training": {"precision": "no"}} for name in ("autoencoder", *GENERATORS)}
    # The critic joins after two steps: with a larger rate its game would enlarge any rounding error.
    exact["autoencoder"]["training"]["learning_rate"] = 1e-4
    profile = root / "exact.yaml"
    profile.write_text(yaml.safe_dump(merged(TINY, exact)), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    # Without -- the launcher takes --run for an abbreviation of its own --run-path.
    command = ["-m", "--", "hamsynth_utils.cli", "train"]
    environment = {**os.environ, "HAMSYNTH_RUNS": str(root), "ACCELERATE_USE_CPU": "true"}

    def train_both(*what: str) -> tuple[Path, Path]:
        for count in ("1", "2"):
            options = ["--profile", str(profile), "--run", count]
            subprocess.run([*launch, count, *command, *what, *options], env=environment, check=True)
        one, two = (root / count / f"generators/{what[-1]}/seed-0" for count in ("1", "2"))
        return one, two

    return train_both


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", [("autoencoder",), *(("generator", name) for name in GENERATORS)], ids=lambda w: w[-1]
)
def test_two_processes_train_as_one_does(what, trained_twice):
    """Two CPU processes against one. `accelerate launch --cpu` starts one process whatever it is asked for."""
    if what != ("autoencoder",):  # both generators learn the latents of the same autoencoder
        one, two = trained_twice("autoencoder")
        shutil.copy(one / WEIGHTS, two / WEIGHTS)
    one, two = trained_twice(*what)
    histories = [pd.read_csv(each / "history.csv").drop(columns="seconds") for each in (one, two)]
    pd.testing.assert_frame_equal(*histories, rtol=2e-3)
    # Not only what it sees: what it has learned. Single numbers may differ, because Adam moves a
    # weight without a gradient, such as a bias before a normalisation, by rounding errors.
    ones, twos = (
        torch.cat([value.float().flatten() for value in read_weights(each / WEIGHTS)[0].values()])
        for each in (one, two)
    )
    assert (ones - twos).norm() < 1e-3 * ones.norm()


def test_the_same_seed_gives_the_same_weights_and_another_does_not(edited_tiny, tmp_path):
    profile = load_profile(edited_tiny({"vae": {"autoencoder": None}}))
    results = []
    for number, seed in enumerate([0, 0, 1]):
        (tmp_path / str(number)).mkdir()
        torch.manual_seed(0)
        vae = build_generator("vae", profile, n_classes=7)
        train(
            vae,
            vae.training_data(LESIONS),
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
