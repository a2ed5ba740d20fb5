"""The GPT-2 network.

In: byte (or token) numbers of shape (batch, time). Out: logits of shape (batch, time, vocabulary). Pre-norm blocks,
learned positions, GELU, dropout where GPT-2 has it, an output head tied to the token embedding, and the initialization
of the GPT-2 paper or weights from a file. Every matrix is a ``torch.nn.Linear`` (rows = outputs), so an optimizer can
tell hidden matrices, embeddings and head apart by module type. No training, no data, no choice of device or dtype.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from examples.gpt2.config import ConfigError, ModelConfig
from examples.gpt2.huggingface import read_state

INIT_STD = 0.02
"""Standard deviation of every weight at the start, as in GPT-2."""


PRESETS = {
    "tiny": ModelConfig(),
    "nano": ModelConfig(context=64, layers=4, width=128, heads=4),
    "small": ModelConfig(vocab_size=50257, context=1024, layers=12, width=768, heads=12),
    "medium": ModelConfig(vocab_size=50257, context=1024, layers=24, width=1024, heads=16),
    "large": ModelConfig(vocab_size=50257, context=1024, layers=36, width=1280, heads=20),
    "xl": ModelConfig(vocab_size=50257, context=1024, layers=48, width=1600, heads=25),
}
"""Shapes by name: the demo's, nanoGPT's small one for a CPU, and the four of the GPT-2 paper (124 M to 1.5 B)."""


def find_preset(name: str) -> ModelConfig:
    """The shape called ``name``; raises ``ConfigError`` for one that there is not."""
    if name not in PRESETS:
        raise ConfigError(f"there is no model named {name}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and the past; (batch, time, width) to the same shape."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        by_head = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = by_head.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, width / heads)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, time, width))


class MLP(nn.Module):
    """The position-wise network, four times as wide inside; (batch, time, width) to the same shape."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """One pre-norm layer: attention, then the MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = CausalSelfAttention(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    """GPT-2 with a tied head; weights come from torch's global random generator (see ``build_model``)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ConfigError(f"vocab_size must be that of the data to build a model, got {config.vocab_size}")
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
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
        x = self.dropout(self.tokens(tokens) + self.positions.weight[:time])
        recompute = self.config.checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return self.head(self.norm(x))

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token, in at least float32; both arguments have shape (batch, time)."""
        logits = self(inputs).flatten(0, 1)
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets.flatten())


def build_model(config: ModelConfig, *, seed: int) -> GPT:
    """A new model with the weights of ``config.weights``, or else weights that depend on shape and ``seed`` only.

    The global random state is left as it was. Weights that do not fit are a ``WeightsError``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(config)
    if config.weights is not None:
        model.load_state_dict(read_state(Path(config.weights), config))
    return model
