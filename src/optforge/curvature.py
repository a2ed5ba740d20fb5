"""Estimates of the curvature for optimizers that have an event `curvature`, such as Sophia, every few steps.

In: the inputs of a training step, or a function that gives its loss. Out: the optimizer's states of the curvature;
the gradients of the training step stay where they are. Nothing here changes weights, clips, or averages over processes.
The model runs in the mode that it is in, so that dropout draws and batch statistics move.

    curvature = GaussNewtonBartlett(model, optimizer, every=10)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        curvature(x)
        optimizer.step()
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optforge.runtime.placement.fsdp import _find_sharded

__all__ = ["GaussNewtonBartlett", "Hutchinson"]


class Estimator:
    """Counts its calls and estimates at the first of every so many.

    Args:
        optimizer: the optimizer whose event `curvature` is fired.
        every: calls from one estimate to the next.
        generator: where random numbers come from, on the device of what is drawn; torch's own without it.
    """

    GIVES: ClassVar[tuple[str, ...]] = ()  # the arguments of the event that it knows
    IN_SHARDS: ClassVar[str]  # why it gives nothing for parameters of fully_shard, and what does

    def __init__(
        self, optimizer: torch.optim.Optimizer, every: int = 10, generator: torch.Generator | None = None
    ) -> None:
        if not callable(getattr(optimizer, "curvature", None)):
            raise TypeError(f"{type(optimizer).__name__} has no event `curvature`")
        self.takes = tuple(inspect.signature(optimizer.curvature).parameters)  # type: ignore[attr-defined]
        if unknown := [name for name in self.takes if name not in self.GIVES]:
            names = type(optimizer).__name__, type(self).__name__
            raise TypeError(f"the event `curvature` of {names[0]} needs {unknown[0]!r}, which {names[1]} does not know")
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"invalid every={every!r}: a whole number from 1 on is expected")
        if not isinstance(generator, (torch.Generator, type(None))):
            raise TypeError(f"invalid generator={generator!r}: a torch.Generator is expected")
        self.optimizer = optimizer
        self.every = every
        self.generator = generator
        self.calls = 0

    def is_due(self) -> bool:
        """Whether this call is one that estimates; counts it."""
        self.calls += 1
        return (self.calls - 1) % self.every == 0

    def state_dict(self) -> dict[str, int]:
        """What a resumed training needs to go on with the same rhythm; the generator has a state of its own."""
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if not isinstance(state, dict) or not isinstance(state.get("calls"), int):
            raise TypeError("load_state_dict takes what state_dict() gave, a dictionary with the number of 'calls'")
        self.calls = state["calls"]

    def params(self) -> list[Tensor]:
        """Everything in the optimizer."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def trained(self) -> list[Tensor]:
        """What of it is not frozen."""
        return [p for p in self.params() if p.requires_grad]

    def require_gradients(self) -> None:
        """RuntimeError where gradients that are asked for without `backward` would be none."""
        sharded = set(map(id, _find_sharded()))
        if any(id(p) in sharded for p in self.trained()):
            raise RuntimeError(
                f"{type(self).__name__} cannot differentiate by parameters of fully_shard(), which get gradients from "
                f"backward() alone: {self.IN_SHARDS}"
            )

    def fire(self, estimates: Mapping[Tensor, Tensor | None], **arguments: float) -> None:
        """Fires the event with the estimates where the gradients are."""
        with replaced_gradients(self.params(), estimates):
            self.optimizer.curvature(**arguments)  # type: ignore[attr-defined]


class GaussNewtonBartlett(Estimator):
    """The diagonal of the Gauss-Newton matrix, from the gradients of the mean loss on labels the model itself draws.

    The model's output, or its `logits` attribute, is (..., classes): logits of a softmax. B labels are drawn, one for
    each row of logits, independently: so B times the squared gradient of their mean cross entropy has that diagonal as
    its expectation. Call it with what the model is called with; it runs the model once more, forward and backward.
    """

    GIVES = ("batch_size",)
    IN_SHARDS = (
        "let a backward() of your own, of the loss on labels that the model draws, put its gradients in place of those "
        "of the step, and call optimizer.curvature()"
    )

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        every: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(optimizer, every, generator)
        if isinstance(model, type) or not callable(model):
            raise TypeError(f"GaussNewtonBartlett takes a model to call, not {model!r}")
        self.model = model

    def __call__(self, *inputs: Any, **named: Any) -> None:
        if self.is_due():
            self.require_gradients()
            with torch.enable_grad():
                output = self.model(*inputs, **named)
                logits = getattr(output, "logits", output).flatten(0, -2)
                loss = cross_entropy(logits, draw_labels(logits, self.generator))
                grads = torch.autograd.grad(loss, self.trained(), allow_unused=True)
            self.fire(dict(zip(self.trained(), grads, strict=True)), **dict.fromkeys(self.takes, float(len(logits))))


class Hutchinson(Estimator):
    """The diagonal of the Hessian, from products u * (H u) with a normal u: their expectation is that diagonal.

    Call it with a function that computes the loss of the training step; it is run once more and differentiated twice.
    """

    IN_SHARDS = (
        "these are not differentiated, so that there are no products with the Hessian. Estimate the curvature from "
        "gradients alone, as SophiaG does, or train whole parameters"
    )

    def __call__(self, loss: Callable[[], Tensor]) -> None:
        if isinstance(loss, type) or not callable(loss):
            raise TypeError(f"Hutchinson takes a function that computes the loss, not {loss!r}")
        if self.is_due():
            self.require_gradients()
            with torch.enable_grad():
                estimates = self.products(loss())
            self.fire(estimates)

    def products(self, loss: Tensor) -> dict[Tensor, Tensor]:
        """u * (H u) for each parameter on which the loss depends; zeros where it does so linearly."""
        grads = torch.autograd.grad(loss, self.trained(), create_graph=True, allow_unused=True)
        reached = {p: grad for p, grad in zip(self.trained(), grads, strict=True) if grad is not None}
        normal = [torch.randn(p.shape, generator=self.generator, dtype=p.dtype, device=p.device) for p in reached]
        inner = torch.stack([(grad * u).sum() for grad, u in zip(reached.values(), normal, strict=True)]).sum()
        if not inner.requires_grad:
            return {p: torch.zeros_like(p) for p in reached}
        hessian = torch.autograd.grad(inner, list(reached), materialize_grads=True)
        return {p: u * hu for p, u, hu in zip(reached, normal, hessian, strict=True)}


def draw_labels(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One label for each row of logits (rows, classes), from its softmax."""
    return torch.multinomial(logits.detach().float().softmax(-1), 1, generator=generator).squeeze(-1)


@contextmanager
def replaced_gradients(params: Sequence[Tensor], others: Mapping[Tensor, Tensor | None]) -> Iterator[None]:
    """Within this context the gradients are others, or missing; afterwards they are the tensors that they were."""
    kept = [p.grad for p in params]
    try:
        for p in params:
            p.grad = others.get(p)
        yield
    finally:
        for p, grad in zip(params, kept, strict=True):
            p.grad = grad
