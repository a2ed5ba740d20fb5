"""Ways to the orthogonal polar factor other than Muon's iteration, in the dtype of their argument."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.references.newton_schulz import newton_schulz

# Polar Express (arXiv 2505.16932) for singular values from 1e-3 on.
TABLE = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
SAFETY = 1.01
# By how much eight steps of it magnify a small singular value.
POLAR_EXPRESS_SLOPE = 6900.0


def polar_factor(M: Tensor) -> Tensor:
    """U V' of the singular value decomposition."""
    U, _, Vt = torch.linalg.svd(M, full_matrices=False)
    return U @ Vt


def quintic(X: Tensor, a: float, b: float, c: float) -> Tensor:
    """X with a s + b s^3 + c s^5 for each singular value s."""
    XXt = X @ X.T
    return a * X + b * XXt @ X + c * XXt @ XXt @ X


def polar_express(M: Tensor, steps: int = 5) -> Tensor:
    """Each polynomial but the last takes its argument 1.01 times as small, and so does the start."""
    X = M / (SAFETY * M.norm()).clamp(min=1e-30)
    for k in range(steps):
        a, b, c = TABLE[min(k, len(TABLE) - 1)]
        s = SAFETY if k < steps - 1 else 1.0
        X = quintic(X, a / s, b / s**3, c / s**5)
    return X


def exact_iteration(M: Tensor, steps: int) -> Tensor:
    """The quintic iteration whose only limit in (0, 1] is 1."""
    X = M / M.norm().clamp(min=1e-30)
    for _ in range(steps):
        X = quintic(X, 2.0, -1.5, 0.5)
    return X


def orthogonalized(M: Tensor, method: str, steps: int = 5) -> Tensor:
    if method == "svd":
        return polar_factor(M)
    return {"newton_schulz": newton_schulz, "polar_express": polar_express}[method](M, steps)
