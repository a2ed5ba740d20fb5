"""The numbers of recorded kernels: expressions that come out as Python computes them, and guards on what it decides."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from optforge import compile_source
from optforge.runtime import power
from optforge.runtime.recording import tracing


def test_numbers_remember_their_expression():
    recorder = tracing.Recorder(torch.zeros(tracing.NUMBERS_LIMIT))
    t, beta = tracing.Number(recorder, 3, "t"), tracing.Number(recorder, 0.9, "beta")
    result: Any = -abs(2 / (1 - beta**t) + beta * 4 - t // 2 % 2)
    assert result.value == -abs(2 / (1 - 0.9**3) + 0.9 * 4 - 3 // 2 % 2)
    evaluate = tracing._evaluator([result.text], ["t", "beta"])
    assert evaluate(3, 0.9) == (result.value,) and evaluate(5, 0.5) == (-abs(2 / (1 - 0.5**5) + 2.0 - 0),)
    assert not recorder.places and not recorder.guards


def test_numbers_beside_tensors_are_elements_of_the_vector():
    vector = torch.arange(1.0, tracing.NUMBERS_LIMIT + 1)
    recorder = tracing.Recorder(vector)
    beta, x = tracing.Number(recorder, 0.9, "beta"), torch.ones(3)
    decay: Any = 1 - beta
    assert torch.equal(x * decay, x) and torch.equal(decay * x, x)
    assert torch.equal(x.lerp(2 * x, decay), 2 * x) and torch.equal(x + beta, 3 * x) and torch.equal(beta - x, x)
    assert torch.equal(torch.where(x > 5, x, beta), 2 * x) and torch.equal(torch.full_like(x, decay), x)
    assert list(recorder.places) == ["(1 - beta)", "beta"] and not recorder.guards


def test_decisions_by_numbers_are_guards():
    recorder = tracing.Recorder(torch.zeros(tracing.NUMBERS_LIMIT))
    t, steps = tracing.Number(recorder, 1, "t"), tracing.Number(recorder, 5.0, "steps")
    assert t == 1 and not t > 3 and int(steps) == 5 and bool(t % 2) and float(t) == 1.0
    holds = tracing._condition(recorder.guards, ["t", "steps"])
    assert holds(1, 5) and not holds(2, 5) and not holds(1, 6)
    assert list(recorder.guards) == ["(t == 1)", "(t > 3)", "steps", "((t % 2) != 0)", "t"]


@pytest.mark.parametrize("noted", [0.0, -0.0, math.inf, -math.inf, math.nan, 2**70, 0.1])
def test_a_number_that_is_decided_on_is_that_number(noted):
    recorder = tracing.Recorder(torch.zeros(tracing.NUMBERS_LIMIT))
    float(tracing.Number(recorder, noted, "x"))
    holds = tracing._condition(recorder.guards, ["x"])
    assert [x for x in (0.0, -0.0, math.inf, -math.inf, math.nan, 2**70, 0.1) if holds(x)] == [
        pytest.approx(noted, nan_ok=True)
    ]
    assert holds(torch.tensor(noted, dtype=torch.float64))


def rooted(weight, *, t, lr):
    return (weight * math.sqrt(max(t, 2)) * power(lr, 0.3) * min(1, lr),)


def test_functions_of_numbers_are_evaluated_in_each_step():
    recorder = tracing.Recorder(torch.ones(tracing.NUMBERS_LIMIT))
    t, lr = tracing.Number(recorder, 9, "t"), tracing.Number(recorder, 0.5, "lr")
    tracing._with_numbers(rooted)(torch.ones(2), t=t, lr=lr)
    evaluate = tracing._evaluator(list(recorder.places), ["t", "lr"])
    assert evaluate(16, 2.0) == (4.0, 2.0**0.3, 1) and not recorder.guards
    on_device = evaluate(torch.tensor(16.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
    assert torch.stack(on_device).tolist() == pytest.approx([4.0, 2.0**0.3, 1.0], rel=1e-15)
    assert math.sqrt(4) == 2  # the module itself is untouched


def test_more_numbers_than_the_vector_holds_are_an_error():
    recorder = tracing.Recorder(torch.zeros(tracing.NUMBERS_LIMIT))
    with pytest.raises(RuntimeError, match="numbers"):
        for i in range(tracing.NUMBERS_LIMIT + 1):
            tracing.Number(recorder, i, f"n{i}").tensor()


# -- every number ------------------------------------------------------------------------------------------------------

SPECIAL = (
    0,
    -0.0,
    1,
    -1,
    2,
    -2,
    3,
    0.5,
    -0.5,
    1e-320,
    1e308,
    -1e308,
    2**63,
    -(2**70),
    10**400,
    math.inf,
    -math.inf,
    math.nan,
)
values = st.one_of(st.sampled_from(SPECIAL), st.floats(-4, 4), st.integers(-4, 4))
named = st.sampled_from(["t", "lr"]).map(lambda name: lambda known: known[name])


def raised(a: Any, b: Any) -> Any:
    """The power, of what is not so large that integers would have millions of digits."""
    return (a if -100 < a < 100 else 3) ** (b if -9 < b < 9 else 2)


def binary(operands: Any) -> Any:
    """Functions of known numbers: an operator between two others, at least one of which reads a name."""
    operators: list[Callable[[Any, Any], Any]] = [
        lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b, lambda a, b: a // b,
        lambda a, b: a % b, raised, raised,
        lambda a, b: a if a < b else b, lambda a, b: a if a >= b else -b, lambda a, b: abs(a) if a == b else b - a,
        lambda a, b: b if a != 1 else a, lambda a, b: a if b else -a, lambda a, b: min_(a, b), lambda a, b: max_(b, a),
        lambda a, b: a * float(b), lambda a, b: a + int(b) if abs(b) < 100 else a,
    ]  # fmt: skip

    def joined(operator: Any, one: Any, two: Any) -> Any:
        return lambda known: operator(one(known), two(known))

    return st.builds(joined, st.sampled_from(operators), operands, operands)


min_, max_ = tracing._NAMES["min"], tracing._NAMES["max"]
expressions = st.recursive(named | values.map(lambda value: lambda known: value), binary, max_leaves=6)


def outcome(function: Callable[[], Any]) -> Any:
    """The bits of a real number that comes out, or the exception."""
    try:
        found = function()
        return struct.pack("d", math.nan if isinstance(found, float) and math.isnan(found) else found)
    except (ArithmeticError, ValueError, TypeError, struct.error) as error:  # complex numbers are no real ones
        return type(error)


NAMES = ("t", "lr")


@settings(max_examples=500, deadline=None)
@given(expressions, st.tuples(values, values), st.tuples(values, values))
def test_expressions_come_out_as_python_computes_them(expression, first, then):
    """Recorded for some values of the names and evaluated for others, where the guards hold; the first always do."""

    def expected(known: Any) -> Any:
        return outcome(lambda: expression(dict(zip(NAMES, known, strict=True))))

    recorder = tracing.Recorder(torch.zeros(tracing.NUMBERS_LIMIT))
    try:
        numbers = zip(NAMES, first, strict=True)
        result = expression({name: tracing.Number(recorder, value, name) for name, value in numbers})
    except (ArithmeticError, ValueError, TypeError):
        assert isinstance(expected(first), type)
        return
    holds = tracing._condition(recorder.guards, NAMES)
    evaluate = tracing._evaluator([tracing._text(result)], NAMES)
    assert holds(*first)
    for known in (first, then):
        decided = outcome(lambda known=known: float(holds(*known)))
        if isinstance(decided, type):
            assert isinstance(expected(known), type)
        elif decided == outcome(lambda: 1.0):
            assert outcome(lambda known=known: evaluate(*known)[0]) == expected(known)


# -- in specs ----------------------------------------------------------------------------------------------------------


def steps_of(source: str, **hypers: Any) -> list[list[float]]:
    """The weights after four steps of the optimizer X: as it is written, and by recorded graphs."""
    cls, results = compile_source(source).X, []
    for capturable in (False, True):
        p = nn.Parameter(torch.arange(1.0, 7.0, dtype=torch.float64).view(2, 3))
        optimizer = cls([p], backend="eager", capturable=capturable, **hypers)
        for t in range(4):
            p.grad = torch.full_like(p, 0.25) * (t + 1)
            optimizer.step()
        results.append(p.detach().flatten().tolist())
    return results


@pytest.mark.parametrize(
    "scale",
    [
        "1 / cap if cap < inf else 0",
        "min(cap, 3) - max(-cap, -t)",
        "cap if t > 2 else lr * t",
        "(-2)^t + -2^t",
        "(-0.5)^(-t)",
        "inf - inf if cap != inf else 1e300 * t * 1e10",
        "100000000000000000000 * lr",
        "(lr if lr < 1e308 * t * 10 else 1) * 1e-320",
        "lr * -0.0",
    ],
)
def test_what_is_no_plain_number_is_recorded(scale):
    source = f"""
