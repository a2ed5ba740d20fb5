"""C-AdamW (arXiv 2411.16085): AdamW without the elements of its step that go against the gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tests.references.adamw import AdamW
from tests.references.loop import State, kept


def cautious(u: Tensor, g: Tensor) -> Tensor:
    """u where u g > 0, divided by the share of such elements, which counts as 0.001 at least."""
    mask = (u * g > 0).to(u.dtype)
    return u * mask / mask.mean().clamp(min=1e-3)


class CautiousAdamW(AdamW):
    SECOND: ClassVar = AdamW.SECOND

    def step_rest(
        self,
        p: Tensor,
        g: Tensor,
        state: State,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        t = state["step"]
        m = kept(state, "m", p).mul_(beta1).add_(g, alpha=1 - beta1)
        v = kept(state, "v", p).mul_(beta2).addcmul_(g, g, value=1 - beta2)
        u = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)
        p.mul_(1 - lr * weight_decay)
        p.add_(cautious(u, g), alpha=-lr)

    step_matrix = step_rest
