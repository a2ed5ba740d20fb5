"""NAMO as in its official code: Nesterov, a shape factor on the update alone, caps on both factors of lr."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.adamw_raw_eps import step_adamw_raw_eps
from tests.references.loop import State, kept
from tests.references.namo import NAMO
from tests.references.orthogonal import orthogonalized


class NAMOOfficial(NAMO):
    """The rest follows AdamW with the same lr and decay, beta2 0.95 and eps before the bias correction."""

    SECOND: ClassVar = {
        **NAMO.SECOND,
        "lr": {"lr": 2.0},  # long enough for both caps
        "nesterov": {"nesterov": False},
        "scale": {"scale": 0.5},
        "method": {"method": "svd"},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        mu1: float = 0.95,
        mu2: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        nesterov: bool = True,
        scale: float = 0.2,
        method: str = "newton_schulz",
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "mu1": mu1, "mu2": mu2, "eps": eps, "weight_decay": weight_decay, "rest_eps": rest_eps}
        choices = {"nesterov": nesterov, "scale": scale, "method": method}
        super(NAMO, self).__init__(params, **hypers, **choices, rest_beta1=rest_beta1)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        mu1: float,
        mu2: float,
        eps: float,
        weight_decay: float,
        nesterov: bool,
        scale: float,
        method: str,
        **_: Any,
    ) -> None:
        t = state["step"]
        gamma = G.norm()
        B = kept(state, "m", G).lerp_(G, 1 - mu1)
        M = (1 - mu1) * G + mu1 * B if nesterov else B
        nu = M.norm()
        v = kept(state, "v", gamma).mul_(mu2).add_((1 - mu2) * gamma**2)
        s = lr * (1 - mu2**t) ** 0.5 / (1 - mu1**t + 1e-12) * nu / (v.sqrt() + eps)
        W *= 1 - weight_decay * s.clamp(max=1)
        W -= (s * scale * max(W.shape) ** 0.5).clamp(max=1) * orthogonalized(M, method)

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        rest_beta1: float,
        rest_eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        step_adamw_raw_eps(p, g, state, lr, rest_beta1, beta2=0.95, eps=rest_eps, weight_decay=weight_decay)
