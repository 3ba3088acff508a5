from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from phantom_sets import LESIONS, synthetic
from safetensors.torch import save_file

from hamsynth_utils.classifier import pretrained as module
from hamsynth_utils.classifier.model import Classifier
from hamsynth_utils.classifier.predict import predict
from hamsynth_utils.classifier.pretrained import build_classifier
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.data.dataset_info import HAM10000

PROBABILITIES = HAM10000.classes.probability_columns


@pytest.fixture
def settings(tiny_profile):
    return load_profile(tiny_profile).classifier


@pytest.fixture
def with_weights(settings):
    def change(weights: str, **more):
        return settings.model_copy(update={"weights": weights, **more})

    return change


@pytest.fixture
def pretrained_file(tmp_path):
    """A 'pretrained' ViT at 224 pixels, two blocks, in timm's names."""
    torch.manual_seed(7)
    vit = timm.create_model("vit_tiny_patch16_224", depth=2)
    path = tmp_path / "vit_tiny_patch16_224_mine.safetensors"
    save_file(vit.state_dict(), path)
    return path, vit


def test_weights_from_a_file_are_used_truncated_and_resampled(with_weights, pretrained_file):
    path, vit = pretrained_file
    model, provenance = build_classifier(with_weights(str(path)), seed=0, n_classes=7)
    assert provenance.source == "file" and path.name in provenance.detail
    assert len(model.vit.blocks) == 1
    assert torch.equal(model.vit.blocks[0].attn.qkv.weight, vit.blocks[0].attn.qkv.weight)
    assert model.vit.pos_embed.shape[1] == 1 + (32 // 16) ** 2
    assert model.vit.head.out_features == 7


def test_auto_tells_what_failed_and_where_it_ended(with_weights, pretrained_file, monkeypatch):
    monkeypatch.setattr(module.hub, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HAMSYNTH_WEIGHTS", raising=False)
    _, provenance = build_classifier(with_weights("auto"), seed=0, n_classes=7)
    assert provenance.source == "random"
    assert len(provenance.tried) == 2 and "HF_HUB_OFFLINE" in provenance.tried[0]
    monkeypatch.setenv("HAMSYNTH_WEIGHTS", str(pretrained_file[0].parent))
    _, provenance = build_classifier(with_weights("auto"), seed=0, n_classes=7)
    assert provenance.source == "file" and not provenance.tried, "the hub was asked all the same"


def test_a_hub_that_refuses_is_noticed_at_once(with_weights, monkeypatch):
    monkeypatch.setattr(module.hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module.hub, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(InputError, match=r"the model hub http://127\.0\.0\.1:9 gave no weights"):
        build_classifier(with_weights("hub"), seed=0, n_classes=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "no/such.safetensors"}, "no weights at"),
        ({"model": "resnet18"}, "not a timm vision transformer"),
        ({"model": "vit_nonsense"}, "not a timm vision transformer"),
    ],
)
def test_what_cannot_be_had_is_an_error_not_a_substitute(settings, change, message):
    with pytest.raises(InputError, match=message):
        build_classifier(settings.model_copy(update=change), seed=0, n_classes=7)


def test_more_blocks_than_the_weights_have_is_refused(with_weights, pretrained_file):
    with pytest.raises(InputError, match="depth is 5, but these weights have 2 blocks"):
        build_classifier(with_weights(str(pretrained_file[0]), depth=5), seed=0, n_classes=7)


def test_weights_of_another_model_are_refused(with_weights, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"blocks.0.weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="does not fit vit_tiny_patch16_224"):
        build_classifier(with_weights(str(path)), seed=0, n_classes=7)


def test_layers_nearer_the_input_learn_more_slowly(with_weights, pretrained_file):
    model, _ = build_classifier(with_weights(str(pretrained_file[0]), depth=2), seed=0, n_classes=7)
    rates = {}
    names = {id(p): n for n, p in model.vit.named_parameters()}
    for group in model.parameter_groups(1e-3):
        rates[names[id(group["params"][0])]] = group["lr"]
    assert rates["blocks.1.attn.qkv.weight"] == pytest.approx(1e-3)
    assert rates["blocks.0.attn.qkv.weight"] == pytest.approx(0.75e-3)
    assert rates["patch_embed.proj.weight"] == pytest.approx(0.75**2 * 1e-3)
    assert rates["head.weight"] == pytest.approx(model.settings.head_learning_rate)
    assert len(rates) == len(names)


def test_images_are_enlarged_and_normalised_as_the_vit_expects(settings):
    model, _ = build_classifier(settings, seed=0, n_classes=7)
    ready = model.prepare(torch.full((2, 3, 64, 64), 1.0))  # white
    assert ready.shape == (2, 3, 32, 32)
    torch.testing.assert_close(ready.mean(dim=(0, 2, 3)), ((1 - model.mean) / model.std).flatten())


def test_predictions_are_probabilities_that_ignore_mirroring(settings):
    model, _ = build_classifier(settings, seed=0, n_classes=7)
    torch.nn.init.normal_(model.vit.head.weight)
    frame = predict(model, LESIONS)
    assert frame["image_id"].tolist() == LESIONS.table["image_id"].tolist()
    assert np.allclose(frame[PROBABILITIES].sum(axis=1), 1)
    mirrored = replace(LESIONS, images=LESIONS.images.flip(3))
    assert np.allclose(frame[PROBABILITIES], predict(model, mirrored)[PROBABILITIES], atol=1e-5)


def test_a_synthetic_image_is_never_predicted_on(settings):
    model, _ = build_classifier(settings, seed=0, n_classes=7)
    with pytest.raises(InputError, match=r"hold 2 synthetic image\(s\), first SYN_4_0: refused"):
        predict(model, LESIONS + synthetic(4, 2))


def test_the_forward_pass_is_the_loss_that_training_minimises(settings):
    model, _ = build_classifier(settings, seed=0, n_classes=7)
    assert isinstance(model, Classifier)
    images, labels = torch.rand(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    model.eval()
    log_probabilities = model.logits(images).log_softmax(1)
    smoothing = model.settings.label_smoothing
    target = torch.full((4, 7), smoothing / 7).scatter_add(
        1, labels[:, None], torch.full((4, 1), 1 - smoothing)
    )
    torch.testing.assert_close(
        model(images, labels)["loss"], -(target * log_probabilities).sum(1).mean()
    )
