"""Methods with second moments of rows and columns, on one side or on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import State
from tests.references.spectral import power_of
from tests.references.tabled import REST, Hypers, Tabled, ema


def is_square(shape: Sequence[int]) -> bool:
    """One gradient that is no square leaves a null space, of which eigenvectors are any basis."""
    return len(shape) < 2 or tuple(shape[1:]) == (shape[0],)


def falling_basis(S: Tensor) -> Tensor:
    """Eigenvectors, that of the largest eigenvalue first, each with its largest component positive."""
    Q = torch.linalg.eigh(S).eigenvectors.flip(1)
    return Q * Q.gather(0, Q.abs().argmax(0, keepdim=True)).sign()


def orthonormal(X: Tensor) -> Tensor:
    """Q of X = Q R with a positive diagonal of R."""
    Q, R = torch.linalg.qr(X)
    return Q * R.diagonal().sign()


def sinkhorn(X: Tensor) -> Tensor:
    """Rows of norm sqrt(cols), then columns of norm sqrt(rows)."""
    X = X / X.norm(dim=1, keepdim=True) * X.size(1) ** 0.5
    return X / X.norm(dim=0, keepdim=True) * X.size(0) ** 0.5


class Wide(Tabled):
    """``wide`` sees a tall matrix transposed; ``TURNED`` are the states that are kept as the weight lies."""

    TURNED: ClassVar[tuple[str, ...]] = ()

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        if W.size(0) <= W.size(1):
            return self.wide(W, G, state, h)
        seen = {name: x.T if name in self.TURNED else x for name, x in state.items()}
        moved = self.wide(W.T, G.T, seen, h).T
        state.update({name: x.T if name in self.TURNED else x for name, x in seen.items()})
        return moved

    def wide(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        raise NotImplementedError


class CASPR(Tabled):
    """Twice the sum of both roots."""

    HYPERS: ClassVar = {"lr": (1e-2, 0.1), "beta1": (0.9, 0.85), "beta2": (0.95, 0.7), "eps": (1e-6, 1e-1), **REST}
    SENSITIVITY = 5e4  # roots of eigenvalues that are rounding beside eps

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        L = power_of(ema(state, "l", G @ G.T, h.beta2), -1 / 4, h.eps)
        R = power_of(ema(state, "r", G.T @ G, h.beta2), -1 / 4, h.eps)
        M = ema(state, "m", G, h.beta1)
        return W - h.lr * (L @ L @ M + 2 * L @ M @ R + M @ R @ R)


class ARO(Wide):
    """arXiv 2602.09006 with SinkGD in the rotated space."""

    HYPERS: ClassVar = {"lr": (1e-3, 3e-2), "beta": (0.95, 0.5), "weight_decay": (0, 0.3), **REST}
    TURNED = ("m",)
    SENSITIVITY = 1e3

    def wide(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        M = ema(state, "m", G, h.beta)
        before = state.get("q", torch.eye(len(W), dtype=W.dtype))
        Q = state["q"] = orthonormal(M @ sinkhorn(before.T @ M).T)
        return (1 - h.lr * h.weight_decay) * W - h.lr * Q @ sinkhorn(Q.T @ M)


class MOSO(Wide):
    """Adam of the momentum in an eigenbasis that a power iteration follows."""

    HYPERS: ClassVar = {
        "lr": (3e-4, 3e-2),
        "beta": (0.95, 0.5),
        "beta2": (0.95, 0.7),
        "beta3": (0.95, 0.7),
        "eps": (1e-8, 1e-2),
        "weight_decay": (0.01, 0.3),
        **REST,
    }
    TURNED = ("m", "v")
    SENSITIVITY = 1e3

    def wide(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        M = ema(state, "m", G, h.beta)
        share = (1 - h.beta3) / (1 - h.beta3**h.t)
        L = state["l"] = (1 - share) * state.get("l", 0.0) + share * M @ M.T
        Q = state["q"] = falling_basis(L) if h.t == 1 else orthonormal(L @ state["q"])
        X = Q.T @ M
        V = ema(state, "v", X * X, h.beta2)
        return (1 - h.lr * h.weight_decay) * W - h.lr * Q @ (X / (V.sqrt() + h.eps))


GRAFTED = {
    "lr": (0.0015, 0.05),
    "beta1": (0.9, 0.5),
    "beta2": (0.95, 0.7),
    "weight_decay": (0.2, 0.5),
}


class ByTrackAdamW(Tabled):
    """The rest follows the AdamW of modded-nanogpt's optimization track: betas (0.8, 0.95), eps 1e-10."""

    def rest(self, p: Tensor, g: Tensor, state: State, h: Hypers) -> Tensor:
        step_adamw(p, g, state, h.lr, beta1=0.8, beta2=0.95, eps=1e-10, weight_decay=0)
        return p


def grafted(D: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
    """As long as Adam's step."""
    v = ema(state, "v", G * G, h.beta2) / (1 - h.beta2**h.t)
    A = state["m"] / (1 - h.beta1**h.t) / (v.sqrt() + h.graft_eps)
    return D / D.norm() * A.norm()


class ShampooQuarter(ByTrackAdamW):
    """Result #21 of modded-nanogpt's optimization track."""

    HYPERS: ClassVar = {**GRAFTED, "eps": (1e-12, 1e-2), "graft_eps": (1e-10, 1e-1), "every": (5, 2)}
    SENSITIVITY = 1e4
    is_determined = staticmethod(is_square)  # what the statistics do not see is divided by next to nothing

    def matrix(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        L, R = ema(state, "l", G @ G.T, h.beta2), ema(state, "r", G.T @ G, h.beta2)
        if h.t == 1 or h.t % h.every == 0:
            for name, S in (("p_l", L), ("p_r", R)):
                state[name] = power_of(S / (1 - h.beta2**h.t), -1 / 4, h.eps)
        D = state["p_l"] @ ema(state, "m", G, h.beta1) @ state["p_r"]
        return (1 - h.lr * h.weight_decay) * W - h.lr * grafted(D, G, state, h)


class OneSidedShampoo(Wide, ByTrackAdamW):
    """Result #35 of modded-nanogpt's optimization track."""

    HYPERS: ClassVar = {
        **GRAFTED,
        "lr": (0.01, 0.05),
        "beta2": (0.9, 0.7),
        "weight_decay": (0.1, 0.5),
        "tol": (1e-12, 0.2),
        "graft_eps": (1e-15, 1e-1),
    }
    TURNED = ("m", "v")
    SENSITIVITY = 1e4

    def wide(self, W: Tensor, G: Tensor, state: State, h: Hypers) -> Tensor:
        e, Q = torch.linalg.eigh(ema(state, "l", G @ G.T, h.beta2) / (1 - h.beta2**h.t))
        large = e > h.tol * e.max()
        M = ema(state, "m", G, h.beta1)
        D = Q[:, large] * e[large] ** -0.5 @ (Q[:, large].T @ M)
        return (1 - h.lr * h.weight_decay) * W - h.lr * grafted(D, G, state, h)
