"""Relatives of Adam: other denominators, other momenta, other rates for each weight."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from tests.references.loop import State
from tests.references.tabled import ADAM, Elementwise, Hypers, adam, ema

UNDECAYED = {**ADAM, "weight_decay": (0, 0.3)}


class AdamS(Elementwise):
    """arXiv 2505.16363."""

    HYPERS: ClassVar = {**ADAM, "beta2": (0.95, 0.7)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        before = state.get("m", torch.zeros_like(g))
        m = ema(state, "m", g, h.beta1)
        v = h.beta2 * before**2 + (1 - h.beta2) * g**2
        return (1 - h.lr * h.weight_decay) * p - h.lr * m / (v.sqrt() + h.eps)


class AdamAtan2(Elementwise):
    """arXiv 2407.05872."""

    HYPERS: ClassVar = {
        **{name: pair for name, pair in ADAM.items() if name != "eps"},
        "a": (1.27, 0.5),
        "b": (1, 3.0),
    }

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        m, v = adam(state, g, h)
        return (1 - h.lr * h.weight_decay) * p - h.lr * h.a * torch.atan2(m, h.b * v.sqrt())


class AdamC(Elementwise):
    """arXiv 2506.02285."""

    HYPERS: ClassVar = ADAM

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        m, v = adam(state, g, h)
        top = max(float(state.get("top", 0.0)), h.lr)
        state["top"] = torch.tensor(top, dtype=p.dtype)
        return p - h.lr * m / (v.sqrt() + h.eps) - h.lr * (h.lr / top) * h.weight_decay * p


class Ano(Elementwise):
    """arXiv 2508.18258."""

    HYPERS: ClassVar = {
        "lr": (1e-4, 1e-2),
        "beta1": (0.92, 0.5),
        "beta2": (0.99, 0.8),
        "eps": (1e-8, 1e-2),
        "logarithmic": (False, True),
        "weight_decay": (0, 0.3),
    }

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        decay = 1 - 1 / math.log(max(2, h.t)) if h.logarithmic else h.beta1
        m = ema(state, "m", g, decay)
        v = h.beta2 * state.get("v", torch.zeros_like(g))
        state["v"] = v + (1 - h.beta2) * torch.sign(g**2 - v) * g**2
        low = (state["v"] / (1 - h.beta2**h.t)).sqrt() + h.eps
        return (1 - h.lr * h.weight_decay) * p - h.lr * g.abs() * m.sign() / low


class BCOS(Elementwise):
    """arXiv 2507.08963, BCOS-c."""

    HYPERS: ClassVar = {"lr": (1e-3, 3e-2), "beta": (0.9, 0.5), "eps": (1e-6, 1e-2), "weight_decay": (0.1, 0.5)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        before = state.get("m", torch.zeros_like(g))
        m = ema(state, "m", g, h.beta)
        c = (1 - h.beta) ** 2
        return (1 - h.lr * h.weight_decay) * p - h.lr * m / (((1 - c) * before**2 + c * g**2).sqrt() + h.eps)


class FOCUS(Elementwise):
    """arXiv 2501.12243."""

    HYPERS: ClassVar = {
        "lr": (1e-2, 0.1),
        "beta1": (0.9, 0.5),
        "beta2": (0.99, 0.7),
        "gamma": (0.1, 0.7),
        "weight_decay": (0, 0.3),
    }
    SENSITIVITY = 2e6  # the sign of what a weight is away from its average, at first nothing

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        m = ema(state, "m", g, h.beta1)
        middle = ema(state, "mid", p, h.beta2) / (1 - h.beta2**h.t)
        decayed = p - h.lr * h.weight_decay * middle
        return decayed - h.lr * (m.sign() + h.gamma * (decayed - middle).sign())


class Kourkoutas(Elementwise):
    """arXiv 2508.12996; each parameter is a layer."""

    HYPERS: ClassVar = {
        "lr": (1e-3, 3e-2),
        "beta1": (0.9, 0.5),
        "beta2_min": (0.88, 0.5),
        "beta2_max": (0.999, 0.95),
        "alpha": (0.93, 0.5),
        "tiny": (1e-9, 1.0),
        "warmup": (0, 5),
        "eps": (1e-8, 1e-2),
    }

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        ratio = g.norm() / (ema(state, "ratio", g.norm(), h.alpha) + h.tiny)
        sun = ratio / (1 + ratio)
        beta2 = h.beta2_max - (h.beta2_max - h.beta2_min) * (0.5 if h.t <= h.warmup else sun)
        m, v = ema(state, "m", g, h.beta1), ema(state, "v", g * g, beta2)
        return p - h.lr * m / (v.sqrt() + h.eps)


class MAdam(Elementwise):
    """Emerging-Optimizers' Adam without eps."""

    HYPERS: ClassVar = {**{name: pair for name, pair in ADAM.items() if name != "eps"}, "scale": (1024, 2.0)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        m = ema(state, "m", g, h.beta1)
        v = ema(state, "v", (h.scale * g) ** 2, h.beta2)
        u = h.scale * (m / (1 - h.beta1**h.t)) / (v / (1 - h.beta2**h.t)).sqrt()
        return (1 - h.lr * h.weight_decay) * p - h.lr * torch.where(m == 0, 0.0, u)


class SimplifiedAdEMAMix(Elementwise):
    """arXiv 2502.02431."""

    HYPERS: ClassVar = {**ADAM, "lr": (1e-5, 1e-3), "beta1": (0.99, 0.7), "alpha": (0, 10.0)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        state["m"] = h.beta1 * state.get("m", 0.0) + g
        v = ema(state, "v", g * g, h.beta2) / (1 - h.beta2**h.t)
        return (1 - h.lr * h.weight_decay) * p - h.lr * (state["m"] + h.alpha * g) / (v.sqrt() + h.eps)


class QHAdam(Elementwise):
    """arXiv 1810.06801, with decoupled decay."""

    HYPERS: ClassVar = {**ADAM, "beta1": (0.995, 0.7), "nu1": (0.7, 0.3), "nu2": (1, 0.6)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        m, v = adam(state, g, h)
        low = ((1 - h.nu2) * g**2 + h.nu2 * v).sqrt() + h.eps
        return (1 - h.lr * h.weight_decay) * p - h.lr * ((1 - h.nu1) * g + h.nu1 * m) / low


class Padam(Elementwise):
    """arXiv 1806.06763, without corrections for the start."""

    HYPERS: ClassVar = {
        "lr": (0.1, 0.3),
        "beta1": (0.9, 0.5),
        "beta2": (0.999, 0.7),
        "partial": (0.125, 0.5),
        "eps": (1e-8, 1e-1),
    }

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        m, v = ema(state, "m", g, h.beta1), ema(state, "v", g * g, h.beta2)
        state["most"] = torch.maximum(state.get("most", torch.zeros_like(v)), v)
        return p - h.lr * m / (state["most"] + h.eps) ** h.partial


class DiffGrad(Elementwise):
    """arXiv 1909.11015, with decoupled decay."""

    HYPERS: ClassVar = UNDECAYED

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        m, v = adam(state, g, h)
        friction = torch.sigmoid((state.get("prev_grad", torch.zeros_like(g)) - g).abs())
        state["prev_grad"] = g.clone()
        return (1 - h.lr * h.weight_decay) * p - h.lr * friction * m / (v.sqrt() + h.eps)


class AdaMod(Elementwise):
    """arXiv 1910.12249, with decoupled decay."""

    HYPERS: ClassVar = {**UNDECAYED, "beta3": (0.999, 0.7)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        m, v = adam(state, g, h)
        rate = h.lr / (v.sqrt() + h.eps)
        limit = ema(state, "limit", rate, h.beta3)
        return (1 - h.lr * h.weight_decay) * p - torch.minimum(rate, limit) * m


class AdaBound(Elementwise):
    """arXiv 1902.09843, with decoupled decay; eps as in the published code."""

    HYPERS: ClassVar = {**UNDECAYED, "final": (0.1, 0.01), "gamma": (1e-3, 0.5)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        m, v = ema(state, "m", g, h.beta1), ema(state, "v", g * g, h.beta2)
        size = h.lr * (1 - h.beta2**h.t) ** 0.5 / (1 - h.beta1**h.t)
        lower, upper = h.final * (1 - 1 / (h.gamma * h.t + 1)), h.final * (1 + 1 / (h.gamma * h.t))
        return (1 - h.lr * h.weight_decay) * p - (size / (v.sqrt() + h.eps)).clamp(lower, upper) * m


class EFSignSGD(Elementwise):
    """arXiv 1901.09847."""

    HYPERS: ClassVar = {"lr": (1e-2, 1.0)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        wanted = h.lr * g + state.get("e", 0.0)
        step = wanted.abs().mean() * wanted.sign()
        state["e"] = wanted - step
        return p - step


class AdaGradNorm(Elementwise):
    """arXiv 1806.01811."""

    HYPERS: ClassVar = {"lr": (1, 0.1), "b0": (0.1, 2.0)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        state["b"] = state.get("b", torch.tensor(h.b0**2, dtype=p.dtype)) + (g * g).sum()
        return p - h.lr / state["b"].sqrt() * g


class PowerStep(Elementwise):
    """Between the sign of a sum of gradients and the sum itself."""

    HYPERS: ClassVar = {"lr": (1e-3, 3e-2), "beta": (0.9, 0.5), "exponent": (0.1, 0.7), "weight_decay": (1e-2, 0.3)}

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        state["m"] = h.beta * state.get("m", 0.0) + g
        return (1 - h.lr * h.weight_decay) * p - h.lr * state["m"].sign() * state["m"].abs() ** h.exponent
