"""The numbers of a scenario: the weights it starts with and the gradients of every step.

Values are multiples of 1/32 times powers of two, below 4 in size, so that every dtype from float32 on holds them (and
float16 and bfloat16 nearly), a product of two is exact, and a printed scenario stays readable. Nothing here runs an
optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optforge.compiler.verify.differential.plan import Gradient, Scenario, Shape

Array = NDArray[np.float64]

GRAIN = 32
WEIGHT_SCALES = {"normal": 1.0, "zero": 0.0, "tiny": 2.0**-40, "large": 2.0**10}


def short_numbers(random: np.random.Generator, shape: Shape) -> Array:
    """Normal numbers rounded to a grain, never zero: zeros are a kind of their own."""
    numbers = np.round(np.clip(random.standard_normal(shape), -3.9, 3.9) * GRAIN) / GRAIN
    return np.asarray(np.where(numbers == 0, 1 / GRAIN, numbers), dtype=np.float64)


def weights(scenario: Scenario) -> list[Array]:
    """The weights that all parameters start with."""
    kinds = [group.weights for group in scenario.groups for _ in group.shapes]
    return [
        short_numbers(np.random.default_rng([scenario.seed, number]), shape) * WEIGHT_SCALES[kind]
        for number, (shape, kind) in enumerate(zip(scenario.shapes, kinds, strict=True))
    ]


def gradients(scenario: Scenario) -> list[list[Array | None]]:
    """For every step the gradient of each parameter, None where it has none."""
    found: list[list[Array | None]] = []
    latest = [np.zeros(shape) for shape in scenario.shapes]
    for number, step in enumerate(scenario.steps, start=1):
        row: list[Array | None] = []
        for index, (shape, wanted) in enumerate(zip(scenario.shapes, step.gradients, strict=True)):
            random = np.random.default_rng([scenario.seed, index, number])
            grad = gradient(wanted, shape, random, latest[index])
            latest[index] = latest[index] if grad is None else grad
            row.append(grad)
        found.append(row)
    return found


def gradient(wanted: Gradient, shape: Shape, random: np.random.Generator, latest: Array) -> Array | None:
    """One gradient; ``latest`` is the one that this parameter had last."""
    normal = short_numbers(random, shape) * 2.0**wanted.exponent
    match wanted.kind:
        case "missing":
            return None
        case "zero":
            return np.zeros(shape)
        case "repeated" | "opposite":
            last = latest if np.isfinite(latest).all() else normal
            return last.copy() if wanted.kind == "repeated" else -last
        case "one_row" if normal.ndim:
            kept = np.zeros(shape)
            row = int(random.integers(shape[0]))
            kept[row] = normal[row]
            return kept
        case "rank_one" if normal.ndim > 1:
            factors = normal.reshape(shape[0], -1)
            return (factors[:, :1] * np.sign(factors[:1])).reshape(shape)
        case "inf" | "nan":
            normal.flat[int(random.integers(normal.size))] = np.inf if wanted.kind == "inf" else np.nan
            return normal
        case _:
            return normal


def tensor(values: Any, dtype: torch.dtype, kind: str = "normal") -> Tensor:
    """The values as a tensor; a "strided" one is laid out column by column, or with gaps where it has no columns."""
    plain = torch.tensor(np.asarray(values), dtype=dtype)
    if kind != "strided" or plain.ndim == 0:
        return plain
    if plain.ndim == 1:
        return torch.stack([plain, torch.zeros_like(plain)], dim=1)[:, 0]
    return plain.transpose(0, 1).contiguous().transpose(0, 1)


def disturb(values: Array, relative: float, random: np.random.Generator) -> Array:
    """Every value one rounding away, up or down at random."""
    signs: Array = random.choice([-1.0, 1.0], size=values.shape)
    return values * (1 + relative * signs)


def put_in_order(items: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [items[place] for place in places]
