"""Relatives of Muon that do something else to the singular values, or before the polar factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import NEWTON_SCHULZ_SLOPE, State
from tests.references.newton_schulz import newton_schulz
from tests.references.orthogonal import exact_iteration, polar_factor
from tests.references.tabled import Hypers, Tabled, ema

SVD = {
    "lr": (0.02, 1e-3),
    "beta": (0.95, 0.8),
    "nesterov": (True, False),
    "weight_decay": (0.0, 0.2),
    "rest_ratio": (0.015, 0.5),
    "rest_beta1": (0.9, 0.5),
}
MUON = {**SVD, "steps": (5, 3)}
EXACT = {**SVD, "steps": (12, 5)}
PLAIN = {"nesterov": (False, True)}


def shape_scale(W: Tensor) -> float:
    return math.sqrt(max(1, W.size(0) / W.size(1)))


class MuonLike(Tabled):
    """Muon's momentum, decay and scale around a direction; the rest follows AdamW with lr times rest_ratio."""

    SENSITIVITY = NEWTON_SCHULZ_SLOPE

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        D = self.direction(self.momentum(G, state, h), W, G, state, h)
        return (1 - h.lr * h.weight_decay) * W - h.lr * shape_scale(W) * D

    def momentum(self, G: Tensor, state: State, h: Hypers) -> Tensor:
        M = ema(state, "m", G, h.beta)
        return (1 - h.beta) * G + h.beta * M if h.nesterov else M

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        raise NotImplementedError

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        step_adamw(p, g, state, h.lr * h.rest_ratio, h.rest_beta1, beta2=0.95, eps=1e-10, weight_decay=0)
        return p


