"""Optimizers of DTensors on the ranks of a mesh, beside the same of whole tensors in each process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import optforge
from optforge import generated
from optforge.runtime import Kernel, Rule, SpecOptimizer, State
from optforge.runtime.contract.interface import ROLES
from tests.runtime.exchange.rules import RULES
from tests.support.ranks import mesh_of
from tests.support.streams import everywhere

# Uneven shards, fewer rows than ranks, blocks of a convolution, a vector, and several matrices of one size.
SHAPES = {
    "a": (10, 6),
    "b": (3, 8),
    "conv": (6, 4, 3, 3),
    "bias": (9,),
    "d": (10, 6),
    "e": (10, 6),
    "square": (8, 8),
}


class HandWrittenOptimizer(SpecOptimizer):
    """A rule of `rules.RULES` for all matrices."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, {}, **options)


def shipped() -> list[str]:
    """The names of all shipped optimizers."""
    found = {name: getattr(generated, name) for name in generated.__all__}
    return [name for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, SpecOptimizer)]


def optimizer_of(name: str, with_shards: bool = True) -> type[SpecOptimizer]:
    """The class of a spec, composition or rule written by hand, whose function for shards is used or left out."""
    if name == "normalized":
        squares = Kernel(sum_of_squares, layout="tensor", outputs=("total",), along=())
        step = Kernel(normalized, layout="elementwise", sums=(squares,))
        return type(name, (HandWrittenOptimizer,), {"RULES": (Rule("tensor", ROLES, (), step),)})
    if name == "everywhere":
        return everywhere()
    if name not in RULES:
        return optforge.load(name) if "|>" in name else getattr(generated, name)
    rule = RULES[name]
    kernel = Kernel(rule.plain, layout="matrix", shards=rule.shards if with_shards else None)
    states = tuple(State(name, shape) for name, shape in rule.states.items())
    matrix = Rule(name="matrix", roles=("matrix",), states=states, step=kernel)
    rest = Rule(name="rest", roles=("vector",), states=(), step=Kernel(descent, layout="elementwise"))
    return type(name, (HandWrittenOptimizer,), {"RULES": (matrix, rest)})


def sum_of_squares(weight: Tensor, grad: Tensor) -> tuple[Tensor]:
    return (grad.square().sum(dim=(-2, -1), keepdim=True),)


def normalized(weight: Tensor, grad: Tensor, *, total: Tensor) -> tuple[Tensor]:
    return (weight.sub_(grad / total.sqrt()),)


def descent(weight: Tensor, grad: Tensor) -> tuple[Tensor]:
    return (weight.sub_(0.01 * grad),)


@dataclass(frozen=True)
class Case:
    """A class, how its parameters are sharded, and what else it is given."""

    name: str
    dim: int = 0
    mesh: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    group: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: SHAPES)
    dtype: torch.dtype = torch.float64
    plain: tuple[str, ...] = ("bias",)
    without: tuple[str, ...] = ("d",)  # of these there is no gradient in the first step
    steps: int = 3
    with_shards: bool = True
    across: tuple[str, ...] = ()  # those that are sharded along the first dimension of the mesh
    calls: tuple[str, ...] = ("step",)  # what each step is made of


class Twins:
    """An optimizer of whole tensors and one of DTensors, which get the same gradients."""

    def __init__(self, group: dist.ProcessGroup, case: Case) -> None:
        self.case = case
        self.mesh = mesh_of(case.mesh) if case.mesh else DeviceMesh.from_group(group, "cpu")
        self.whole = {name: nn.Parameter(x) for name, x in self.data(0)}
        self.sharded = {name: nn.Parameter(self.placed(name, x)) for name, x in self.data(0)}
        self.start = dict(self.data(0))
        kind = optimizer_of(case.name, case.with_shards)
        self.one, self.other = (kind(self.groups(x), **case.options) for x in (self.whole, self.sharded))

    def groups(self, params: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        matrices = [(name, p) for name, p in params.items() if p.ndim > 1]
        others = [(name, p) for name, p in params.items() if p.ndim < 2]
        return [{"params": matrices, "rule": "matrix", **self.case.group}, *([{"params": others}] if others else [])]

    def data(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for name, shape in self.case.shapes.items():
            yield name, torch.randn(shape, generator=generator, dtype=torch.float64).to(self.case.dtype)

    def placed(self, name: str, x: Tensor) -> Tensor:
        if name in self.case.plain:
            return x.clone()
        cut = Shard(min(self.case.dim, x.ndim - 1))
        placements = [Replicate()] * (self.mesh.ndim - 1) + [cut]
        if name in self.case.across:
            placements.reverse()
        return distribute_tensor(x.clone(), self.mesh, placements, src_data_rank=None)  # torch 2.9 gives a view of x

    def grads(self, t: int) -> None:
        for name, x in self.data(t):
            absent = t == 1 and name in self.case.without
            self.whole[name].grad = None if absent else x
            self.sharded[name].grad = None if absent else self.placed(name, x)

    def step(self, t: int) -> None:
        self.grads(t)
        for call in self.case.calls:
            getattr(self.one, call)()
            getattr(self.other, call)()

    def errors(self) -> dict[str, float]:
        """The largest errors of weights and states, relative to how far they have come."""
        found, states = {}, self.other.state_dict()["state"]
        places = {q: i for i, q in enumerate(q for group in self.other.param_groups for q in group["params"])}
        for name, p in self.whole.items():
            q = self.sharded[name]
            found[name] = distance(full(q), p, self.start[name])
            for key, x in self.one.state[p].items():
                found[f"{name}.{key}"] = distance(full(states[places[q]][key]), x, torch.zeros_like(x))
        return found


def full(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def distance(found: Tensor, expected: Tensor, start: Tensor) -> float:
    with torch.no_grad():
        far = (expected.double() - start.double()).abs().max().item()
        error = (found.double() - expected.double()).abs().max().item()
    return error if error == 0 or far == 0 else error / far


def step_twins(group: dist.ProcessGroup, case: Case) -> dict[str, float]:
    twins = Twins(group, case)
    for t in range(1, case.steps + 1):
        twins.step(t)
    return twins.errors()


def worst(errors: Sequence[Mapping[str, float]]) -> tuple[float, str]:
    return max((error, name) for each in errors for name, error in each.items())
