"""Whatever is given to a function or constructor does what it says, or is refused by a sentence of its own.

Every argument is given things of every kind. An error has to be raised on purpose, by optforge or by torch's own
optimizer: one that Python or a tensor operation raises in the middle says nothing of what was expected.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optforge
from optforge import runtime
from optforge.generated import NAMO, TSCNC, UBA, SophiaG, SophiaH

ROOT = Path(optforge.__file__).resolve().parents[2]
THINGS: dict[str, Callable[[], Any]] = {
    "3": lambda: 3,
    "-1": lambda: -1,
    "2.5": lambda: 2.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "2**2000": lambda: 2**2000,
    "1j": lambda: 1j,
    "True": lambda: True,
    "None": lambda: None,
    "text": lambda: "text",
    "bytes": lambda: b"x",
    "[]": lambda: [],
    "[3]": lambda: [3],
    "['x']": lambda: ["x"],
    "(3,)": lambda: (3,),
    "((3,),)": lambda: ((3,),),
    "{}": lambda: {},
    "{'a': 1}": lambda: {"a": 1},
    "{3}": lambda: {3},
    "a generator": lambda: (x for x in [1]),
    "an object": object,
    "a class": lambda: NAMO,
    "a dtype": lambda: torch.float16,
    "a module": lambda: nn.Linear(2, 2),
    "an optimizer": lambda: torch.optim.SGD([torch.ones(1)]),
    "a tensor": lambda: torch.ones(2),
    "whole numbers": lambda: torch.ones(2, 2, dtype=torch.int32),
    "complex numbers": lambda: torch.ones(2, 2, dtype=torch.complex64),
}


def model() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))


def ready(cls: Any = NAMO) -> Any:
    """An optimizer whose parameters have gradients."""
    optimizer = cls(model())
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        p.grad = torch.ones_like(p)
    return optimizer


def group_with(**items: Any) -> Any:
    return NAMO([{"params": [nn.Parameter(torch.ones(4, 4))], **items}])


def after(change: Callable[[Any], object]) -> None:
    """A step of an optimizer that something has been done to after another step, of which it may remember values."""
    optimizer = ready()
    optimizer.step()
    change(optimizer)
    optimizer.step()


def saved(change: Callable[[Any], object]) -> None:
    """The state dict of an optimizer that something has been done to."""
    optimizer = ready()
    change(optimizer)
    optimizer.state_dict()


def saved_and_loaded(change: Callable[[Any], object]) -> None:
    optimizer = ready()
    change(optimizer)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())


def entered(context: Any) -> None:
    with context:
        runtime.orthogonalize(torch.eye(4))


def loaded(x: Any) -> None:
    ready().load_state_dict(x)


def loaded_with(key: str, x: Any) -> None:
    loaded({**ready().state_dict(), key: x})


def loaded_state(name: str, x: Any) -> None:
    saved = ready().state_dict()
    saved["state"][1][name] = x
    loaded(saved)


def loaded_group(key: str, x: Any) -> None:
    """What a group of three parameters says of itself, replaced in a checkpoint."""
    saved = NAMO(list(model().named_parameters())).state_dict()
    saved["param_groups"][0][key] = x
    NAMO(list(model().named_parameters())).load_state_dict(saved)


CALLS: dict[str, Callable[[Any], Any]] = {
    "load, a path": optforge.load,
    "load, a class": lambda x: optforge.load("NAMO", x),
    "compile_source, a text": optforge.compile_source,
    "compile_source, a name": lambda x: optforge.compile_source(
        "def f(x) = x\noptimizer A extends SGD:\n    hyper lr = 1\n", x
    ),
    "param_groups": optforge.param_groups,
    "route": runtime.route,
    "explain_routing": optforge.explain_routing,
    "explain_routing, a class": lambda x: optforge.explain_routing(model(), x),
    "explain_schedule": optforge.explain_schedule,
    "communication": optforge.communication,
    "explain_orthogonalize": optforge.explain_orthogonalize,
    "orthogonalize": runtime.orthogonalize,
    "iterate_in": lambda x: entered(runtime.iterate_in(x)),
    "symmetric_products": lambda x: entered(runtime.symmetric_products(x)),
    "an optimizer": NAMO,
    "parameters": lambda x: NAMO([x]),
    "a named parameter": lambda x: NAMO([("a", x)]),
    "a name": lambda x: NAMO([(x, nn.Parameter(torch.ones(2, 2)))]),
    "params of a group": lambda x: NAMO([{"params": x}]),
    "one parameter of a group": lambda x: NAMO([{"params": [x]}]),
    "a group": lambda x: NAMO([{"params": [torch.ones(2)]}, x]),
    "add_param_group": lambda x: ready().add_param_group(x),
    "a closure": lambda x: ready().step(x),
    "an event": lambda x: ready(SophiaG).fire(x),
    "an argument of an event": lambda x: ready(SophiaG).curvature(x),
    "another argument of an event": lambda x: ready(SophiaG).fire("curvature", size=x),
    "load_state_dict": loaded,
    "saved groups": lambda x: loaded_with("param_groups", x),
    "a saved group": lambda x: loaded_with("param_groups", [x] * 3),
    "saved states": lambda x: loaded_with("state", x),
    "a saved state": lambda x: loaded_with("state", {0: x}),
    "a saved memory": lambda x: loaded_state("m", x),
    "a saved count": lambda x: loaded_state("step", x),
    "a list put into a group": lambda x: after(lambda o: o.param_groups[0].update(params=x)),
    "a parameter put into a group": lambda x: after(lambda o: o.param_groups[0].update(params=[x])),
    "a group put beside": lambda x: after(lambda o: o.param_groups.append(x)),
    "groups in place of all": lambda x: after(lambda o: setattr(o, "param_groups", x)),
    "a state in place of all": lambda x: after(lambda o: setattr(o, "state", x)),
    "a state in place of all, saved": lambda x: saved(lambda o: setattr(o, "state", x)),
    "a state put in place of a parameter's": lambda x: after(lambda o: o.state.update(dict.fromkeys(o.state, x))),
    "a memory put into a state": lambda x: after(lambda o: [entry.update(m=x) for entry in o.state.values()]),
    "a count put into a state": lambda x: after(lambda o: [entry.update(step=x) for entry in o.state.values()]),
    "lr put into a group": lambda x: after(lambda o: o.param_groups[0].update(lr=x)),
    "rule put into a group": lambda x: after(lambda o: o.param_groups[0].update(rule=x)),
    "precision put into a group": lambda x: after(lambda o: o.param_groups[0].update(precision=x)),
    "backend": lambda x: after(lambda o: setattr(o, "backend", x)),
    "seed put into a group": lambda x: after(lambda o: o.param_groups[0].update(seed=x)),
    "compile_options": lambda x: after(lambda o: setattr(o, "compile_options", x)),
    "a schedule": lambda x: UBA(x, total=10),
    "a hyper of a schedule": lambda x: UBA(ready(), total=x),
    "a penalty": lambda x: TSCNC(x)(),
    "parameters of a penalty": lambda x: TSCNC([x])(),
    "params of a penalty's group": lambda x: TSCNC([{"params": x}])(),
    "one parameter of a penalty's group": lambda x: TSCNC([{"params": [x]}])(),
    "Hutchinson": optforge.Hutchinson,
    "Hutchinson, a loss": lambda x: optforge.Hutchinson(ready(SophiaH))(x),
    "GaussNewtonBartlett, a model": lambda x: optforge.GaussNewtonBartlett(x, ready(SophiaG)),
    "saved calls": lambda x: optforge.Hutchinson(ready(SophiaH)).load_state_dict(x),
}
CALLS |= {
    f"explain_orthogonalize, {name}": lambda x, name=name: optforge.explain_orthogonalize((4, 4), **{name: x})
    for name in ("dtype", "device", "steps", "method", "coefficients")
}
CALLS |= {
    f"orthogonalize, {name}": lambda x, name=name: runtime.orthogonalize(torch.eye(4), **{name: x})
    for name in ("steps", "method", "coefficients")
}
CALLS |= {
    f"an optimizer, {name}": lambda x, name=name: NAMO(model(), **{name: x})
    for name in ("lr", "weight_decay", "precision", "seed", "backend", "skip_nonfinite", "capturable")
}
CALLS |= {
    f"{name} of a group": lambda x, name=name: group_with(**{name: x})
    for name in ("lr", "rule", "split", "transposed", "batch", "precision", "param_names", "maximize", "betas")
}
CALLS |= {
    f"Hutchinson, {name}": lambda x, name=name: optforge.Hutchinson(ready(SophiaH), **{name: x})
    for name in ("every", "generator")
}
CALLS |= {
    f"{name} of a saved group": lambda x, name=name: loaded_group(name, x)
    for name in ("params", "param_names", "lr", "rule", "split", "transposed", "batch", "precision", "seed", "spec")
}
CALLS |= {
    "one key of a saved group": lambda x: loaded_group("params", [0, 1, x, 3]),
    "one name of a saved group": lambda x: loaded_group("param_names", ["0.weight", "1.weight", x, "2.weight"]),
    "names put into a group": lambda x: saved_and_loaded(lambda o: o.param_groups[0].update(param_names=x)),
    "one name put into a group": lambda x: saved_and_loaded(lambda o: o.param_groups[0].update(param_names=[x])),
}
# What these are called with is a function of the user's, whose own errors are for the user to see.
THEIRS = {("a closure", "a module"), ("Hutchinson, a loss", "a module")}


@pytest.mark.parametrize("name", CALLS)
def test_every_wrong_argument_is_refused_in_words(name: str) -> None:
    raw, accepted = [], []
    for thing, make in THINGS.items():
        try:
            with warnings.catch_warnings(action="ignore"):
                CALLS[name](make())
        except Exception as problem:
            last = traceback.extract_tb(problem.__traceback__)[-1]
            ours = Path(last.filename).resolve().is_relative_to(ROOT) or "/torch/optim/" in last.filename
            is_meant = ours and (last.line or "").startswith("raise") and str(problem)
            if not is_meant and (name, thing) not in THEIRS:
                raw.append(f"{thing}: {type(problem).__name__}: {problem}")
        else:
            accepted.append(thing)
    assert not raw, "\n".join(raw)
    assert len(accepted) < len(THINGS) / 2, f"{name} takes {', '.join(accepted)}"


def test_an_event_says_which_arguments_it_has() -> None:
    optimizer = ready(SophiaG)
    with pytest.raises(TypeError, match=r"curvature: missing a required argument: 'batch_size'"):
        optimizer.fire("curvature")
    with pytest.raises(TypeError, match="needs 'batch_size', which Hutchinson does not know"):
        optforge.Hutchinson(optimizer)


def test_orthogonalize_says_what_it_expects() -> None:
    for wrong in (3, (3,), ((3,),), "43", torch.ones(2, 2)):
        with pytest.raises(
            TypeError, match="explain_orthogonalize takes the shape of matrices, two or more sizes, not"
        ):
            optforge.explain_orthogonalize(wrong)
    for coefficients in (3, (1, 2, 3), [(1, 2)], [("a", "b", "c")]):
        for call in (optforge.explain_orthogonalize, lambda _, **given: runtime.orthogonalize(torch.eye(4), **given)):
            with pytest.raises(
                ValueError, match="coefficients of orthogonalize: for each step three numbers are expected"
            ):
                call((4, 4), coefficients=coefficients)
    triples = [[3.4445, -4.7750, 2.0315]] * 5
    assert torch.equal(
        runtime.orthogonalize(torch.eye(40, 80), coefficients=triples), runtime.orthogonalize(torch.eye(40, 80))
    )
