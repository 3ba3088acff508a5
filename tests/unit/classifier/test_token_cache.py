import copy
import multiprocessing
import time

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import save_file
from timm.models.vision_transformer import Block
from torch import nn

from hamsynth_utils.classifier import token_cache as module
from hamsynth_utils.classifier.model import last_block_class_token_only
from hamsynth_utils.classifier.predict import predict
from hamsynth_utils.classifier.pretrained import build_classifier
from hamsynth_utils.classifier.token_cache import CachedTokenData, cached_tokens
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.settings import TrainingSettings
from hamsynth_utils.data.augmentation import views
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.data.lesion_set import to_unit_range
from hamsynth_utils.data.phantom.generate import make_phantom
from hamsynth_utils.experiment.arms import trivial_augment
from hamsynth_utils.training.loop import train

PROBABILITIES = HAM10000.classes.probability_columns

LESIONS = make_phantom(150, seed=0).subset(np.arange(40))


@pytest.fixture
def build(tiny_profile, tmp_path):
    """Builds a classifier of three 'pretrained' blocks of which the first two are frozen."""
    torch.manual_seed(7)
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", depth=3).state_dict(), path)
    settings = load_profile(tiny_profile).classifier
    exact = settings.training.model_copy(update={"precision": "no"})
    settings = settings.model_copy(update={"training": exact})

    def made(seed: int = 0, **change):
        change = {
            "weights": str(path),
            "depth": 3,
            "frozen_blocks": 2,
            "tta_views": 8,
            "drop_path": 0.0,
            **change,
        }
        return build_classifier(settings.model_copy(update=change), seed, n_classes=7)[0]

    return made


@pytest.mark.parametrize("options", [{}, {"qkv_bias": True, "init_values": 0.3}, {"qk_norm": True}])
def test_the_class_token_alone_is_that_of_the_whole_block(options):
    torch.manual_seed(0)
    block = Block(48, num_heads=3, norm_layer=nn.LayerNorm, **options).double().eval()
    tokens = torch.randn(5, 17, 48, dtype=torch.float64)
    torch.testing.assert_close(last_block_class_token_only(block, tokens), block(tokens)[:, :1])


