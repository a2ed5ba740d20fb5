"""NAMO by Hyperball: steps of relative length lr alpha (our combination of arXiv 2602.17080 and 2606.16899)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.hyperball import step_on_sphere
from tests.references.loop import State, kept
from tests.references.namo import NAMO, step_size_of_paper
from tests.references.newton_schulz import newton_schulz


class NAMOH(NAMO):
    """No decay: the norm of the weights stays."""

    SECOND: ClassVar = {hyper: changed for hyper, changed in NAMO.SECOND.items() if hyper != "weight_decay"}

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, mu1: float, mu2: float, eps: float, **_: Any
    ) -> None:
        M = kept(state, "m", G).mul_(mu1).add_(G, alpha=1 - mu1)
        v = kept(state, "v", G.sum()).mul_(mu2).add_(torch.sum(G * G), alpha=1 - mu2)
        alpha = step_size_of_paper(M, v, state["step"], mu1, mu2, eps)
        step_on_sphere(W, newton_schulz(M), state, lr * alpha)
