"""The loop that all references share: groups, parameters, step counts. The equations are elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

State = dict[str, Any]


class PerParameter(torch.optim.Optimizer):
    """Calls ``step_<role>`` for each parameter that has a gradient, ``step_rest`` where a role has no method.

    The role stands in the group ("matrix", "conv", "embedding", "head", "vector"; "matrix" if it says nothing). All
    these methods change the weight in place. A matrix is (out, everything else), also where there are more dimensions.
    """

    # For each hyper a second value, with what else must change for it to matter or to be allowed.
    SECOND: ClassVar[Mapping[str, Mapping[str, Any]]]
    # The arguments of each event, or functions of network and step that make them; the tests call the method of that
    # name before every third step.
    EVENTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # How much a step can magnify the roundings within it, for float32.
    SENSITIVITY: ClassVar[float] = 4.0

    def __init__(self, params: Any, **hypers: Any) -> None:
        self.hyper_names = tuple(hypers)  # loading a checkpoint adds others to the defaults
        super().__init__(params, {**hypers, "role": "matrix"})

    @staticmethod
    def is_determined(shape: Sequence[int]) -> bool:
        """Whether the equations have one result on gradients of the shape in general position."""
        return True

    def active(self) -> Iterator[tuple[dict[str, Any], Tensor, State]]:
        """The group, the parameter and its state, of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    yield group, p, self.state[p]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group, p, state in self.active():
            hypers = {name: group[name] for name in self.hyper_names}
            state["step"] = state.get("step", 0) + 1
            if group["role"] in ("matrix", "conv"):
                self.step_matrix(p.view(len(p), -1), p.grad.reshape(len(p), -1), state, **hypers)
            else:
                getattr(self, f"step_{group['role']}", self.step_rest)(p, p.grad, state, **hypers)

    def step_matrix(self, W: Tensor, G: Tensor, state: State, **hypers: Any) -> None:
        raise NotImplementedError

    def step_rest(self, p: Tensor, g: Tensor, state: State, **hypers: Any) -> None:
        raise NotImplementedError


def kept(state: State, name: str, like: Tensor) -> Tensor:
    """What the state holds under a name; zeros before the first step."""
    return state.setdefault(name, torch.zeros_like(like))


# What every optimizer has whose rest follows an AdamW of the same lr.
REST_BETA1 = {"rest_beta1": {"rest_beta1": 0.5}}
REST_EPS = {"rest_eps": {"rest_eps": 1e-2}}
# The default Newton-Schulz iteration has slope 3.4445 at zero in each of its five steps.
NEWTON_SCHULZ_SLOPE = 3.4445**5
