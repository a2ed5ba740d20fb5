"""One name for several things: a hyper, a state, an argument of an event, a total are told apart by what they are.

What each spec means is written down here by hand, in NumPy: the interpreter and the generated code must both say it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from inspect import signature
from string import Template
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optforge.compiler.driver import check_source, compile_program
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.printer import dump_function, read_function
from optforge.compiler.ir.types import SCALAR, Kind, Phase, Type
from optforge.compiler.ir.verifier import InternalError, functions_of, require_valid
from optforge.compiler.load import compile_source
from optforge.compiler.oracle import interpreter as interpret
from optforge.compiler.targets.torch.functions import PyFunction, require_own_names
from optforge.compiler.targets.torch.hygiene import scalar_names
from optforge.compiler.targets.torch.statements import Lowering, lower_function
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.source import Source

STEPS = 3
WAYS = {"eager": {"backend": "eager"}, "auto": {}, "graph": {"backend": "eager", "capturable": True}}


def adamw(weight, grads, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-2):
    m, v = np.zeros_like(weight), np.zeros_like(weight)
    for t, grad in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
        weight = (1 - lr * weight_decay) * weight - lr * u
        yield weight


def nudged(weight, grads):
    before = np.zeros_like(weight)
    for grad in grads:
        weight = weight - 0.1 * (grad + 0.5 * before)
        before = grad
        yield weight


def curved(k, scale, lr):
    """The event `curvature(k)` before each step: `h = ema(scale * k * grad^2, 0.9)`."""

    def steps(weight, grads):
        h = np.zeros_like(weight)
        for grad in grads:
            h = 0.9 * h + 0.1 * (scale * k * grad**2)
            weight = weight - lr * grad / (1 + h)
            yield weight

    return steps


def summed(weight, grads):
    """One parameter, so that each total is over it alone."""
    for grad in grads:
        weight = weight - 0.5 * 0.25 * grad / np.sqrt((grad**2).sum())
        yield weight


def marked(weight, grads):
    """Two states, `mark` and `mark.s`, beside a hyper `mark` and a hyper `mark_s`."""
    one, two = np.zeros_like(weight), np.zeros_like(weight)
    for grad in grads:
        one = 0.5 * one + 2.0 * grad
        two = 0.25 * two + one
        weight = weight - 0.1 * (one + 3.0 * two)
        yield weight


def begun(weight, grads):
    """The event `first` before each step, whose second state begins with what the first one is then."""
    m = w = None
    for grad in grads:
        if m is None:
            m = np.full_like(weight, np.sqrt((weight**2).sum()))
            w = 0.9 * m + 0.1 * grad
        m, w = 0.9 * m + 0.1 * grad, 0.5 * w + 0.1 * grad
        weight = weight - 0.1 * grad / (1 + m**2 + w**2)
        yield weight


def ramped(weight, grads):
    before = 0.0
    for t, grad in enumerate(grads, 1):
        ramp = (2 * t) * (2 * t) + np.cos(2 * t)
        weight = weight - 0.1 * grad * (1 + before * ramp)
        before = ramp
        yield weight


class Case(NamedTuple):
    text: str
    steps: Callable[..., Iterator[np.ndarray]]
    events: dict[str, dict[str, float]] = {}  # noqa: RUF012


CASES = {
    "a hyper that `use` binds, called like a state of the used optimizer": Case(
        """
optimizer Plain:
    hyper lr = 0.1
    hyper m = 0.5
    hyper v = 2
    for tensor: use AdamW(lr=lr * m * v)
""",
        lambda weight, grads: adamw(weight, grads, 0.1),
    ),
    "a hyper called like an equation of the used optimizer": Case(
        """
optimizer Plain:
    hyper lr = 0.1
    hyper u = 0.5
    for tensor: use AdamW(lr=lr * u)
""",
        lambda weight, grads: adamw(weight, grads, 0.05),
    ),
    "a hyper called like what a gradient is remembered under": Case(
        """
