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
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from examples.gpt2.data import Batch
from optforge import GaussNewtonBartlett, Hutchinson


def find_estimator(model: nn.Module, optimizer: Optimizer) -> Callable[[Batch, torch.Generator], None] | None:
    """What updates the optimizer's curvature from a batch; None for an optimizer without the event ``curvature``.

    An event that is told the batch size wants gradients on drawn labels (Gauss-Newton-Bartlett); any other wants
    products with the Hessian (Hutchinson).
    """
    event = getattr(optimizer, "curvature", None)
    if event is None:
        return None
    if "batch_size" in inspect.signature(event).parameters:
        return lambda batch, generator: _draw_labels(model, optimizer, batch, generator)
    return lambda batch, generator: _multiply_hessian(model, optimizer, batch, generator)


def _draw_labels(model: nn.Module, optimizer: Optimizer, batch: Batch, generator: torch.Generator) -> None:
    GaussNewtonBartlett(model, optimizer, every=1, generator=generator)(batch.inputs)


def _multiply_hessian(model: nn.Module, optimizer: Optimizer, batch: Batch, generator: torch.Generator) -> None:
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be differentiated twice
        Hutchinson(optimizer, every=1, generator=generator)(lambda: model.loss(batch.inputs, batch.targets))
