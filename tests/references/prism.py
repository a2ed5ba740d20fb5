"""PRISM (arXiv 2602.03096): the upper half of what Newton-Schulz makes of the momentum above its error."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import State
from tests.references.muon_variant import SECOND_WITHOUT_STEPS, MuonVariant, nesterov_average, shape_scale
from tests.references.polar import orthogonalize_by


class PRISM(MuonVariant):
    SECOND: ClassVar = {**SECOND_WITHOUT_STEPS, "gamma": {"gamma": 0.2}}

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        rest_ratio: float = 0.015,
        gamma: float = 1.0,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1, gamma=gamma)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta: float,
        nesterov: bool,
        weight_decay: float,
        gamma: float,
        **_: Any,
    ) -> None:
        M = nesterov_average(state, G, beta, nesterov)
        stacked = torch.cat([M, gamma * (G - M)])
        O = orthogonalize_by(stacked, [(3.4445, -4.7750, 2.0315)] * 5)[: len(M)]
        W *= 1 - lr * weight_decay
        W -= lr * shape_scale(W) * O
