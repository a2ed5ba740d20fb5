"""Methods whose learning rate follows from the way of all parameters since the start."""

from __future__ import annotations

from typing import ClassVar

import torch

from tests.references.tabled import Tabled


class DoWG(Tabled):
    """arXiv 2305.16284; every parameter keeps a copy of r and v, as those without a gradient take no part in a step."""

    HYPERS: ClassVar = {"lr": (1, 0.1), "r0": (1e-4, 1e-1), "eps": (1e-8, 1.0)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        active = list(self.active())
        for group, p, state in active:
            state.setdefault("start", p.clone())
            state.setdefault("r", p.new_tensor(group["r0"]))
            state.setdefault("v", p.new_zeros(()))
        way = sum((p - state["start"]).square().sum() for _, p, state in active).sqrt()
        squares = sum(p.grad.square().sum() for _, p, _ in active)
        for group, p, state in active:
            state["r"] = torch.maximum(state["r"], way)
            state["v"] = state["v"] + state["r"] ** 2 * squares
            p -= group["lr"] * state["r"] ** 2 / (state["v"].sqrt() + group["eps"]) * p.grad
