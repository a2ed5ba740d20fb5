"""What optimizers ask for of the model's forward pass: inputs of layers, attention logits, the loss.

In: the model, its optimizer, and a batch. Out: the optimizer's events, fired with what all processes have seen. Other
optimizers are left alone.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer

from examples.gpt2.data import Batch
from examples.gpt2.model import GPT
from optforge.inputs import Activations, Logits, Projections, observe


def find_activations(model: GPT, optimizer: Optimizer) -> Callable[[Batch], None] | None:
    """What hands over second moments of the inputs of layers; None for an optimizer without ``activations``."""
    if not hasattr(optimizer, "activations"):
        return None
    return lambda batch: Activations(model, optimizer, every=1).watch(model, batch.inputs)


def find_clip(model: GPT, optimizer: Optimizer) -> Callable[[Batch], None] | None:
    """What hands over the largest logit of each attention head; None for an optimizer without ``clip``."""
    if not hasattr(optimizer, "clip"):
        return None
    layers = [block.attention for block in model.blocks]
    projections = [Projections.fused(layer.qkv, layer.heads) for layer in layers]
    return lambda batch: Logits(projections, optimizer).watch(model, batch.inputs)


def show_loss(optimizer: Optimizer, loss: float) -> None:
    """Hand over this process's loss of the step that is about to be taken to an optimizer that observes the mean."""
    if hasattr(optimizer, "observe"):
        observe(optimizer, loss)
