"""Kernels as graphs: what is recorded, that it takes the same steps, and that changing numbers make nothing new."""

from __future__ import annotations

import copy
import inspect
import os
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optforge
import optforge.generated as generated
from optforge import explain_schedule
from optforge.compiler.commands.cli import main
from optforge.runtime.execution import graphs, strategies
from tests.support.classes import (
    UNDETERMINED,
    build,
    class_parameters,
    generated_classes,
    groups,
    hyper_arguments,
    is_untouched,
    parameters,
    set_gradients,
)
from tests.support.handwritten import Blend, Curvature, Lookback

CLASSES = {cls.__name__: cls for cls in generated_classes()}
every_class = pytest.mark.parametrize("cls", [p for p in class_parameters() if p.values[0] in generated_classes()])
needs_compiler = pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def no_graphs():
    """Graphs are kept for the process: each test starts without."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    graphs._forget_graphs()
    yield
    graphs._forget_graphs()
    torch.set_num_threads(threads)


def recorded() -> int:
    return sum(map(len, graphs._graphs.values()))


def trained(
    cls: Any, steps: int, dtype: torch.dtype = torch.float64, change: Any = None, **options: Any
) -> list[Tensor]:
    """The weights before and after the steps; `change(t, optimizer)` comes before each."""
    made = groups(cls, dtype)
    params = parameters(made)
    optimizer = build(cls, made, **options)
    before = [p.detach().clone() for p in params]
    for t in range(steps):
        set_gradients(params, t)
        if change is not None:
            change(t, optimizer)
        optimizer.step()
    return [*before, *(p.detach() for p in params)]


def worst_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of a weight, relative to the way it went."""
    half = len(expected) // 2
    worst = 0.0
    for before, after, other in zip(expected[:half], expected[half:], found[half:], strict=True):
        way = (after.double() - before.double()).abs().max().item() if after.numel() else 0.0
        difference = (after.double() - other.double()).abs().max().item() if after.numel() else 0.0
        worst = max(worst, difference / way if way else difference)
    return worst


def wobble(t: int, optimizer: Any) -> None:
    """Other values of lr and of all decays in each step."""
    for group in optimizer.param_groups:
        for name in ("lr", "beta", "beta1", "beta2", "weight_decay"):
            if isinstance(group.get(name), float):
                group[name] *= 1 - 0.01 * (t % 3)


# -- recorded graphs ---------------------------------------------------------------------------------------------------


@every_class
def test_recorded_graphs_take_the_same_steps(cls):
    """Hypers that change in each step included; float64, so that only rounding may differ."""
    expected = trained(cls, 5, change=wobble, backend="eager")
    found = trained(cls, 5, change=wobble, backend="eager", capturable=True)
    assert recorded() and worst_error(found, expected) < 1e-11


@pytest.mark.parametrize("precision", ["plain", "kahan", "stochastic", "master"])
@pytest.mark.parametrize("name", ["AdamW", "NAMO"])
def test_recorded_graphs_round_alike(name, precision):
    options = {"precision": precision, "dtype": torch.bfloat16}
    expected = trained(CLASSES[name], 4, backend="eager", **options)
    found = trained(CLASSES[name], 4, backend="eager", capturable=True, **options)
    # One bit of the weights' bfloat16 where float32 results differ in their last bit, and no more.
    assert worst_error(found, expected) < 0.02


def test_changing_numbers_record_nothing_new():
    trained(CLASSES["AdamW"], 1, change=wobble, backend="eager", capturable=True)
    once = recorded()
    trained(CLASSES["AdamW"], 6, change=wobble, backend="eager", capturable=True)
    assert recorded() == once == 1  # elementwise: one graph, whatever the sizes


def test_flags_make_a_graph_of_their_own():
    for nesterov in (True, False, True):
        trained(CLASSES["Muon"], 1, backend="eager", capturable=True, nesterov=nesterov)
    shapes = 4 + 1  # four shapes of matrices and convolutions, and the rest
    assert recorded() == 2 * shapes - 1  # the rest has no such flag


