"""Stages of recorded graphs: that they do what the graph does, bit by bit, and what they move and store."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from optforge.runtime.execution import graphs
from optforge.runtime.recording import stages
from tests.runtime.execution.test_graphs import no_graphs, trained  # noqa: F401
from tests.support.classes import class_parameters, generated_classes

every_class = pytest.mark.parametrize("cls", [p for p in class_parameters() if p.values[0] in generated_classes()])
Values = dict[str, Tensor]


def record(function: Callable[..., tuple[Tensor, ...]], values: Values) -> GraphModule:
    return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*values.values())


def made(seed: int) -> Values:
    generator = torch.Generator().manual_seed(seed)
    wide = {name: torch.randn(16, 24, generator=generator) for name in ("weight", "grad", "m", "v")}
    return {**wide, "n": torch.rand(16, 1, generator=generator)}


def after(run: Callable[..., tuple[Tensor, ...]], values: Values) -> list[Tensor]:
    """What is stored after the run, and what it returned."""
    copies = [x.clone() for x in values.values()]
    return [*run(*copies), *copies]


def in_stages(module: GraphModule) -> tuple[int, Callable[..., tuple[Tensor, ...]]]:
    """The number of stages, and all of them as one function that returns what the module does."""
    found = stages._stages(module)
    count = len(stages._results(module.graph))

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        return [each(*tensors) for each in found][-1][:count]

    return len(found), run


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(found, expected, strict=True))


# -- kernels -----------------------------------------------------------------------------------------------------------


@every_class
def test_stages_take_the_steps_of_the_recorded_graph(cls, monkeypatch):
    expected = trained(cls, 3, backend="eager", capturable=True)
    graphs._forget_graphs()
    monkeypatch.setattr(graphs.Graph, "compile", lambda self, options: self.stage(lambda module: module))
    assert same(trained(cls, 3, backend="compile"), expected)


def row_momentum(weight, grad, m, v, n):
    m = m.lerp_(grad, 0.05)
    weight.sub_(0.1 * (m / (m.norm(dim=-1, keepdim=True) + 1e-8)))
    return ()


def test_a_momentum_whose_rows_are_reduced_moves_first():
    first, last = stages._stages(record(row_momentum, made(0)))
    assert stages._is_single(first) and "lerp_" in first.code and "lerp" not in last.code
    assert not stages._results(first.graph)


def test_what_is_broadcast_is_stored():
    _, last = stages._stages(record(row_momentum, made(0)))
    assert [tuple(node.meta["val"].shape) for node in stages._results(last.graph)] == [(16, 1)]


def test_the_graphs_own_results_come_before_what_is_stored():
    def function(weight, grad, m, v, n):
        m = m.lerp_(grad, 0.05)
        return (weight - m / (m.norm(dim=-1, keepdim=True) + 1e-8),)

    module = record(function, made(0))
    count, run = in_stages(module)
    (found, *_) = after(run, made(0))
    assert count == 2 and found.shape == (16, 24) and same(after(run, made(0)), after(module, made(0)))


def old_momentum(weight, grad, m, v, n):
    old = m.sum(dim=-1, keepdim=True)
    m = m.lerp_(grad, 0.05)
    weight.sub_(old * m / (m.norm(dim=-1, keepdim=True) + 1e-8))
    return ()


def old_momentum_elementwise(weight, grad, m, v, n):
    old = m + grad
    m = m.lerp_(grad, 0.05)
    weight.sub_(old * m / (m.norm(dim=-1, keepdim=True) + 1e-8))
    return ()


def scaled_momentum(weight, grad, m, v, n):
    m = m.lerp_(grad / grad.norm(), 0.05)
    weight.sub_(m / (m.norm(dim=-1, keepdim=True) + 1e-8))
    return ()


def old_weight(weight, grad, m, v, n):
    weight.sub_(0.1 * grad / grad.norm(dim=-1, keepdim=True))
    m.lerp_(weight, 0.05)
    return ()


def changed_twice(weight, grad, m, v, n):
    m.lerp_(grad, 0.05)
    m.div_(m.norm(dim=-1, keepdim=True))
    weight.sub_(m)
    return ()


def by_a_view(weight, grad, m, v, n):
    flat = m.view(-1)
    total = m.norm()
    flat.add_(grad.reshape(-1))
    weight.sub_(m / total)
    return ()


NEVER_FIRST = [old_momentum, old_momentum_elementwise, scaled_momentum, old_weight, changed_twice, by_a_view]


@pytest.mark.parametrize("function", NEVER_FIRST, ids=lambda function: function.__name__)
def test_what_would_be_read_too_late_or_too_early_stays(function):
    module = record(function, made(0))
    count, run = in_stages(module)
    assert count == 1 and same(after(run, made(0)), after(module, made(0)))


def test_elementwise_graphs_stay_whole():
    def function(weight, grad, m, v, n):
        weight.sub_(m.lerp_(grad, 0.05))
        return ()

    assert len(stages._stages(record(function, made(0)))) == 1


# -- random graphs -----------------------------------------------------------------------------------------------------


def random_function(seed: int) -> Callable[..., tuple[Tensor, ...]]:
    """Writes of stored tensors, also by views of them, from all that was computed or stored before."""

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        choice = random.Random(seed)
        weight, grad, m, v, _ = tensors
        targets = [weight, m, v, m.view(-1).view(16, 24)]
        known = [*tensors, targets[-1], grad[:, :1]]
        for _ in range(choice.randint(3, 9)):
            a, b = choice.choice(known), choice.choice(known)
            wide, target = a.expand(16, 24), choice.choice(targets)
            known.append(
                choice.choice(
                    [
                        lambda: target.lerp_(wide, 0.3),  # noqa: B023
                        lambda: target.mul_(0.9).add_(wide),  # noqa: B023
                        lambda: target.copy_(wide * 0.5),  # noqa: B023
                        lambda: (wide * 0.5).add_(b),  # noqa: B023
                        lambda: a + b.sin(),  # noqa: B023
                        lambda: wide.norm(dim=-1, keepdim=True) + 1,  # noqa: B023
                        lambda: wide[:8].mean(dim=0, keepdim=True).sqrt(),  # noqa: B023
                    ]
                )()
            )
        weight.sub_(known[-1].expand(16, 24) / (1 + known[-2].norm()))
        return (known[-1] + 1,) if choice.random() < 0.3 else ()

    return function


def test_stages_of_random_graphs_do_what_the_graphs_do():
    moved = 0
    for seed in range(200):
        module = record(random_function(seed), made(seed))
        count, run = in_stages(module)
        moved += count == 2
        assert same(after(run, made(seed)), after(module, made(seed))), seed
    assert moved > 50