optimizer Plain:
    hyper lr = 0.1
    hyper prev_grad = 0.5
    for tensor:
        weight <- weight - lr * (grad + prev_grad * prev(grad))
""",
        nudged,
    ),
    "an argument of an event called like a hyper that `use` binds": Case(
        """
optimizer Inner:
    hyper lr = 0.1
    hyper scale = 1
    on curvature(k):
        h = ema(scale * k * grad^2, 0.9)
    for tensor:
        weight <- weight - lr * grad / (1 + h)

optimizer Plain:
    hyper k = 0.5
    for tensor: use Inner(lr=k, scale=2 * k)
""",
        curved(3.0, 1.0, 0.5),
        {"curvature": {"k": 3.0}},
    ),
    "an argument of an event called like a flag": Case(
        """
optimizer Inner:
    hyper lr = 0.1
    hyper scale = 1
    on curvature(k):
        h = ema(scale * k * grad^2, 0.9)
    for tensor:
        weight <- weight - lr * grad / (1 + h)

optimizer Plain:
    hyper k = false
    hyper k_2 = 0.25
    for tensor: use Inner(lr=100 if k else k_2, scale=7 if k else 0.5)
""",
        curved(3.0, 0.5, 0.25),
        {"curvature": {"k": 3.0}},
    ),
    "a hyper called like a total": Case(
        """
optimizer Plain:
    hyper total_1 = 0.25
    hyper total_1_2 = 0.5
    for tensor:
        weight <- weight - total_1_2 * total_1 * grad / sqrt(total(sum(grad^2)))
""",
        summed,
    ),
    "a hyper called as a state of a function is written": Case(
        """
def mixed(x, k):
    s = k * prev(s) + x
    return s

optimizer Plain:
    hyper mark = 2
    hyper mark_s = 3
    for tensor: use Inner(gain=mark, share=mark_s)

optimizer Inner:
    hyper gain = 1
    hyper share = 1
    for tensor:
        mark = 0.5 * prev(mark) + gain * grad
        weight <- weight - 0.1 * (mark + share * mixed(mark, 0.25))
""",
        marked,
    ),
    "an event called like what the compiler calls first values": Case(
        """
optimizer Plain:
    hyper lr = 0.1
    on first():
        m = 0.9 * prev(m, norm(weight)) + 0.1 * grad
        w = 0.5 * prev(w, m) + 0.1 * grad
    for tensor:
        weight <- weight - lr * grad / (1 + m^2 + w^2)
""",
        begun,
        {"first": {}},
    ),
    "a value of a function called like what the compiler calls new values": Case(
        """
def doubled(x):
    new = 2 * x
    return new * new + cos(new)

optimizer Plain:
    hyper lr = 0.1
    for tensor:
        ramp = doubled(t)
        weight <- weight - lr * grad * (1 + prev(ramp) * ramp)
""",
        ramped,
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def stream(seed: int = 0) -> tuple[Any, list[Any]]:
    random = np.random.default_rng(seed)
    return random.normal(size=(4, 3)), [random.normal(size=(4, 3)) for _ in range(STEPS)]


def assert_same_steps(found: list[Any], wanted: list[Any], weight: Any) -> None:
    """Differences in relation to the step that should be taken."""
    for one, other, before in zip(found, wanted, [weight, *wanted], strict=False):
        assert np.abs(one - other).max() <= 1e-10 * np.abs(other - before).max()


@each_case
def test_the_interpreter_takes_the_steps_written_by_hand(case):
    program = compile_program(Source("names.opt", case.text), TORCH)
    (declaration,) = (each for each in program.declarations if each.name == "Plain")
    hypers = {hyper.name: hyper.default.value for hyper in declaration.hypers}
    weight, grads = stream()
    parameter = interpret.OracleParameter(weight, declaration.rules[0])
    found = []
    for grad in grads:
        for event, arguments in case.events.items():
            interpret.fire_event([parameter], event, [grad], [hypers], arguments)
        interpret.run_step([parameter], [grad], [hypers])
        found.append(parameter.value)
    assert_same_steps(found, list(case.steps(weight, grads)), weight)


@pytest.mark.parametrize("way", WAYS)
@each_case
def test_generated_classes_take_the_steps_written_by_hand(case, way):
    cls = compile_source(case.text).Plain
    weight, grads = stream()
    p = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    optimizer = cls([p], **WAYS[way])
    found = []
    for grad in grads:
        p.grad = torch.from_numpy(grad)
        for event, arguments in case.events.items():
            getattr(optimizer, event)(**arguments)
        optimizer.step()
        found.append(p.detach().numpy().copy())
    assert_same_steps(found, list(case.steps(weight, grads)), weight)


# Words drawn from few


# Each letter stands for a word. Those of one line must differ: two functions; what the first has; what the second has;
# hypers, argument and equations of the optimizer; its event.
SCOPES = ("FG", "XKAB", "YC", "HJQRSUV", "E")
TEMPLATE = Template("""
def $F($X, $K):
    $A = $K * prev($A) + $X
    $B = $G($A) + 0.5 * prev($B, $X)
    return $A + 0.1 * $B

