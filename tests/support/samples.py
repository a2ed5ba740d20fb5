"""The specs in cases/samples as classes, as interpreted programs, and with parameters to step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import optforge
from optforge.compiler.driver import Snapshot, check_source
from optforge.dsl.source import Source

FOLDER = Path(__file__).parents[1] / "cases" / "samples"
FILES = sorted(FOLDER.rglob("*.opt"))

SHAPES = {
    "matrix": ((4, 6), (4, 6), (6, 4), (3, 3)),
    "conv": ((4, 2, 2, 2),),
    "embedding": ((7, 4),),
    "head": ((7, 4),),
    "vector": ((5,), (6,)),
}


def load(name: str) -> Any:
    """The class of that name, from whichever sample defines it."""
    return optforge.load(path_of(name), name)


@cache
def checked(path: Path) -> Snapshot:
    return check_source(Source(path.name, path.read_text(encoding="utf-8")), path.parent)


def names(path: Path) -> list[str]:
    return [declaration.name for declaration in checked(path).require().declarations]


def path_of(name: str) -> Path:
    (path,) = (path for path in FILES if name in names(path))
    return path


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters(cls: Any, seed: int = 0) -> dict[str, list[nn.Parameter]]:
    """Parameters for each role that some rule of the class takes; equal seeds give equal values."""
    taken = [role for role in SHAPES if any(role in rule.roles for rule in cls.RULES)]
    return {
        role: [nn.Parameter(randn(*shape, seed=100 * seed + i)) for i, shape in enumerate(SHAPES[role])]
        for role in taken
    }


def stepped(cls: Any, weight: Tensor, gradients: list[Tensor], **hypers: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The weight before and after each step."""
    p = nn.Parameter(weight.clone())
    optimizer = cls([p], **hypers)
    for gradient in gradients:
        before = p.detach().clone()
        p.grad = gradient
        optimizer.step()
        yield before, p.detach().clone()
