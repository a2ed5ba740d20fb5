"""Generators of steps on shards: alone they take the steps of their rules, and on ranks that talk by gloo together.

Every shipped class that has one, on shards of all kinds: uneven, empty, cut between rows or columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from optforge.runtime import Rule
from optforge.runtime.exchange.collectives import Record
from optforge.runtime.exchange.drive import Run, _drive
from optforge.runtime.exchange.over import Over
from optforge.runtime.exchange.owners import _flops_of_whole, _owners
from optforge.runtime.exchange.sharding import Ranks, Sharding
from tests.support.classes import generated_classes
from tests.support.ranks import Pool

COUNT = 3  # matrices in a batch
SIZES = {"matrix": (5, 4), "tensor": (7, 1)}
TOLERANCE = 1e-9  # of the largest element


@dataclass(frozen=True)
class Case:
    """A step of a rule that is not the first, on random matrices."""

    cls: str
    rule: Rule
    values: dict[str, Tensor]
    scalars: dict[str, Any]

    @property
    def sizes(self) -> tuple[int, int]:
        return SIZES[self.rule.step.layout]

    @property
    def dims(self) -> dict[str, tuple[str | int, str | int]]:
        full: tuple[str | int, str | int] = ("rows", "cols")
        return {"weight": full, "grad": full, **{state.name: state.shape for state in self.rule.states}}

    def whole(self) -> tuple[Tensor, ...]:
        """What the rule itself gives."""
        step = self.rule.step
        return step.function(*(self.values[name].clone() for name in step.inputs), **self.scalars)

    def begun(self, sharding: Sharding, finish: Any) -> Run:
        step, over = self.rule.step, Over(sharding)
        assert step.shards is not None
        inputs = [piece(self.values[name], self.dims[name], sharding) for name in step.inputs]
        return Run(step.shards(*inputs, over=over, **self.scalars), over, finish, Record())


def piece(x: Tensor, dims: tuple[str | int, str | int], sharding: Sharding) -> Tensor:
    if not sharding.cuts(dims):
        return x.clone()
    rank, axis = sharding.ranks.rank, dims.index(sharding.dim) - 2
    return x.narrow(axis, sum(sharding.extents[:rank]), sharding.extents[rank]).clone()


def cases() -> Iterator[Case]:
    for cls in generated_classes():
        for rule in (rule for rule in cls.RULES if rule.step.shards):
            generator = torch.Generator().manual_seed(1)
            sizes = dict(zip(("rows", "cols"), SIZES[rule.step.layout], strict=True))

            def drawn(dims: tuple[str | int, str | int], sizes: dict[Any, int] = sizes, g: Any = generator) -> Tensor:
                a, b = ({**sizes, 1: 1}[dim] for dim in dims)
                return torch.randn(COUNT, a, b, generator=g, dtype=torch.float64)

            values = {name: drawn(("rows", "cols")) for name in ("weight", "grad")}
            values |= {state.name: drawn(state.shape).abs() + 0.1 for state in rule.states}
            hypers = {"lr": 0.1, **optimizer_of(cls).defaults, "t": 11, **sizes}
            scalars = {name: hypers.get(name, torch.full((1, 1), 0.7)) for name in rule.step.scalars}
            yield Case(cls.__name__, rule, values, scalars)


def optimizer_of(cls: type[Any]) -> Any:
    made = [{"params": [torch.nn.Parameter(torch.ones(3, 2))], "rule": role} for role in cls.RULES[0].roles[:1]]
    return cls(made) if "lr" not in required(cls) else cls(made, lr=0.1)


def required(cls: type[Any]) -> set[str]:
    import inspect

    parameters = inspect.signature(cls.__init__).parameters.values()
    return {each.name for each in parameters if each.default is each.empty}


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


CASES = list(cases())
ALONE = Sharding(Ranks(), 0, 0, None, (), (COUNT,))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.cls}-{case.rule.name}")
def test_alone_it_is_the_step(case: Case) -> None:
    found: list[Any] = []
    _drive([case.begun(ALONE, found.append)])
    for x, y in zip(found[0], case.whole(), strict=True):
        assert error(x, y) < 1e-12


def step_on_ranks(group: dist.ProcessGroup, dim: str) -> list[tuple[Tensor, ...]]:
    """On each rank: its shards of all cases after a step."""
    ranks = Ranks.of(group)
    found: dict[int, tuple[Tensor, ...]] = {}

    def runs() -> Iterator[Run]:
        for index, case in enumerate(CASES):
            rows, cols = case.sizes
            size = {"rows": rows, "cols": cols}[dim]
            short = math.ceil(size / ranks.size)
            extents = tuple(max(0, min(short, size - rank * short)) for rank in range(ranks.size))
            owners = _owners([_flops_of_whole(rows, cols)] * COUNT, ranks.size)
            owned = tuple(list(owners).count(rank) for rank in range(ranks.size))
            sharding = Sharding(ranks, rows, cols, dim, extents, owned)
            yield case.begun(sharding, lambda values, index=index: found.setdefault(index, values))

    _drive(runs())
    return [found[index] for index in range(len(CASES))]


@pytest.mark.parametrize("dim", ["rows", "cols"])
@pytest.mark.parametrize("world", [2, 3])
def test_shards_step_as_their_rules_do(ranks: Pool, world: int, dim: str) -> None:
    answers = ranks.run(world, step_on_ranks, dim)
    for index, case in enumerate(CASES):
        for i, expected in enumerate(case.whole()):
            dims = case.dims[case.rule.step.outputs[i]]
            pieces = [answer[index][i] for answer in answers]
            found = torch.cat(pieces, dims.index(dim) - 2) if dim in dims else pieces[0]
            name = f"{case.cls}.{case.rule.name}: {case.rule.step.outputs[i]}"
            assert found.shape == expected.shape, name
            assert error(found, expected) < TOLERANCE, name


def test_most_rules_that_need_others_have_a_generator() -> None:
    needing = [rule for cls in generated_classes() for rule in cls.RULES if rule.step.along and not rule.lr_ratio]
    assert len(CASES) > 60, len(needing)