def $G($Y):
    $C = 2 * $Y
    return $C * $C + cos($C)

optimizer Plain:
    hyper $H = 0.1
    hyper $J = 0.5
    on $E($Q):
        $R = 0.9 * prev($R, norm(weight)) + 0.3 * $G(grad)
        $S = 0.5 * prev($S, $G($R)) + $Q * $F(grad, $J)
    for tensor:
        $U = $F(grad, $J) - $R
        $V = $F($U, 0.25) + $G(prev($U)) * $G(t)
        weight <- weight - $H * ($U + $V + prev($V) + prev(grad) + total(sum($U))) / (1 + $R^2 + $S^2)
""")
# Some are what the compiler calls things, and some are what becomes of others in Python.
WORDS = ("m", "s", "m_s", "m_s_2", "first", "first_m", "new", "line", "init", "part", "update", "prev_grad", "total_1")


@st.composite
def chosen_words(draw: st.DrawFn) -> dict[str, str]:
    return {letter: word for scope in SCOPES for letter, word in zip(scope, draw(st.permutations(WORDS)), strict=False)}


def oracle_steps(program: ir.Program, words: Mapping[str, str]) -> list[Any]:
    """The weight and the states after each step, with the event before it."""
    (declaration,) = program.declarations
    weight, grads = stream()
    parameter = interpret.OracleParameter(weight, declaration.rules[0])
    found, hypers = [], {hyper.name: hyper.default.value for hyper in declaration.hypers}
    for grad in grads:
        interpret.fire_event([parameter], words["E"], [grad], [hypers], {words["Q"]: 0.3})
        interpret.run_step([parameter], [grad], [hypers])
        found.append([parameter.value, *parameter.states.values()])
    return found


@cache
def steps_of_distinct_words() -> list[Any]:
    words = {letter: f"word_{letter.lower()}" for letter in "".join(SCOPES)}
    return oracle_steps(check_source(Source("names.opt", TEMPLATE.substitute(words))).require(), words)


@settings(max_examples=10, deadline=None)
@given(chosen_words())
def test_words_do_not_change_what_a_spec_means(words: dict[str, str]) -> None:
    """Not before the passes nor after them, nor in dumps and in Python, whatever else is called so."""
    source = Source("names.opt", TEMPLATE.substitute(words))
    for program in (check_source(source).require(), compile_program(source, TORCH)):
        require_valid(program, "naming")
        for function in functions_of(program):
            assert read_function(dump_function(function)) == function
        for one, other in zip(oracle_steps(program, words), steps_of_distinct_words(), strict=True):
            for found, wanted in zip(one, other, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-12)
    cls = compile_source(source.text).Plain
    weight, grads = stream()
    p = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    optimizer, found = cls([p], backend="eager"), []
    for grad in grads:
        p.grad = torch.from_numpy(grad)
        getattr(optimizer, words["E"])(0.3)
        optimizer.step()
        found.append(p.detach().numpy().copy())
    assert_same_steps(found, [wanted for wanted, *_ in steps_of_distinct_words()], weight)


# Events of one name


SHARED = """
optimizer Inner:
    hyper lr = 0.1
    on curvature(batch_size, share=0.1):
        h = ema(batch_size * grad^2, 1 - share)
    for tensor:
        weight <- weight - lr * grad / (1 + h)

