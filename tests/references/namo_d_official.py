"""NAMO-D as in its official code: the band before the bias correction, caps, decay column by column."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import State, kept
from tests.references.namo import NAMO
from tests.references.namo_official import NAMOOfficial
from tests.references.orthogonal import orthogonalized


class NAMODOfficial(NAMOOfficial):
    """The rest is that of the official NAMO."""

    SECOND: ClassVar = {**NAMOOfficial.SECOND, "c": {"c": 0.3}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        mu1: float = 0.95,
        mu2: float = 0.99,
        c: float = 0.75,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        nesterov: bool = True,
        scale: float = 0.2,
        method: str = "newton_schulz",
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "mu1": mu1, "mu2": mu2, "c": c, "eps": eps, "weight_decay": weight_decay}
        choices = {"nesterov": nesterov, "scale": scale, "method": method}
        super(NAMO, self).__init__(params, **hypers, **choices, rest_beta1=rest_beta1, rest_eps=rest_eps)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        mu1: float,
        mu2: float,
        c: float,
        eps: float,
        weight_decay: float,
        nesterov: bool,
        scale: float,
        method: str,
        **_: Any,
    ) -> None:
        t = state["step"]
        V = kept(state, "v", G[0]).mul_(mu2).add_((1 - mu2) * (G * G).sum(0))
        B = kept(state, "m", G).lerp_(G, 1 - mu1)
        M = (1 - mu1) * G + mu1 * B if nesterov else B
        d = torch.linalg.vector_norm(M, dim=0) / (V.sqrt() + eps)
        d = torch.clamp(d, c * d.mean(), d.mean() / c)
        s = d * (lr * (1 - mu2**t) ** 0.5 / (1 - mu1**t + 1e-12))
        W *= torch.clamp(1 - weight_decay * s.clamp(max=1), min=0)
        W -= torch.clamp(s * scale * max(W.shape) ** 0.5, max=1) * orthogonalized(M, method)
