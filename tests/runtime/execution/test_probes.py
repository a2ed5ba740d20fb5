"""Probes of new graphs: whatever is wrong with one is found before it takes a step, and rounding is not."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import optforge.generated as generated
from optforge import compile_source, explain_schedule
from optforge.runtime import Kernel, Rule, SpecOptimizer, State
from optforge.runtime.execution import graphs, probes
from tools.programs.rewriting import compile_by_rewriting

SOURCE = """
optimizer Flat:
    hyper lr = 0.1
    for tensor:
        m = ema(grad, 0.9)
        old = weight
        weight <- weight - lr * (m + 0.1 * prev(old, weight))

optimizer Delayed:
    hyper lr = 0.1
    for tensor:
        a = ema(grad, 0.5)
        b = prev(a)
        weight <- weight - lr * (a + b) + 0.5 * (weight - prev(weight, weight))

optimizer Square:
    hyper lr = 0.1
    for matrix:
        m = ema(grad, 0.9)
        n = ema(norm(grad, per=row)^2, 0.9)
        weight <- weight - lr * m / (sqrt(n) + 0.1) * norm(weight)
"""
CLASSES = compile_source(SOURCE)


@pytest.fixture(autouse=True)
def no_graphs():
    graphs._forget_graphs()
    yield
    graphs._forget_graphs()


def compiled_as(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Callable[..., Any]]) -> None:
    """From now on what is compiled is what `change` makes of the recorded graph."""
    monkeypatch.setattr(graphs, "_compile", lambda module, options: change(module))
    monkeypatch.setattr(graphs, "_compile_when_run", lambda module, dynamic, options: change(module))


def afterwards(change: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    """A graph after which something happens to its arguments: numbers, weights, gradients, states."""

    def changed(module: Any) -> Callable[..., Any]:
        def run(*tensors: Tensor) -> Any:
            results = module(*tensors)
            change(*tensors)
            return results

        return run

    return changed


def trained(cls: Any, steps: int = 3, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, list[Tensor]]:
    """The optimizer after some steps, and all that they moved."""
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(8, 24, generator=generator).to(dtype))
    optimizer = cls([p], **options)
    for _ in range(steps):
        p.grad = torch.randn(8, 24, generator=generator).to(dtype)
        optimizer.step()
    states = [value.clone() for value in optimizer.state[p].values() if isinstance(value, Tensor)]
    return optimizer, [p.detach().clone(), *states]


def warned(cls: Any, **options: Any) -> tuple[list[str], list[Tensor]]:
    """What a run with a compiled graph warned of, and what it moved."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, moved = trained(cls, backend="compile", **options)
    return [str(each.message) for each in caught if "eagerly" in str(each.message)], moved


# -- what is wrong -----------------------------------------------------------------------------------------------------

# Of the arguments (numbers, weight, grad, and the states m and old, or m and n)
MISTAKES: dict[str, Callable[..., Any]] = {
    "a state that holds what the weight became": lambda v, w, g, m, x: x.copy_(w if x.shape == w.shape else x + 1),
    "a state a little off": lambda v, w, g, m, x: m.mul_(1.002),
    "a step a little off": lambda v, w, g, m, x: w.sub_(0.001 * m),
    "one element at the end": lambda v, w, g, m, x: w.view(-1)[-1:].add_(0.1),
    "one element in the middle": lambda v, w, g, m, x: m.view(-1)[100].add_(0.1),
    "a gradient that is written": lambda v, w, g, m, x: g.mul_(0.5),
    "not a number": lambda v, w, g, m, x: w.view(-1)[7].fill_(float("nan")),
}


