import numpy as np
import pytest
import timm
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from hamsynth_utils.classifier.attention import patch_maps
from hamsynth_utils.classifier.faithfulness import (
    FRACTIONS,
    REQUIRED_CHECKS,
    area,
    baseline_maps,
    centred_blobs,
    fraction_inside,
    hiding_curves,
    map_verdict,
    rank_correlation,
    shuffled_weights,
)
from hamsynth_utils.core.errors import InputError


class SeesOnePatch(nn.Module):
    """Calls class 1 by how bright the patch in row 1, column 2 of 4 x 4 is, and sees nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, :, 16:32, 32:48].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(bright), 8 * bright - 4], dim=1)


def lit(n: int = 3) -> Tensor:
    """Dark images whose one patch that counts is lit."""
    x = torch.zeros(n, 3, 64, 64)
    x[:, :, 16:32, 32:48] = 1.0
    return x


def heat_at(row: int, column: int, n: int = 3) -> Tensor:
    heat = torch.rand(n, 4, 4, generator=torch.Generator().manual_seed(0))
    heat[:, row, column] = 2.0
    return heat


def square(top: int, left: int, size: int, n: int = 1) -> np.ndarray:
    mask = np.zeros((n, 64, 64), dtype=bool)
    mask[:, top : top + size, left : left + size] = True
    return mask


def test_fraction_inside_of_maps_that_are_known():
    masks = square(16, 32, 16)
    assert fraction_inside(torch.ones(1, 4, 4), masks) == pytest.approx([1 / 16])
    on = torch.zeros(1, 4, 4)
    on[0, 1, 2] = 5.0
    assert fraction_inside(on, masks) == pytest.approx([1.0])
    on[0, 0, 0] = 15.0
    assert fraction_inside(on, masks) == pytest.approx([0.25])
    # Half of the patch is lesion, so half of what the patch has counts.
    assert fraction_inside(on, square(16, 32, 16) & (np.arange(64) < 40)) == pytest.approx([0.125])
    odd = square(3, 17, 23)  # of 64 pixels, so that the borders of 6 patches cut pixels
    assert fraction_inside(torch.ones(1, 6, 6), odd) == pytest.approx([23**2 / 64**2])
    assert fraction_inside(torch.zeros(1, 4, 4), masks) == pytest.approx([1 / 16]), (
        "no map is an even map"
    )


def test_a_centred_blob_is_as_large_as_the_lesion_and_hits_what_is_centred():
    for size in (10, 24, 40):
        centred = square(32 - size // 2, 32 - size // 2, size)
        blob = centred_blobs(centred, (64, 64))
        assert float(blob.sum()) == size**2
        assert fraction_inside(blob, centred) > 0.85
        assert fraction_inside(centred_blobs(square(0, 0, 10), (64, 64)), square(0, 0, 10)) == 0
        coarse = centred_blobs(centred, (4, 4))
        assert coarse.shape == (1, 4, 4) and float(coarse.mean()) == pytest.approx(size**2 / 64**2)


def test_hiding_what_counts_costs_all_at_once_and_showing_it_gives_all():
    model, x, labels = SeesOnePatch(), lit(), torch.ones(3, dtype=torch.long)
    sure, without = (
        torch.sigmoid(torch.tensor(4.0)).item(),
        torch.sigmoid(torch.tensor(8 / 16 - 4)).item(),
    )
    found, shown = hiding_curves(model, x, heat_at(1, 2), labels, batch=2)
    assert found.shape == (3, len(FRACTIONS))
    np.testing.assert_allclose(found, [[sure, *[without] * (len(FRACTIONS) - 1)]] * 3, rtol=1e-5)
    np.testing.assert_allclose(shown, [[without, *[sure] * (len(FRACTIONS) - 1)]] * 3, rtol=1e-5)
    last = torch.full((3, 4, 4), 1.0)
    last[:, 1, 2] = 0.0
    late, _ = hiding_curves(model, x, last, labels)
    np.testing.assert_allclose(late[:, -1], without, rtol=1e-5)
    np.testing.assert_allclose(late[:, :-1], sure, rtol=1e-5)
    order = baseline_maps((200, 4, 4), 0)["random"]
    random, _ = hiding_curves(model, lit(200), order, torch.ones(200, dtype=torch.long))
    assert area(found).max() < area(random).mean() < area(late).min()
    # Of 16 patches, round(16 * share) are hidden: the patch that counts is among them that often.
    expected = np.array([sure + (without - sure) * round(16 * share) / 16 for share in FRACTIONS])
    np.testing.assert_allclose(random.mean(0), expected, atol=0.1)


def test_area_is_the_mean_height():
    assert area(np.full((2, len(FRACTIONS)), 0.3)) == pytest.approx([0.3, 0.3])
    assert area(np.array([FRACTIONS])) == pytest.approx([0.5])


def test_the_centre_comes_first_in_its_map():
    both = baseline_maps((5, 5, 5), 3)
    assert set(both) == {"random", "centre"}
    assert (both["centre"].flatten(1).argmax(1) == 12).all() and (both["centre"] > 0).all()
    corners = both["centre"][:, [0, 0, 4, 4], [0, 4, 0, 4]]
    assert (corners.max(1).values < both["centre"].flatten(1).median(1).values).all()
    assert not torch.equal(both["random"][0], both["random"][1])
    assert torch.equal(both["random"], baseline_maps((5, 5, 5), 3)["random"])


def vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(
            "vit_tiny_patch16_224", pretrained=False, img_size=64, depth=3, num_classes=7
        )
        for block in model.blocks:
            nn.init.normal_(block.attn.qkv.weight, std=0.15)
    return model.eval()


def test_shuffling_cascades_from_the_head_and_keeps_the_numbers():
    model = vit()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for blocks in range(4):
        changed = {
            name
            for name, weight in shuffled_weights(model, blocks, seed=1).state_dict().items()
            if not torch.equal(weight, before[name])
        }
        reached = {name.split(".")[1] for name in changed if name.startswith("blocks")}
        assert reached == {"0", "1", "2"}.difference(*({str(k)} for k in range(3 - blocks)))
        assert "head.weight" in changed and ("patch_embed.proj.weight" in changed) == (blocks == 3)
    shuffled = shuffled_weights(model, 3, seed=1).state_dict()
    for name, weight in before.items():
        assert torch.equal(shuffled[name].flatten().sort().values, weight.flatten().sort().values)
        assert torch.equal(model.state_dict()[name], weight), "the model itself is left as it was"
    with pytest.raises(InputError, match="the model has 3"):
        shuffled_weights(model, 4, 0)


def test_maps_lose_their_likeness_with_the_weights():
    x, labels = (
        torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
        torch.arange(6),
    )
    model = vit()
    whole = patch_maps(model, x, labels)["relevance"]
    assert rank_correlation(whole, whole) == pytest.approx([1] * 6)
    lost = patch_maps(shuffled_weights(model, 3, 5), x, labels)["relevance"]
    assert abs(rank_correlation(whole, lost).mean()) < 0.4
    # Rollout does not read the head: without it the map is the same.
    rolled = patch_maps(model, x, labels)["rollout"]
    headless = patch_maps(shuffled_weights(model, 0, 5), x, labels)["rollout"]
    assert rank_correlation(rolled, headless) == pytest.approx([1] * 6)


def test_rank_correlation_is_scipys():
    rng = torch.Generator().manual_seed(0)
    a, b = (
        torch.rand(4, 3, 3, generator=rng),
        torch.rand(4, 3, 3, generator=rng).round(decimals=1),
    )
    expected = [spearmanr(p.flatten(), q.flatten()).statistic for p, q in zip(a, b, strict=True)]
    assert rank_correlation(a, b) == pytest.approx(expected)
    assert rank_correlation(a, torch.ones(4, 3, 3)).tolist() == [0.0] * 4


def test_the_verdict_follows_from_the_intervals_alone():
    good, bad = {"value": 0.2, "low": 0.1, "high": 0.3}, {"value": 0.2, "low": -0.1, "high": 0.5}
    checks = {
        **dict.fromkeys(REQUIRED_CHECKS, good),
        "lesion, chance": good,
        "deletion, centre": good,
    }
    assert "marks what the model uses, surely" in map_verdict(checks)
    assert map_verdict({**checks, "deletion, centre": bad}).endswith("(failed: deletion, centre)")
    assert "no explanation" in map_verdict({**checks, "lesion, chance": bad})
    for name in REQUIRED_CHECKS:
        assert "explains nothing" in map_verdict({**checks, name: bad}) and name in map_verdict(
            {**checks, name: bad}
        )
    with pytest.raises(InputError, match="shuffled weights"):
        map_verdict(dict.fromkeys(REQUIRED_CHECKS[:2], good))
    assert "explains nothing" in map_verdict({**checks, REQUIRED_CHECKS[0]: {"low": float("nan")}})
