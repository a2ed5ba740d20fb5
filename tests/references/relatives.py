"""Published changes of methods that have references of their own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import State
from tests.references.sam import SAM
from tests.references.tabled import REST, Hypers, Tabled, ema


class ASAM(SAM):
    """arXiv 2102.11600: the way uphill is T^2 g / |T g| with T = |w| + eta."""

    SECOND: ClassVar = {**SAM.SECOND, "rho": {"rho": 2.0}, "eta": {"eta": 1.0}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        rho: float = 0.5,
        eta: float = 0.01,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, rho)
        for group in self.param_groups:
            group["eta"] = eta

    @torch.no_grad()
    def ascend(self) -> None:
        active = list(self.active())
        norm = sum(((p.abs() + group["eta"]) * p.grad).square().sum() for group, p, _ in active).sqrt()
        for group, p, state in active:
            state["climb"] = group["rho"] * (p.abs() + group["eta"]) ** 2 * p.grad / norm
            state["climbs"] = state.get("climbs", torch.zeros_like(norm)) + 1
            p += state["climb"]


class SGDP(Tabled):
    """arXiv 2006.08217, row by row; the rest follows SGD."""

    HYPERS: ClassVar = {
        "lr": (0.1, 0.3),
        "momentum": (0.9, 0.5),
        "nesterov": (False, True),
        "delta": (0.1, 1.0),
        "weight_decay": (1e-4, 0.1),
    }

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        return p - h.lr * self.way(g, state, h)

    def way(self, g: Tensor, state: State, h: Hypers) -> Tensor:
        state["m"] = h.momentum * state.get("m", 0.0) + g
        return g + h.momentum * state["m"] if h.nesterov else state["m"]

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        D = self.way(G, state, h).clone()
        for w, g, d in zip(W, G, D, strict=True):
            if torch.cosine_similarity(w, g, dim=0).abs() < h.delta / len(w) ** 0.5:
                d -= (w @ d) / (w @ w) * w
        return (1 - h.lr * h.weight_decay) * W - h.lr * D


class MARSLion(Tabled):
    """arXiv 2411.10438; vectors follow AdamW."""

    HYPERS: ClassVar = {
        "lr": (3e-4, 1e-2),
        "beta1": (0.95, 0.5),
        "gamma": (0.025, 0.4),
        "weight_decay": (0, 0.3),
        **REST,
    }

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        c = G + h.gamma * h.beta1 / (1 - h.beta1) * (G - state.get("prev_grad", G))
        state["prev_grad"] = G.clone()
        m = ema(state, "m", c / c.norm().clamp(min=1), h.beta1)
        return (1 - h.lr * h.weight_decay) * W - h.lr * m.sign()

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        return self.matrix(p, g, state, h) if p.ndim == 2 else super().rest(p, g, state, h)
