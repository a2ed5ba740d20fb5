"""One name for several things: a hyper, a memory, an argument of an event, a total are told apart by what they are.

What each spec means is written down here by hand, in NumPy: the interpreter and the generated code must both say it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from optforge.compiler import interpret
from optforge.compiler.load import compile_source
from optforge.compiler.pipeline import compile_program
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
    """Two memories, `mark` and `mark.s`, beside a hyper `mark` and a hyper `mark_s`."""
    one, two = np.zeros_like(weight), np.zeros_like(weight)
    for grad in grads:
        one = 0.5 * one + 2.0 * grad
        two = 0.25 * two + one
        weight = weight - 0.1 * (one + 3.0 * two)
        yield weight


def begun(weight, grads):
    """The event `first` before each step, whose second memory begins with what the first one is then."""
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
    "a hyper that `use` binds, called like a memory of the used optimizer": Case(
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
    "a hyper called as a memory of a function is written": Case(
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
    program = compile_program(Source("names.opt", case.text))
    (declaration,) = (each for each in program.declarations if each.name == "Plain")
    hypers = {hyper.name: hyper.default.value for hyper in declaration.hypers}
    weight, grads = stream()
    parameter = interpret.Parameter(weight, declaration.rules[0])
    found = []
    for grad in grads:
        for event, arguments in case.events.items():
            interpret.fire_event([parameter], event, [grad], [hypers], arguments)
        interpret.step_parameters([parameter], [grad], [hypers])
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