@pytest.mark.parametrize("name", ["Flat", "Square"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_graph_is_said_and_not_run(name, mistake, monkeypatch):
    """Once for each optimizer; what it moves is what it moves eagerly."""
    cls = getattr(CLASSES, name)
    compiled_as(monkeypatch, afterwards(MISTAKES[mistake]))
    _, expected = trained(cls, backend="eager")
    for _ in range(2):  # the second one finds the graph that is known to be wrong
        messages, moved = warned(cls)
        rule = "flat_tensor_rule" if name == "Flat" else "square_matrix_rule"
        assert len(messages) == 1 and messages[0].startswith(f"{rule} runs eagerly: compiled, it takes other steps: ")
        assert all(map(torch.equal, moved, expected))


def test_numbers_of_another_step_are_found(monkeypatch):
    compiled_as(monkeypatch, lambda module: lambda v, *tensors: module(v * 1.01, *tensors))
    assert warned(CLASSES.Flat)[0] and warned(CLASSES.Square)[0]


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": 1e-12}], ids=str)
def test_a_first_step_that_hides_the_mistake_hides_nothing(options, monkeypatch):
    """What the weight was and what it becomes are the same as long as lr is 0, as it is when it warms up."""
    compiled_as(monkeypatch, afterwards(MISTAKES["a state that holds what the weight became"]))
    assert warned(CLASSES.Flat, **options)[0]


@pytest.mark.parametrize("precision", ["plain", "kahan", "stochastic", "master"])
def test_a_wrong_graph_is_found_in_every_precision(precision, monkeypatch):
    options = {"precision": precision, "dtype": torch.bfloat16}
    compiled_as(monkeypatch, lambda module: module)
    assert not warned(CLASSES.Flat, **options)[0]
    graphs._forget_graphs()
    compiled_as(monkeypatch, afterwards(lambda v, w, g, m, *others: m.mul_(1.01)))
    assert warned(CLASSES.Flat, **options)[0]


def test_what_fences_hold_back_is_found(monkeypatch):
    """Inductor, as far as it rewrites graphs, takes one stored tensor for another."""
    with compile_by_rewriting():
        messages, moved = warned(CLASSES.Delayed)
        assert not messages
        torch.testing.assert_close(moved, trained(CLASSES.Delayed, backend="eager")[1], rtol=1e-5, atol=1e-6)
        graphs._forget_graphs()
        monkeypatch.setattr(graphs, "_fence", lambda module: module)
        assert "prev_weight is off by" in warned(CLASSES.Delayed)[0][0]


def test_recorded_graphs_are_probed_as_well(monkeypatch):
    evaluator = graphs._evaluator
    wrong = lambda texts, names: lambda *numbers: tuple(1.01 * x for x in evaluator(texts, names)(*numbers))  # noqa: E731
    _, expected = trained(CLASSES.Flat, backend="eager")
    monkeypatch.setattr(graphs, "_evaluator", wrong)
    with pytest.warns(UserWarning, match="flat_tensor_rule runs eagerly: as a recorded graph, it takes other steps: "):
        _, moved = trained(CLASSES.Flat, backend="eager", capturable=True)
    assert all(torch.allclose(x, y, rtol=1e-6) for x, y in zip(moved, expected, strict=False))


def test_the_schedule_says_what_was_refused(monkeypatch):
    compiled_as(monkeypatch, afterwards(MISTAKES["a step a little off"]))
    with pytest.warns(UserWarning, match="runs eagerly"):
        optimizer, _ = trained(CLASSES.Flat, backend="compile")
    assert explain_schedule(optimizer).splitlines()[1].endswith("eager  compiled, it takes other steps")


# -- what is not -------------------------------------------------------------------------------------------------------


def rounded_otherwise(module: Any) -> Callable[..., Any]:
    """A graph whose arguments are a rounding away, at random."""
    generator = torch.Generator().manual_seed(5)

    def run(vector: Tensor, *tensors: Tensor) -> Any:
        noise = [torch.empty_like(x).uniform_(-1, 1, generator=generator) for x in tensors]
        moved = [x * (1 + torch.finfo(x.dtype).eps * n) for x, n in zip(tensors, noise, strict=True)]
        before = [x.clone() for x in moved]
        results = module(vector, *moved)
        for x, old, new in zip(tensors, before, moved, strict=True):
            x.copy_(torch.where(new == old, x, new))
        return results

    return run


@pytest.mark.parametrize(
    "name", ["AdamW", "Lion", "Signum", "Muon", "NAMOD", "SOAP", "Shampoo", "Adafactor", "CautiousAdamW"]
)
def test_rounding_is_no_mistake(name, monkeypatch):
    """Nor are signs of next to nothing, or whatever a rule makes of a rounding."""
    compiled_as(monkeypatch, rounded_otherwise)
    assert not warned(getattr(generated, name))[0]


def test_what_is_ill_conditioned_is_compared_by_what_it_is(monkeypatch):
    """Half of the digits go; what is left is compared, and so is all beside it."""
    source = """
optimizer X:
    hyper lr = 0.1
    for tensor:
        far = 10000 * (weight + 1000) - 10000 * weight - 10000000
        m = ema(grad, 0.9)
        weight <- weight - lr * (m + far)
"""
    cls = compile_source(source).X
    compiled_as(monkeypatch, rounded_otherwise)
    assert not warned(cls)[0]
    graphs._forget_graphs()
    compiled_as(monkeypatch, afterwards(lambda v, w, g, m: m.mul_(1.002)))
    assert "m is off by" in warned(cls)[0][0]


# -- what a probe costs ------------------------------------------------------------------------------------------------


def test_a_probe_leaves_everything_as_it_is(monkeypatch):
    """The states and weights before the first step, and everybody's random numbers."""
    seen = []
    probe = graphs.Graph.probe

    def watched(self: Any, stored: Any, scalars: Any) -> None:
        before = [torch.get_rng_state(), *(x.clone() for x in stored.values())]
        probe(self, stored, scalars)
        after = [torch.get_rng_state(), *stored.values()]
        seen.append(all(map(torch.equal, before, after)))

    monkeypatch.setattr(graphs.Graph, "probe", watched)
    compiled_as(monkeypatch, lambda module: module)
    assert not warned(CLASSES.Flat)[0] and not warned(CLASSES.Square)[0]
    assert seen == [True, True]


class Live(TorchDispatchMode):
    """The most bytes that tensors made within held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        results = function(*args, **(kwargs or {}))
        for x in tree_leaves(results):
            storage = x.untyped_storage() if isinstance(x, Tensor) else None
            if storage is not None and storage.device.type != "meta" and storage._cdata not in self.known | given:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        return results

    def freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class Factored(SpecOptimizer):
    """A rule that fails for most matrices: the state has a factor of Cholesky's."""

    RULES = (
        Rule(
            name="matrix",
            roles=("matrix",),
            states=(State("gram", ("rows", "rows")),),
            step=Kernel(
                lambda weight, grad, gram, *, lr: (weight - lr * torch.linalg.cholesky(weight), gram + grad @ grad.mT),
                layout="matrix",
                inputs=("weight", "grad", "gram"),
                scalars=("lr",),
                outputs=("weight", "gram"),
            ),
        ),
    )

    def __init__(self, params: Any, lr: float = 0.1, **options: Any) -> None:
        super().__init__(params, {"lr": lr}, **options)


@pytest.mark.parametrize("is_wrong", [False, True])
def test_what_takes_no_other_data_is_probed_with_its_own(is_wrong, monkeypatch):
    mistake = afterwards(lambda v, w, g, gram: gram.mul_(1.01))
    compiled_as(monkeypatch, mistake if is_wrong else lambda module: module)
    p = nn.Parameter(3 * torch.eye(6) + 0.1)
    optimizer = Factored([p], backend="compile")
    p.grad = torch.arange(36.0).view(6, 6).cos()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.step()
    assert ["gram is off by" in str(each.message) for each in caught] == [True] * is_wrong


def test_a_probe_holds_one_bucket_beside_what_a_step_holds(monkeypatch):
    """The weight, the gradient and the state of a matrix; what the kernel needs it needs in a step as well."""
    compiled_as(monkeypatch, lambda module: module)
    monkeypatch.setattr(probes, "PROBE_LOOKS", 64)
    p = nn.Parameter(torch.randn(256, 384))
    p.grad = torch.randn_like(p)
    optimizer = generated.Muon([p], backend="compile")
    most = []
    for backend in ("eager", "compile"):
        optimizer.backend = backend
        optimizer.step()  # the state, and the buffer that holds it, are made
        graphs._forget_graphs()
        with Live() as live:
            optimizer.step()
        most.append(live.most)
    bucket = 3 * p.numel() * p.element_size()
    assert bucket < most[1] <= most[0] + bucket + 100_000
