"""Methods that keep less than a number for each weight, or none."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import State
from tests.references.tabled import ADAM, REST, Hypers, Tabled, adam, ema


class SM3(Tabled):
    """arXiv 1901.11150, SM3-II: a weight's sum is at most what its row and its column say."""

    HYPERS: ClassVar = {"lr": (0.1, 1.0), "momentum": (0.9, 0.5), "eps": (1e-30, 1e-2)}

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        rows, cols = W.shape
        by_row, by_col = state.get("by_row", W.new_zeros(rows, 1)), state.get("by_col", W.new_zeros(1, cols))
        nu = torch.minimum(by_row.expand(rows, cols), by_col.expand(rows, cols)) + G * G
        state["by_row"], state["by_col"] = nu.amax(1, keepdim=True), nu.amax(0, keepdim=True)
        return W - h.lr * ema(state, "m", G / (nu + h.eps).sqrt(), h.momentum)

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        if p.ndim == 2:
            return self.matrix(p, g, state, h)
        state["nu"] = state.get("nu", 0.0) + g * g
        return p - h.lr * ema(state, "m", g / (state["nu"] + h.eps).sqrt(), h.momentum)


class CAME(Tabled):
    """arXiv 2307.02047; the rest follows AdamW without decay."""

    HYPERS: ClassVar = {
        "lr": (2e-4, 1e-2),
        "beta1": (0.9, 0.5),
        "beta2": (0.999, 0.7),
        "beta3": (0.9999, 0.8),
        "eps1": (1e-30, 1e-2),
        "eps2": (1e-16, 1e-2),
        "clip": (1, 0.3),
        "weight_decay": (0, 0.3),
        "rest_beta1": (0.9, 0.5),
        "rest_beta2": (0.999, 0.9),
        "rest_eps": (1e-8, 1e-2),
    }

    def factored(self, state: State, name: str, X: Tensor, beta: float) -> Tensor:
        R = ema(state, f"{name}.by_row", X.mean(1, keepdim=True), beta)
        C = ema(state, f"{name}.by_col", X.mean(0, keepdim=True), beta)
        return R * C / R.mean()

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        U = G / self.factored(state, "v", G * G + h.eps1, h.beta2).sqrt()
        U = U / (U.square().mean().sqrt() / h.clip).clamp(min=1)
        M = ema(state, "m", U, h.beta1)
        S = self.factored(state, "s", (U - M) ** 2 + h.eps2, h.beta3)
        return (1 - h.lr * h.weight_decay) * W - h.lr * M / S.sqrt()

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        if p.ndim == 2:
            return self.matrix(p, g, state, h)
        step_adamw(p, g, state, h.lr, h.rest_beta1, h.rest_beta2, h.rest_eps, weight_decay=0)
        return p


class SGDSaI(Tabled):
    """arXiv 2412.11768; vectors follow AdamW."""

    HYPERS: ClassVar = {
        "lr": (1e-2, 0.1),
        "beta": (0.9, 0.5),
        "eps": (1e-8, 1e-1),
        "weight_decay": (1e-2, 0.3),
        **REST,
    }

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        if "snr" not in state:
            state["snr"] = G.norm() / (G.std() + h.eps)
        return (1 - h.lr * h.weight_decay) * W - h.lr * state["snr"] * ema(state, "m", G, h.beta)

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        return self.matrix(p, g, state, h) if p.ndim == 2 else super().rest(p, g, state, h)


class RACS(Tabled):
    """arXiv 2502.07752."""

    HYPERS: ClassVar = {
        "lr": (1e-3, 0.1),
        "beta": (0.9, 0.5),
        "alpha": (0.05, 1.0),
        "gamma": (1.01, 2.0),
        "eps": (1e-8, 1e-1),
        **REST,
    }

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        S = ema(state, "by_row", (G * G).mean(1, keepdim=True), h.beta)
        Q = ema(state, "by_col", (G * G).mean(0, keepdim=True), h.beta, start=1.0)
        U = G / ((S + h.eps).sqrt() * (Q + h.eps).sqrt())
        if h.t > 1:
            growth = U.norm() / (state["size"] + h.eps)
            U = U * h.gamma / growth.clamp(min=h.gamma)
        state["size"] = U.norm()
        return W - h.lr * h.alpha * U


class AdamMini(Tabled):
    """arXiv 2406.16793, a parameter being a block; embeddings and the head follow AdamW."""

    HYPERS: ClassVar = {**ADAM, "weight_decay": (0.1, 0.5)}

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        m = ema(state, "m", G, h.beta1) / (1 - h.beta1**h.t)
        v = ema(state, "v", G.square().mean(), h.beta2) / (1 - h.beta2**h.t)
        return (1 - h.lr * h.weight_decay) * W - h.lr * m / (v.sqrt() + h.eps)

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        if p.ndim < 2:
            return self.matrix(p, g, state, h)
        m, v = adam(state, g, h)
        return (1 - h.lr * h.weight_decay) * p - h.lr * m / (v.sqrt() + h.eps)