def test_frozen_or_not_the_logits_are_those_of_the_vit(build):
    images = to_unit_range(LESIONS.images[:6])
    for frozen in (0, 2, 3):
        model = build(frozen_blocks=frozen).eval()
        torch.testing.assert_close(
            model.logits(images), model.vit(model.prepare(images)), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(model.logits(model.forward_frozen(images)), model.logits(images))


def test_pooled_tokens_are_the_means_of_squares_of_patches(build):
    images = to_unit_range(LESIONS.images[:6])
    whole, pooled = (
        build(frozen_blocks=2, input_size=64, token_pool=pool).eval() for pool in (1, 2)
    )
    with torch.no_grad():
        tokens, fewer = whole.forward_frozen(images), pooled.forward_frozen(images)
        assert tokens.shape[1:] == (1 + 4 * 4, 192) and fewer.shape[1:] == (1 + 2 * 2, 192)
        torch.testing.assert_close(fewer[:, 0], tokens[:, 0])
        grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        torch.testing.assert_close(fewer[:, 1:], F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2))
        # The ViT itself, its copies and the tokens agree on what comes of it.
        logits = pooled.logits(images)
        torch.testing.assert_close(pooled.logits(fewer), logits)
        torch.testing.assert_close(pooled.vit(pooled.prepare(images)), logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(copy.deepcopy(pooled).logits(images), logits)
    with pytest.raises(
        InputError, match=r"classifier.token_pool is 3, but 4 x 4 patches make no whole squares"
    ):
        build(frozen_blocks=2, input_size=64, token_pool=3)


def test_kept_tokens_are_those_of_every_view_and_are_computed_once(build, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IMAGES_PER_FILE", 16)
    model = build()
    kept = cached_tokens(model, LESIONS, tmp_path / "tokens")
    assert kept.views == 8 and len(kept.files) == 3 and sum(map(len, kept.files)) == len(LESIONS)
    rows, view = np.array([0, 39, 17, 17]), np.array([0, 7, 3, 4])
    with torch.no_grad():
        all_views = [model.forward_frozen(part) for part in views(to_unit_range(LESIONS.images), 8)]
    expected = torch.stack([all_views[v][row] for row, v in zip(rows, view, strict=True)])
    torch.testing.assert_close(kept.take(rows, view), expected, atol=5e-3, rtol=2e-3)

    monkeypatch.setattr(module, "_compute", lambda *_: pytest.fail("computed again"))
    again = cached_tokens(
        build(seed=1), LESIONS, tmp_path / "tokens"
    )  # another head: the same blocks
    assert torch.equal(again.take(rows, view), kept.take(rows, view))
    for other in ({"frozen_blocks": 1}, {"input_size": 48}, {"tta_views": 2}, {"token_pool": 2}):
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            cached_tokens(build(**other), LESIONS, tmp_path / "tokens")


def test_what_a_killed_process_left_is_not_taken_for_whole(build, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IMAGES_PER_FILE", 20)
    model, calls = build(), []

    def killed(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return compute(*arguments)

    compute = module._compute
    monkeypatch.setattr(module, "_compute", killed)
    with pytest.raises(KeyboardInterrupt):
        cached_tokens(model, LESIONS, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    monkeypatch.setattr(module, "_compute", lambda *a: calls.append(1) or compute(*a))
    assert len(cached_tokens(model, LESIONS, tmp_path).files) == 2 and len(calls) == 2


def held(path, began):
    with FileLock(path):
        began.set()
        time.sleep(3)


def test_processes_share_the_work(build, tmp_path, monkeypatch):
    """While another process holds the first file, the others are computed; then the first is waited for."""
    monkeypatch.setattr(module, "IMAGES_PER_FILE", 16)
    model, compute, order = build(), module._compute, []
    files = cached_tokens(model, LESIONS, tmp_path / "before").files
    first = next(
        p for p in (tmp_path / "before").glob("*.npy") if np.array_equal(np.load(p), files[0])
    ).name
    (tmp_path / "now").mkdir()
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    other = context.Process(target=held, args=(str(tmp_path / "now" / f"{first}.lock"), began))
    other.start()
    assert began.wait(60)
    monkeypatch.setattr(
        module, "_compute", lambda c, images, *a: order.append(images) or compute(c, images, *a)
    )
    again = cached_tokens(model, LESIONS, tmp_path / "now")
    other.join()
    assert torch.equal(order[-1], LESIONS.images[:16]) and len(order) == 3
    assert all(np.array_equal(a, b) for a, b in zip(again.files, files, strict=True))


def test_a_change_is_seeded_and_each_view_gets_its_own(build, tmp_path):
    model = build()
    few = LESIONS.subset(np.arange(4))
    plain = cached_tokens(model, few, tmp_path).files[0]
    first, again, other = (
        cached_tokens(model, few, tmp_path / name, trivial_augment, seed).files[0]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first, plain)


def test_training_on_tokens_is_training_on_images(build, tmp_path):
    """With one view there is nothing to draw, and both must take the same steps up to half precision."""
    settings = TrainingSettings(
        steps=8, batch_size=8, learning_rate=1e-3, ema_decay=0.0, precision="no"
    )
    by_images, by_tokens = build(tta_views=1), build(tta_views=1)
    kept = cached_tokens(by_tokens, LESIONS, tmp_path / "tokens")
    quiet = {"seed": 0, "progress_bar": False}
    first = train(by_images, LESIONS, settings, tmp_path / "images", **quiet)
    second = train(
        by_tokens, CachedTokenData(LESIONS, kept), settings, tmp_path / "by tokens", **quiet
    )
    assert np.allclose(first.history["loss"], second.history["loss"], atol=2e-3)
    assert second.history["loss"].iloc[-1] < second.history["loss"].iloc[0]
    untouched = build(tta_views=1)
    for name, value in by_tokens.state_dict().items():
        frozen = name.startswith(
            ("vit.patch_embed", "vit.pos_embed", "vit.cls", "vit.blocks.0", "vit.blocks.1")
        )
        same = torch.equal(value, untouched.state_dict()[name])
        assert same == frozen, name


def test_tokens_are_computed_in_the_precision_of_the_training(build, tmp_path):
    """Not the same numbers, not from the same files, and as near as bfloat16 comes."""
    exact = build()
    rough = build(training=exact.settings.training.model_copy(update={"precision": "bf16"}))
    first, second = (
        cached_tokens(model, LESIONS, tmp_path).files[0].astype(np.float32)
        for model in (exact, rough)
    )
    assert len(list(tmp_path.glob("*.npy"))) == 2
    assert 1e-4 < np.abs(first - second).mean() / np.abs(first).mean() < 0.03


def test_predictions_by_tokens_are_predictions_by_images(build, tmp_path):
    model = build()
    nn.init.normal_(model.vit.head.weight)
    kept = cached_tokens(model, LESIONS, tmp_path)
    some = LESIONS.subset(np.arange(30, 5, -1))
    whole, short = predict(model, some), predict(model, some, tokens=kept)
    assert whole["image_id"].equals(short["image_id"])
    assert np.allclose(whole[PROBABILITIES], short[PROBABILITIES], atol=5e-3)
    turned = LESIONS.subset(np.arange(30, 5, -1))
    turned.images.copy_(turned.images.rot90(1, (2, 3)))
    assert np.allclose(predict(model, turned)[PROBABILITIES], whole[PROBABILITIES], atol=1e-5)
    with pytest.raises(InputError, match="no tokens were computed for 10 image.s., first"):
        cached_tokens(model, LESIONS.subset(np.arange(30)), tmp_path).align_table(LESIONS)


def test_random_blocks_are_not_frozen(build):
    with pytest.raises(
        InputError, match="classifier.frozen_blocks is 2, but random blocks must not be frozen"
    ):
        build(weights="none")
    with pytest.raises(InputError, match="classifier.frozen_blocks is 4, but there are 3 blocks"):
        build(frozen_blocks=4)