def test_what_python_decides_by_the_step_count_makes_a_graph_for_each_outcome():
    source = """
optimizer Warm:
    hyper lr = 0.1
    for tensor:
        scale = 1 if t > 2 else 0.5
        m = ema(grad, 0.9)
        weight <- weight - lr * (m if mod(t, 2) == 0 else grad) * scale
"""
    from optforge import compile_source

    cls = compile_source(source).Warm
    expected = trained(cls, 6, backend="eager")
    found = trained(cls, 6, backend="eager", capturable=True)
    assert worst_error(found, expected) < 1e-12 and 2 <= recorded() <= 4


@pytest.mark.parametrize("cls", [Blend, Curvature, Lookback], ids=lambda cls: cls.__name__)
def test_recorded_events_and_totals(cls):
    def capturable(t, optimizer):
        if not optimizer.capturable:
            optimizer.backend, optimizer.capturable = "eager", True
            optimizer._forget()
        fired(t, optimizer)

    def fired(t, optimizer):
        if cls is Curvature:
            optimizer.curvature(batch_size=8.0 + t)
            optimizer.ascend(by=0.01)

    expected = trained(cls, 4, change=fired)
    assert worst_error(trained(cls, 4, change=capturable), expected) < 1e-11 and graphs._graphs
    graphs._forget_graphs()


# -- capturable --------------------------------------------------------------------------------------------------------


def test_capturable_counts_in_tensors_and_reads_hypers_from_them():
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    lr = torch.tensor(0.1)
    optimizer = generated.AdamW([p], lr=lr, capturable=True)
    plain = generated.AdamW([q], lr=0.1, backend="eager")
    for t in range(4):
        lr.fill_(0.1 / (t + 1))  # in place, as a captured graph needs it
        plain.param_groups[0]["lr"] = 0.1 / (t + 1)
        for x, o in ((p, optimizer), (q, plain)):
            x.grad = torch.tensor([1.0, -2.0, 0.5]) * (t + 1)
            o.step()
    assert isinstance(optimizer.state[p]["step"], Tensor) and optimizer.state[p]["step"].item() == 4
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_capturable_parameters_may_have_different_counts():
    params = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    twins = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    pairs = [
        (params, generated.AdamW(params, capturable=True)),
        (twins, generated.AdamW(twins, backend="eager")),
    ]
    for own, optimizer in pairs:
        for t in range(5):
            own[0].grad, own[1].grad = torch.ones(3), torch.ones(3) if t > 2 else None
            optimizer.step()
    steps = [pairs[0][1].state[p]["step"].item() for p in params]
    assert steps == [5, 2] == [pairs[1][1].state[p]["step"] for p in twins]
    for one, two in zip(params, twins, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=0)


@pytest.mark.parametrize("first", [True, False])
def test_checkpoints_pass_between_capturable_and_not(first):
    def stepped(optimizer: Any, p: Tensor, count: int) -> None:
        for t in range(count):
            p.grad = torch.tensor([1.0, -2.0, 0.5]) * (t + 1)
            optimizer.step()

    p = nn.Parameter(torch.ones(3))
    optimizer = generated.AdamW([p], capturable=first)
    stepped(optimizer, p, 3)
    q = nn.Parameter(p.detach().clone())
    other = generated.AdamW([q], capturable=not first)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    stepped(optimizer, p, 2)
    stepped(other, q, 2)
    assert float(other.state[q]["step"]) == 5
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_options_that_do_not_go_together_are_errors():
    p = [nn.Parameter(torch.ones(3))]
    with pytest.raises(ValueError, match="skip_nonfinite"):
        generated.AdamW(p, capturable=True, skip_nonfinite=True)
    with pytest.raises(ValueError, match="did you mean 'compile'"):
        generated.AdamW(p, backend="compiled")


# -- strategies --------------------------------------------------------------------------------------------------------


