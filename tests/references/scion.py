"""Scion (arXiv 2502.07529): each layer moves towards the point of a ball that its momentum points away from."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.references.loop import NEWTON_SCHULZ_SLOPE, PerParameter, State, kept
from tests.references.newton_schulz import newton_schulz


class Scion(PerParameter):
    """Spectral balls for matrices, largest elements for head and embedding, root mean squares for vectors."""

    SECOND: ClassVar = {
        "lr": {"lr": 0.1},
        "beta": {"beta": 0.5},
        "rho": {"rho": 3.0},
        "head_rho": {"head_rho": 70.0},
        "vector_rho": {"vector_rho": 2.0},
        "steps": {"steps": 3},
    }
    SENSITIVITY = NEWTON_SCHULZ_SLOPE

    def __init__(
        self,
        params: Any,
        lr: float = 2.0**-12,
        beta: float = 0.9,
        rho: float = 50.0,
        head_rho: float = 3000.0,
        vector_rho: float = 50.0,
        steps: int = 5,
    ) -> None:
        radii = {"rho": rho, "head_rho": head_rho, "vector_rho": vector_rho}
        super().__init__(params, lr=lr, beta=beta, **radii, steps=steps)

    def move(self, W: Tensor, lr: float, target: Tensor) -> None:
        """W goes the share lr of the way to the target."""
        W.mul_(1 - lr).add_(target, alpha=lr)

    def step_matrix(
        self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, rho: float, steps: int, **_: Any
    ) -> None:
        M = kept(state, "m", G).mul_(beta).add_(G, alpha=1 - beta)
        self.move(W, lr, -rho * (W.size(0) / W.size(1)) ** 0.5 * newton_schulz(M, steps))

    def step_head(self, W: Tensor, G: Tensor, state: State, lr: float, beta: float, head_rho: float, **_: Any) -> None:
        M = kept(state, "m", G).mul_(beta).add_(G, alpha=1 - beta)
        self.move(W, lr, -head_rho * M.sign() / W.size(1))

    step_embedding = step_head

    def step_vector(
        self, b: Tensor, g: Tensor, state: State, lr: float, beta: float, vector_rho: float, **_: Any
    ) -> None:
        m = kept(state, "m", g).mul_(beta).add_(g, alpha=1 - beta)
        self.move(b, lr, -vector_rho * m / m.square().mean().sqrt())
