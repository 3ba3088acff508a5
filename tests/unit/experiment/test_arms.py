import numpy as np
import pytest
import torch
from phantom_sets import LESIONS, synthetic
from sklearn.utils.class_weight import compute_class_weight

from hamsynth_utils.classifier.model import losses
from hamsynth_utils.classifier.pretrained import build_classifier
from hamsynth_utils.core.arm_names import ARMS, GENERATORS, generator_of
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import to_unit_range
from hamsynth_utils.experiment.arms import (
    augment_for_classifier,
    augment_with_trivial,
    augmentation,
    class_weights,
    training_set,
    training_settings,
)

SETTINGS = TrainingSettings(epochs=3, batch_size=32, learning_rate=1e-3)


def test_an_arms_training_set_is_real_plus_its_minority_images():
    counts = LESIONS.counts
    largest = max(counts.values())
    target = round(0.1 * largest)
    made = sum((synthetic(label, target) for label in range(1, 7)), start=synthetic(0, target))
    both = training_set("gan", LESIONS, made, 0.1)
    assert both.table["synthetic"].sum() == sum(max(0, target - n) for n in counts.values()) > 0
    assert min(both.counts.values()) >= min(target, largest)
    assert training_set("real", LESIONS, None, 0.1) is LESIONS


@pytest.mark.parametrize(
    ("arm", "made", "message"),
    [
        ("wavelet", None, "no arm is called 'wavelet'"),
        ("gan", None, "needs the synthetic set of gan"),
        ("gan", synthetic(3, 1), "holds 0 images of akiec"),
    ],
)
def test_an_arm_that_cannot_be_made_is_refused(arm, made, message):
    with pytest.raises(InputError, match=message):
        training_set(arm, LESIONS, made, 0.5)


def test_the_real_images_of_an_arm_must_be_real():
    with pytest.raises(InputError, match="the real training images hold 1 synthetic"):
        training_set("real", LESIONS + synthetic(4, 1), None, 0.1)


def test_images_of_two_sizes_cannot_be_merged():
    with pytest.raises(InputError, match="64 and 32 pixels"):
        LESIONS + synthetic(4, 1, image_size=32)


def test_an_arm_of_a_generator_alone_sees_no_real_image():
    made = sum((synthetic(label, 5) for label in range(1, 7)), start=synthetic(0, 5))
    alone = training_set("gan_only", LESIONS, made, 0.1)
    assert alone.table["synthetic"].all() and len(alone) == len(made)
    with pytest.raises(InputError, match="needs the synthetic set of gan"):
        training_set("gan_only", LESIONS, None, 0.1)
    with pytest.raises(InputError, match="have 32 pixels, the real ones 64"):
        training_set("gan_only", LESIONS, synthetic(4, 1, image_size=32), 0.1)


def test_every_arm_makes_as_many_steps_as_the_real_one():
    settings = [training_settings(arm, SETTINGS, 320) for arm in ARMS]
    assert {each.total_steps(10_000) for each in settings} == {SETTINGS.total_steps(320)} == {30}
    balance = {arm: each.class_balance_power for arm, each in zip(ARMS, settings, strict=True)}
    assert balance == {arm: float(arm == "oversample") for arm in ARMS}


def test_class_weights_are_scikit_learns_balanced_ones():
    weights = class_weights("weighted", LESIONS.counts)
    present = np.unique(LESIONS.labels)
    expected = compute_class_weight("balanced", classes=present, y=LESIONS.labels.numpy())
    assert weights[present].tolist() == pytest.approx(expected)
    only_two = class_weights(
        "weighted", dict.fromkeys(HAM10000.classes, 0) | {"akiec": 3, "mel": 1}
    )
    assert only_two.tolist() == pytest.approx([4 / 6, 0, 0, 0, 2, 0, 0])
    assert all(
        torch.equal(class_weights(arm, LESIONS.counts), torch.ones(7))
        for arm in ARMS
        if arm != "weighted"
    )


def test_weights_change_the_loss_as_repeated_images_would(tiny_profile):
    settings = load_profile(tiny_profile).classifier
    assert settings.label_smoothing > 0
    model, _ = build_classifier(settings, seed=0, n_classes=7)
    model.eval()
    images, labels = torch.rand(3, 3, 64, 64), torch.tensor([0, 4, 4])
    repeated = model(images[[0, 0, 0, 1, 2]], labels[[0, 0, 0, 1, 2]])["loss"]
    model.class_weights[0] = 3.0
    torch.testing.assert_close(model(images, labels)["loss"], repeated)


def test_weights_do_not_move_the_answer_to_an_image_whose_class_is_certain():
    """The best answer under smoothing s: 1 - s + s / 7 for the class and s / 7 for each other one."""
    weights = torch.tensor([1.0, 1.0, 1.0, 12.0, 1.0, 0.2, 10.0])
    logits = torch.zeros(1, 7, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9)

    def loss():
        optimizer.zero_grad()
        value = losses(logits, torch.tensor([5]), weights, 0.1)["loss"]
        value.backward()
        return value

    optimizer.step(loss)
    expected = torch.full((7,), 0.1 / 7)
    expected[5] += 0.9
    torch.testing.assert_close(logits.detach().softmax(1)[0], expected, atol=1e-4, rtol=0)


def test_the_augment_arm_changes_more_each_image_its_own_and_is_seeded():
    images = to_unit_range(LESIONS.images[:1].repeat(16, 1, 1, 1))

    def drawn(seed):
        return augment_with_trivial(images, torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    first = drawn(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, drawn(0)) and not torch.equal(first, drawn(1))
    assert first.shape == images.shape and first.min() >= -1 and first.max() <= 1
    plain = augment_for_classifier(images, torch.Generator().manual_seed(0))
    # Turning and mirroring keep the colours of the middle; most of the further changes do not.
    middle = [x[:, :, 24:40, 24:40].mean((2, 3)) for x in (plain, first)]
    assert middle[1].std(0).mean() > 2 * middle[0].std(0).mean()
    assert augmentation("augment") is augment_with_trivial
    assert all(augmentation(arm) is augment_for_classifier for arm in ARMS if arm != "augment")


def test_the_generator_of_an_arm():
    assert [generator_of(arm) for arm in ARMS if generator_of(arm)] == [*GENERATORS, *GENERATORS]
    assert all(generator_of(arm) is None for arm in ("real", "weighted", "oversample", "augment"))