def work_of(cls: Any, numel: int, device: str = "cpu") -> Any:
    p = SimpleNamespace(numel=lambda: numel)
    rule = next(rule for rule in cls.RULES if "vector" in rule.roles or "matrix" in rule.roles)
    return rule.step, strategies.ParameterBatch(
        rule,
        "plain",
        torch.float32,
        torch.device(device),
        1,
        1,
        {},
        [p],  # type: ignore[list-item]
    )


def test_auto_chooses_by_rule_and_size(monkeypatch):
    def chosen(cls, numel, backend="auto", capturable=False, refused=(), device="cpu"):
        kernel, work = work_of(cls, numel, device)
        return strategies._strategy(kernel, work, backend, capturable, dict.fromkeys(refused, "it failed")).name

    monkeypatch.setattr(strategies, "_can_compile", lambda device: device.type == "cpu")
    large = strategies.AUTO_ELEMENTS
    assert chosen(generated.RMNP, large - 1) == "eager" and chosen(generated.RMNP, large) == "compile"
    assert chosen(generated.RMNP, large, device="cuda") == "eager"
    assert (
        chosen(generated.RMNP, large, backend="eager") == "eager" and chosen(generated.RMNP, 1, "compile") == "compile"
    )
    assert chosen(generated.RMNP, 1, capturable=True) == "graph"
    kernel, work = work_of(generated.RMNP, large)
    computation = strategies.Computation(kernel, "plain", torch.float32)
    failed = [("compile", computation)]
    assert strategies._strategy(kernel, work, "auto", False, {failed[0]: "it failed"}).reason == "it failed"
    for backend in ("auto", "compile"):
        assert chosen(generated.RMNP, large, backend, refused=failed) == "eager"
        assert chosen(generated.RMNP, large, backend, True, refused=failed) == "graph"
        assert chosen(generated.RMNP, large, backend, True, refused=[*failed, ("graph", computation)]) == "eager"
    assert chosen(generated.AdamW, large) == chosen(generated.AdamW, 1) == "fused"
    assert chosen(generated.AdamW, large, "compile") == "compile" and chosen(generated.AdamW, 1, "eager") == "eager"


def test_auto_goes_on_eagerly_where_compiling_fails(monkeypatch):
    def failing(self, options):
        def run(*tensors):
            raise torch._dynamo.exc.TorchDynamoException("no such luck")

        self.run = run

    expected = trained(CLASSES["RMNP"], 3, backend="eager")
    monkeypatch.setattr(graphs.Graph, "compile", failing)
    monkeypatch.setattr(strategies, "AUTO_ELEMENTS", 1)
    with pytest.warns(UserWarning, match="matrix_rule runs eagerly: it could not be compiled: no such luck"):
        found = trained(CLASSES["RMNP"], 3)
    assert all(map(torch.equal, found, expected))
    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        trained(CLASSES["RMNP"], 1, backend="compile")


def test_auto_goes_on_eagerly_where_the_second_stage_cannot_be_compiled(monkeypatch):
    """The first stage, which moves the momentum, has not run by then."""
    tried = []

    def failing(module, inputs, options):
        tried.append(module)
        raise RuntimeError("no such luck")

    expected = trained(CLASSES["RMNP"], 3, backend="eager")
    monkeypatch.setattr(torch._inductor, "compile", failing)
    monkeypatch.setattr(strategies, "AUTO_ELEMENTS", 1)
    with pytest.warns(UserWarning, match="matrix_rule runs eagerly: it could not be compiled: no such luck"):
        found = trained(CLASSES["RMNP"], 3)
    assert tried and not any("lerp" in module.code for module in tried)
    assert all(map(torch.equal, found, expected))
    with pytest.raises(graphs.CompileError, match="no such luck"):
        trained(CLASSES["RMNP"], 1, backend="compile")


# -- compiled ----------------------------------------------------------------------------------------------------------


def compiled_graphs() -> int:
    return int(torch._dynamo.utils.counters["aot_autograd"]["total"])


