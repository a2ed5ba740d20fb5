"""Cautious NorMuon (arXiv 2411.16085 on arXiv 2510.05491)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import State, kept
from tests.references.masked import masked
from tests.references.newton_schulz import newton_schulz
from tests.references.normuon import NorMuon


class CautiousNorMuon(NorMuon):
    SECOND: ClassVar = NorMuon.SECOND

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        M = kept(state, "m", G).mul_(beta1).add_(G, alpha=1 - beta1)
        O = newton_schulz(M)
        v = kept(state, "v", O[:, 0]).mul_(beta2).add_((O * O).mean(1), alpha=1 - beta2)
        O_hat = O / (v.sqrt() + eps)[:, None]
        W -= lr * weight_decay * W + lr * masked(0.2 * W.numel() ** 0.5 / O_hat.norm() * O_hat, G)
