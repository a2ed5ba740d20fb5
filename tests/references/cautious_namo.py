"""NAMO (arXiv 2602.17080) whose step is kept where it agrees with the gradient in sign (arXiv 2411.16085)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import State, kept
from tests.references.masked import masked
from tests.references.namo import NAMO, step_size_of_paper
from tests.references.newton_schulz import newton_schulz


class CautiousNAMO(NAMO):
    SECOND: ClassVar = NAMO.SECOND

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
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).mul_(mu1).add_(G, alpha=1 - mu1)
        v = kept(state, "v", G.sum()).mul_(mu2).add_(torch.sum(G * G), alpha=1 - mu2)
        alpha = step_size_of_paper(M, v, state["step"], mu1, mu2, eps)
        W -= lr * alpha * (masked(newton_schulz(M), G) + weight_decay * W)