@needs_compiler
@pytest.mark.parametrize(
    "name",
    [
        "AdamW",
        *(pytest.param(n, marks=pytest.mark.wide) for n in ("SGD", "NAMO", "NAMOD", "Muon", "NorMuon", "Nora", "RMNP")),
    ],
)
def test_compiled_steps_are_the_same_and_nothing_is_compiled_again(name):
    """Hypers move in each step, and a second optimizer has other ones: the graphs stay those of the first step."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    expected = trained(CLASSES[name], 6, change=wobble, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained(CLASSES[name], 2, change=wobble, backend="compile")
        after_two = compiled_graphs()
        found = trained(CLASSES[name], 6, change=wobble, backend="compile")
        lr = hyper_arguments(CLASSES[name])["lr"].default / 2
        trained(CLASSES[name], 2, lr=lr, backend="compile")
    assert after_two and compiled_graphs() == after_two
    assert not torch._dynamo.utils.counters["graph_break"]
    assert worst_error(found, expected) < 1e-11


def moved(cls: Any, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """Each weight and state before and after some steps and events, of one parameter for each role."""
    made = groups(cls, torch.float64)
    for group in made:
        del group["params"][1:]
    params = parameters(made)
    optimizer = build(cls, made, **options)
    fired = {event.name for rule in cls.RULES for event in rule.events if not event.given}
    pairs: list[tuple[Tensor, Tensor]] = []
    for t in range(4):
        set_gradients(params, t)
        optimizer.step()
        for name in sorted(fired):
            arguments = inspect.signature(getattr(optimizer, name)).parameters.values()
            getattr(optimizer, name)(**{a.name: 1.0 for a in arguments if a.default is a.empty})
        held = [p.detach().clone() for p in params]
        held += [x.clone() for p in params for x in optimizer.state[p].values() if isinstance(x, Tensor)]
        pairs = [(old, new) for (old, _), new in zip(pairs, held, strict=True)] if pairs else [(x, x) for x in held]
    return pairs


@needs_compiler
@pytest.mark.wide
@every_class
def test_compiled_steps_of_every_class_are_its_steps(cls):
    """As "auto" compiles them from many elements on: weights, states and what events make of both."""
    if cls.__name__ in UNDETERMINED:
        pytest.skip("its steps on these shapes are any of many")
    expected = moved(cls, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=r"\w+ runs eagerly")
        found = moved(cls, backend="compile")
    for (before, after), (_, other) in zip(expected, found, strict=True):
        assert (other - after).abs().max() <= 1e-9 * (after - before).abs().max() + 1e-14 * after.abs().max()


@needs_compiler
@pytest.mark.parametrize("sort", ["tensor", "matrix"])
def test_a_product_with_zero_is_compiled_as_one(sort):
    """NaN where the other factor is infinite or NaN, also if the 0 stands in the spec; and its sign counts."""
    spec = f"""
optimizer Zeros:
    for {sort}:
        a = 0 * grad
        b = ema(-0 * grad^2, 0.5)
        weight <- weight - 0.1 * (a + 0 / grad + grad * 0 * 2) + 1 / b
"""
    found = {}
    for backend in ("eager", "compile"):
        p = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
        p.grad = torch.tensor([[torch.inf, 1.0, torch.nan], [-1.0, -torch.inf, 0.0]], dtype=torch.float64)
        optimizer = optforge.compile_source(spec).Zeros([p], backend=backend)
        optimizer.step()
        found[backend] = [p.detach(), optimizer.state[p]["b"]]
    for expected, value in zip(found["eager"], found["compile"], strict=True):
        assert expected.isnan().any() and not expected.isnan().all()
        torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)


def test_options_of_any_kind_tell_graphs_apart(monkeypatch):
    monkeypatch.setattr(graphs.Graph, "compile", lambda self, options: None)
    p = nn.Parameter(torch.ones(3))
    optimizer = generated.AdamW([p], lr=0.1, backend="compile")
    p.grad = torch.ones(3)
    counts = []
    for size in (32, 32, 64):
        optimizer.compile_options = {"trace.enabled": False, "fusion": {"pass": {"sizes": [size, {2, 1}]}}}
        optimizer.step()
        counts.append(recorded())
    assert counts == [1, 1, 2]


@needs_compiler
def test_compiled_float32_is_within_the_rounding_of_weights():
    expected = trained(CLASSES["AdamW"], 6, torch.float32, backend="eager")
    found = trained(CLASSES["AdamW"], 6, torch.float32, backend="compile")
    half = len(found) // 2
    for one, two in zip(found[half:], expected[half:], strict=True):
        assert (one - two).abs().max() <= 6 * torch.finfo(torch.float32).eps * two.abs().max()  # one place a step


@needs_compiler
@pytest.mark.wide
def test_compiled_steps_in_every_precision():
    for precision in ("plain", "kahan", "stochastic", "master"):
        expected = trained(CLASSES["AdamW"], 3, torch.bfloat16, backend="eager", precision=precision)
        found = trained(CLASSES["AdamW"], 3, torch.bfloat16, backend="compile", precision=precision)
        half = len(found) // 2
        for one, two in zip(found[half:], expected[half:], strict=True):
            torch.testing.assert_close(one.float(), two.float(), rtol=2**-7, atol=1e-3)


STEPS = """
import warnings
import torch
import optforge.generated as generated

