"""A generator overfitted on purpose is caught by every attack, and none is caught on images it never saw."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from hamsynth_utils.core.errors import InputError, NotMeasured
from hamsynth_utils.core.generator_settings import (
    AutoencoderSettings,
    DiffusionSettings,
    FlowSettings,
    GANSettings,
    TextbookVAESettings,
    VAESettings,
)
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import COLUMNS, LesionSet, to_uint8, to_unit_range
from hamsynth_utils.generators.autoencoder.latent_data import VARIANTS, LatentData
from hamsynth_utils.generators.base import Generator
from hamsynth_utils.generators.diffusion import Diffusion
from hamsynth_utils.generators.flow import Flow
from hamsynth_utils.generators.gan import GAN
from hamsynth_utils.generators.latent import LatentGenerator
from hamsynth_utils.generators.textbook_vae import TextbookVAE
from hamsynth_utils.generators.vae import VAE
from hamsynth_utils.metrics.privacy.membership_inference import (
    MEMBERSHIP_STATISTIC,
    difficulty_calibrated,
    guess_members,
    membership_attack,
    per_image_losses,
)
from hamsynth_utils.metrics.privacy.memorization import (
    authenticity,
    data_copying,
    neighbour_ratio,
    neighbours,
)
from hamsynth_utils.metrics.privacy.nearest_neighbours import near_duplicate_rate, nearest_aligned
from hamsynth_utils.metrics.privacy.patient_inference import SiblingSplit, withhold_siblings
from hamsynth_utils.training.loop import train

CLASSES = HAM10000.classes.names

SIZE = 32
NAMES = ("textbook_vae", "vae", "gan", "diffusion", "flow")


def swatches(count: int, seed: int) -> LesionSet:
    """So many "lesions" of 16 random colours, two photos of each in a slightly different light.

    All are equally hard to draw, so that a difference in loss is memory and nothing else.
    """
    rng = np.random.default_rng(seed)
    colours = np.repeat(rng.uniform(20, 235, (count, 3, 4, 4)), 2, axis=0)
    light = rng.normal(0, 12, (2 * count, 3, 1, 1))
    images = np.kron(colours + light, np.ones((SIZE // 4, SIZE // 4))).clip(0, 255).astype(np.uint8)
    labels = np.repeat(rng.integers(len(CLASSES), size=count), 2)
    table = pd.DataFrame(
        {
            "image_id": [f"I{i}" for i in range(2 * count)],
            "lesion_id": [f"L{i // 2}" for i in range(2 * count)],
            "dx": np.array(CLASSES)[labels],
            "age": np.nan,
            "sex": np.nan,
            "localization": np.nan,
            "dataset": "swatches",
            "synthetic": False,
        }
    )[list(COLUMNS)]
    return LesionSet(torch.from_numpy(images), torch.from_numpy(labels), table, HAM10000.classes)


@pytest.fixture(scope="module")
def lesions() -> LesionSet:
    return swatches(150, 0)


@pytest.fixture(scope="module")
def patients(lesions: LesionSet) -> SiblingSplit:
    """Ten patients and nobody else to train on: few images, which many epochs learn by heart."""
    rows = np.arange(len(lesions))
    return withhold_siblings(lesions.table, rows[:100], rows[100:], 10, 0, seed=1)


class Overfitted(dict[str, Generator]):
    """Each generator after many epochs on the ten images, trained when it is first asked for."""

    def __init__(self, few: LesionSet, folder: Path) -> None:
        self.few, self.folder = few, folder

    def __missing__(self, name: str) -> Generator:
        def training(steps: int, rate: float, clip: float = 10.0) -> TrainingSettings:
            return TrainingSettings(
                steps=steps,
                batch_size=8,
                learning_rate=rate,
                ema_decay=0.9,
                precision="no",
                gradient_clip=clip,
            )

        torch.manual_seed(0)
        if name == "textbook_vae":
            settings = TextbookVAESettings(latent_size=16, width=8, training=training(160, 5e-3))
            vae = TextbookVAE(SIZE, settings, n_classes=7)
            train(vae, self.few, settings.training, self.folder / name, seed=0, progress_bar=False)
            self[name] = vae
            return vae
        if name == "vae":
            generator: LatentGenerator = vae_in_latents(self.few, training(200, 1e-3, clip=1.0))
        elif name == "gan":
            self[name] = gan_with_perfect_generator(self.few)
            return self[name]
        elif name == "flow":
            settings = FlowSettings(
                width=16,
                dim_mults=(1,),
                cond_drop_prob=0.0,
                guidance=1.0,
                training=training(160, 5e-3),
            )
            generator = Flow(SIZE, settings, n_classes=7)
        else:
            generator = Diffusion(
                SIZE,
                DiffusionSettings(
                    width=16,
                    dim_mults=(1,),
                    timesteps=50,
                    sampling_steps=8,
                    schedule_shift=1.0,
                    cond_drop_prob=0.0,
                    guidance=1.0,
                    training=training(160, 5e-3),
                ),
                n_classes=7,
            )
        how, data = generator.settings.training, unturned(generator, self.few)
        train(generator, data, how, self.folder / name, seed=0, progress_bar=False)
        self[name] = generator
        return generator


@torch.no_grad()
def unturned(generator: LatentGenerator, few: LesionSet) -> LatentData:
    """x of the images as they are, in all the places of the flips and turns: less to remember."""
    x = generator.representation.encode(to_unit_range(few.images))
    return LatentData(few, x[:, None].expand(-1, VARIANTS, -1, -1, -1))


def vae_in_latents(few: LesionSet, how: TrainingSettings) -> VAE:
    """In the latents of an autoencoder that nobody has trained, of mean 0 and variance 1."""
    autoencoder = AutoencoderSettings(channels=8, width=8, training=how)
    settings = VAESettings(layers=1, width=64, guidance=1.0, training=how, autoencoder=autoencoder)
    vae = VAE(SIZE, settings, n_classes=7)
    normalise = vae.representation.normalise
    with torch.no_grad():
        x = vae.representation.eval().encode(to_unit_range(few.images))
        normalise.mean.copy_(x.mean((0, 2, 3)))
        normalise.variance.copy_(x.var((0, 2, 3)))
    return vae


def gan_with_perfect_generator(few: LesionSet) -> GAN:
    """Its generator draws true swatches, so that all that the discriminator can learn is the training images.

    To get there by training both players takes minutes.
    """
    once = TrainingSettings(steps=1, batch_size=1, learning_rate=1e-3)
    torch.manual_seed(0)
    settings = GANSettings(latent_size=16, width=8, discriminator_width=16, training=once)
    gan = GAN(SIZE, settings, n_classes=7)
    fresh = swatches(40, 7)
    real, made = ([gan.representation.encode(to_unit_range(each.images))] for each in (few, fresh))
    optimizer = torch.optim.Adam(gan.discriminator.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.softplus(-gan.discriminator(real, few.labels)).mean()
        loss = loss + F.softplus(gan.discriminator(made, fresh.labels)).mean()
        loss.backward()
        optimizer.step()
    return gan


@pytest.fixture(scope="module")
def overfitted(lesions: LesionSet, patients: SiblingSplit, tmp_path_factory) -> Overfitted:
    return Overfitted(lesions.subset(patients.trained_on), tmp_path_factory.mktemp("overfitted"))


def features(lesions: LesionSet) -> np.ndarray:
    return F.avg_pool2d(lesions.images.float(), 8).flatten(1).numpy()


def scores(
    generator: Generator, lesions: LesionSet, patients: SiblingSplit, rows: np.ndarray
) -> np.ndarray:
    """The calibrated attack's; the reference are lesions of which nothing was trained on or is attacked."""
    ids = lesions.table["lesion_id"].to_numpy()
    apart = np.concatenate([patients.trained_on, patients.non_members])
    reference = lesions.subset(~np.isin(ids, ids[apart]))
    asked = lesions.subset(rows)
    found, expected = (
        per_image_losses(generator, each, 0)[generator.membership_statistic]
        for each in (asked, reference)
    )
    return -difficulty_calibrated(found, features(asked), expected, features(reference))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("diffusion", "flow") else name
        for name in NAMES
    ],
)
def test_the_losses_of_an_overfitted_generator_give_its_images_away(
    name, overfitted, lesions, patients
):
    ids = lesions.table["lesion_id"].to_numpy()
    inside, outside = (
        scores(overfitted[name], lesions, patients, rows)
        for rows in (patients.members, patients.non_members)
    )
    found = guess_members(inside, outside, ids[patients.members], ids[patients.non_members], 200, 0)
    assert found["value"] > 0.8 and found["low"] > 0.6
    assert found["tpr"] >= 0.3


