"""A class-conditional autoregressive flow over the positions of a latent map.

The chain rule splits the density of a map into one conditional density per position. Here each of
them is a normal distribution, whose mean and covariance a causal transformer computes from the
positions before (MAF, Papamakarios et al. 2017; TarFlow, Zhai et al. 2024). One such block can only
make normal conditionals, so several are stacked, and every other one goes through the positions
backwards.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = tuple[Tensor, Tensor]
"""Keys and values [N, heads, t, HEAD_WIDTH] of the t positions so far."""

HEAD_WIDTH = 32
"""Numbers per position in each head of the attention."""

LARGEST_LOG_DEVIATION = 5.0
"""Logarithms of deviations are clamped to plus and minus this number."""


class AutoregressiveFlow(nn.Module):
    """An invertible map between noise and x, both [N, C, h, w]; the density of x follows from it.

    Args:
        shape: [C, h, w] of x.
        n_classes: K, the number of classes.
        blocks: how many blocks.
        layers: transformer layers of each block.
        width: numbers per position in the transformer, a multiple of HEAD_WIDTH.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_classes: int,
        blocks: int,
        layers: int,
        width: int,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.blocks = nn.ModuleList(
            AutoregressiveBlock(shape, n_classes, layers, width) for _ in range(blocks)
        )

    @property
    def in_order(self) -> list[AutoregressiveBlock]:
        """The blocks from x to noise."""
        return cast("list[AutoregressiveBlock]", list(self.blocks))

    def to_noise(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The noise from which `to_x` makes x, for all positions at once.

        Args:
            x: [N, C, h, w].
            classes: weights of the class embeddings, [N, K]; 1 for the class and 0 else.

        Returns:
            The noise [N, C, h, w], and log |det d noise / d x| [N].
        """
        tokens = x.flatten(2).transpose(1, 2)  # [N, C, h, w] -> [N, T, C]
        log_determinant = torch.zeros(len(x), device=x.device)
        for block in self.in_order:
            tokens, change = block.to_noise(tokens, classes)
            log_determinant = log_determinant + change
            tokens = tokens.flip(1)  # the next block goes the other way
        return tokens.transpose(1, 2).reshape(-1, *self.shape), log_determinant

    def to_x(self, noise: Tensor, classes: Tensor) -> Tensor:
        """The inverse of `to_noise`, one position after the other.

        Args:
            noise: [N, C, h, w].
            classes: weights of the class embeddings, [N, K]; 1 for the class and 0 else.

        Returns:
            x [N, C, h, w].
        """
        tokens = noise.flatten(2).transpose(1, 2)  # [N, C, h, w] -> [N, T, C]
        for block in reversed(self.in_order):
            tokens = block.to_x(tokens.flip(1), classes)
        return tokens.transpose(1, 2).reshape(-1, *self.shape)

    def negative_log_likelihood(self, x: Tensor, classes: Tensor) -> Tensor:
        """-log p(x | y): that of the noise, minus the logarithm of the change of volume.

        Args:
            x: [N, C, h, w].
            classes: weights of the class embeddings, [N, K]; 1 for the class and 0 else.

        Returns:
            Nats [N].
        """
        noise, log_determinant = self.to_noise(x, classes)
        constant = 0.5 * math.log(2 * math.pi) * noise[0].numel()
        return 0.5 * noise.square().flatten(1).sum(1) + constant - log_determinant


class AutoregressiveBlock(nn.Module):
    """x_t = mean_t + L_t z_t at every position t; x before t gives mean_t and the triangular L_t.

    L_t is the Cholesky factor of the covariance of the C channels. What the transformer sees of a
    position are its neighbours left, above, and above to either side: most of what x_t depends on.

    Args:
        shape: [C, h, w] of x; there are T = h w positions, row by row.
        n_classes: K, the number of classes.
        layers: transformer layers.
        width: numbers per position in the transformer, a multiple of HEAD_WIDTH.
    """

    lower: Tensor
    diagonal: Tensor

    def __init__(
        self, shape: tuple[int, int, int], n_classes: int, layers: int, width: int
    ) -> None:
        super().__init__()
        channels, height, columns = shape
        self.channels, self.positions = channels, height * columns
        # How many positions back: left, above right, above, above left; to the left of the first
        # column is the end of the row above.
        self.offsets = tuple(dict.fromkeys((1, columns - 1, columns, columns + 1)))
        self.embed = nn.Linear(len(self.offsets) * channels, width)
        self.position = nn.Parameter(0.02 * torch.randn(self.positions, width))
        self.layers = nn.ModuleList(TransformerLayer(width, n_classes) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, channels + channels**2)
        nn.init.zeros_(self.head.weight)  # at the beginning x = z
        nn.init.zeros_(self.head.bias)
        self.register_buffer("lower", torch.ones(channels, channels).tril(-1), persistent=False)
        self.register_buffer("diagonal", torch.eye(channels), persistent=False)

    @property
    def in_order(self) -> list[TransformerLayer]:
        """The transformer's layers."""
        return cast("list[TransformerLayer]", list(self.layers))

    def to_noise(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """All positions at once.

        Args:
            x: [N, T, C].
            classes: weights of the class embeddings, [N, K]; 1 for the class and 0 else.

        Returns:
            z [N, T, C], and log |det dz / dx| [N].
        """
        mean, factor = self.conditional(self.hidden(x, classes))
        difference = (x.float() - mean)[..., None]  # [N, T, C, 1]
        z = torch.linalg.solve_triangular(factor, difference, upper=False)[..., 0]
        log_deviations = factor.diagonal(dim1=2, dim2=3).log()  # [N, T, C]
        return z, -log_deviations.sum((1, 2))

    def to_x(self, z: Tensor, classes: Tensor) -> Tensor:
        """One position after the other, with the keys and values of the positions before at hand.

        Args:
            z: [N, T, C].
            classes: weights of the class embeddings, [N, K]; 1 for the class and 0 else.

        Returns:
            x [N, T, C].
        """
        conditions = [layer.condition(classes) for layer in self.in_order]
        caches: list[Cache | None] = [None] * len(self.layers)
        nothing = torch.zeros_like(z[:, 0])  # [N, C]
        x: list[Tensor] = []
        for t in range(self.positions):
            before = [x[t - k] if t >= k else nothing for k in self.offsets]
            hidden = self.embed(torch.cat(before, dim=1)) + self.position[t]  # [N, width]
            for i, layer in enumerate(self.in_order):
                hidden, caches[i] = layer.step(hidden, conditions[i], caches[i])
            mean, factor = self.conditional(hidden)
            x.append(mean + (factor * z[:, t, None, :]).sum(2))  # [N, C, C] -> [N, C]
        return torch.stack(x, dim=1)

    def hidden(self, x: Tensor, classes: Tensor) -> Tensor:
        """The transformer's output at all positions at once.

        Args:
            x: [N, T, C].
            classes: weights of the classes [N, K].

        Returns:
            [N, T, width]; what stands at a position depends on the positions before it.
        """
        padded = F.pad(x, (0, 0, max(self.offsets), 0))  # zeros before the first position
        before = [padded[:, max(self.offsets) - k :][:, : self.positions] for k in self.offsets]
        hidden = self.embed(torch.cat(before, dim=2)) + self.position  # [N, T, width]
        for layer in self.in_order:
            hidden = layer(hidden, layer.condition(classes[:, None]))
        return hidden

    def conditional(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [..., C] and Cholesky factor [..., C, C] from the transformer's output [..., width].

        In mixed precision a mean would be rounded by more than a small deviation.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            numbers = self.head(self.norm(hidden.float()))
        mean, entries = numbers.split([self.channels, self.channels**2], dim=-1)
        entries = entries.unflatten(-1, (self.channels, self.channels))
        deviations = entries.clamp(-LARGEST_LOG_DEVIATION, LARGEST_LOG_DEVIATION).exp()
        return mean, self.lower * entries + self.diagonal * deviations


class TransformerLayer(nn.Module):
    """Causal attention and a perceptron, each after a norm that the class scales and shifts.

    Args:
        width: numbers per position, a multiple of HEAD_WIDTH.
        n_classes: K, the number of classes.
    """

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.classes = nn.Linear(n_classes, 4 * width)  # an embedding that can be mixed
        nn.init.normal_(self.classes.weight, std=0.02)
        nn.init.zeros_(self.classes.bias)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def condition(self, classes: Tensor) -> tuple[Tensor, ...]:
        """Weights of the classes [..., K] -> scale and shift of both norms, each [..., width]."""
        return self.classes(classes).chunk(4, dim=-1)

    def forward(self, hidden: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """Compute all positions at once.

        Args:
            hidden: [N, T, width].
            condition: what `condition` gives for [N, 1, K], each [N, 1, width].

        Returns:
            [N, T, width].
        """
        scale, shift, scale_2, shift_2 = condition  # [N, 1, width] each
        queries_keys_values = self.attention_in(self.norm(hidden) * (1 + scale) + shift)
        split = queries_keys_values.unflatten(2, (3, self.heads, HEAD_WIDTH))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # [N, heads, T, HEAD_WIDTH] each
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden = hidden + self.attention_out(attended.transpose(1, 2).flatten(2))
        return hidden + self.perceptron(self.norm(hidden) * (1 + scale_2) + shift_2)

    def step(
        self, hidden: Tensor, condition: tuple[Tensor, ...], cache: Cache | None
    ) -> tuple[Tensor, Cache]:
        """The next position alone: the same as `forward` gives there.

        Args:
            hidden: [N, width].
            condition: as of `condition`, four times [N, width].
            cache: of the positions before; None at the first.

        Returns:
            The output [N, width], and the cache with this position.
        """
        scale, shift, scale_2, shift_2 = condition
        # Two dimensions, of which ONNX makes one matrix product without copies of the weights.
        queries_keys_values = self.attention_in(self.norm(hidden) * (1 + scale) + shift)
        q, k, v = queries_keys_values.reshape(-1, 3, self.heads, 1, HEAD_WIDTH).unbind(1)
        if cache is not None:
            k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        scores = (q @ k.transpose(2, 3)) * HEAD_WIDTH**-0.5  # [N, heads, 1, t]
        attended = (scores.softmax(3) @ v).reshape(-1, self.heads * HEAD_WIDTH)
        hidden = hidden + self.attention_out(attended)
        return hidden + self.perceptron(self.norm(hidden) * (1 + scale_2) + shift_2), (k, v)
