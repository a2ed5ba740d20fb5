"""Hyperball (arXiv 2606.16899): steps of a relative length on the sphere through the first weights."""

from __future__ import annotations

from torch import Tensor

from tests.references.loop import State


def step_on_sphere(W: Tensor, U: Tensor, state: State, lr: float | Tensor, name: str = "Hyperball.radius") -> None:
    """W <- R Norm(W - lr R Norm(U)), where R is the norm of the weights before their first step."""
    R = state.setdefault(name, W.norm())
    W -= lr * R * U / U.norm()
    W *= R / W.norm()
