"""The five-step quintic Newton-Schulz iteration of Muon, in the dtype of its argument."""

from __future__ import annotations

from torch import Tensor

A, B, C = 3.4445, -4.7750, 2.0315


def newton_schulz(M: Tensor, steps: int = 5) -> Tensor:
    """Singular vectors kept, singular values brought near 1."""
    X = M.T if M.size(0) > M.size(1) else M
    X = X / X.norm().clamp(min=1e-30)
    for _ in range(steps):
        XXt = X @ X.T
        X = A * X + (B * XXt + C * XXt @ XXt) @ X
    return X.T if M.size(0) > M.size(1) else X
