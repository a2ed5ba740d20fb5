"""NAMO-D (arXiv 2602.17080): one Adam-like step size per column, kept in a band around their mean."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import State, kept
from tests.references.namo import NAMO
from tests.references.newton_schulz import newton_schulz


class NAMOD(NAMO):
    """The rest is NAMO's."""

    SECOND: ClassVar = {**NAMO.SECOND, "c": {"c": 0.3}}

    def __init__(
        self,
        params: Any,
        lr: float = 9e-3,
        mu1: float = 0.95,
        mu2: float = 0.99,
        c: float = 0.75,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "mu1": mu1, "mu2": mu2, "c": c, "eps": eps, "weight_decay": weight_decay}
        super(NAMO, self).__init__(params, **hypers, rest_beta1=rest_beta1, rest_eps=rest_eps)

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
        c: float,
        **_: Any,
    ) -> None:
        t = state["step"]
        M = kept(state, "m", G).mul_(mu1).add_(G, alpha=1 - mu1)
        v = kept(state, "v", G[0]).mul_(mu2).add_((G * G).sum(0), alpha=1 - mu2)
        d = (1 - mu2**t) ** 0.5 / (1 - mu1**t) * torch.linalg.vector_norm(M, dim=0) / (v.sqrt() + eps)
        mean = d.mean()
        band = torch.minimum(torch.maximum(d, c * mean), mean / c)
        W -= lr * (newton_schulz(M) + weight_decay * W) @ torch.diag(band)
