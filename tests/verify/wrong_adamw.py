"""AdamW written by hand as users write it, and seven ways to get it wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class MyAdamW(torch.optim.Optimizer):
    """Right, as far as anybody knows."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                if p.grad is not None:
                    self.advance(p, p.grad, self.state[p], group, index)
        return loss

    def advance(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any], index: int) -> None:
        if not state:
            state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["m"].lerp_(g, 1 - beta1)
        state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        self.update(p, self.corrected(state, group), self.rate(group, index), group)

    def rate(self, group: dict[str, Any], index: int) -> float:
        return group["lr"]

    def corrected(self, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        m, v = state["m"] / (1 - beta1 ** state["step"]), state["v"] / (1 - beta2 ** state["step"])
        return m / (v.sqrt() + group["eps"])

    def update(self, p: Tensor, u: Tensor, lr: float, group: dict[str, Any]) -> None:
        p.mul_(1 - lr * group["weight_decay"]).sub_(lr * u)


class DecaysAfter(MyAdamW):
    """The decay acts on the weight that has been updated."""

    def update(self, p: Tensor, u: Tensor, lr: float, group: dict[str, Any]) -> None:
        p.sub_(lr * u).mul_(1 - lr * group["weight_decay"])


class EpsInsideRoot(MyAdamW):
    def corrected(self, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        m, v = state["m"] / (1 - beta1 ** state["step"]), state["v"] / (1 - beta2 ** state["step"])
        return m / (v + group["eps"]).sqrt()


class NoCorrection(MyAdamW):
    """Averages that start at zero are taken as they are."""

    def corrected(self, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        return state["m"] / (state["v"].sqrt() + group["eps"])


class ForgetsState(MyAdamW):
    """A checkpoint brings its step counts, but no averages."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["m"].zero_()


class ChangesGradient(MyAdamW):
    """The new average is written into the gradient."""

    def advance(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any], index: int) -> None:
        super().advance(p, g, state, group, index)
        g.copy_(state["m"])


class KeepsFirstRate(MyAdamW):
    """The learning rate of the first step counts for good."""

    def rate(self, group: dict[str, Any], index: int) -> float:
        return group.setdefault("first_lr", group["lr"])


class DependsOnOrder(MyAdamW):
    """Later parameters of a group move less."""

    def rate(self, group: dict[str, Any], index: int) -> float:
        return group["lr"] / (1 + 1e-6 * index)
