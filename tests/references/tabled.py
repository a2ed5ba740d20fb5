"""References that say their hypers in a table and compute the weight after a step as a value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import PerParameter, State

Hypers = SimpleNamespace  # those of a group, and `t`, the number of the step

REST = {"rest_beta1": (0.9, 0.5), "rest_eps": (1e-8, 1e-2)}
ADAM = {
    "lr": (1e-3, 3e-2),
    "beta1": (0.9, 0.5),
    "beta2": (0.999, 0.9),
    "eps": (1e-8, 1e-2),
    "weight_decay": (1e-2, 0.3),
}


class Tabled(PerParameter):
    """``HYPERS`` has for each hyper its default and a second value, or all that is changed with it.

    ``matrix`` and ``rest`` give the weight after the step. The rest follows AdamW with the same lr, beta2 0.95 and no
    decay.
    """

    HYPERS: ClassVar[Mapping[str, tuple[Any, Any]]]

    def __init_subclass__(cls) -> None:
        if "HYPERS" in cls.__dict__:
            cls.SECOND = {
                name: second if isinstance(second, dict) else {name: second} for name, (_, second) in cls.HYPERS.items()
            }
            cls.__init__ = constructor({name: default for name, (default, _) in cls.HYPERS.items()})

    def step_matrix(self, W: Tensor, G: Tensor, state: State, /, **hypers: Any) -> None:
        W.copy_(self.matrix(W.clone(), G, state, Hypers(t=state["step"], **hypers)))

    def step_rest(self, p: Tensor, g: Tensor, state: State, /, **hypers: Any) -> None:
        p.copy_(self.rest(p.clone(), g, state, Hypers(t=state["step"], **hypers)))

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        raise NotImplementedError

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        step_adamw(p, g, state, h.lr, h.rest_beta1, beta2=0.95, eps=h.rest_eps, weight_decay=0)
        return p


class Elementwise(Tabled):
    """The same equations for all parameters."""

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        return self.rest(W, G, state, h)


def constructor(defaults: Mapping[str, Any]) -> Callable[..., None]:
    """An ``__init__`` that takes the parameters and these hypers."""

    def init(self: PerParameter, params: Any, **hypers: Any) -> None:
        PerParameter.__init__(self, params, **{**defaults, **hypers})

    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=x) for name, x in defaults.items()]
    init.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    return init


def ema(state: State, name: str, x: Tensor, decay: float, start: float | Tensor = 0.0) -> Tensor:
    """The state's average of that name, moved on."""
    state[name] = decay * state.get(name, start) + (1 - decay) * x
    return state[name]


def adam(state: State, g: Tensor, h: Hypers) -> tuple[Tensor, Tensor]:
    """Adam's two averages, corrected for their start."""
    m, v = ema(state, "m", g, h.beta1), ema(state, "v", g * g, h.beta2)
    return m / (1 - h.beta1**h.t), v / (1 - h.beta2**h.t)
