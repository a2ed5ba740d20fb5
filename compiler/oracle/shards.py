"""Steps on shards in the oracle: several ranks in one process, each of which computes with what it has.

A matrix is cut along one dimension into pieces of any lengths, 0 among them. What does not have that dimension every
rank has; a state that the owner keeps is given and returned whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.shards import Owned, Reduced, ShardStage, kept_by
from optforge.compiler.ir.types import FULL, Dim, Shape, Type
from optforge.compiler.oracle.interpreter import Array, Inputs, evaluate_function


@dataclass(frozen=True)
class Ranks:
    """A matrix of these sizes, cut along a dimension into pieces of these lengths."""

    sizes: tuple[int, int]
    dim: Dim
    lengths: tuple[int, ...]
    rank: int = 0

    def pieces(self, array: Array, shape: Shape) -> list[Array]:
        """What each rank has of a value: its piece, or all of what is not cut."""
        if self.dim not in shape:
            return [array for _ in self.lengths]
        return np.split(array, np.cumsum(self.lengths)[:-1], axis=shape.index(self.dim))

    def together(self, pieces: Sequence[Array], shape: Shape) -> Array:
        """The whole value."""
        if self.dim in shape:
            return np.concatenate(pieces, axis=shape.index(self.dim))
        for piece in pieces[1:]:
            np.testing.assert_array_equal(piece, pieces[0], "ranks differ in what all of them have")
        return pieces[0]

    def size(self, dim: Dim) -> int:
        return {Dim.ONE: 1, Dim.ROWS: self.sizes[0], Dim.COLS: self.sizes[1], Dim.RANK: self.rank}[dim]


def run_stages(
    stages: Sequence[ShardStage], inputs: Inputs, states: Sequence[ir.State], ranks: Ranks
) -> dict[str, Array]:
    """The outputs of a step on shards of what is given whole, put together again."""
    kept = kept_by(stages)
    shapes = {state.name: shape_of(state.type) for state in states}
    given = [replace(inputs, whole=ranks.sizes, combined=dict(inputs.combined)) for _ in ranks.lengths]
    weights, grads = ranks.pieces(inputs.weight, FULL), ranks.pieces(inputs.grad, FULL)
    noise = [None] * len(given) if inputs.noise is None else ranks.pieces(inputs.noise, FULL)
    given = [
        replace(each, weight=weights[rank], grad=grads[rank], noise=noise[rank]) for rank, each in enumerate(given)
    ]
    local = {name: ranks.pieces(inputs.states[name], shape) for name, shape in shapes.items() if name not in kept}
    given = [
        replace(each, states={name: pieces[rank] for name, pieces in local.items()}) for rank, each in enumerate(given)
    ]
    owned, left = {name: inputs.states[name] for name in kept}, dict[str, Array]()
    for stage in stages[:-1]:
        outputs = [as_arrays(evaluate_function(stage.function, each)) for each in given]
        types = {output.name: shape_of(output.value.type) for output in stage.function.outputs}
        for request in stage.requests:
            values = {name: [each[name] for each in outputs] for name in types}
            if isinstance(request, Reduced):
                answers = {request.name: reduce(request, values[request.name], types[request.name], ranks)}
            else:
                answers = call_owner(request, values, types, owned, left, inputs, ranks)
            given = [
                replace(each, combined={**each.combined, **{name: found[rank] for name, found in answers.items()}})
                for rank, each in enumerate(given)
            ]
    results = [as_arrays(evaluate_function(stages[-1].function, each)) for each in given]
    shown = {output.name: shape_of(output.value.type) for output in stages[-1].function.outputs}
    return {name: ranks.together([each[name] for each in results], shape) for name, shape in shown.items()} | owned


def reduce(request: Reduced, pieces: list[Array], shape: Shape, ranks: Ranks) -> list[Array]:
    """The reduction of a value of which each rank has a piece; what is not cut along the axis needs no exchange."""
    axis = {"all": (0, 1), "row": (1,), "col": (0,)}[request.axis]
    count = np.prod([ranks.size(shape[each]) for each in axis])
    with np.errstate(all="ignore"):
        partial = [partial_of(request.operator, piece, axis) for piece in pieces]
        if any(shape[each] is ranks.dim for each in axis):
            combine = {"amax": np.max, "amin": np.min}.get(request.operator, np.sum)
            partial = [combine(partial, axis=0)] * len(partial)
        if request.operator == "mean":
            partial = [each / count for each in partial]
        return list(map(np.sqrt, partial)) if request.operator == "norm" else partial


def partial_of(operator: str, piece: Array, axis: tuple[int, ...]) -> Any:
    match operator:
        case "amax":
            return piece.max(axis=axis, keepdims=True, initial=-np.inf)
        case "amin":
            return piece.min(axis=axis, keepdims=True, initial=np.inf)
        case "norm":
            return (piece * piece).sum(axis=axis, keepdims=True)
        case _:
            return piece.sum(axis=axis, keepdims=True)


def call_owner(
    request: Owned,
    values: Mapping[str, list[Array]],
    types: Mapping[str, Shape],
    owned: dict[str, Array],
    left: dict[str, Array],
    inputs: Inputs,
    ranks: Ranks,
) -> dict[str, list[Array]]:
    """What comes back from the owner, which gives the states that it keeps their new values, and leaves some there."""
    whole = {name: ranks.together(values[name], types[name]) for name in request.sent}
    whole |= {name: left[name] for name in request.carried}
    seen = replace(inputs, weight=None, grad=None, noise=None, states=dict(owned), combined=whole, whole=ranks.sizes)
    found = as_arrays(evaluate_function(request.function, seen))
    owned |= {name: found[name] for name in request.kept if name in found}
    left |= {name: found[name] for name in request.left}
    return {each.name: ranks.pieces(found[each.name], shape_of(each.value.type)) for each in request.returned}


def as_arrays(values: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}


def shape_of(found: Type) -> Shape:
    assert found.shape is not None
    return found.shape
