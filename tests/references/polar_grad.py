"""PolarGrad (arXiv 2505.21799): both factors of the polar decomposition, the second through its trace."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import State, kept
from tests.references.muon import Muon
from tests.references.orthogonal import orthogonalized


class PolarGrad(Muon):
    SECOND: ClassVar = {
        **Muon.SECOND,
        "lr": {"lr": 0.02},
        "nesterov": {"nesterov": True},
        "steps": {"steps": 3, "method": "newton_schulz"},
        "method": {"method": "newton_schulz"},
    }
    SENSITIVITY = 100.0  # the condition number of a nearly singular square

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta: float = 0.95,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        steps: int = 8,
        rest_ratio: float = 1.0,
        method: str = "svd",
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay, "steps": steps}
        super(Muon, self).__init__(params, **hypers, rest_ratio=rest_ratio, method=method, rest_beta1=rest_beta1)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        nesterov: bool,
        weight_decay: float,
        steps: int,
        method: str,
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).lerp_(G, 1 - beta)
        M = G.lerp(M, beta) if nesterov else M
        U = orthogonalized(M, method, steps)
        nuclear = torch.linalg.svdvals(M).sum() if method == "svd" else torch.trace(U.T @ M)
        W *= 1 - lr * weight_decay
        W -= lr * nuclear * U