warnings.filterwarnings("error", message=r"\\w+ runs eagerly")
for cls, shape in ((generated.AdamW, (1000,)), (generated.Nora, (40, 50))):
    found = []
    for backend in ("eager", "compile"):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 1000 if len(shape) == 1 else 2000).reshape(shape))
        optimizer = cls([p], lr=0.1, backend=backend)
        p.grad = (100 * p.detach()).sin()
        optimizer.step()
        found.append(p.detach())
    assert torch.allclose(*found, rtol=1e-4, atol=1e-5), (cls, found)
print(torch.backends.cpu.get_cpu_capability())
"""


@needs_compiler
@pytest.mark.wide
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="has no two widths of vectors")
def test_loops_on_disk_are_not_those_for_wider_vectors(tmp_path):
    for capability in ("avx512", "avx2"):
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "ATEN_CPU_CAPABILITY": capability}
        command = [sys.executable, "-c", STEPS]
        run = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        assert run.stdout.strip() == capability.upper(), run.stderr


@needs_compiler
def test_a_step_may_be_compiled_by_the_user():
    torch._dynamo.reset()
    p, q = nn.Parameter(torch.ones(5, 4)), nn.Parameter(torch.ones(5, 4))
    optimizer, plain = generated.SGD([p], lr=0.1), generated.SGD([q], lr=0.1)
    step = torch.compile(optimizer.step)
    for t in range(3):
        p.grad = q.grad = torch.full((5, 4), 1.0 + t)
        step()
        plain.step()
    assert torch.equal(p, q)


# -- explained ---------------------------------------------------------------------------------------------------------


def test_the_schedule_of_an_optimizer_says_how_each_batch_runs():
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4), nn.Linear(4, 6), nn.Linear(6, 2))
    optimizer = generated.NAMO(model)
    before = [p.detach().clone() for p in model.parameters()]
    text = explain_schedule(optimizer)
    assert all(map(torch.equal, model.parameters(), before))
    assert all(is_untouched(optimizer, p) for p in model.parameters())
    rows = [line.split() for line in text.splitlines()[1:]]
    assert sorted((r[0], r[2], r[3], r[6]) for r in rows) == [
        ("matrix", "4×6", "1", "eager"),
        ("matrix", "6×4", "1", "eager"),
        ("rest", "flat", "5", "fused"),
    ]
    assert "compile" in explain_schedule(generated.NAMO(model, backend="compile")).splitlines()[1]


def test_the_schedule_of_a_spec_is_printed(capsys):
    assert main(["build", "--explain-schedule", "specs/sgd.opt"]) == 0
    text = capsys.readouterr().out
    numbers = next(line for line in text.splitlines() if line.split()[:1] == ["numbers"])
    assert numbers.split(maxsplit=1)[1].startswith("1 - dampening; lr; momentum; weight_decay")
    assert "decided     nesterov; t == 1 or momentum == 0" in text and "fused_sgd" in text
