"""NorMuon as in the dion package: heavy ball, Polar Express, a choice of factors on lr, maybe cautious decay."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.loop import REST_BETA1, REST_EPS, State, kept
from tests.references.orthogonal import POLAR_EXPRESS_SLOPE, orthogonalized
from tests.references.rests import RestByAdamW


class NorMuonDion(RestByAdamW):
    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta1": {"beta1": 0.5},
        "beta2": {"beta2": 0.7},
        "eps": {"eps": 1e-2},
        "weight_decay": {"weight_decay": 0.3},
        "nesterov": {"nesterov": True},
        "cautious": {"cautious": True},
        "scale": {"scale": "rms_norm"},
        "method": {"method": "newton_schulz"},
        **REST_BETA1,
        **REST_EPS,
    }
    SENSITIVITY = POLAR_EXPRESS_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        beta1: float = 0.95,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        nesterov: bool = False,
        cautious: bool = False,
        scale: str = "spectral_norm",
        method: str = "polar_express",
        rest_beta1: float = 0.9,
        rest_eps: float = 1e-8,
    ) -> None:
        hypers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        choices = {"nesterov": nesterov, "cautious": cautious, "scale": scale, "method": method}
        super().__init__(params, **hypers, **choices, rest_beta1=rest_beta1, rest_eps=rest_eps)

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
        nesterov: bool,
        cautious: bool,
        scale: str,
        method: str,
        **_: Any,
    ) -> None:
        rows, cols = W.shape
        M = kept(state, "m", G).mul_(beta1).add_(G)
        U = orthogonalized(G + beta1 * M if nesterov else M, method)
        V = kept(state, "v", U[:, :1]).lerp_((U * U).mean(-1, keepdim=True), 1 - beta2)
        normalized = U / (V.sqrt() + eps)
        normalized = normalized * U.norm() / normalized.norm().clamp(min=eps)
        factors = {"spectral_norm": (rows / cols) ** 0.5, "rms_norm": 0.2 * max(rows, cols) ** 0.5, "none": 1.0}
        decayed = torch.where(normalized * W >= 0, W, 0) if cautious else W
        W -= lr * weight_decay * decayed + lr * factors[scale] * normalized
