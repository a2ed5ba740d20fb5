"""Generators of steps on shards: alone they take the steps of their rules, and on ranks that talk by gloo together.

Every shipped class that has one, and random ones, on uneven and empty shards, cut between rows or columns.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from optforge.compiler.load import compile_source
from optforge.runtime import Rule, SpecOptimizer
from optforge.runtime.contract.interface import NOISE
from optforge.runtime.exchange.communication import Communication
from optforge.runtime.exchange.drive import Run, _drive
from optforge.runtime.exchange.over import Over
from optforge.runtime.exchange.owners import _flops_of_whole, _owners
from optforge.runtime.exchange.sharding import Ranks, Sharding
from tests.support.classes import generated_classes
from tests.support.ranks import Pool
from tools.programs.programs import random_programs

COUNT = 4  # matrices in a batch, or parts of half as many
SIZES = {"matrix": (5, 4), "tensor": (7, 1)}
TOLERANCE = 1e-9  # of the largest element
SEEDS = (0, 5)  # 0: what is shipped


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
        return {"weight": full, "grad": full, NOISE: full, **{state.name: state.shape for state in self.rule.states}}

    def whole(self) -> tuple[Tensor, ...]:
        """What the rule itself gives."""
        step = self.rule.step
        return step.function(*(self.values[name].clone() for name in step.inputs), **self.scalars)

    def owned(self, parts: int) -> tuple[str, ...]:
        return self.rule.step.owned if parts == 1 else self.rule.step.split_owned

    def begun(self, sharding: Sharding, finish: Any) -> Run:
        step, over = self.rule.step, Over(sharding)
        shards = step.shards if sharding.parts == 1 else step.split_shards
        assert shards is not None
        inputs = [self.piece(name, sharding) for name in step.inputs]
        return Run(shards(*inputs, over=over, **self.scalars), over, finish, Communication())

    def piece(self, name: str, sharding: Sharding) -> Tensor:
        """What a rank has of a value."""
        x, dims, parts = self.values[name], self.dims[name], sharding.parts
        if name in self.owned(parts):
            return x[sharding.mine.start * parts : sharding.mine.stop * parts].clone()
        if not sharding.cuts(dims):
            return x.clone()
        rank, axis = sharding.ranks.rank, dims.index(sharding.dim) - 2
        x = x.reshape(-1, parts * x.shape[-2], x.shape[-1])
        return x.narrow(axis, sum(sharding.extents[:rank]), sharding.extents[rank]).clone()

    def together(self, name: str, pieces: list[Tensor], dim: str, parts: int) -> Tensor:
        """The whole value again."""
        if name in self.owned(parts):
            return torch.cat(pieces)
        if dim not in self.dims[name]:
            return pieces[0]
        return torch.cat(pieces, self.dims[name].index(dim) - 2).reshape(self.values[name].shape)


def cases_of(cls: type[Any]) -> Iterator[Case]:
    for rule in (rule for rule in cls.RULES if rule.step.shards or rule.step.split_shards):
        generator = torch.Generator().manual_seed(1)
        sizes: dict[Any, int] = dict(zip(("rows", "cols"), SIZES[rule.step.layout], strict=True))
        dims = {"weight": ("rows", "cols"), "grad": ("rows", "cols"), **{each.name: each.shape for each in rule.states}}
        shapes = {name: (COUNT, *({**sizes, 1: 1}[dim] for dim in found)) for name, found in dims.items()}
        values = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        values |= {state.name: values[state.name].abs() + 0.1 for state in rule.states}
        values[NOISE] = torch.randint(
            -(1 << 31), 1 << 31, values["weight"].shape, generator=generator, dtype=torch.int32
        )
        scalars: dict[str, Any] = {**hypers_of(cls), "t": 11, **sizes}
        total = torch.full((1, 1), 0.7, dtype=torch.float64)
        yield Case(cls.__name__, rule, values, {name: scalars.get(name, total) for name in rule.step.scalars})


def hypers_of(cls: type[Any]) -> dict[str, Any]:
    """The defaults, and some number for what has none."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {each.name: 0.3 if each.default is each.empty else each.default for each in parameters}


@cache
def cases(seed: int = 0) -> list[Case]:
    """Of all shipped classes, or of those of some random programs."""
    if not seed:
        return [case for cls in generated_classes() for case in cases_of(cls)]
    modules = [compile_source(program.text) for program in random_programs(seed, 25)]
    classes = [getattr(module, name) for module in modules for name in module.__all__]
    return [case for cls in classes if issubclass(cls, SpecOptimizer) for case in cases_of(cls)]


def error(found: Any, expected: Any) -> float:
    found, expected = (torch.as_tensor(each, dtype=torch.float64) for each in (found, expected))
    assert torch.equal(found.isnan(), expected.isnan())
    found, expected = found.nan_to_num(), expected.nan_to_num()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


ALONE = Sharding(Ranks(), 0, 0, None, (), (COUNT,))