@pytest.mark.parametrize("name", NAMES)
def test_images_that_it_never_saw_are_not_given_away(name, overfitted, lesions, patients):
    """The same overfitted generator, asked about two sets of lesions of neither of which it saw anything."""
    ids = lesions.table["lesion_id"].to_numpy()[patients.non_members]
    of_all = scores(overfitted[name], lesions, patients, patients.non_members)
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        one = rng.permutation(len(ids)) < len(ids) // 2
        found.append(guess_members(of_all[one], of_all[~one], ids[one], ids[~one], 200, 0))
    assert np.mean([each["value"] for each in found]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([each["low"] < 0.5 < each["high"] for each in found]) >= 0.8
    assert np.median([each["tpr"] for each in found]) <= 0.1


def test_an_unseen_photo_of_the_same_lesion_gives_the_patient_away(overfitted, lesions, patients):
    ids = lesions.table["lesion_id"].to_numpy()
    sibling, stranger = (
        scores(overfitted["textbook_vae"], lesions, patients, rows)
        for rows in (patients.withheld, patients.non_members)
    )
    found = guess_members(
        sibling, stranger, ids[patients.withheld], ids[patients.non_members], 200, 0
    )
    assert found["value"] > 0.8 and found["low"] > 0.6


def sampled(
    overfitted: dict[str, Generator], lesions: LesionSet, patients: SiblingSplit
) -> np.ndarray:
    labels = lesions.labels[np.resize(patients.trained_on, 60)]
    return to_uint8(overfitted["textbook_vae"].sample(labels, seed=5)).numpy()


def test_the_samples_of_an_overfitted_generator_are_copies(overfitted, lesions, patients):
    """Every measure of nearest neighbours, and the attack by them, against real images that were never seen."""
    table, images = lesions.table["lesion_id"].to_numpy(), lesions.images.numpy()
    training, held = patients.trained_on, patients.non_members
    sets = {
        "synthetic": sampled(overfitted, lesions, patients),
        "real": images[held[: len(held) // 2]],
    }
    evaluator = held[len(held) // 2 :]
    near = {
        name: neighbours(each, images[training], table[training], nearest_aligned)
        for name, each in {**sets, "evaluator": images[evaluator]}.items()
    }
    share, authentic, ratio, c_t = {}, {}, {}, {}
    for name in sets:
        distance = near["evaluator"].distance, near[name].distance
        share[name] = near_duplicate_rate(*distance, table[evaluator], 200, 0)
        authentic[name] = authenticity(near[name], 200, 0)
        ratio[name] = neighbour_ratio(near[name], 200, 0)
        cells = [np.zeros(len(each), dtype=int) for each in distance]
        c_t[name] = data_copying(near["evaluator"], near[name], *cells, table[evaluator], 200, 0)
    assert share["synthetic"]["low"] > 0.3 and share["real"]["low"] <= 0.01
    assert authentic["synthetic"]["high"] < authentic["real"]["low"]
    assert ratio["synthetic"]["high"] < ratio["real"]["low"]
    assert c_t["synthetic"]["high"] < -3 < c_t["real"]["low"]
    flat = {name: each.reshape(len(each), -1) for name, each in sets.items()}
    for name, caught in (("synthetic", True), ("real", False)):
        found = membership_attack(
            images[patients.members].reshape(10, -1),
            images[evaluator].reshape(len(evaluator), -1),
            flat[name],
            table[patients.members],
            table[evaluator],
            200,
            0,
        )
        assert (found["low"] > 0.5) == caught


def test_losses_are_those_of_the_training(overfitted, lesions):
    """One number an image, whatever the batch; by their definitions, see the tests of each generator."""
    some = lesions.subset(np.arange(5))
    for name, statistic in MEMBERSHIP_STATISTIC.items():
        assert overfitted[name].membership_statistic == statistic
    for name in NAMES:
        generator = overfitted[name]
        whole, split = (per_image_losses(generator, some, 3, batch_size=size) for size in (5, 2))
        pd.testing.assert_frame_equal(whole, split, rtol=1e-3)
        assert generator.membership_statistic in whole and len(whole) == 5


def test_diffusion_with_an_autoencoder_has_its_error_too(lesions):
    training = TrainingSettings(steps=1, batch_size=1, learning_rate=1e-3)
    settings = DiffusionSettings(
        width=8,
        dim_mults=(1,),
        timesteps=20,
        sampling_steps=4,
        training=training,
        autoencoder=AutoencoderSettings(channels=4, width=8, training=training),
    )
    torch.manual_seed(0)
    diffusion, some = Diffusion(SIZE, settings, n_classes=7).eval(), lesions.subset(np.arange(3))
    found = per_image_losses(diffusion, some, 0)
    with torch.no_grad():
        images = to_unit_range(some.images)
        decoded = diffusion.representation.decode(diffusion.representation.encode(images))
    np.testing.assert_allclose(
        found["autoencoder"], (decoded - images).abs().mean((1, 2, 3)), rtol=1e-5
    )
    assert (found["denoising"] > 0).all()


def test_calibration_takes_away_what_looks_alone_explain():
    """Losses that hang on the features alone say nothing afterwards; a member's shift of them stays."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5))
    loss = x @ rng.normal(size=5) * 10 + rng.normal(size=600)
    members, others, reference = np.split(np.arange(600), 3)
    loss[members] -= 2
    score = [
        -difficulty_calibrated(loss[rows], x[rows], loss[reference], x[reference])
        for rows in (members, others)
    ]
    ids = [f"a{i}" for i in members], [f"b{i}" for i in others]
    raw = guess_members(-loss[members], -loss[others], *ids, 200, 0)
    found = guess_members(*score, *ids, 200, 0)
    assert raw["value"] < 0.65 and found["low"] > 0.8
    with pytest.raises(NotMeasured, match="20 reference images: a calibration needs 50 held-out"):
        difficulty_calibrated(loss, x, loss[:20], x[:20])
    with pytest.raises(InputError, match="600 losses for features of 5"):
        difficulty_calibrated(loss, x[:5], loss, x)


def test_withheld_siblings_are_of_patients_and_strangers_of_nobody(lesions, patients):
    ids = lesions.table["lesion_id"].to_numpy()
    assert list(ids[patients.members]) == list(ids[patients.withheld])
    assert len(set(ids[patients.members])) == 10 and len(set(ids[patients.non_members])) == 100
    assert set(patients.members) <= set(patients.trained_on)
    assert not set(patients.withheld) & set(patients.trained_on)
    assert not set(ids[patients.non_members]) & set(ids[patients.trained_on])
    assert set(ids[patients.trained_on]) == set(ids[patients.members])
    rows = np.arange(len(lesions))
    more = withhold_siblings(lesions.table, rows[:100], rows[100:], 10, None, seed=1)
    assert len(more.trained_on) == 90
    again = withhold_siblings(lesions.table, rows[:100], rows[100:], 10, None, seed=1)
    assert all(np.array_equal(getattr(more, key), getattr(again, key)) for key in vars(more))
    with pytest.raises(NotMeasured, match="at least 10 of each"):
        withhold_siblings(lesions.table, rows[:10], rows[100:], 10, None, seed=1)


def test_nobody_to_compare_with_is_not_measured(overfitted, lesions):
    table = lesions.table.assign(lesion_id=[f"L{k}" for k in range(len(lesions))])  # one photo each
    rows = np.arange(len(lesions))
    with pytest.raises(NotMeasured, match="0 lesions in training and 0 held out have several"):
        withhold_siblings(table, rows[:100], rows[100:], 10, 0, seed=1)
    with pytest.raises(NotMeasured, match="there are 3 of the one and 0 of the other"):
        guess_members(np.ones(3), np.empty(0), ["a", "b", "c"], [], 10, 0)
    with pytest.raises(NotMeasured, match="there is no image"):
        per_image_losses(overfitted["textbook_vae"], lesions.subset(np.arange(0)), 0)


def test_an_attack_on_images_of_another_size_is_refused(overfitted, lesions):
    with pytest.raises(InputError, match="images of 16 pixels for a generator of 32"):
        small = lesions.subset(np.arange(5))
        per_image_losses(
            overfitted["textbook_vae"],
            replace(small, images=small.images[:, :, ::2, ::2]),
            0,
        )
