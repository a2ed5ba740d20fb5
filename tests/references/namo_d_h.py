"""NAMO-D's direction by Hyperball (our combination of arXiv 2602.17080 and 2606.16899)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.hyperball import step_on_sphere
from tests.references.loop import State, kept
from tests.references.namo_d import NAMOD
from tests.references.newton_schulz import newton_schulz


class NAMODH(NAMOD):
    """No decay: the norm of the weights stays."""

    SECOND: ClassVar = {hyper: changed for hyper, changed in NAMOD.SECOND.items() if hyper != "weight_decay"}

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, mu1: float, mu2: float, eps: float, c: float, **_: Any
    ) -> None:
        t = state["step"]
        M = kept(state, "m", G).mul_(mu1).add_(G, alpha=1 - mu1)
        v = kept(state, "v", G[0]).mul_(mu2).add_((G * G).sum(0), alpha=1 - mu2)
        d = (1 - mu2**t) ** 0.5 / (1 - mu1**t) * torch.linalg.vector_norm(M, dim=0) / (v.sqrt() + eps)
        band = torch.minimum(torch.maximum(d, c * d.mean()), d.mean() / c)
        step_on_sphere(W, newton_schulz(M) @ torch.diag(band), state, lr)
