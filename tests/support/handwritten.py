"""Hand-written modules in the form that the compiler emits, one for each feature of the runtime."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from optforge.runtime import (
    Event,
    Kernel,
    Options,
    Rule,
    SpecOptimizer,
    SpecPenalty,
    SpecSchedule,
    State,
    orthogonalize,
    power,
    require,
    trace,
)
from optforge.runtime.contract.interface import ROLES


def blend_matrix(weight, grad, m, v, row, col, *, t, lr, mu1, mu2, eps, weight_decay, nesterov):
    m = m.lerp_(grad, 1 - mu1)
    v = v.lerp_(grad.norm(dim=(-2, -1), keepdim=True).square(), 1 - mu2)
    row = row.lerp_(grad.square().mean(dim=-1, keepdim=True), 1 - mu2)
    col = col.lerp_(grad.square().mean(dim=-2, keepdim=True), 1 - mu2)
    momentum = m.lerp(grad, 1 - mu1) if nesterov else m
    alpha = (momentum / (1 - mu1**t)).norm(dim=(-2, -1), keepdim=True) / ((v / (1 - mu2**t)).sqrt() + eps)
    update = orthogonalize(momentum) / (1 + row + col)
    weight = weight.sub_(lr * alpha * (update + weight_decay * weight))
    return weight, m, v, row, col


def blend_rest(weight, grad, m, v, *, t, lr, rest_beta1, eps):
    m = m.lerp_(grad, 1 - rest_beta1)
    v = v.lerp_(grad.square(), 0.05)
    weight = weight.sub_(lr * (m / (1 - rest_beta1**t)) / (power(v / (1 - 0.95**t), 0.37) + eps))
    return weight, m, v


class Blend(SpecOptimizer):
    """A matrix rule with every shape of state, and an elementwise rest."""

    RULES = (
        Rule(
            name="matrix",
            roles=("matrix", "conv"),
            states=(
                State("m"),
                State("v", (1, 1)),
                State("row", ("rows", 1)),
                State("col", (1, "cols")),
            ),
            step=Kernel(blend_matrix, layout="matrix"),
        ),
        Rule(
            name="rest",
            roles=("embedding", "head", "vector"),
            states=(State("m"), State("v")),
            step=Kernel(blend_rest, layout="elementwise"),
        ),
    )

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-2,
        mu1: float = 0.95,
        mu2: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        rest_beta1: float = 0.9,
        nesterov: bool = True,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "mu1": mu1,
            "mu2": mu2,
            "eps": eps,
            "weight_decay": weight_decay,
            "rest_beta1": rest_beta1,
            "nesterov": nesterov,
        }
        super().__init__(params, hypers, **options)

    @staticmethod
    def check_hypers(lr, mu1, mu2, eps, weight_decay, rest_beta1, nesterov) -> None:
        require("lr", lr, "lr >= 0", lr >= 0)
        require("mu1", mu1, "0 <= mu1 <= mu2 < 1", 0 <= mu1 <= mu2 < 1)
        require("eps", eps, "eps > 0", eps > 0)
        require("rest_beta1", rest_beta1, "0 <= rest_beta1 < 1", 0 <= rest_beta1 < 1)


def gram_step(weight, grad, gram, *, lr):
    gram = gram.add_(grad @ grad.mT)
    weight = weight.sub_(lr * grad / (1 + trace(gram)))
    return weight, gram


class Gram(SpecOptimizer):
    """A matrix rule alone, with a (rows, rows) state: parameters of other roles have no rule."""

    RULES = (
        Rule(
            name="matrix",
            roles=("matrix", "conv"),
            states=(State("gram", ("rows", "rows")),),
            step=Kernel(gram_step, layout="matrix"),
        ),
    )

    def __init__(self, params, lr: float | Tensor = 1e-2, **options: Unpack[Options]) -> None:
        super().__init__(params, {"lr": lr}, **options)

    @staticmethod
    def check_hypers(lr) -> None:
        require("lr", lr, "lr >= 0", lr >= 0)


def curvature_step(weight, grad, m, h, *, lr, beta, total_1):
    m = m.lerp_(grad / (1 + total_1.sqrt()), 1 - beta)
    weight = weight.sub_(lr * (m / h.clamp(min=1e-6)).clamp(-1, 1))
    return weight, m


def curvature_init(weight, *, t):
    return ((weight.square().mean(dim=(-2, -1), keepdim=True) * t).expand_as(weight),)


def curvature_total(grad):
    return (grad.square().sum(dim=(-2, -1), keepdim=True),)


def curvature_event(grad, h, *, t, batch_size, beta):
    h = h.lerp(batch_size * grad.square(), (1 - beta) / (1 - beta**t))
    return (h,)


def ascend_event(weight, h, *, by):
    return (weight.add_(by * h.sign()),)


class Curvature(SpecOptimizer):
    """One elementwise rule for everything, with an initial value, a total, an event of gradients and one of weights."""

    RULES = (
        Rule(
            name="tensor",
            roles=ROLES,
            states=(State("m"), State("h")),
            step=Kernel(
                curvature_step,
                layout="elementwise",
                outputs=("weight", "m"),
                sums=(Kernel(curvature_total, layout="tensor", outputs=("total_1",)),),
            ),
            init=Kernel(curvature_init, layout="tensor", outputs=("h",)),
            events=(
                Event("curvature", Kernel(curvature_event, layout="elementwise")),
                Event("ascend", Kernel(ascend_event, layout="elementwise", outputs=("weight",))),
            ),
        ),
    )

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-2,
        beta: float = 0.9,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta}, **options)

    @staticmethod
    def check_hypers(lr, beta) -> None:
        require("lr", lr, "lr >= 0", lr >= 0)
        require("beta", beta, "0 <= beta < 1", 0 <= beta < 1)

    def curvature(self, batch_size: float) -> None:
        """Refreshes the curvature from the gradients of this moment."""
        self.fire("curvature", batch_size=batch_size)

    def ascend(self, by: float) -> None:
        """Moves the weights; needs no gradient."""
        self.fire("ascend", by=by)


def sphere_step(weight, grad, radius, *, lr):
    moved = weight - lr * radius * grad / grad.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-30)
    return moved * (radius / moved.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-30)), radius


def sphere_init(weight):
    return (weight.norm(dim=(-2, -1), keepdim=True),)


class Sphere(SpecOptimizer):
    """A rule over whole tensors of any shape, with one number of state each that starts at the weight's norm."""

    RULES = (
        Rule(
            name="tensor",
            roles=ROLES,
            states=(State("radius", (1, 1)),),
            step=Kernel(sphere_step, layout="tensor"),
            init=Kernel(sphere_init, layout="tensor", outputs=("radius",)),
        ),
    )

    def __init__(self, params, lr: float | Tensor = 1e-2, **options: Unpack[Options]) -> None:
        super().__init__(params, {"lr": lr}, **options)

    @staticmethod
    def check_hypers(lr) -> None:
        require("lr", lr, "lr >= 0", lr >= 0)