optimizer Plain:
    hyper batch_size = 0.5
    on curvature(k):
        h = ema(k * grad^2, 0.9)
    for matrix:
        weight <- weight - batch_size * grad / (1 + h)
    for rest: use Inner(lr=batch_size)
"""


def test_one_call_fires_the_events_of_one_name_with_the_arguments_of_all():
    """Also where an argument of one of them is called like a hyper that the rule of the other reads."""
    weight, grads = stream()
    matrix, vector = torch.nn.Parameter(torch.from_numpy(weight.copy())), torch.nn.Parameter(torch.tensor(weight[0]))
    optimizer = compile_source(SHARED).Plain([matrix, vector])
    assert list(signature(optimizer.curvature).parameters) == ["k", "batch_size", "share"]
    found = []
    for grad in grads:
        matrix.grad, vector.grad = torch.from_numpy(grad), torch.from_numpy(grad[0])
        optimizer.curvature(3.0, 5.0)
        optimizer.step()
        found.append((matrix.detach().numpy().copy(), vector.detach().numpy().copy()))
    assert_same_steps([one for one, _ in found], list(curved(3.0, 1.0, 0.5)(weight, grads)), weight)
    rows = [grad[0] for grad in grads]
    assert_same_steps([other for _, other in found], list(curved(5.0, 1.0, 0.5)(weight[0], rows)), weight[0])


IDLE = """
optimizer Plain:
    hyper lr = 0.1
    on probe(k):
        h = ema(k * grad^2, 0.9)
    on spare():
        s = ema(total(sum(grad^2)) * grad, 0.9)
    on look():
        unread = ema(grad, 0.9)
    for matrix:
        weight <- weight - lr * grad
    for rest:
        left_over = s + total(sum(grad))
        weight <- weight - lr * grad / (1 + h)
"""


def test_rules_have_the_events_that_change_something_for_them_and_no_others():
    """No function, no counter in the state, no method for what would do nothing; and no sum that nobody reads."""
    (declaration,) = compile_program(Source("names.opt", IDLE), TORCH).declarations
    assert {rule.name: [event.name for event in rule.events] for rule in declaration.rules} == {
        "matrix": [],
        "rest": ["probe"],
    }
    assert not any(stage.collectives for rule in declaration.rules for stage in rule.stages)
    weight, grads = stream()
    matrix, vector = torch.nn.Parameter(torch.from_numpy(weight)), torch.nn.Parameter(torch.from_numpy(weight[0]))
    optimizer = compile_source(IDLE).Plain([matrix, vector])
    assert not hasattr(optimizer, "spare") and not hasattr(optimizer, "look")
    matrix.grad, vector.grad = torch.from_numpy(grads[0]), torch.from_numpy(grads[0][0])
    optimizer.probe(2.0)
    optimizer.step()
    assert optimizer.state[matrix].keys() == {"step"}
    assert optimizer.state[vector].keys() == {"step", "probe_step", "h"}


# What the compiler holds itself to


@each_case
def test_dumps_read_back(case):
    for function in functions_of(compile_program(Source("names.opt", case.text), TORCH)):
        assert read_function(dump_function(function)) == function


def lowered_rule(text: str) -> tuple[ir.Function, PyFunction]:
    """The step of the only rule of `Plain`, and its Python function."""
    (declaration,) = (
        each for each in compile_program(Source("names.opt", text), TORCH).declarations if each.name == "Plain"
    )
    (rule,) = declaration.rules
    states = tuple(state.name for state in rule.states)
    return rule.update, lower_function(rule.update, "step", (), states, scalar_names(declaration))


NUMBER = Type(Kind.NUMBER, SCALAR, Phase.CONSTANT)
BOUND = CASES["a hyper that `use` binds, called like a state of the used optimizer"].text


@pytest.mark.parametrize(
    "change, message",
    [
        ({(ir.InputSource.STATE, "m"): "m"}, "`step` says `m` for hyper `m` and state `m`"),
        ({(ir.InputSource.HYPER, "m"): "m_3"}, "`step` says `m_3` for hyper `m`"),
        ({(ir.InputSource.STATE, "m"): "m_3"}, "which is not what it reads"),
    ],
)
def test_inputs_of_a_function_have_distinct_names_in_its_text(change, message):
    step, function = lowered_rule(BOUND)
    require_own_names(step, function)
    with pytest.raises(InternalError, match=message):
        require_own_names(step, replace(function, names={**function.names, **change}))


NESTED = """
optimizer Signs:
    for tensor: use Lion(weight_decay=0)

