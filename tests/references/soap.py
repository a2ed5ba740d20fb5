"""SOAP (arXiv 2409.11321) in the order of its official code, whose sorting of eigenvectors is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.adamw import step_adamw
from tests.references.loop import REST_EPS, PerParameter, State, kept


def first_basis(S: Tensor) -> Tensor:
    """The eigenvectors, each with its largest component positive."""
    Q = torch.linalg.eigh(S).eigenvectors
    return Q * Q.gather(0, Q.abs().argmax(0, keepdim=True)).sign()


def next_basis(S: Tensor, Q: Tensor) -> Tensor:
    """One power iteration and its orthonormal factor."""
    Q, R = torch.linalg.qr(S @ Q)
    return Q * R.diagonal().sign()


class SOAP(PerParameter):
    """The rest follows AdamW with the same lr, both betas 0.95 and no decay."""

    SECOND: ClassVar = {
        "lr": {"lr": 3e-2},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.7},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
        "every": {"every": 3},
        **REST_EPS,
    }
    SENSITIVITY = 100.0  # the eigenvectors of close eigenvalues

    def __init__(
        self,
        params: Any,
        lr: float = 3e-3,
        beta1: float = 0.95,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        every: int = 10,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, **hypers, every=every, rest_eps=rest_eps)

    @staticmethod
    def is_determined(shape: Sequence[int]) -> bool:
        """One gradient that is no square leaves a null space, of which eigenvectors are any basis."""
        return len(shape) < 2 or tuple(shape[1:]) == (shape[0],)

    def step_matrix(
        self,
        W: Tensor,
        G: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        every: int,
        **_: Any,
    ) -> None:
        n = state["step"] - 1  # the official code counts the steps that move the weights
        L, R = kept(state, "l", G @ G.T), kept(state, "r", G.T @ G)
        M, V = kept(state, "m", G), kept(state, "v", G)
        if n == 0:
            state["q_l"], state["q_r"] = torch.zeros_like(L), torch.zeros_like(R)
        else:
            if n == 1:
                state["q_l"], state["q_r"] = first_basis(L), first_basis(R)
            elif (n - 1) % every == 0:
                state["q_l"], state["q_r"] = next_basis(L, state["q_l"]), next_basis(R, state["q_r"])
            Ql, Qr = state["q_l"], state["q_r"]
            M.lerp_(G, 1 - beta1)
            V.lerp_((Ql.T @ G @ Qr).square(), 1 - beta2)
            step = lr * (1 - beta2**n) ** 0.5 / (1 - beta1**n)
            W -= step * (Ql @ ((Ql.T @ M @ Qr) / (V.sqrt() + eps)) @ Qr.T)
            W -= lr * weight_decay * W
        L.lerp_(G @ G.T, 1 - beta2)
        R.lerp_(G.T @ G, 1 - beta2)

    def step_rest(self, p: Tensor, g: Tensor, state: State, lr: float, rest_eps: float, **_: Any) -> None:
        step_adamw(p, g, state, lr, beta1=0.95, beta2=0.95, eps=rest_eps, weight_decay=0)
