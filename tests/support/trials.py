"""One network, one stream of gradients, and optimizers of any origin that run on them side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from optforge.compiler.ir import nodes as ir
from optforge.compiler.oracle.interpreter import OracleParameter, fire_event, run_step

STEPS = 50
EPS64 = 2.0**-52
SHAPES = ((1, 5), (6, 1), (5, 5), (9, 4), (4, 9), (4, 9))  # 1×n, m×1, square, tall, wide, and one of the same shape
ABSENT = {3: (1, 2, 9), 5: (6, 13, 14), 11: (4,)}  # the steps at which some parameters have no gradient

History = list[dict[str, Tensor]]  # the weights by name, before and after every step


class Network(nn.Module):
    """Matrices of all shapes in `blocks`, and around them what no matrix rule takes. It is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList([nn.Linear(cols, rows, bias=False) for rows, cols in SHAPES])
        self.blocks += [nn.Conv1d(4, 3, 2), nn.Conv2d(3, 4, 2), nn.Linear(4, 3)]
        self.norm = nn.LayerNorm(4)
        self.gain = nn.Parameter(torch.ones(()))
        self.lm_head = nn.Linear(4, 7)


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> Network:
    """Equal seeds give equal weights: numbers that float32 holds, in any dtype."""
    generator = torch.Generator().manual_seed(seed)
    model = Network().double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float32))
    return model.to(dtype)


def role_of(name: str, p: Tensor) -> str:
    """The role of a parameter, said independently of the router."""
    if p.ndim < 2:
        return "vector"
    if name.startswith("blocks."):
        return "matrix" if p.ndim == 2 else "conv"
    return "embedding" if name.startswith("tokens.") else "head"


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """What every matrix rule is meant for."""
    return [p for name, p in model.named_parameters() if role_of(name, p) in ("matrix", "conv")]


def reference_groups(model: nn.Module) -> list[dict[str, Any]]:
    groups: dict[str, list[Tensor]] = {}
    for name, p in model.named_parameters():
        groups.setdefault(role_of(name, p), []).append(p)
    return [{"params": params, "role": role} for role, params in groups.items()]


def set_gradients(model: nn.Module, step: int, seed: int = 1) -> None:
    """Gradients of very different sizes that float32 holds; some parameters miss some steps."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    size = 10 ** float(torch.rand((), generator=generator) * 3 - 2)
    for i, p in enumerate(model.parameters()):
        grad = size * torch.randn(p.shape, generator=generator, dtype=torch.float32)
        p.grad = None if step in ABSENT.get(i, ()) else grad.to(p.dtype)


@dataclass(frozen=True)
class Run:
    """The weights before and after every step, and the states after the last."""

    history: History
    states: dict[str, dict[str, Tensor]]


def run(
    make: Callable[[nn.Module], Any],
    dtype: torch.dtype = torch.float64,
    steps: int = STEPS,
    events: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    is_determined: Callable[[torch.Size], bool] = lambda shape: True,
) -> Run:
    """What an optimizer does to the network; its lr changes at every step, and the events come before every third.

    Parameters of shapes on which the method is not determined have no gradients.
    """
    model = network(dtype=dtype)
    optimizer = make(model)
    base = [group["lr"] for group in optimizer.param_groups]
    history = [weights(model)]
    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * (1 + 0.5 * math.sin(step))
        for event, arguments in events.items() if step % 3 == 0 else ():
            set_gradients(model, step, seed=2)
            drop_gradients(model, is_determined)
            given = {name: value(model, step) if callable(value) else value for name, value in arguments.items()}
            getattr(optimizer, event)(**given)
        set_gradients(model, step)
        drop_gradients(model, is_determined)
        optimizer.step()
        history.append(weights(model))
    states = {name: states_of(optimizer.state[p]) for name, p in model.named_parameters()}
    return Run(history, states)


def drop_gradients(model: nn.Module, is_determined: Callable[[torch.Size], bool]) -> None:
    for p in model.parameters():
        p.grad = p.grad if is_determined(p.shape) else None


def states_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state that are no counts; none before its first step."""
    has_begun = state.get("step", 1) > 0
    return {n: x for n, x in state.items() if has_begun and isinstance(x, Tensor) and not n.endswith("step")}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().double().clone() for name, p in model.named_parameters()}


