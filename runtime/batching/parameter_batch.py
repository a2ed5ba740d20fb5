"""Parameter batches: parameters that take a step or event together, and the scalars that their kernels get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..contract.hypers import _as_scalar
from ..contract.interface import Kernel, Rule, State
from ..contract.precision import _compute_dtype, _states_of
from ..placement.parts import Part
from .noise import Noise


@dataclass(frozen=True)
class Scalars:
    """The scalars of a call by their part in graphs.

    `numbers` stay outside, `tensors` are operands; a graph is made for its `flags`: what decides, and sizes.
    """

    numbers: dict[str, Any]  # Python numbers, or 0-d tensors of float64 where the device counts
    tensors: dict[str, Tensor]
    flags: Mapping[str, bool | str | int]

    @property
    def all(self) -> dict[str, Any]:
        """As the kernel takes them."""
        return {**self.numbers, **self.tensors, **self.flags}

    def sized(self, kernel: Kernel, sizes: Mapping[str, int]) -> Scalars:
        """The same for matrices of these sizes, as far as the kernel reads them."""
        read = {name: size for name, size in sizes.items() if name in kernel.scalars}
        return replace(self, flags={**self.flags, **read}) if read else self


@dataclass(frozen=True)
class ParameterBatch:
    """Parameters of one rule, dtype, device, precision, seed, step count and values of all hypers.

    `t` is the count as kernels see it, and like hypers a 0-d tensor where a capturable optimizer counts on the device.
    """

    rule: Rule
    precision: str  # "plain" for parameters that compute in their own dtype
    dtype: torch.dtype
    device: torch.device
    count: int
    t: Any
    hypers: dict[str, Any]
    params: list[Tensor] = field(default_factory=list)
    noise: Noise | None = None  # of this count, for who reads any
    parts: dict[Tensor, Part] = field(default_factory=dict)  # of those that are DTensors
    forms: dict[str, State] = field(default_factory=dict)  # of what an event is given, by the kernel's names
    given: dict[Tensor, dict[str, Tensor]] = field(default_factory=dict)  # in these forms, by parameter

    def takes(self, rule: Rule, dtype: torch.dtype, device: torch.device, count: int) -> bool:
        """Whether parameters like that in a group of these hypers belong here."""
        return self.rule is rule and self.dtype is dtype and self.count == count and self.device == device

    def weights(self, params: list[Tensor]) -> list[Tensor]:
        """The weights of some of its parameters, or what this rank has of them."""
        if not self.parts:
            return params
        return [self.parts[p].weight if p in self.parts else p for p in params]

    def gradients(self, params: list[Tensor]) -> list[Tensor]:
        """Their gradients, which they have."""
        if not self.parts:
            return [p.grad for p in params]  # type: ignore[misc]
        return [self.parts[p].grad if p in self.parts else p.grad for p in params]  # type: ignore[misc]

    @property
    def compute_dtype(self) -> torch.dtype:
        return _compute_dtype(self.dtype)

    @property
    def states(self) -> list[tuple[State, torch.dtype]]:
        """The rule's states and the one of the precision, with their dtypes."""
        return _states_of(self.rule, self.precision, self.dtype)

    def scalars(self, kernel: Kernel, sums: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Scalars:
        """The keyword arguments of the kernel; sums get its dimensions, and the device and dtype of this batch.

        An argument that is called like a hyper is one of another rule's event: this rule's have names of their own.
        """
        known = {"t": self.t, **arguments, **self.hypers}
        shape = () if kernel.layout == "elementwise" else (1, 1)
        given = {n: x.to(self.device, self.compute_dtype).view(shape) for n, x in sums.items() if n in kernel.scalars}
        flags = {n: known[n] for n in kernel.scalars if n in known and isinstance(known[n], (bool, str))}
        numbers = {n: _as_scalar(known[n]) for n in kernel.scalars if n in known and n not in given and n not in flags}
        return Scalars(numbers, given, flags)
