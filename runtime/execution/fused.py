"""Torch's fused multi-tensor kernels under the names and meanings that `kernels.opt` of the compiler gives them.

Each function makes one step in place on lists of weights and states, one tensor per parameter; gradients are only
read. Scalars are plain numbers; only the step count may be a tensor. Nothing is checked here: what the kernels can take
is what `_fused_fits` says. They compute in the dtype of the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

_Tensors = list[Tensor] | tuple[Tensor, ...]
_Forms = tuple[list[torch.Size], list[tuple[int, ...]]]  # shapes and strides


def _fused_fits(weights: _Tensors, *others: _Tensors) -> bool:
    """Whether the functions of this module can take these lists; `others` are the gradients and the states.

    The kernels walk over memory without regard for strides: the tensors of one parameter must be dense and laid out
    alike (the CPU kernels do not check it, and give wrong results where it does not hold). All must be float32 or
    float64, of one dtype and device, which is the CPU or a CUDA device, and have elements.
    """
    if not weights or weights[0].dtype not in (torch.float32, torch.float64):
        return False
    if weights[0].device.type not in ("cpu", "cuda"):
        return False
    forms = _forms(weights)
    alike = all(_are_like(weights[0], forms, each) for each in (weights, *others))
    return alike and all(map(_is_dense, weights)) and all(map(Tensor.numel, weights))


def _are_tame(numbers: Iterable[float]) -> bool:
    """Whether the kernels, which compute rules in a form of their own, do so for these numbers as well.

    What is infinite, or so large or small that a product of a few is, means something else in another form.
    """
    return all(not x or 2**-100 <= abs(x) <= 2**100 for x in numbers)


def _forms(tensors: _Tensors) -> _Forms:
    """How the tensors lie in memory."""
    return [x.shape for x in tensors], [x.stride() for x in tensors]


def _are_like(first: Tensor, forms: _Forms, tensors: _Tensors) -> bool:
    """Whether the tensors have these forms, are of the dtype and device of `first`, and nothing but tensors."""
    # Set by set and list by list, as this is looked at in every step, of hundreds of tensors.
    if not set(map(type, tensors)) <= {Tensor, nn.Parameter} or _forms(tensors) != forms:
        return False
    return {(x.dtype, x.layout, x.device) for x in tensors} == {(first.dtype, torch.strided, first.device)}


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one piece of memory, each its own place, in whatever order of the dimensions."""
    if tensor.is_contiguous():
        return True
    dims = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(dims).is_contiguous()


def fused_adamw(
    weights: _Tensors,
    grads: _Tensors,
    ms: _Tensors,
    vs: _Tensors,
    *,
    t: int | Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """AdamW as `torch.optim.AdamW(fused=True)`: the weights decay by lr * weight_decay, eps is outside of the root."""
    steps = _steps(t, weights)
    torch._fused_adamw_(
        weights, grads, ms, vs, [], steps, lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay, eps=eps,
        amsgrad=False, maximize=False,
    )  # fmt: skip


def fused_adam(
    weights: _Tensors,
    grads: _Tensors,
    ms: _Tensors,
    vs: _Tensors,
    *,
    t: int | Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Adam as `torch.optim.Adam(fused=True)`: weight_decay times the weight is added to the gradient."""
    steps = _steps(t, weights)
    torch._fused_adam_(
        weights, grads, ms, vs, [], steps, lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay, eps=eps,
        amsgrad=False, maximize=False,
    )  # fmt: skip


def fused_adagrad(
    weights: _Tensors,
    grads: _Tensors,
    sums: _Tensors,
    *,
    lr: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Adagrad as `torch.optim.Adagrad`, at the learning rate of this step."""
    if not _has_kernel("aten::_fused_adagrad_", weights[0].device.type):
        g = torch._foreach_add(grads, weights, alpha=weight_decay)
        torch._foreach_addcmul_(sums, g, g)
        roots = torch._foreach_sqrt(sums)
        torch._foreach_add_(roots, eps)
        torch._foreach_div_(g, roots)
        torch._foreach_add_(weights, g, alpha=-lr)
        return
    steps = _steps(1, weights)  # read for lr_decay only
    torch._fused_adagrad_(
        weights, grads, sums, steps, lr=lr, lr_decay=0.0, weight_decay=weight_decay, eps=eps, maximize=False
    )


def fused_sgd(
    weights: _Tensors,
    grads: _Tensors,
    sums: _Tensors = (),
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float,
    nesterov: bool = False,
) -> None:
    """Gradient descent; with `sums`, along momentum * sum + (1 - dampening) * gradient, or Nesterov's look-ahead.

    A first step of `torch.optim.SGD` is one with sums of 0 and no dampening.
    """
    if sums and momentum <= 0:  # where torch's kernel keeps no sums, or refuses
        g = torch._foreach_add(grads, weights, alpha=weight_decay)
        torch._foreach_mul_(sums, momentum)
        torch._foreach_add_(sums, g, alpha=1 - dampening)
        if nesterov:
            torch._foreach_add_(g, sums, alpha=momentum)
        torch._foreach_add_(weights, g if nesterov else sums, alpha=-lr)
        return
    torch._fused_sgd_(
        weights, grads, sums, weight_decay=weight_decay, momentum=momentum if sums else 0.0, lr=lr,
        dampening=dampening, nesterov=nesterov, maximize=False, is_first_step=False,
    )  # fmt: skip


def _steps(t: int | Tensor, weights: _Tensors) -> list[Tensor]:
    """The step count as the kernels read it: for each weight a 0-d float32 tensor on its device; none is written."""
    device = weights[0].device
    if isinstance(t, Tensor):
        return [t.to(device, torch.float32)] * len(weights)
    return [torch.full((), t, dtype=torch.float32, device=device)] * len(weights)


@lru_cache(maxsize=16)
def _has_kernel(operator: str, device: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator, device.upper())