def having(seed: int, parts: int) -> list[Case]:
    """The cases that have a generator for matrices, or for such as are several."""
    return [each for each in cases(seed) if (each.rule.step.shards if parts == 1 else each.rule.step.split_shards)]


@pytest.mark.parametrize("seed", SEEDS)
def test_alone_they_are_the_steps(seed: int) -> None:
    for case in having(seed, 1):
        found: list[Any] = []
        _drive([case.begun(ALONE, found.append)], Communication())
        for x, y in zip(found[0], case.whole(), strict=True):
            assert error(x, y) < 1e-12, (case.cls, case.rule.name)


def step_on_ranks(group: dist.ProcessGroup, dim: str, seed: int, parts: int) -> list[tuple[Tensor, ...]]:
    """On each rank: its shards of all cases after a step."""
    ranks = Ranks.of(group)
    found: dict[int, tuple[Tensor, ...]] = {}

    def runs() -> Iterator[Run]:
        for index, case in enumerate(having(seed, parts)):
            rows, cols = parts * case.sizes[0], case.sizes[1]
            size = {"rows": rows, "cols": cols}[dim]
            short = math.ceil(size / ranks.size)
            extents = tuple(max(0, min(short, size - rank * short)) for rank in range(ranks.size))
            count = COUNT // parts
            owners = _owners([_flops_of_whole(rows, cols)] * count, range(count), ranks.size)
            owned = tuple(list(owners).count(rank) for rank in range(ranks.size))
            sharding = Sharding(ranks, rows, cols, dim, extents, owned, parts)
            yield case.begun(sharding, lambda values, index=index: found.setdefault(index, values))

    _drive(runs(), Communication())
    return [found[index] for index in range(len(having(seed, parts)))]


PLACES = [(2, "rows", 1), (3, "rows", 1), (2, "cols", 1), (3, "cols", 1), (3, "rows", 2)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("world, dim, parts", PLACES)
def test_shards_step_as_their_rules_do(ranks: Pool, world: int, dim: str, parts: int, seed: int) -> None:
    answers = ranks.run(world, step_on_ranks, dim, seed, parts)
    for index, case in enumerate(having(seed, parts)):
        for i, (output, expected) in enumerate(zip(case.rule.step.outputs, case.whole(), strict=True)):
            found = case.together(output, [answer[index][i] for answer in answers], dim, parts)
            name = f"{case.cls}.{case.rule.name}: {output}"
            assert found.shape == expected.shape, name
            assert error(found, expected) < TOLERANCE, name


GIVEN_MATRICES = {"NewtonMuon"}
OF_ONE_MATRIX = {"RACS", "SM3"}  # statistics of rows and columns beside each other: no shards of a `split` parameter


def test_all_rules_that_need_others_have_a_generator() -> None:
    """But those with a dimension of their own, and those that events give matrices: owners take these as a whole."""
    rules = [
        (cls.__name__, rule)
        for cls in generated_classes()
        for rule in cls.RULES
        if rule.step.along and rule.rank is None and cls.__name__ not in GIVEN_MATRICES
    ]
    assert all(rule.step.shards for _, rule in rules)
    along_rows = [each for each in rules if each[1].step.layout == "matrix" and "rows" in each[1].step.along]
    assert {name for name, rule in along_rows if not rule.step.split_shards} == OF_ONE_MATRIX
    assert len(cases(SEEDS[1])) > 10 and len(having(SEEDS[1], 2)) > 5


LONG = [f"norm_of_difference_{i}" for i in range(9)]
NORMS = "".join(f"        {name} = norm(weight - {i} * grad)\n" for i, name in enumerate(LONG))
MANY = f"""optimizer Many:
    for matrix:
        m = ema(grad, 0.9)
{NORMS}        weight <- weight - 0.1 * m / ({" + ".join(f"{name} * norm(m - {name} * grad)" for name in LONG)})
"""

# The state of the average inside of `s` is called `s` as well, and its owner keeps it.
CLASH = """optimizer Clash:
    for matrix:
        g = orthogonalize(grad)
        s = tanh(solve(exp(-abs(g @ g')) + ema(g @ g', 0.75), g))
        weight <- weight - 0.05 * clamp(s, -0.5, 1) - 0.1 * g
"""


def test_lines_are_no_longer_than_others() -> None:
    """With many sums at once, whose names no line can hold."""
    source = inspect.getsource(compile_source(MANY).Many.RULES[0].step.shards)
    assert max(map(len, source.splitlines())) <= 100 and ") = yield (" in source


@pytest.mark.parametrize("text", [MANY, CLASH], ids=["many", "clash"])
def test_names_in_shards_mean_what_they_mean_in_rules(text: str) -> None:
    (case,) = cases_of(getattr(compile_source(text), compile_source(text).__all__[0]))
    found: list[Any] = []
    _drive([case.begun(ALONE, found.append)], Communication())
    for x, y in zip(found[0], case.whole(), strict=True):
        assert error(x, y) < 1e-12
