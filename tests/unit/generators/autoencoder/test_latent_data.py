"""Images encoded once: all flips and turns, kept in a file that fits no other images and no other autoencoder."""

import numpy as np
import pytest
import torch

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.weights import read_weights
from hamsynth_utils.data.lesion_set import LesionSet, to_unit_range
from hamsynth_utils.generators.autoencoder.latent_data import VARIANTS, encoded, flips_and_turns
from hamsynth_utils.generators.autoencoder.representation import PixelUnshuffle, Representation


class Shifted(Representation):
    """Folds pixels and adds a number to them, in the place of an autoencoder with weights."""

    factor, channels, limit = 4, 48, 2.0

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(shift))
        self.calls = 0

    def encode(self, images):
        self.calls += 1
        return torch.nn.functional.pixel_unshuffle(images, 4) + self.shift

    def decode(self, x):
        return torch.nn.functional.pixel_shuffle(x - self.shift, 4)


@pytest.fixture
def few(lesions) -> LesionSet:
    return lesions.subset(np.arange(6))


def test_the_eight_variants_are_all_different_and_exact():
    image = torch.arange(3 * 16, dtype=torch.float32).view(1, 3, 4, 4)
    variants = list(flips_and_turns(image))
    assert len(variants) == VARIANTS
    assert len({each.numpy().tobytes() for each in variants}) == VARIANTS
    for each in variants:
        assert torch.equal(each.flatten().sort().values, image.flatten().sort().values)


def test_a_batch_is_a_variant_of_each_image(few):
    data = encoded(few, PixelUnshuffle(4))
    rows = torch.tensor([4, 1, 1])
    batch = data.batch_fn(torch.device("cpu"))(rows, torch.Generator().manual_seed(3))
    decoded = PixelUnshuffle(4).decode(batch)
    for row, image in zip(rows, decoded, strict=True):
        original = to_unit_range(few.images[row][None])
        distances = [(each - image).abs().max() for each in flips_and_turns(original)]
        assert min(distances) < 0.01  # bfloat16


def test_every_variant_occurs(few):
    data = encoded(few, PixelUnshuffle(4))
    make_batch = data.batch_fn(torch.device("cpu"))
    batch = make_batch(torch.zeros(200, dtype=torch.long), torch.Generator().manual_seed(0))
    assert len({each.numpy().tobytes() for each in batch}) == VARIANTS


def test_no_image_is_encoded_twice(few, tmp_path):
    space, cache = Shifted(0.5), tmp_path / "latents.safetensors"
    first = encoded(few, space, cache)
    assert space.calls == VARIANTS
    again = encoded(few, space, cache)
    assert space.calls == VARIANTS
    assert torch.equal(first.latents, again.latents)
    assert again.latents.dtype == torch.bfloat16 and again.latents.shape == (6, 8, 48, 16, 16)


def test_latents_of_another_autoencoder_are_refused(few, tmp_path):
    cache = tmp_path / "latents.safetensors"
    encoded(few, Shifted(0.5), cache)
    with pytest.raises(InputError, match="of another autoencoder: delete it"):
        encoded(few, Shifted(0.25), cache)


def test_latents_of_other_images_are_refused(few, lesions, tmp_path):
    cache = tmp_path / "latents.safetensors"
    encoded(few, Shifted(0.5), cache)
    with pytest.raises(InputError, match="of other images: delete it"):
        encoded(lesions.subset(np.arange(1, 7)), Shifted(0.5), cache)


def test_a_damaged_file_is_named(few, tmp_path):
    cache = tmp_path / "latents.safetensors"
    encoded(few, Shifted(0.5), cache)
    cache.write_bytes(cache.read_bytes()[:200])
    with pytest.raises(InputError, match=r"latents\.safetensors is damaged"):
        encoded(few, Shifted(0.5), cache)
    with pytest.raises(InputError):
        read_weights(cache)
