"""Random programs on gradients that are infinite, NaN or huge in an entry or two: ways that are right agree, and ways
that take such numbers for finite ones are found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.operators import OPERATORS, Pattern
from optforge.compiler.passes import fold
from optforge.compiler.targets.torch.passes import idioms
from optforge.dsl.parser import parse_source
from optforge.dsl.source import Source
from tools.programs import specials
from tools.programs.differential import Disagreement, Shares, examine
from tools.programs.programs import RandomProgram, Trial, random_programs
from tools.programs.specials import Specials

SEEDS = range(1, 13)


@pytest.fixture(autouse=True)
def every_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specials, "SHARE", 1.0)


def program(update: str, *equations: str, seed: int, seen_as: str = "tensor") -> RandomProgram:
    lines = "\n        ".join([*equations, f"weight <- {update}"])
    rest = "" if seen_as == "tensor" else "    for rest:\n        weight <- weight - 0.1 * grad\n"
    text = f"optimizer Case:\n    for {seen_as}:\n        {lines}\n{rest}"
    tree, problems = parse_source(Source("case.opt", text))
    assert tree is not None, problems
    return RandomProgram(tree, (Trial("Case", "optimizer", ({},)),), seed)


def differing(update: str, *equations: str, seen_as: str = "tensor") -> set[str]:
    """The ways that differ on any of the gradients."""
    ways = set()
    for seed in SEEDS:
        try:
            examine(program(update, *equations, seed=seed, seen_as=seen_as), Shares(0, 0))
        except Disagreement as found:
            ways.add(found.way)
    return ways


def test_one_program_in_four_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specials, "SHARE", 0.25)
    drawn = [Specials(seed, 3).step for seed in range(1, 1000)]
    assert 0.2 < sum(map(bool, drawn)) / len(drawn) < 0.3
    assert {1, 2, 3} <= set(drawn) and drawn == [Specials(seed, 3).step for seed in range(1, 1000)]
    assert not Specials(0, 3)


def lerp_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    average = idioms.average
    monkeypatch.setattr(idioms, "average", lambda node, left, right, is_lost: average(node, left, right, True))


def differences_of_equals_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    without_neutral = fold.without_neutral

    def without(node: ir.Apply, facts: fold.Facts) -> ir.Expr:
        if node.operator == "sub" and node.arguments[0] == node.arguments[1]:
            zero = ir.Literal(0.0, "0", type=fold.CONSTANT, span=node.span)
            return ir.Apply("fill", (zero,), type=node.type, span=node.span)
        return without_neutral(node, facts)

    monkeypatch.setattr(fold, "without_neutral", without)


def all_products_with_zero_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "is_finite", lambda expr, facts: True)


def the_smaller_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(OPERATORS, dict)
    row = OPERATORS["min"]
    torch = {**row.torch, "TT": Pattern("torch.fmin({0}, {1})")}
    monkeypatch.setitem(OPERATORS, "min", replace(row, torch=torch))


@pytest.mark.parametrize(
    ("break_it", "way", "update", "equations"),
    [
        (lerp_everywhere, "pass idioms", "weight - 0.1 * sign(m)", ("m = ema(grad, 0.25)",)),
        (lerp_everywhere, "pass idioms", "weight - 0.1 * tanh(m)", ("m = 0.6 * prev(m) + 0.4 * grad",)),
        (differences_of_equals_are_zero, "pass fold", "weight - 0.1 * (grad - grad) - 0.1 * sign(grad)", ()),
        (all_products_with_zero_are_zero, "pass fold", "weight - 0.1 * sign(grad) - 0 * grad", ()),
        (the_smaller_is_a_number, "generated module", "weight - 0.1 * min(grad, weight)", ()),
    ],
)
def test_what_takes_them_for_finite_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None],
    way: str,
    update: str,
    equations: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not differing(update, *equations)
    break_it(monkeypatch)
    assert way in differing(update, *equations)


def test_random_programs_find_averages_that_subtract(monkeypatch: pytest.MonkeyPatch) -> None:
    lerp_everywhere(monkeypatch)
    with pytest.raises(Disagreement, match="pass idioms"):
        for each in random_programs(6, 40):
            examine(each, Shares(0, 0))


def test_a_weight_that_is_lost_anyway_may_be_lost_as_nan() -> None:
    """The average goes into the weight, so it is torch's, and infinity less infinity is NaN."""
    assert not differing("weight - 0.1 * m - 0.1 * sign(sum(m))", "m = ema(grad, 0.25)")


def test_a_lost_weight_must_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    update, average = "weight - 0.1 * m - 0.1 * tanh(grad)", "m = ema(grad, 0.25)"
    assert isinstance(OPERATORS, dict)
    forgiving = {"*": Pattern("{0:postfix}.lerp({1}, {2}).nan_to_num(0.0, 0.0, 0.0)")}
    monkeypatch.setitem(OPERATORS, "lerp", replace(OPERATORS["lerp"], torch=forgiving, in_place=None))
    assert differing(update, average) == {"generated module"}


def test_what_rounding_decides_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cosine of a huge number is another one where the last digit is."""
    update = "weight - 0.1 * cos(grad / norm(weight))"
    assert not differing(update)
    monkeypatch.setattr(specials, "LITTLE", 0.0)
    assert "generated module" in differing(update)


KERNEL = "exp(-abs(mean(grad, per=row) - mean(grad, per=row)'))"
MATRICES = (
    f"qr({KERNEL})", f"eigenbasis({KERNEL})", "inverse_root(grad @ grad', 4, 0.1)", "det(grad @ grad')",
    "logdet(grad @ grad' / 3)", "trace(grad @ grad')", "norm(orthogonalize(grad))",
    'norm(orthogonalize(grad, method="svd"))',
)  # fmt: skip


@pytest.mark.parametrize("value", MATRICES)
def test_functions_of_whole_matrices(value: str) -> None:
    """Where one entry is not finite all of the result is NaN, as where LAPACK would have raised or gone on."""
    assert not differing(f"weight - 0.1 * (tanh(sum(sign({value} + 0.0371))) + sign(grad))", seen_as="matrix")
