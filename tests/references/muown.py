"""Muown (arXiv 2605.10797): each row is g d / |d|; Adam moves g, Muon moves the matrix D of the d."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import NEWTON_SCHULZ_SLOPE, REST_BETA1, REST_EPS, PerParameter, State, kept
from tests.references.newton_schulz import newton_schulz


class Muown(PerParameter):
    """The rest follows AdamW with the same lr and decay, and beta2 0.95."""

    SECOND: ClassVar = {
        "lr": {"lr": 1e-2},
        "beta": {"beta": 0.5},
        "nesterov": {"nesterov": False},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.8},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = NEWTON_SCHULZ_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 3e-4,
        beta: float = 0.95,
        nesterov: bool = True,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "beta1": beta1, "beta2": beta2, "eps": eps}
        super().__init__(params, **hypers, weight_decay=weight_decay, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        nesterov: bool,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        t = state["step"]
        g = W.norm(dim=1, keepdim=True)
        r = state.setdefault("r", g)
        unit = W / g
        D = r * unit
        grad_g = (G * unit).sum(1, keepdim=True)
        grad_D = g / r * (G - grad_g * unit)

        M = kept(state, "m", G).mul_(beta).add_(grad_D)
        D -= lr * 0.2 * max(W.shape) ** 0.5 * newton_schulz(grad_D + beta * M if nesterov else M)
        state["r"] = D.norm(dim=1, keepdim=True)

        m = kept(state, "g_m", g).mul_(beta1).add_(grad_g, alpha=1 - beta1)
        v = kept(state, "g_v", g).mul_(beta2).add_(grad_g**2, alpha=1 - beta2)
        g = g - lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
        W.copy_(g * D / state["r"] - lr * weight_decay * W)

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