optimizer X:
    hyper lr = 0.1
    hyper cap = inf
    for tensor:
        weight <- weight - lr * ({scale}) * grad
"""
    eager, recorded = steps_of(source)
    assert recorded == pytest.approx(eager, rel=1e-13, abs=0, nan_ok=True)
    assert list(map(math.isinf, recorded)) == list(map(math.isinf, eager))


def test_hypers_may_have_names_that_expressions_could_need():
    source = """
optimizer X:
    hyper float = 0.1
    hyper bool = 0.5
    hyper inf_ = inf
    for tensor:
        scale = 1 if bool < inf and inf_ > 1 and t != 2 else 0.5
        weight <- weight - float * scale * grad^(1 + bool)
"""
    eager, recorded = steps_of(source, bool=0.25)
    assert recorded == pytest.approx(eager, rel=1e-13)


def test_a_kernel_may_have_more_numbers_than_most():
    names = [f"h{i}" for i in range(tracing.NUMBERS_LIMIT + 6)]
    hypers = "".join(f"    hyper {name} = {0.01 * i}\n" for i, name in enumerate(names))
    terms = "".join(
        f"    s{i} = {f's{i - 1}' if i else 'grad'} * 0.5 + sin({name} * weight)\n" for i, name in enumerate(names)
    )
    body = "".join(f"    {line}\n" for line in terms.splitlines())
    source = f"optimizer X:\n{hypers}    for tensor:\n{body}        weight <- weight - 0.1 * s{len(names) - 1}\n"
    eager, recorded = steps_of(source, h3=0.7)
    assert recorded == pytest.approx(eager, rel=1e-12)
