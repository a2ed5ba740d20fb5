"""What an extension has of its base besides the equations: the order of the hypers, and the claims."""

from __future__ import annotations

import pytest

from optforge.compiler.driver import check_source
from optforge.compiler.ir import nodes as ir
from optforge.dsl.printer import print_expression
from optforge.dsl.source import Source

BASE = """optimizer Base:
    hyper lr  = 1
    hyper eps = 1
    hyper end = 1

    for matrix:
        d = grad / (norm(grad) + eps * end)
        weight <- weight - lr * d

        claim norm(d) <= 1

"""


def extended(body: str, base: str = BASE) -> ir.Optimizer:
    """The optimizer that extends the base above by the lines."""
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    program = check_source(Source("own.opt", f"{base}optimizer Own extends Base:\n{lines}")).require()
    own = program.declarations[1]
    assert isinstance(own, ir.Optimizer)
    return own


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ("hyper lr = 2\nhyper c = 1", ["lr", "eps", "end", "c"]),
        ("hyper end = 2\nhyper lr = 2\nhyper c = 1", ["lr", "eps", "end", "c"]),
        ("hyper lr = 2\nhyper c = 1\nhyper eps = 2", ["lr", "end", "c", "eps"]),
        ("hyper c = 1\nhyper eps = 1\nhyper end = 1", ["lr", "c", "eps", "end"]),
    ],
)
def test_new_hypers_come_last_but_for_those_repeated_behind_them(body: str, order: list[str]) -> None:
    own = extended(body + "\nfor matrix:\n    d = super * c")
    assert [hyper.name for hyper in own.hypers] == order


@pytest.mark.parametrize(
    ("body", "claims"),
    [
        ("hyper lr = 2", ["norm(d) <= 1"]),
        ("for matrix:\n    claim norm(d) >= 0", ["norm(d) <= 1", "norm(d) >= 0"]),
        ("for matrix:\n    d = 2 * super", []),
        ("for matrix:\n    weight <- super + grad\n    claim norm(d) < 2", ["norm(d) < 2"]),
    ],
)
def test_claims_are_of_the_equations_they_stand_with(body: str, claims: list[str]) -> None:
    """A base's claim of an equation that the extension replaces would be a promise nobody made."""
    (rule,) = extended(body).rules
    assert [print_expression(claim.written) for claim in rule.claims] == claims


@pytest.mark.parametrize(
    ("body", "hypers"),
    [
        ("for matrix:\n    weight <- weight - d", {"eps", "end"}),
        ("for matrix:\n    d = grad", {"lr"}),
        ("for matrix:\n    weight <- weight - grad", set()),
        ("for matrix:\n    d = grad\n    claim norm(d) <= eps", {"lr", "eps"}),
        ("hyper low = 0 where low < end\nfor matrix:\n    d = grad * low", {"lr", "end", "low"}),
        ("hyper end = 2\nfor matrix:\n    d = grad", {"lr", "end"}),
    ],
)
def test_hypers_of_the_base_that_nothing_reads_are_left_out(body: str, hypers: set[str]) -> None:
    """An argument that changes nothing would be a promise too; a condition on one that is read counts as reading."""
    assert {hyper.name for hyper in extended(body).hypers} == hypers


def test_conditions_go_with_their_hypers() -> None:
    base = BASE.replace("hyper eps = 1", "hyper eps = 1 where lr <= eps <= end")
    assert [r.subject for r in extended("hyper lr = 0", base).requirements] == ["eps"]
    assert not extended("for matrix:\n    d = grad", base).requirements
