"""The optimizer classes that the contract is tested on, and small models of parameters that fit them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optforge.runtime.contract.interface import NOISE
from tests.support import handwritten

SHAPES = {
    "matrix": ((6, 4), (6, 4), (4, 6), (6, 4), (3, 17)),
    "conv": ((4, 3, 2, 2), (4, 3, 2, 2)),
    "embedding": ((7, 4),),
    "head": ((7, 4),),
    "vector": ((5,), (6,), (5,), ()),
}


def optimizer_classes() -> list[type[Any]]:
    """The hand-written classes, and every optimizer that `optforge.generated` exports."""
    return [*handwritten.OPTIMIZERS, *(cls for cls in generated_classes() if follows_gradients(cls))]


# What every run of the tests looks at: the methods the project began with, and one with two events. The others, which
# are the same templates around other equations, have the marker "wide".
SEEDS = {"AdamW", "SGD", "Muon", "NAMO", "NAMOD", "Nora", "NorMuon", "SophiaG", "ASGD"}

# What has no one result on SHAPES: the eigenvectors of a statistic that has a null space are any basis of it, and its
# roots are those of rounding. FOCUS takes the sign of what a weight is away from its average, at first nothing.
SOAPS = {"SOAP", "SOAPMuon", "PinnedSOAPMuon", "RowFloorSOAPMuon", "TrustSOAPMuon", "Record44", "Record45", "Record46"}
UNDETERMINED = {*SOAPS, "FOCUS", "ShampooQuarter"}


def class_parameters() -> list[Any]:
    """`optimizer_classes` for `parametrize`."""
    own = {cls.__name__ for cls in handwritten.OPTIMIZERS}
    return [
        pytest.param(cls, id=cls.__name__, marks=() if cls.__name__ in SEEDS | own else pytest.mark.wide)
        for cls in optimizer_classes()
    ]


def follows_gradients(cls: type[Any]) -> bool:
    """Whether steps follow from weights and gradients alone: others draw random numbers, or go by a loss.

    What these have of their own is asked by tests/language/test_streams.py and tests/specs/test_inputs.py.
    """
    return not hasattr(cls, "observe") and not any(NOISE in rule.step.inputs for rule in cls.RULES)


def generated_classes() -> list[type[Any]]:
    """Known by their RULES: each folder of generated modules has a base class of its own."""
    try:
        import optforge.generated as generated
    except ImportError:
        return []
    names = getattr(generated, "__all__", dir(generated))
    found = [getattr(generated, name) for name in names]
    return [c for c in found if isinstance(c, type) and getattr(c, "RULES", None) and hasattr(c, "step")]


OPTIONS = ("self", "params", "precision", "seed", "skip_nonfinite", "backend", "capturable")


def hyper_arguments(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """The constructor's arguments that are hypers."""
    arguments = inspect.signature(cls.__init__).parameters
    return {name: a for name, a in arguments.items() if name not in OPTIONS}


def build(cls: type[Any], params: Any, **options: Any) -> Any:
    """An optimizer with its default hypers, and 1 where there is no default."""
    required = {name: 1.0 for name, a in hyper_arguments(cls).items() if a.default is a.empty}
    return cls(params, **{**required, **options})


def watching(optimizer: Any) -> Any:
    """The optimizer, with a loss where it goes by one."""
    if hasattr(optimizer, "observe"):
        optimizer.observe(1e3)
    return optimizer


def roles(cls: type[Any]) -> list[str]:
    """The roles that some rule of the class takes."""
    return [role for role in SHAPES if any(role in rule.roles for rule in cls.RULES)]


def groups(cls: type[Any], dtype: torch.dtype = torch.float32, seed: int = 0) -> list[dict[str, Any]]:
    """One group of parameters for each role that the class takes; equal seeds give equal parameters."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {"params": [nn.Parameter(_random(shape, dtype, generator)) for shape in SHAPES[role]], "rule": role}
        for role in roles(cls)
    ]


def parameters(groups: list[dict[str, Any]]) -> list[Tensor]:
    return [p for group in groups for p in group["params"]]


def is_untouched(optimizer: Any, p: Tensor) -> bool:
    """Whether no step or event of the optimizer has written to the state of p, be there one or not."""
    return not any(x.any() for x in optimizer.state.get(p, {}).values())


def set_gradients(params: list[Tensor], seed: int) -> None:
    """Gradients that depend on the seed and on the place of the parameter in the list."""
    for i, p in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * (seed + 1) + i)  # no seed that makes weights
        p.grad = _random(p.shape, p.dtype, generator)


def _random(shape: Any, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
