"""The parameter sets that optimizers are timed on, by name.

Out: names, shapes and roles as in `examples.gpt2.model`, whose output head is tied to its token embedding, and tensors
made from them. No model is built: an optimizer step reads parameters and gradients alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_STD = 0.02
GRADIENT_STD = 1e-3


@dataclass(frozen=True)
class Entry:
    """One parameter: its name, shape (rows first) and role ("matrix", "embedding" or "vector")."""

    name: str
    shape: tuple[int, ...]
    role: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Named:
    """A parameter with its name and role."""

    name: str
    role: str
    tensor: nn.Parameter


def _linear(name: str, outputs: int, inputs: int) -> list[Entry]:
    return [Entry(f"{name}.weight", (outputs, inputs), "matrix"), Entry(f"{name}.bias", (outputs,), "vector")]


def _norm(name: str, width: int) -> list[Entry]:
    return [Entry(f"{name}.weight", (width,), "vector"), Entry(f"{name}.bias", (width,), "vector")]


def transformer(vocabulary: int, context: int, layers: int, width: int) -> tuple[Entry, ...]:
    """The parameters of a GPT-2 of these sizes, in the order of the module."""
    entries = [
        Entry("tokens.weight", (vocabulary, width), "embedding"),
        Entry("positions.weight", (context, width), "embedding"),
    ]
    for layer in range(layers):
        block = f"blocks.{layer}"
        entries += _norm(f"{block}.norm1", width)
        entries += _linear(f"{block}.attention.qkv", 3 * width, width)
        entries += _linear(f"{block}.attention.proj", width, width)
        entries += _norm(f"{block}.norm2", width)
        entries += _linear(f"{block}.mlp.up", 4 * width, width)
        entries += _linear(f"{block}.mlp.down", width, 4 * width)
    return (*entries, *_norm("norm", width))


MODELS = {
    "gpt2-small": transformer(vocabulary=50257, context=1024, layers=12, width=768),
    "6x384": transformer(vocabulary=256, context=256, layers=6, width=384),
    "3x384": transformer(vocabulary=256, context=256, layers=3, width=384),
    "tiny": transformer(vocabulary=7, context=5, layers=2, width=8),  # for tests
}


def entries(model: str, scope: str) -> tuple[Entry, ...]:
    """The parameters of a model: "all", or the "hidden" matrices alone."""
    return tuple(entry for entry in MODELS[model] if scope == "all" or entry.role == "matrix")


def count(chosen: Sequence[Entry]) -> int:
    return sum(entry.numel for entry in chosen)


def iteration_flops(chosen: Sequence[Entry], steps: int = 5) -> float:
    """Floating point operations of Newton-Schulz in its standard form: Gram matrix, its square, and their product."""
    total = 0
    for entry in chosen:
        short, long = min(entry.shape), max(entry.shape)
        total += steps * (4 * short * short * long + 2 * short**3)
    return total


def largest_bucket_bytes(chosen: Sequence[Entry]) -> int:
    """Bytes in float32 of the most that can run as one call: all tensors of one shape, or one tensor."""
    sizes: dict[tuple[int, ...], int] = {}
    for entry in chosen:
        sizes[entry.shape] = sizes.get(entry.shape, 0) + 4 * entry.numel
    return max(sizes.values())


def random_tensors(
    chosen: Sequence[Entry], std: float, *, seed: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Normal numbers in the shapes of the entries: the same on every device, and in every dtype up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    wide = (torch.randn(entry.shape, generator=generator, dtype=torch.float64) for entry in chosen)
    return [values.mul_(std).to(device, dtype) for values in wide]


def named(chosen: Sequence[Entry], weights: Sequence[Tensor]) -> list[Named]:
    """Parameters of their own that start from the weights."""
    pairs = zip(chosen, weights, strict=True)
    return [Named(entry.name, entry.role, nn.Parameter(weight.clone())) for entry, weight in pairs]


def groups(params: Sequence[Named]) -> list[dict[str, Any]]:
    """Parameter groups by role, as a generated class takes them."""
    by_role: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for p in params:
        by_role.setdefault(p.role, []).append((p.name, p.tensor))
    return [{"params": pairs, "rule": role} for role, pairs in by_role.items()]