optimizer Pair:
    hyper eps = 0.1
    for matrix:
        weight <- weight - eps * grad
    for rest: use AdamW(lr=0.1, beta1=0.5, beta2=0.5, weight_decay=0)

optimizer Outer:
    for matrix: use Signs()
    for embedding: use Pair(eps=0.3)
    for head, vector: use Signs()
"""


def test_hypers_of_optimizers_that_are_used_by_used_ones_have_names_of_their_own():
    """Each is told apart by the way to it, also two of one name, and one that its user has declared as well."""
    module = compile_source(NESTED)
    names = {f"{role}_tensor_{hyper}" for role in ("matrix", "head") for hyper in ("lr", "beta1", "beta2")}
    assert set(hypers_of(module.Outer)) == {*names, "embedding_rest_eps"}
    alone = "optimizer Alone:\n    for tensor: use Pair()\n"
    assert set(hypers_of(compile_source(NESTED + alone).Alone)) == {"tensor_eps", "tensor_rest_eps"}
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = module.Outer([{"params": [p], "rule": "head"}], matrix_tensor_lr=9.0, head_tensor_lr=0.25)
    optimizer.step()
    assert torch.equal(p.detach(), torch.full((3,), 0.75))


def hypers_of(cls: Any) -> list[str]:
    """The arguments of the constructor that are hypers."""
    return [name for name, each in signature(cls).parameters.items() if each.kind is not each.KEYWORD_ONLY][1:]


def test_lowering_that_goes_by_names_alone_is_found(monkeypatch):
    monkeypatch.setattr(Lowering, "_name_stored", lambda self, name: self.names.setdefault(ir.stored(name), name))
    with pytest.raises(InternalError, match=r"hyper `(.)` and state `\1`"):
        lowered_rule(BOUND)


@pytest.mark.parametrize(
    "node, message",
    [
        (ir.Input("m", ir.InputSource.ARGUMENT, type=NUMBER), "reads argument `m`, which it is not given"),
        (ir.Input("beta", ir.InputSource.STATE, type=NUMBER), "reads state `beta`, which it is not given"),
        (ir.Input("total_1", ir.InputSource.COMBINED, type=NUMBER), "reads combined `total_1`, which it is not given"),
        (ir.Input("m", ir.InputSource.HYPER, type=Type(Kind.BOOLEAN, SCALAR, Phase.CONSTANT)), "`m` has two types"),
        (ir.Latest(ir.StreamRef("event", EquationName.of("m"))), "a Latest is left"),
    ],
)
def test_functions_read_what_they_are_given(node, message):
    program = compile_program(Source("names.opt", BOUND), TORCH)
    (declaration,) = program.declarations
    (rule,) = declaration.rules
    require_valid(program, "storage")
    update = replace(rule.update, equations=(ir.Equation(EquationName.of("odd"), node), *rule.update.equations))
    broken = replace(declaration, rules=(replace(rule, step=(ir.Stage(update),)),))
    with pytest.raises(InternalError, match=message):
        require_valid(replace(program, declarations=(broken,)), "storage")
