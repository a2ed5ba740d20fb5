"""Soft Muon: the singular values of the momentum, over their 4-norm, to a power."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from tests.references.muon_variant import SECOND_WITHOUT_STEPS, MuonVariant


class SoftMuon(MuonVariant):
    SECOND: ClassVar = {**SECOND_WITHOUT_STEPS, "exponent": {"exponent": 0.5}}
    SENSITIVITY = 64.0  # small singular values to a small power

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        rest_ratio: float = 0.015,
        exponent: float = 0.1,
        rest_beta1: float = 0.9,
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, **hypers, rest_ratio=rest_ratio, rest_beta1=rest_beta1, exponent=exponent)

    def direction(self, M: Tensor, *_: Any, exponent: float, **__: Any) -> Tensor:
        U, S, Vh = torch.linalg.svd(M, full_matrices=False)
        schatten4 = (S**4).sum() ** 0.25
        return U @ torch.diag((S / schatten4) ** exponent) @ Vh