def lookback_step(weight, grad, last, before, *, lr):
    return weight - lr * (grad + last - before), grad, last


class Lookback(SpecOptimizer):
    """Returns its inputs as outputs: the gradient as a state, and one state as the other."""

    RULES = (
        Rule(
            name="tensor",
            roles=ROLES,
            states=(State("last"), State("before")),
            step=Kernel(lookback_step, layout="elementwise"),
        ),
    )

    def __init__(self, params, lr: float | Tensor = 1e-2, **options: Unpack[Options]) -> None:
        super().__init__(params, {"lr": lr}, **options)

    @staticmethod
    def check_hypers(lr) -> None:
        require("lr", lr, "lr >= 0", lr >= 0)


def descent_step(weight, grad, *, lr):
    return (weight.sub_(lr * grad),)


class Descent(SpecOptimizer):
    """No state at all."""

    RULES = (Rule("tensor", ROLES, (), step=Kernel(descent_step, layout="elementwise")),)

    def __init__(self, params, lr: float | Tensor = 1e-2, **options: Unpack[Options]) -> None:
        super().__init__(params, {"lr": lr}, **options)

    @staticmethod
    def check_hypers(lr) -> None:
        require("lr", lr, "lr >= 0", lr >= 0)


class Ramp(SpecSchedule):
    """lr grows linearly over `warmup` steps."""

    def __init__(self, optimizer, warmup: float = 4, *, last_epoch: int = -1) -> None:
        super().__init__(optimizer, {"warmup": warmup}, last_epoch=last_epoch)

    @staticmethod
    def check_hypers(warmup) -> None:
        require("warmup", warmup, "warmup > 0", warmup > 0)

    @staticmethod
    def factor(t, *, warmup):
        return min(t / warmup, 1.0)


def spread_loss(weight, *, strength):
    gram = weight @ weight.mT
    return (strength * (gram.square().sum(dim=(-2, -1), keepdim=True) - trace(gram.square())),)


class Spread(SpecPenalty):
    """Penalizes inner products of different rows of matrices."""

    RULES = (Rule("matrix", ("matrix", "conv"), (), step=Kernel(spread_loss, layout="matrix", outputs=("loss",))),)

    def __init__(self, params, strength: float = 1.0) -> None:
        super().__init__(params, {"strength": strength})

    @staticmethod
    def check_hypers(strength) -> None:
        require("strength", strength, "strength >= 0", strength >= 0)


OPTIMIZERS = (Blend, Gram, Curvature, Sphere, Lookback, Descent)
