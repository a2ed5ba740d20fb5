"""What variants of Muon share: its momentum, its scale and its rest, around a direction of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.references.loop import PerParameter, State, kept
from tests.references.muon import Muon

# Where the number of iterations is part of the method.
SECOND_WITHOUT_STEPS = {hyper: changed for hyper, changed in Muon.SECOND.items() if hyper != "steps"}


class MuonVariant(Muon):
    """Muon with `direction` in the place of Newton-Schulz, which may read hypers of its own."""

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
        **own: float,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay, "steps": steps}
        PerParameter.__init__(self, params, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1, **own)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        nesterov: bool,
        weight_decay: float,
        **hypers: Any,
    ) -> None:
        M = nesterov_average(state, G, beta, nesterov)
        D = self.direction(M, W, state, **hypers)
        W *= 1 - lr * weight_decay
        W -= lr * shape_scale(W) * D

    def direction(self, M: Tensor, W: Tensor, state: State, **hypers: Any) -> Tensor:
        raise NotImplementedError


def nesterov_average(state: State, G: Tensor, beta: float, nesterov: bool) -> Tensor:
    M = kept(state, "m", G).lerp_(G, 1 - beta)
    return (1 - beta) * G + beta * M if nesterov else M


def shape_scale(W: Tensor) -> float:
    return max(1, W.size(0) / W.size(1)) ** 0.5
