"""Steps whose ranks exchange values, compiled in pieces."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from optforge import explain_schedule
from optforge.runtime.execution.graphs import CompileError, Graph, _forget_graphs
from optforge.runtime.execution.pieces import Pieces
from tests.runtime.exchange.optimizers import Case, Twins, worst
from tests.support.ranks import Pool

# Two matrices of one size, one that lies otherwise, and one of which the last rank has nothing.
SHAPES = {"a": (10, 6), "b": (10, 6), "few": (2, 8), "bias": (9,)}


@dataclass
class Found:
    """The errors after some steps, the schedule, how many kernels ran in pieces, and what was said of them."""

    errors: dict[str, float]
    schedule: list[str]
    ran: int
    graphs: int
    said: list[str]


def steps_in_pieces(group: dist.ProcessGroup, case: Case, compiles: bool) -> Found:
    """Steps of pieces that are compiled, or run as they were recorded."""
    _forget_graphs()
    ran: list[Pieces] = []
    step = Pieces.step
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(Pieces, "step", lambda self, *given: ran.append(self) or step(self, *given))
        if not compiles:
            patch.setattr(Graph, "compile", lambda self, options: None)
            patch.setattr(Pieces, "compile", lambda self, options: None)
        twins = Twins(group, case)
        twins.one.backend = "eager"
        for t in range(1, case.steps + 1):
            twins.step(t)
    said = [str(each.message) for each in caught if "runs eagerly" in str(each.message)]
    lines = explain_schedule(twins.other).splitlines()
    _forget_graphs()
    return Found(twins.errors(), lines, len(ran), len({*map(id, ran)}), said)


def case_of(name: str, dim: int = 0, **options: object) -> Case:
    return Case(name, dim, shapes=SHAPES, without=(), options={"backend": "compile"}, **options)


def require_pieces(ranks: Pool, case: Case, compiles: bool) -> None:
    found = ranks.run(3, steps_in_pieces, case, compiles, patience=400)
    error, where = worst([each.errors for each in found])
    assert error < 1e-9, where
    for each in found:
        assert not each.said
        assert each.ran == 2 * case.steps + each.graphs  # each new one has taken a step on data of its own
        assert sum(", in compiled pieces; last step" in line for line in each.schedule) == 2


@pytest.mark.wide
@pytest.mark.parametrize(("name", "dim"), [("NorMuon", 0), ("NorMuon", 1), ("SOAP", 0)])
def test_compiled_pieces_step_as_whole_tensors(ranks: Pool, name: str, dim: int) -> None:
    require_pieces(ranks, case_of(name, dim), True)


@pytest.mark.parametrize(("name", "dim"), [("LAMB", 0), ("NorMuon", 0), ("Muown", 1)])
def test_pieces_step_as_whole_tensors(ranks: Pool, name: str, dim: int) -> None:
    require_pieces(ranks, case_of(name, dim), False)


@pytest.mark.wide
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", ["Adafactor", "Conda", "NAMO", "NAMOD", "Shampoo", "Scion"])
def test_pieces_of_more_specs_step_as_whole_tensors(ranks: Pool, name: str, dim: int) -> None:
    require_pieces(ranks, case_of(name, dim), False)


def test_numbers_stay_outside_of_pieces(ranks: Pool) -> None:
    """Those of a function that owners call as well: a step makes new pieces only where it decides otherwise."""
    for each in ranks.run(3, steps_in_pieces, replace(case_of("SOAP"), steps=6), False):
        assert each.graphs <= 2 * 3 and each.ran == 12 + each.graphs
        assert max(each.errors.values()) < 1e-9


@pytest.mark.parametrize(
    ("way", "message"), [("raises", "could not be compiled: no compiler"), ("errs", "it takes other steps")]
)
def test_a_rank_alone_may_run_as_it_is_written(ranks: Pool, way: str, message: str) -> None:
    first, second = ranks.run(2, steps_of_which_one_is_not_compiled, case_of("NorMuon"), way)
    assert max(*first.errors.values(), *second.errors.values()) < 1e-9
    assert first.said == [] and len(second.said) == 1 and message in second.said[0]
    assert "in compiled pieces" in first.schedule[1]
    assert "by matrix_shards, not compiled: " in second.schedule[1]


def steps_of_which_one_is_not_compiled(group: dist.ProcessGroup, case: Case, way: str) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank(group) == 1:
            patch.setattr(Pieces, "__init__", failing_init if way == "raises" else erring_init)
        return steps_in_pieces(group, case, False)


def failing_init(self: Pieces, *given: object) -> None:
    raise CompileError("no compiler")


def erring_init(self: Pieces, *given: object, make: Callable[..., None] = Pieces.__init__) -> None:
    """Pieces that give twice what they should."""
    make(self, *given)
    self.compiled = [replace(each, run=doubled(each.run)) for each in self.compiled]


def doubled(run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *tensors: [2 * x for x in run(*tensors)]


@pytest.mark.parametrize("precision", ["kahan", "master", "stochastic"])
def test_pieces_round_as_kernels_do(ranks: Pool, precision: str) -> None:
    case = replace(case_of("NorMuon"), dtype=torch.bfloat16, group={"precision": precision})
    assert worst([each.errors for each in ranks.run(3, steps_in_pieces, case, False)])[0] < 0.02
