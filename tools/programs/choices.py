"""What the seed of a program decides: the shapes of parameters, and as which graphs it runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tools.programs.differential import Difference, Shares
from tools.programs.rewriting import compile_by_rewriting

RECORDED: dict[str, Any] = {"backend": "eager", "capturable": True}
COMPILED: dict[str, Any] = {"backend": "compile"}
MATRIX_SHAPES: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((4, 4), (6, 3), (3, 5), (3, 5)),
    ((1, 4), (5, 1), (4, 4), (2, 3, 2)),
    ((3, 5), (3, 5), (1, 4), (6, 3)),
)
SPECIAL_SHAPES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("conv", (3, 2, 2, 1)),
    ("embedding", (5, 3)),
    ("head", (3, 5)),
)


def chosen_shapes(seed: int) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The shapes of the parameters of each role: each seed has some, and a few seeds have all."""
    role, shape = SPECIAL_SHAPES[seed % len(SPECIAL_SHAPES)]
    matrices = MATRIX_SHAPES[seed // len(SPECIAL_SHAPES) % len(MATRIX_SHAPES)]
    return {"conv": (), "embedding": (), "head": (), role: (shape,), "matrix": matrices, "vector": ((5,), ())}


@contextmanager
def graphs_of(shares: Shares, seed: int) -> Iterator[list[dict[str, Any]]]:
    """How a program of this seed runs as graphs; within, its graphs are compiled so, and none may be refused."""
    strategies = [RECORDED] if is_chosen(shares.recorded, seed) else []
    is_rewritten = is_chosen(shares.rewritten, seed)
    compiler = compile_by_rewriting() if is_rewritten else nullcontext()
    strategies += [COMPILED] if is_rewritten or is_chosen(shares.compiled, seed) else []
    with compiler, warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"\w+ runs eagerly")
        try:
            yield strategies
        except UserWarning as refused:
            raise Difference("graph", str(refused)) from None


def is_chosen(share: int, seed: int) -> bool:
    """Whether the seed is one in so many; not 0, which is drawn more often."""
    return share > 0 and seed % share == 7 % share
