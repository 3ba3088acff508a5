import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.augmentation import LesionAugmentation, augment

SETTINGS = [
    {"rotation": "quarter"},
    {"rotation": "any"},
    {"rotation": "none", "zoom": 0.3},
    {"rotation": "quarter", "zoom": 0.3},
    {"rotation": "any", "flips": False, "zoom": 0.3},
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(images: int, size: int = 16, seed: int = 1) -> Tensor:
    return torch.rand(images, 3, size, size, generator=generator(seed)) * 2 - 1


def ramp(images: int, size: int = 65) -> Tensor:
    """Channel 0 is x, channel 1 is y, both in [-0.5, 0.5]; where a pixel came from can be read off it."""
    axis = torch.linspace(-0.5, 0.5, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).expand(images, 3, size, size).clone()


def jacobians(images: Tensor) -> Tensor:
    """d(source x, source y) / d(output x, output y) at the centre of each changed `ramp`, [N, 2, 2]."""
    size = images.shape[-1]
    c, d = size // 2, size // 8
    dx = images[:, :2, c, c + d] - images[:, :2, c, c - d]
    dy = images[:, :2, c + d, c] - images[:, :2, c - d, c]
    return torch.stack([dx, dy], dim=2) * (size - 1) / (2 * d)


def eight_ways(image: Tensor) -> list[Tensor]:
    """The image in its eight orientations, [3, S, S] each, written with transpositions only."""
    ways = []
    for turned in (image, image.transpose(1, 2)):
        ways += [turned, turned.flip(1), turned.flip(2), turned.flip(1).flip(2)]
    return ways


def test_quarter_turns_and_flips_are_exact_and_equally_frequent() -> None:
    image = noise(1)[0]
    batch = image.expand(4000, -1, -1, -1)
    ways = torch.stack(eight_ways(image))
    changed = augment(batch, generator(), rotation="quarter", flips=True)
    match = (changed.flatten(1)[:, None] == ways.flatten(1)[None]).all(dim=2)
    assert (match.sum(dim=1) == 1).all()
    # 500 expected of each: five standard deviations are 105
    assert (match.sum(dim=0) - 500).abs().max() < 105


def test_quarter_turns_without_flips_are_four() -> None:
    image = noise(1)[0]
    changed = augment(image.expand(400, -1, -1, -1), generator(), rotation="quarter", flips=False)
    transposed_once = image.transpose(1, 2)
    four = [image, image.flip(1).flip(2), transposed_once.flip(1), transposed_once.flip(2)]
    match = (changed[:, None] == torch.stack(four)[None]).flatten(2).all(dim=2)
    assert (match.sum(dim=1) == 1).all() and (match.sum(dim=0) > 60).all()


def test_flips_alone_keep_top_and_side() -> None:
    image = noise(1)[0]
    changed = augment(image.expand(400, -1, -1, -1), generator(), rotation="none", flips=True)
    four = torch.stack([image, image.flip(1), image.flip(2), image.flip(1).flip(2)])
    match = (changed[:, None] == four[None]).flatten(2).all(dim=2)
    assert (match.sum(dim=1) == 1).all() and (match.sum(dim=0) > 60).all()


def test_nothing_asked_is_nothing_done() -> None:
    images = noise(5)
    assert torch.equal(augment(images, generator(), rotation="none", flips=False), images)


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_black_corners(settings: dict) -> None:
    bright = torch.full((300, 3, 32, 32), 0.8)
    bright[:, 1] = 0.9
    changed = augment(bright, generator(), **settings)
    assert torch.allclose(changed, bright, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_image_has_its_own_draw_and_the_seed_decides(settings: dict) -> None:
    batch = noise(1).expand(64, -1, -1, -1)
    changed = augment(batch, generator(3), **settings)
    assert len(torch.unique(changed.flatten(1), dim=0)) >= 8
    assert torch.equal(changed, augment(batch, generator(3), **settings))
    assert not torch.equal(changed, augment(batch, generator(4), **settings))
    source = generator(3)
    assert not torch.equal(augment(batch, source, **settings), augment(batch, source, **settings))


@pytest.mark.parametrize("settings", SETTINGS)
def test_shape_type_and_range_are_kept(settings: dict) -> None:
    images = noise(200).sign()
    changed = augment(images, generator(), **settings)
    assert changed.shape == images.shape and changed.dtype == images.dtype
    assert changed.min() >= -1 and changed.max() <= 1
    assert augment(images[:0], generator(), **settings).shape == (0, 3, 16, 16)
    assert augment(images.half(), generator(), **settings).dtype == torch.float16


def test_images_given_are_not_changed() -> None:
    images = noise(20)
    before = images.clone()
    for settings in SETTINGS:
        augment(images, generator(), **settings)
    assert torch.equal(images, before)


def test_any_angle_turns_rigidly_through_all_angles() -> None:
    j = jacobians(augment(ramp(400), generator(), rotation="any", flips=False))
    assert torch.allclose(j @ j.transpose(1, 2), torch.eye(2).expand_as(j), atol=2e-3)
    assert torch.allclose(torch.linalg.det(j), torch.ones(400), atol=2e-3)
    angle = torch.atan2(j[:, 1, 0], j[:, 0, 0]) % (2 * math.pi)
    counts = torch.histc(angle, 8, 0, 2 * math.pi)
    assert counts.min() > 20


def test_zoom_enlarges_by_up_to_the_factor_asked_for() -> None:
    j = jacobians(augment(ramp(400), generator(), rotation="none", flips=False, zoom=0.5))
    factor = 1 / j[:, 0, 0]
    assert torch.allclose(j, torch.eye(2) / factor.view(-1, 1, 1), atol=2e-3)
    assert factor.min() > 0.999 and factor.max() < 1.501
    assert factor.min() < 1.02 and factor.max() > 1.48 and abs(factor.mean() - 1.25) < 0.04


def test_the_transform_composes_and_leaves_labels_alone() -> None:
    images, labels = noise(30), torch.arange(30)
    pipeline = v2.Compose([LesionAugmentation(generator(5), rotation="any", zoom=0.1)])
    changed, kept = pipeline(images, labels)
    assert torch.equal(changed, augment(images, generator(5), rotation="any", zoom=0.1))
    assert torch.equal(kept, labels)
    assert not torch.equal(pipeline(images), changed)


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}, "float"),
        (torch.zeros(3, 8, 8), {}, "N, 3, H, W"),
        (torch.zeros(2, 3, 8, 9), {"rotation": "any"}, "square"),
        (torch.zeros(2, 3, 8, 8), {"rotation": "half"}, "'half'"),
        (torch.zeros(2, 3, 8, 8), {"zoom": -0.1}, "zoom"),
    ],
)
def test_bad_input_is_refused(images: Tensor, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        augment(images, generator(), **settings)
