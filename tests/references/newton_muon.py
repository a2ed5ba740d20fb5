"""Newton-Muon (arXiv 2604.01472): Muon on gradients times the inverse second moments of the layer's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.given import second_moments
from tests.references.loop import State, kept
from tests.references.muon import Muon


class NewtonMuon(Muon):
    SECOND: ClassVar = {**Muon.SECOND, "decay": {"decay": 0.5}, "ridge": {"ridge": 2.0}}
    EVENTS: ClassVar = {"activations": {"k": second_moments}}

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        rest_ratio: float = 0.015,
        rest_beta1: float = 0.9,
        decay: float = 0.95,
        ridge: float = 0.2,
    ) -> None:
        super().__init__(params, lr, beta, nesterov, weight_decay, steps, rest_ratio, rest_beta1)
        self.hyper_names = (*self.hyper_names, "decay", "ridge")
        for group in self.param_groups:
            group["decay"], group["ridge"] = decay, ridge

    @torch.no_grad()
    def activations(self, k: Mapping[Tensor, Tensor]) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p in k:
                    state = self.state[p]
                    seen = kept(state, "seen", p.new_zeros(1, 1))
                    old = state["s"] if seen else k[p]
                    seen += 1
                    state["s"] = group["decay"] * old + (1 - group["decay"]) * k[p]
                    eye = torch.eye(len(k[p]), dtype=p.dtype)
                    level = group["ridge"] * state["s"].diagonal().mean()
                    state["inverse"] = torch.linalg.inv(state["s"] + level * eye)

    def step_matrix(self, W: Tensor, G: Tensor, state: State, *args: Any, **hypers: Any) -> None:
        seen = kept(state, "seen", W.new_zeros(1, 1))
        for name in ("s", "inverse"):
            kept(state, name, G.T @ G)
        super().step_matrix(W, G @ state["inverse"] if seen else G, state, *args, **hypers)
