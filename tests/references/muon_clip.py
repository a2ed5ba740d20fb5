"""MuonClip (arXiv 2507.20534): Moonlight's Muon, and rows of queries and keys scaled down where logits are large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.given import largest_logits
from tests.references.moonlight import Moonlight


class MuonClip(Moonlight):
    SECOND: ClassVar = {**Moonlight.SECOND, "tau": {"tau": 60.0}}
    EVENTS: ClassVar = {"clip": {"logit": largest_logits}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        steps: int = 5,
        rest_ratio: float = 1.0,
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
        tau: float = 100.0,
    ) -> None:
        super().__init__(params, lr, beta, nesterov, weight_decay, steps, rest_ratio, rest_beta1, rest_eps)
        self.hyper_names = (*self.hyper_names, "tau")
        for group in self.param_groups:
            group["tau"] = tau

    @torch.no_grad()
    def clip(self, logit: Mapping[Tensor, Tensor]) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p in logit:
                    for row, value in zip(p, logit[p].flatten(), strict=True):
                        if value > group["tau"]:
                            row *= (group["tau"] / value) ** 0.5