def singular(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.svd(M, full_matrices=False)


def power_of(S: Tensor, a: float, ridge: float = 0.0) -> Tensor:
    """(S + ridge I)^a of a symmetric S."""
    e, Q = torch.linalg.eigh(S)
    return Q * (e.clamp(min=0) + ridge) ** a @ Q.T


class AdaGO(MuonLike):
    """arXiv 2509.02981."""

    HYPERS: ClassVar = {
        **{name: pair for name, pair in SVD.items() if name != "weight_decay"},
        **PLAIN,
        "lr": (0.05, 0.5),
        "gamma": (10, 0.1),
        "eps": (5e-4, 0.3),
        "v0": (1e-6, 10.0),
    }

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        M = self.momentum(G, state, h)
        n = G.norm().clamp(max=h.gamma)
        state["v"] = state.get("v", torch.tensor(h.v0, dtype=W.dtype)) + n * n
        return W - (h.lr * n / state["v"].sqrt()).clamp(min=h.eps) * polar_factor(M)


class Freon(MuonLike):
    """U S^(q - 1) V', S being the singular values over their Schatten q-norm."""

    HYPERS: ClassVar = {
        **SVD,
        **PLAIN,
        "q": (1.5, 0.8),
        "eps": (1e-12, 1e-2),
    }

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        U, s, Vt = singular(M)
        s = s / (s**h.q).sum() ** (1 / h.q)
        return U * (s * (s * s + h.eps) ** (h.q / 2 - 1)) @ Vt


class MuonNSR(MuonLike):
    """The momentum over the root of its square and its variance."""

    HYPERS: ClassVar = {
        **{name: pair for name, pair in MUON.items() if name != "nesterov"},
        "gamma": (1, 0.1),
        "eps": (1e-8, 1.0),
    }

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        before = state.get("m0", torch.zeros_like(G))
        M = ema(state, "m0", G, h.beta)
        state["s"] = h.beta * state.get("s", 0.0) + h.beta * (1 - h.beta) * (before - G) ** 2
        correction = 1 - h.beta**h.t
        x = G + h.beta / (1 - h.beta) * M / correction
        X = x / (x * x + h.gamma * state["s"] / correction + h.eps).sqrt()
        return (1 - h.lr * h.weight_decay) * W - h.lr * shape_scale(W) * newton_schulz(X, h.steps)


class REG(MuonLike):
    """arXiv 2510.03691."""

    HYPERS: ClassVar = {**SVD, **PLAIN, "p": (1, 2.0), "eps": (1e-8, 1.0)}

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        by_row, by_col = M.norm(dim=1, keepdim=True) + h.eps, M.norm(dim=0, keepdim=True) + h.eps
        D = M * (by_row * by_col) ** (-h.p / 2)
        return D / D.norm() * min(W.shape) ** 0.5


class NuMuon(MuonLike):
    """The longest singular directions only."""

    HYPERS: ClassVar = {**SVD, **PLAIN, "share": (0.5, 0.3)}

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        U, _, Vt = singular(M)
        k = math.ceil(h.share * min(W.shape))
        return U[:, :k] @ Vt[:k]


class MiMuon(MuonLike):
    """The momentum itself where two singular values are close."""

    HYPERS: ClassVar = {**SVD, **PLAIN, "least": (1e-3, 0.1)}

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        M = self.momentum(G, state, h)
        s = torch.linalg.svdvals(M)
        gap = float((s[:-1] - s[1:]).min()) if len(s) > 1 else math.inf
        return (1 - h.lr * h.weight_decay) * W - h.lr * (polar_factor(M) if gap >= h.least else M)


class PMuon(MuonLike):
    """Result #18 of modded-nanogpt's optimization track."""

    HYPERS: ClassVar = {
        **EXACT,
        "lr": (0.035, 1e-3),
        "weight_decay": (0.025, 0.3),
        "beta2": (0.95, 0.7),
        "gamma": (0.3, 0.1),
        "eps": (1e-6, 1e-2),
    }
    SENSITIVITY = 2e4  # powers of small singular values

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        state["l"] = h.beta2 * state.get("l", 0.0) + G @ G.T
        state["r"] = h.beta2 * state.get("r", 0.0) + G.T @ G
        X = power_of(state["l"], -h.gamma, h.eps) @ M @ power_of(state["r"], -h.gamma, h.eps)
        return exact_iteration(X, h.steps)


class DynMuon(MuonLike):
    """arXiv 2605.17109, with the exact power."""

    HYPERS: ClassVar = {
        **SVD,
        "weight_decay": (0.025, 0.3),
        "total": (3200, 20),
        "first": (0.25, 0.9),
        "last": (-0.25, {"last": 0.1, "total": 20}),
        "turn": (0.04, {"turn": 0.3, "total": 20}),
        "width": (0.04, {"width": 0.5, "total": 20}),
    }

    def direction(self, M: Tensor, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        place = ((h.t - 1) / h.total - h.turn) / h.width
        U, s, Vt = singular(M / (M.norm() + 1e-7))
        return U * s ** (h.last + (h.first - h.last) / (1 + math.exp(place))) @ Vt


class SpectralDescent(MuonLike):
    """The polar factor of each gradient."""

    HYPERS: ClassVar = {
        **{name: pair for name, pair in EXACT.items() if name not in ("beta", "nesterov")},
        "lr": (0.03, 1e-3),
        "weight_decay": (0.015, 0.3),
    }

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        return (1 - h.lr * h.weight_decay) * W - h.lr * shape_scale(W) * exact_iteration(G, h.steps)


class MUD(MuonLike):
    """Moonlight's steps with rows that are decorrelated by a triangular solve."""

    HYPERS: ClassVar = {
        **SVD,
        "lr": (1e-3, 0.02),
        "weight_decay": (0.1, 0.5),
        "rest_ratio": (1, 0.1),
        "rest_eps": (1e-8, 1e-2),
    }
    SENSITIVITY = 1e4

    @staticmethod
    def is_determined(shape: Sequence[int]) -> bool:
        """Rows of one number are multiples of each other: nothing is left of the second."""
        return len(shape) < 2 or shape[1] > 1

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        M = self.momentum(G, state, h)
        Q = M / M.norm(dim=1, keepdim=True)
        X = torch.linalg.solve_triangular((Q @ Q.T).tril(), Q, upper=False)
        D = X / X.norm(dim=1, keepdim=True)
        return (1 - h.lr * h.weight_decay) * W - h.lr * 0.2 * max(W.shape) ** 0.5 * D

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        step_adamw(p, g, state, h.lr * h.rest_ratio, h.rest_beta1, 0.95, h.rest_eps, h.weight_decay)
        return p
