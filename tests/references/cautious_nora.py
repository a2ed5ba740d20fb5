"""Cautious Nora (arXiv 2411.16085 on arXiv 2605.03769)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from tests.references.loop import State, kept
from tests.references.masked import masked
from tests.references.nora import Nora


class CautiousNora(Nora):
    SECOND: ClassVar = Nora.SECOND

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, weight_decay: float, **_: Any
    ) -> None:
        M = kept(state, "m", G).mul_(beta).add_(G, alpha=1 - beta)
        theta = normalize(W, dim=1, eps=1e-10)
        tangent = M - (M * theta).sum(1, keepdim=True) * theta
        W -= lr * (masked(normalize(tangent, dim=1, eps=1e-10), G) + weight_decay * W)
