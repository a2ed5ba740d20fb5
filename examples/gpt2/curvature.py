"""Curvature for optimizers that ask for it (Sophia): estimated every few steps on part of the global batch.

In: the model, its optimizer, and a batch. Out: the optimizer's memory of the curvature. Which batch and which random
numbers are used depends on the seed and the step alone, so every process of a group computes the same estimate, and a
resumed run goes on as the interrupted one would have. Other optimizers are left alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from examples.gpt2.data import Batch
from optforge import GaussNewtonBartlett, Hutchinson


def find_estimator(model: nn.Module, optimizer: Optimizer) -> Callable[[Batch, torch.Generator], None] | None:
    """What updates the optimizer's curvature from a batch; None for an optimizer without the event ``curvature``.

    An event that is told the batch size wants gradients on drawn labels (Gauss-Newton-Bartlett); any other wants
    products with the Hessian (Hutchinson).
    """
    if not hasattr(optimizer, "curvature"):
        return None
    if wants_hessian(optimizer):
        return lambda batch, generator: _multiply_hessian(model, optimizer, batch, generator)
    draw = _draw_labels_in_shards if isinstance(model, FSDPModule) else _draw_labels
    return lambda batch, generator: draw(model, optimizer, batch, generator)


def wants_hessian(optimizer: Optimizer) -> bool:
    """Whether the curvature that ``optimizer`` asks for needs a loss that can be differentiated twice."""
    event = getattr(optimizer, "curvature", None)
    return event is not None and "batch_size" not in inspect.signature(event).parameters


def _draw_labels(model: nn.Module, optimizer: Optimizer, batch: Batch, generator: torch.Generator) -> None:
    GaussNewtonBartlett(model, optimizer, every=1, generator=generator)(batch.inputs)


def _draw_labels_in_shards(model: nn.Module, optimizer: Optimizer, batch: Batch, generator: torch.Generator) -> None:
    """The same by ``backward()``, which alone gives shards their gradients: means over processes, which are alike."""
    kept = {p: p.grad for group in optimizer.param_groups for p in group["params"]}
    optimizer.zero_grad()
    logits = model(batch.inputs).flatten(0, -2)
    labels = torch.multinomial(logits.detach().float().softmax(-1), 1, generator=generator).squeeze(-1)
    cross_entropy(logits, labels).backward()
    optimizer.curvature(float(len(logits)))
    for p, gradient in kept.items():
        p.grad = gradient


def _multiply_hessian(model: nn.Module, optimizer: Optimizer, batch: Batch, generator: torch.Generator) -> None:
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be differentiated twice
        Hutchinson(optimizer, every=1, generator=generator)(lambda: model.loss(batch.inputs, batch.targets))
