"""How far two correct implementations of one rule may be apart.

Nothing is guessed. Both compute in one dtype, whose eps is the largest relative error of one operation (twice the
unit roundoff). An implementation is as good as exact on inputs that are a few roundings away, so three things are
added:

- what the rule itself makes of such inputs. It is measured: a twin of ours runs on weights, gradients and hypers that
  are each one eps away, up or down at random. Cancellation (v - mean^2), small denominators and switches show here. It
  counts once for each operation of the rule, as every operation makes such an error;
- the rule's own roundings, relative to the step: one for each operation, as many as there are summands in a
  reduction or product, and those within orthogonalization magnified by its slope at zero in every later iteration
  (the slope of Newton-Schulz is 3.4445 in each);
- the rounding of the new weight, which both sides make in every step, and that of its decay.

The bound grows from step to step like the errors. It says nothing about where these values came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.evaluate import evaluate_constant
from optforge.compiler.ir.meanings.arrays import orthogonalization_coefficients
from optforge.compiler.ir.operators import OPERATORS

WEIGHT_ROUNDINGS = 4  # each side rounds the decayed weight, and the difference with the update
METHODS_WITHOUT_SLOPE = ("svd",)


@dataclass(frozen=True)
class Rounding:
    """``operations`` of a rule, and what their roundings come to in units of eps times the step."""

    operations: int
    of_step: float


def rounding_of(declaration: ir.Optimizer, hypers: Mapping[str, Any], length: int) -> Rounding:
    """The most of any rule; ``length`` is how many summands a reduction can have."""
    functions = [rule.update for rule in declaration.rules]
    found = [function_rounding(function, hypers, length) for function in functions]
    return Rounding(max(each.operations for each in found), max(each.of_step for each in found))


def function_rounding(function: ir.Function, hypers: Mapping[str, Any], length: int) -> Rounding:
    values = [*(equation.value for equation in function.equations), *(output.value for output in function.outputs)]
    nodes = [node for value in values for node in ir.walk(value) if isinstance(node, ir.Apply)]
    return Rounding(1 + len(nodes), 1 + sum(node_roundings(node, hypers, length) for node in nodes))


def node_roundings(node: ir.Apply, hypers: Mapping[str, Any], length: int) -> float:
    """How many eps one operator may be wrong by, relative to its result."""
    if node.operator == "orthogonalize":
        return length * magnification(node, hypers)
    return 1 if OPERATORS[node.operator].elementwise else length


def magnification(node: ir.Apply, hypers: Mapping[str, Any]) -> float:
    """The sum over the iterations of the slopes at zero of all that follow, from the input on."""
    _, steps, method, coefficients, _, scale = (evaluate_constant(each, hypers) for each in node.arguments)
    if coefficients:
        slopes = [float(triple[0]) for triple in coefficients]  # type: ignore[union-attr]
    elif method in METHODS_WITHOUT_SLOPE:
        return 1  # the condition of a polar factor is that of its input, which the twin measures
    else:
        number = int(steps) if isinstance(steps, float | int) else 5
        slopes = [a for a, _, _ in orthogonalization_coefficients(number, str(method))]
    total, product = 1.0, 1.0
    for slope in reversed(slopes):
        product *= max(1.0, slope)
        total += product
    return total + product * (scale != "frobenius")  # a norm that is made of a product has the roundings of one


class Bound:
    """The largest difference of one parameter that roundings explain, from the first step to the present one.

    ``path`` is the sum of the sizes of its steps.
    """

    def __init__(self, rounding: Rounding, dtype: torch.dtype) -> None:
        self.rounding, self.eps = rounding, torch.finfo(dtype).eps
        self.own = self.path = 0.0

    def grow(self, weight: Tensor, step: Tensor) -> None:
        """Take in one more step; what is not finite has no size."""
        self.path += size(step)
        self.own += self.eps * (WEIGHT_ROUNDINGS * size(weight) + self.rounding.of_step * size(step))

    def value(self, ours: Tensor, twin: Tensor) -> float:
        """The bound now; infinite where one rounding decides whether the result is finite."""
        if not torch.equal(ours.isfinite(), twin.isfinite()):
            return float("inf")
        return self.own + self.rounding.operations * size(twin - ours)


def size(values: Tensor) -> float:
    """The largest of the finite elements; 0 where there is none."""
    return float(values.abs().nan_to_num(0.0, 0.0, 0.0).max()) if values.numel() else 0.0
