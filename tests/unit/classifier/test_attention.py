import pytest
import timm
import torch
from torch import nn

from hamsynth_utils.classifier.attention import (
    ATTENTION_METHODS,
    attention_gradients,
    attention_maps,
    attention_rollout,
    patch_maps,
    relevance,
    rollout,
    rollout_image,
)
from hamsynth_utils.classifier.model import pool_patch_tokens_after
from hamsynth_utils.core.errors import InputError


def vit(name: str = "vit_tiny_patch16_224", **settings: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(
            name, pretrained=False, img_size=64, depth=2, num_classes=7, **settings
        )
        # Freshly made, attention is almost even and a wrong map would hardly show.
        for block in model.blocks:
            nn.init.normal_(block.attn.qkv.weight, std=0.15)
    return model.eval()


def images(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def interact(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """softmax(Q K' / sqrt(d)) from the weights of each block, at the tokens that enter it."""
    entering: list[torch.Tensor] = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
        for block in model.blocks
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    maps = []
    for block, tokens in zip(model.blocks, entering, strict=True):
        n, t, width = tokens.shape
        heads = block.attn.num_heads
        weight, bias = block.attn.qkv.weight.detach(), block.attn.qkv.bias.detach()
        q, k = (
            (
                tokens @ weight[part * width : (part + 1) * width].T
                + bias[part * width : (part + 1) * width]
            )
            .reshape(n, t, heads, width // heads)
            .transpose(1, 2)
            for part in (0, 1)
        )
        maps.append(torch.softmax(q @ k.mT / (width // heads) ** 0.5, dim=-1))
    return maps


def test_maps_are_softmax_of_queries_and_keys():
    model = vit()
    maps = attention_maps(model, images())
    assert maps.shape == (2, 2, 3, 17, 17)
    torch.testing.assert_close(maps, torch.stack(interact(model, images())), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, 3, 17))
    assert maps.std() > 0.05
    assert not maps.requires_grad


def test_the_model_is_left_as_it_was():
    model = vit(attn_drop_rate=0.5, drop_path_rate=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(images())
    maps = attention_maps(model, images())
    model.train()
    model.blocks[1].eval()
    torch.testing.assert_close(attention_maps(model, images()), maps)
    modes = [block.training for block in model.blocks]
    assert model.training and modes == [True, False]
    model.eval()
    torch.testing.assert_close(model(images()), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for block in model.blocks:
        assert block.attn.fused_attn == vit().blocks[0].attn.fused_attn
        assert not block.attn.attn_drop._forward_pre_hooks


def test_the_model_is_left_as_it_was_after_a_failure():
    model = vit().train()
    fused = model.blocks[0].attn.fused_attn
    with pytest.raises(Exception):  # noqa: B017 (whatever the model says of five channels)
        attention_maps(model, torch.zeros(1, 5, 64, 64))
    assert model.training and model.blocks[0].attn.fused_attn == fused
    assert not model.blocks[0].attn.attn_drop._forward_pre_hooks


def test_rollout_of_tokens_that_attend_to_themselves_is_the_identity():
    identity = torch.eye(5).expand(3, 2, 4, 5, 5)
    torch.testing.assert_close(rollout(identity), torch.eye(5).expand(2, 5, 5))
    assert attention_rollout(identity).tolist() == [[1, 0, 0, 0, 0]] * 2


def test_rollout_by_hand():
    """Two blocks, two tokens: in the first all look at token 0, in the second all look at token 1."""
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    maps = torch.stack([torch.stack([m, m]) for m in (first, second)])[:, None]
    result = rollout(maps)[0]
    # (second + I)/2 @ (first + I)/2 = [[.5, .5], [0, 1]] @ [[1, 0], [.5, .5]]
    torch.testing.assert_close(result, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    torch.testing.assert_close(attention_rollout(maps, slice(0, 2))[0], result.mean(0))


def test_rollout_means_over_heads_and_rows_sum_to_one():
    maps = attention_maps(vit(), images())
    torch.testing.assert_close(attention_rollout(maps).sum(1), torch.ones(2))
    split = torch.stack([torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[0.0, 1], [0, 1]])])[
        None, None
    ]
    torch.testing.assert_close(rollout(split)[0], torch.tensor([[0.75, 0.25], [0.25, 0.75]]))


class WithPreparation(nn.Module):
    """A classifier as it may wrap a ViT: enlarges what it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(nn.functional.interpolate(x, size=(64, 64)))


def test_rollout_image_puts_attention_where_the_patch_is():
    model = vit()
    heat = rollout_image(model, images())
    assert heat.shape == (2, 64, 64)
    maps = attention_maps(model, images())
    patch = attention_rollout(maps)[0, 1:].argmax().item()
    row, column = divmod(int(heat[0].argmax()), 64)
    assert (row // 16) * 4 + column // 16 == patch
    small = rollout_image(WithPreparation(model), images()[..., ::2, ::2])
    assert small.shape == (2, 32, 32)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("vit_tiny_patch16_224", 1),
        ("vit_small_patch14_reg4_dinov2", 5),
        ("vit_base_patch16_gap_224", 0),
    ],
)
def test_prefix_tokens_are_left_out(name, prefix, monkeypatch):
    """Every token looks at patch 6 only (row 1, column 2 of 4 x 4): the heat must lie there."""
    patch = 14 if "14" in name else 16
    model = timm.create_model(
        name, pretrained=False, img_size=4 * patch, depth=1, num_classes=7
    ).eval()
    maps = torch.full((1, 1, 1, prefix + 16, prefix + 16), 0.0)
    maps[..., prefix + 6] = 1.0
    monkeypatch.setattr("hamsynth_utils.classifier.attention.attention_maps", lambda *_: maps)
    heat = rollout_image(model, torch.zeros(1, 3, 4 * patch, 4 * patch))[0]
    row, column = divmod(int(heat.argmax()), 4 * patch)
    assert (row // patch, column // patch) == (1, 2)
    assert heat.min() >= 0 and heat.mean() == pytest.approx(1, abs=0.1)
    monkeypatch.undo()
    assert attention_maps(model, torch.zeros(1, 3, 4 * patch, 4 * patch)).shape[-1] == prefix + 16


def test_even_attention_is_one_everywhere(monkeypatch):
    monkeypatch.setattr(
        "hamsynth_utils.classifier.attention.attention_maps",
        lambda *_: torch.full((2, 1, 3, 17, 17), 1 / 17),
    )
    torch.testing.assert_close(rollout_image(vit(), images(1)), torch.ones(1, 64, 64))


def test_gradients_are_what_a_nudge_of_the_attention_does():
    """Each map nudged in turn, in double precision: the logit moves by the gradient along the nudge."""
    model, x, labels = vit().double(), images(2).double(), torch.tensor([3, 5])
    maps, gradients = attention_gradients(model, x, labels)
    torch.testing.assert_close(maps, attention_maps(model, x))
    for block in range(2):
        nudge = torch.randn(maps.shape[1:], generator=torch.Generator().manual_seed(block)).double()
        attention = model.blocks[block].attn

        def logits(step: float, attention=attention, nudge=nudge) -> torch.Tensor:
            hook = attention.attn_drop.register_forward_pre_hook(
                lambda _, a: (a[0] + step * nudge,)
            )
            fused, attention.fused_attn = attention.fused_attn, False
            with torch.no_grad():
                result = model(x).gather(1, labels[:, None])[:, 0]
            hook.remove()
            attention.fused_attn = fused
            return result

        slope = (logits(1e-4) - logits(-1e-4)) / 2e-4
        torch.testing.assert_close(
            (gradients[block] * nudge).sum((1, 2, 3)), slope, rtol=1e-5, atol=1e-8
        )
    assert all(weight.grad is None for weight in model.parameters()) and not maps.requires_grad


def test_gradients_need_no_weight_that_may_change():
    model = vit()
    expected = attention_gradients(model, images(), torch.tensor([0, 1]))[1]
    with torch.no_grad():
        found = attention_gradients(model.requires_grad_(False), images(), torch.tensor([0, 1]))[1]
    torch.testing.assert_close(found, expected)
    assert expected.abs().max() > 0


def test_relevance_by_hand():
    """Two tokens, two heads, two blocks: heads whose gradient is against the class do not count."""
    maps = torch.full((2, 1, 2, 2, 2), 0.5)
    gradients = torch.zeros(2, 1, 2, 2, 2)
    gradients[0, 0, 0] = torch.tensor([[0.0, 2.0], [0.0, 4.0]])  # first block, first head
    gradients[0, 0, 1] = -10.0
    gradients[1, 0, 1] = torch.tensor([[0.0, 4.0], [-1.0, 0.0]])
    # first: mean over heads of max(gradient * A, 0) = [[0, .5], [0, 1]], R = I + that = [[1, .5], [0, 2]]
    # second: [[0, 1], [0, 0]], R = [[1, .5], [0, 2]] + [[0, 1], [0, 0]] @ R = [[1, 2.5], [0, 2]]
    torch.testing.assert_close(relevance(maps, gradients), torch.tensor([[1.0, 2.5]]))
    torch.testing.assert_close(relevance(maps, gradients, slice(0, 2)), torch.tensor([[0.5, 2.25]]))


def test_patch_maps_are_those_of_each_image_whatever_the_batch():
    model, x, labels = vit(), images(5), torch.tensor([0, 1, 2, 3, 4])
    found = patch_maps(model, x, labels, batch=2)
    assert tuple(found) == ATTENTION_METHODS
    maps, gradients = attention_gradients(model, x, labels)
    for name, rows in (
        ("rollout", attention_rollout(maps)),
        ("relevance", relevance(maps, gradients)),
    ):
        torch.testing.assert_close(found[name], rows[:, 1:].reshape(5, 4, 4), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["last block"], maps[-1].mean(1)[:, 0, 1:].reshape(5, 4, 4))
    other = patch_maps(model, x, labels.flip(0))
    torch.testing.assert_close(other["rollout"], found["rollout"])
    assert not torch.allclose(other["relevance"][0], found["relevance"][0]), (
        "relevance is that of a class"
    )
    pooled = vit("vit_base_patch16_gap_224")
    assert patch_maps(pooled, x[:1], labels[:1])["relevance"].shape == (1, 4, 4)


def test_a_model_without_attention_is_refused():
    with pytest.raises(InputError, match="Sequential is no Vision Transformer"):
        attention_maps(nn.Sequential(nn.Conv2d(3, 3, 1)), images())
    parallel = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        img_size=64,
        depth=1,
        block_fn=timm.models.vision_transformer.ParallelThingsBlock,
    )
    with pytest.raises(InputError, match="2 attention layers"):
        attention_maps(parallel, images())


def test_behind_pooled_patches_the_class_tokens_row_is_that_of_the_pooled_tokens():
    model, x, labels = vit(), images(), torch.tensor([1, 4])
    plain = attention_maps(model, x)[0]
    pool_patch_tokens_after(model.blocks[0], model, 2)
    inside = interact(model, x)[1]  # of the second block, on 1 + 2 x 2 tokens
    pooling = torch.zeros(5, 17)
    pooling[0, 0] = 1
    for patch in range(16):
        pooling[1 + patch // 8 * 2 + patch % 4 // 2, 1 + patch] = 1 / 4
    maps, gradients = attention_gradients(model, x, labels)
    assert maps.shape == (2, 2, 3, 17, 17)
    torch.testing.assert_close(maps[0], plain, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, 3, 17))
    first, second = ((each.mean(1) + torch.eye(each.shape[-1])) / 2 for each in (plain, inside))
    expected = second @ pooling @ first
    torch.testing.assert_close(rollout(maps)[:, 0], expected[:, 0], atol=1e-5, rtol=1e-4)
    # Relevance as well, with the gradients of the pooled block's own map.
    fewer = gradients[1][:, :, [0, 1, 3, 9, 11]][..., [0, 1, 3, 9, 11]]
    first = torch.eye(17) + (gradients[0] * maps[0]).clamp_min(0).mean(1)
    second = torch.eye(5) + (fewer * inside).clamp_min(0).mean(1)
    torch.testing.assert_close(
        relevance(maps, gradients), (second @ pooling @ first)[:, 0], atol=1e-5, rtol=1e-4
    )
