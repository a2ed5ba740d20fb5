"""Probes: a new graph takes a step on data made for the purpose, beside the kernel that it was made from.

Compilers of graphs are wrong now and then, and a training run with wrong steps looks like one with bad luck. The data
are random and all of their tensors differ, as those of a first step may not (weights that start equal, states of
zeros, an lr of 0 that hides which weight was stored). The two round differently, so that equal means: up to rounding,
measured by how much each tensor changes, and by what the kernel itself makes of inputs that are a rounding away. What
depends on the sign of next to nothing may still come out otherwise here and there; so a graph is wrong if some element
comes out otherwise whatever the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batching.parameter_batch import Scalars
from ..contract.interface import NOISE, PARAMETER
from ..contract.precision import _compute_dtype
from .computations import Computation

PROBE_ROUNDS = 3
PROBE_NUMBER = 0.05  # numbers below it, as an lr of 0, become it: steps are then large beside rounding
PROBE_LOOKS = 1 << 18  # elements of a tensor that are compared

_Run = Callable[[Mapping[str, Tensor], Scalars], None]
_Fill = Callable[[Mapping[str, Tensor], int], None]


@dataclass(frozen=True)
class Probe:
    """What a graph is probed with: its computation, the tensors of a call and scalars that it may take.

    In the elementwise layout the data have `elements` elements, whatever the call has.
    """

    computation: Computation
    results: Callable[[Mapping[str, Tensor], Scalars], dict[str, Any]]  # the kernel's
    stored: Mapping[str, Tensor]
    scalars: Scalars
    elements: int

    def problem(self, run: _Run) -> str | None:
        """How the graph that `run` runs differs from the kernel; None where only rounding does.

        Data that the kernel cannot take, or makes nothing finite of, are replaced by the tensors of the call; where
        these are no better there is nothing to compare.
        """
        for fill in (_fill_with_probe, self._as_stored):
            try:
                return self._difference(run, fill)
            except _NothingToSee:
                pass
        return None

    def _difference(self, run: _Run, fill: _Fill) -> str | None:
        wrong: dict[str, Tensor] = {}
        worst: dict[str, float] = {}
        for seed in range(PROBE_ROUNDS):
            for name, (elements, part) in self._round(run, fill, seed).items():
                wrong[name] = elements & wrong.get(name, elements)
                worst[name] = max(part, worst.get(name, 0.0))
            found = [name for name, elements in wrong.items() if elements.any()]
            if not found:
                return None
        return ", ".join(f"{name} is off by {worst[name]:.2g} of its change" for name in found)

    def _round(self, run: _Run, fill: _Fill, seed: int) -> dict[str, tuple[Tensor, float]]:
        """For each tensor, which elements rounding does not explain, and how far the worst is off.

        One set of tensors is all that this holds, beside the few elements that are compared.
        """
        tensors = self._tensors()
        fill(tensors, seed)
        before = {name: _copy_elements(x) for name, x in tensors.items() if name != NOISE}
        expected = before | self._eager(tensors)
        if fill is _fill_with_probe and not all(x.isfinite().any() for x in expected.values() if len(x)):
            raise _NothingToSee
        fill(tensors, seed)
        run(tensors, self.scalars)
        found = {name: _copy_elements(tensors[name]) for name in before}
        changes = {name: _largest(expected[name] - before[name]) for name in before}
        margins = {name: self._margin(name, changes[name], expected[name]) for name in before}
        apart = {name: _gap(found[name], expected[name]) for name in before}
        if any(bool((apart[name] > margins[name]).any()) for name in before):
            fill(tensors, seed)
            self._nudge(tensors, seed)
            nudged = self._eager(tensors)
            for name in nudged:
                margins[name] += 8 * _largest(_gap(nudged[name], expected[name]))
        return {name: (apart[name] > margins[name], _largest(apart[name]) / (changes[name] or 1.0)) for name in before}

    def _eager(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the kernel makes of the tensors that are written."""
        try:
            results = self.results(tensors, self.scalars)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ArithmeticError, ValueError) as problem:
            raise _NothingToSee from problem
        for name, value in results.items():
            if value is tensors[name]:
                continue
            elif isinstance(value, Tensor):
                tensors[name].copy_(value)
            else:
                tensors[name].fill_(value)
        return {name: _copy_elements(tensors[name]) for name in results}

    def _margin(self, name: str, change: float, expected: Tensor) -> Tensor:
        """The differences that rounding explains: parts of the change, and last places of what is stored."""
        fine, stored = _compute_dtype(self.computation.dtype), self.stored[name].dtype
        eps = torch.finfo(fine).eps
        coarse = torch.finfo(stored).eps if stored is not fine else 0.0
        sizes = expected.abs().nan_to_num(0.0, 0.0, 0.0)
        return math.sqrt(eps) * change + 8 * eps * _largest(expected) + coarse * sizes

    # -- data ----------------------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        flat = self.computation.kernel.layout == "elementwise"
        return {n: x.new_empty(self.elements) if flat else torch.empty_like(x) for n, x in self.stored.items()}

    def _as_stored(self, tensors: Mapping[str, Tensor], seed: int) -> None:
        for name, x in tensors.items():
            flat, given = x.view(-1), self.stored[name].reshape(-1)
            if given.numel():
                flat.copy_(given.repeat(-(-flat.numel() // given.numel()))[: flat.numel()])

    def _nudge(self, tensors: Mapping[str, Tensor], seed: int) -> None:
        """Moves the tensors of the dtype of computation by about a rounding."""
        fine = _compute_dtype(self.computation.dtype)
        for x in tensors.values():
            if x.dtype is fine:
                generator = torch.Generator(x.device).manual_seed(1000 + seed)
                x.mul_(torch.empty_like(x).uniform_(-2, 2, generator=generator).mul_(torch.finfo(fine).eps).add_(1))


class _NothingToSee(Exception):
    """The kernel cannot take the data, or makes nothing finite of them."""


def _fill_with_probe(tensors: Mapping[str, Tensor], seed: int) -> None:
    """Fills the tensors: states positive, as second moments are, and square ones definite, as Gram matrices."""
    for i, (name, x) in enumerate(tensors.items()):
        generator = torch.Generator(x.device).manual_seed(seed * len(tensors) + i)
        if name in PARAMETER:
            x.uniform_(-1.5, 1.5, generator=generator)
        elif name == NOISE:
            x.random_(-(2**31), 2**31, generator=generator)
        elif name == "kahan":
            x.uniform_(-(2**-10), 2**-10, generator=generator)
        elif x.ndim > 1 and x.shape[-1] == x.shape[-2] > 1:
            x.uniform_(0, 0.1 / math.sqrt(x.shape[-1]), generator=generator)
            x.copy_(x + x.mT)
            x.diagonal(dim1=-2, dim2=-1).add_(torch.linspace(1, 2, x.shape[-1], dtype=x.dtype, device=x.device))
        else:
            x.uniform_(0.5, 1.5, generator=generator)
    if "master" in tensors:
        tensors["weight"].copy_(tensors["master"])


def _enliven(numbers: Mapping[str, Any], holds: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    """The numbers, with those near zero replaced where what `holds` of them still does."""
    lively = {name: value.item() if isinstance(value, Tensor) else value for name, value in numbers.items()}
    for name, value in lively.items():
        tried = {**lively, name: math.copysign(PROBE_NUMBER, value)}
        if abs(value) < PROBE_NUMBER and holds(tried):
            lively = tried
    return lively


def _copy_elements(x: Tensor) -> Tensor:
    """A copy of the elements that are compared: all, or some from everywhere and the last ones."""
    flat = x.detach().reshape(-1)
    if flat.numel() > PROBE_LOOKS:
        apart = 2 * flat.numel() // PROBE_LOOKS
        flat = torch.cat([flat[::apart], flat[-PROBE_LOOKS // 2 :]])
    return flat.to("cpu", torch.float64, copy=True)


def _gap(one: Tensor, two: Tensor) -> Tensor:
    """How far apart the elements are: 0 where both are the same, even if not finite."""
    same = (one == two) | (one.isnan() & two.isnan())
    return (one - two).abs().nan_to_num(math.inf, math.inf).masked_fill(same, 0.0)


def _largest(x: Tensor) -> float:
    """The largest finite size of an element."""
    sizes = x.abs()
    return float(sizes.where(sizes.isfinite(), 0.0).max()) if x.numel() else 0.0
