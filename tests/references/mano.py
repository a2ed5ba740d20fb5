"""Mano (arXiv 2601.23000): normalized momentum in the tangent space of the columns' and rows' spheres, in turns."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import REST_BETA1, REST_EPS, PerParameter, State, kept


class Mano(PerParameter):
    """The rest follows AdamW with the same lr and decay, and beta2 0.95."""

    SECOND: ClassVar = {
        "lr": {"lr": 1e-2},
        "beta": {"beta": 0.5},
        "nesterov": {"nesterov": True},
        "weight_decay": {"weight_decay": 0.0},
        "eps": {"eps": 2.0},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = 16.0  # it normalizes a difference

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta: float = 0.95,
        nesterov: bool = False,
        weight_decay: float = 0.1,
        eps: float = 1e-8,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, **hypers, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(self, W: Tensor, G: Tensor, state: State, lr: float, weight_decay: float, **hypers: Any) -> None:
        D = self.direction(W, G, state, **hypers)
        W *= 1 - lr * weight_decay
        W -= lr * D

    def direction(
        self, W: Tensor, G: Tensor, state: State, beta: float, nesterov: bool, eps: float, **_: Any
    ) -> Tensor:
        k = (state["step"] - 1) % 2  # the dimension that is summed over
        M = kept(state, "m", G).mul_(beta).add_(G)
        U = G + beta * M if nesterov else M
        theta = torch.nn.functional.normalize(W, dim=k, eps=eps)
        tangent = U - (U * theta).sum(k, keepdim=True) * theta
        return 0.2 * W.size(k) ** 0.5 * torch.nn.functional.normalize(tangent, dim=k, eps=eps)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        weight_decay: float,
        rest_beta1: float,
        rest_eps: float,
        **_: Any,
    ) -> None:
        step_adamw(p, g, state, lr, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=weight_decay)
