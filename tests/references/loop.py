"""The loop that all references share: groups, parameters, step counts. The equations are elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]


class PerParameter(torch.optim.Optimizer):
    """Calls ``step_matrix`` or, in groups with ``rest=True``, ``step_rest`` for each parameter that has a gradient.

    Both change the weight in place. A matrix is (out, everything else), also for parameters of more dimensions.
    """

    def __init__(self, params: Any, **hypers: Any) -> None:
        super().__init__(params, {**hypers, "rest": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            hypers = {name: group[name] for name in self.defaults if name != "rest"}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                if group["rest"]:
                    self.step_rest(p, p.grad, state, **hypers)
                else:
                    self.step_matrix(p.view(len(p), -1), p.grad.view(len(p), -1), state, **hypers)

    def step_matrix(self, W: Tensor, G: Tensor, state: State, **hypers: Any) -> None:
        raise NotImplementedError

    def step_rest(self, p: Tensor, g: Tensor, state: State, **hypers: Any) -> None:
        raise NotImplementedError


def memory(state: State, name: str, like: Tensor) -> Tensor:
    """What the state holds under a name; zeros before the first step."""
    return state.setdefault(name, torch.zeros_like(like))
