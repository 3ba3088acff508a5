import numpy as np

from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.training.batches import batch_indices

LESIONS = make_phantom(120, seed=0)


def settings(**change) -> TrainingSettings:
    return TrainingSettings(**{"steps": 30, "batch_size": 16, "learning_rate": 0.05, **change})


def test_every_epoch_visits_every_image_once_whatever_the_batch_size():
    steps = settings(batch_size=50)
    drawn = np.concatenate(
        [index for _, index in batch_indices(LESIONS, steps, seed=1, start=0, total=12)]
    )
    for epoch in range(5):
        assert np.array_equal(np.sort(drawn[epoch * 120 : (epoch + 1) * 120]), np.arange(120))


def test_batches_do_not_depend_on_where_one_starts():
    for balance in (0.0, 0.7):
        whole = dict(
            batch_indices(LESIONS, settings(class_balance_power=balance), seed=1, start=0, total=20)
        )
        rest = dict(
            batch_indices(
                LESIONS, settings(class_balance_power=balance), seed=1, start=13, total=20
            )
        )
        assert all(np.array_equal(whole[step], rest[step]) for step in rest)


def test_full_class_balance_draws_each_class_equally_often():
    drawn = np.concatenate(
        [
            i
            for _, i in batch_indices(
                LESIONS, settings(class_balance_power=1.0), seed=0, start=0, total=400
            )
        ]
    )
    present = np.unique(LESIONS.labels.numpy())
    shares = np.bincount(LESIONS.labels.numpy()[drawn], minlength=7)[present] / len(drawn)
    assert np.abs(shares - 1 / len(present)).max() < 0.02
