"""HTMuon (arXiv 2603.10067): singular values of the momentum to a power, through its decomposition."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import NEWTON_SCHULZ_SLOPE, State, kept
from tests.references.muon import Muon


class HTMuon(Muon):
    SECOND: ClassVar = {
        **{name: changed for name, changed in Muon.SECOND.items() if name != "steps"},
        "exponent": {"exponent": 0.5},
        "eps": {"eps": 1e-2},
    }
    SENSITIVITY = 10 * NEWTON_SCHULZ_SLOPE  # squares of small singular values are lost in those of large ones

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        rest_ratio: float = 0.015,
        exponent: float = 0.125,
        eps: float = 1e-12,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay, "eps": eps}
        super(Muon, self).__init__(params, **hypers, rest_ratio=rest_ratio, exponent=exponent, rest_beta1=rest_beta1)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        nesterov: bool,
        weight_decay: float,
        exponent: float,
        eps: float,
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).lerp_(G, 1 - beta)
        U, s, Vt = torch.linalg.svd(G.lerp(M, beta) if nesterov else M, full_matrices=False)
        raised = s * (s * s + eps) ** ((exponent - 1) / 2)
        W *= 1 - lr * weight_decay
        W -= lr * max(1, W.size(0) / W.size(1)) ** 0.5 * U @ torch.diag(raised) @ Vt
