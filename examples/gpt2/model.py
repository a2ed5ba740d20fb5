"""The GPT-2 network.

In: byte (or token) numbers of shape (batch, time). Out: logits of shape (batch, time, vocabulary). Pre-norm blocks,
learned positions, GELU, an output head tied to the token embedding, and the initialization of the GPT-2 paper. Every
matrix is a ``torch.nn.Linear`` (rows = outputs), so an optimizer can tell hidden matrices, embeddings and head apart
by module type. No training, no data, no device choice here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INIT_STD = 0.02
"""Standard deviation of every weight at the start, as in GPT-2."""


@dataclass(frozen=True, slots=True)
class GPTConfig:
    """The shape of a GPT-2; the defaults are the demo's model (1.3 M parameters, bytes).

    ``context`` is the longest sequence in tokens, ``width`` the size of the residual stream, which ``heads`` divides.
    """

    vocab_size: int = 256
    context: int = 128
    layers: int = 4
    width: int = 160
    heads: int = 5

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "width", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")

    def count_parameters(self) -> int:
        """Number of trained numbers, the tied head counted once: ``(V + T) d + L (12 d^2 + 13 d) + 2 d``."""
        d = self.width
        embeddings = (self.vocab_size + self.context) * d
        block = 12 * d * d + 13 * d
        return embeddings + self.layers * block + 2 * d


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and the past; (batch, time, width) to the same shape."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        by_head = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = by_head.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, width / heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, time, width))


class MLP(nn.Module):
    """The position-wise network, four times as wide inside; (batch, time, width) to the same shape."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """One pre-norm layer: attention, then the MLP, each added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = CausalSelfAttention(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """GPT-2 with a tied head; weights come from torch's global random generator (see ``build_model``)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the GPT-2 initialization: N(0, 0.02^2), zero biases.

        The two projections of each block that write to the residual stream get ``1/sqrt(2 layers)`` of that deviation,
        so that the variance of the stream does not grow with depth.
        """
        residual_std = INIT_STD / math.sqrt(2 * self.config.layers)
        for name, module in self.named_modules():
            if isinstance(module, (nn.Embedding, nn.Linear)) and module is not self.head:
                nn.init.normal_(module.weight, std=residual_std if name.endswith((".proj", ".down")) else INIT_STD)
            if isinstance(module, nn.Linear) and module is not self.head:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, time, vocabulary) for the token after each position of ``tokens`` (batch, time)."""
        time = tokens.shape[1]
        if time > self.config.context:
            raise ValueError(f"{time} tokens do not fit the context of {self.config.context}")
        x = self.tokens(tokens) + self.positions.weight[:time]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token; both arguments have shape (batch, time)."""
        return F.cross_entropy(self(inputs).flatten(0, 1), targets.flatten())


def build_model(config: GPTConfig, *, seed: int) -> GPT:
    """A new model whose weights depend on ``config`` and ``seed`` only; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT(config)