def worst_error(found: History, expected: History) -> float:
    """The largest |difference| / |step| over all steps and parameters; infinite where there is a NaN.

    What the roundings of the weight itself may add up to, two places in each step, is no difference.
    """
    worst = 0.0
    for step in range(1, len(expected)):
        for name, weight in expected[step].items():
            length = float((weight - expected[step - 1][name]).norm())
            difference = float((found[step][name] - weight).norm())
            if length == 0:  # no gradient, or no step to take
                assert torch.equal(found[step][name], found[step - 1][name]), (step, name)
            else:
                beyond = max(difference - 2 * step * EPS64 * float(weight.norm()), 0.0)
                worst = max(worst, beyond / length if difference == difference else math.inf)
    return worst


def worst_state_error(found: Run, expected: Run) -> float:
    """The largest relative difference of states of the same name, whatever their shapes."""
    worst = 0.0
    for name, states in expected.states.items():
        assert states.keys() == found.states[name].keys(), name
        for key, kept in states.items():
            difference = found.states[name][key].reshape(kept.shape) - kept
            worst = max(worst, float(difference.norm() / kept.norm()))
    return worst


class Interpreted:
    """A program run by the interpreter, as far as possible like a torch optimizer."""

    def __init__(self, program: ir.Program, groups: list[tuple[str, list[nn.Parameter]]], **hypers: Any) -> None:
        (self.declaration,) = (d for d in program.declarations if isinstance(d, ir.Optimizer))
        defaults = {h.name: h.default.value for h in self.declaration.hypers if h.default is not None}
        self.param_groups = [{"params": params, **defaults, **hypers} for _, params in groups]
        self.inner: dict[nn.Parameter, OracleParameter] = {}
        for role, params in groups:
            (rule,) = (rule for rule in self.declaration.rules if role in rule.roles)
            self.inner |= {
                p: OracleParameter(p.detach().numpy(), rule, len(self.inner) + i) for i, p in enumerate(params)
            }
            for event in rule.events:
                setattr(self, event.name, partial(self.fire, event.name))
        self.state = {p: inner.states for p, inner in self.inner.items()}

    def step(self) -> None:
        run_step(*self._columns())
        self._write()

    def fire(self, event: str, **arguments: Any) -> None:
        parameters, grads, hypers = self._columns()
        numbers = {name: value for name, value in arguments.items() if not isinstance(value, dict)}
        given = [
            {name: value[p].numpy() for name, value in arguments.items() if isinstance(value, dict) and p in value}
            for group in self.param_groups
            for p in group["params"]
        ]
        fire_event(parameters, event, grads, hypers, numbers, given)
        self._write()

    def _columns(self) -> tuple[list[OracleParameter], list[Any], list[Mapping[str, Any]]]:
        pairs = [(p, group) for group in self.param_groups for p in group["params"]]
        hypers = [{name: float_of(value) for name, value in g.items() if name != "params"} for _, g in pairs]
        grads = [None if p.grad is None else p.grad.double().numpy() for p, _ in pairs]
        return [self.inner[p] for p, _ in pairs], grads, hypers

    @torch.no_grad()
    def _write(self) -> None:
        for p, inner in self.inner.items():
            p.copy_(torch.from_numpy(inner.value))
            held = {name: torch.from_numpy(value.copy()) for name, value in inner.kept.items()}
            self.state[p] = held if inner.steps else {}  # an event alone begins nothing


def float_of(value: Any) -> Any:
    """Hypers as the interpreter wants them: numbers are floats."""
    return value if isinstance(value, bool | str) else float(value)


def interpreted_groups(model: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    return [(group["role"], group["params"]) for group in reference_groups(model)]
