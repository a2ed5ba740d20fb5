"""What a call computes, apart from where its tensors come from and how it is run: a kernel in some precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batching.buffers import _storage
from ..contract.interface import NOISE, Kernel
from ..contract.precision import _compute_dtype, _precision_state
from ..linalg.numbers import round_stochastically

_BESIDE = ("kahan", "master", NOISE)  # what precisions need beside what the kernel sees


@dataclass(frozen=True)
class Computation:
    """A kernel on stored tensors of parameters of `dtype`; `precision` is "plain" where they compute in their dtype."""

    kernel: Kernel
    precision: str
    dtype: torch.dtype

    @property
    def names(self) -> list[str]:
        """The stored tensors that it reads or writes: parameter, gradient, states and noise; sums are not stored."""
        names = list(dict.fromkeys((*self.kernel.inputs, *self.kernel.outputs)))
        if self.precision == "stochastic" and "weight" in self.kernel.outputs and NOISE not in names:
            names.append(NOISE)
        state = _precision_state(self.precision)
        return [*names, state.name] if state and "weight" in names else names

    @property
    def written(self) -> set[str]:
        """The stored tensors that it writes."""
        state = _precision_state(self.precision)
        moved = {state.name} if state and "weight" in self.kernel.outputs else set()
        return {*self.kernel.outputs, *moved}

    def given(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the kernel sees of the stored tensors: everything but noise in the dtype of computation.

        A weight that no longer is its master, rounded, has been set from outside (a loaded model, a mask), and counts.
        """
        dtype = _compute_dtype(self.dtype)
        given = {name: batch.to(dtype) for name, batch in stored.items() if name not in _BESIDE}
        if NOISE in self.kernel.inputs:
            given[NOISE] = stored[NOISE]
        if "kahan" in stored:
            given["weight"] = given["weight"] + stored["kahan"]
        if "master" in stored:
            master = stored["master"]
            given["weight"] = torch.where(master.to(self.dtype) == stored["weight"], master, given["weight"])
        return given

    def values(self, given: Mapping[str, Tensor], function: Callable[..., Any], scalars: Mapping[str, Any]) -> Any:
        """What `function`, the kernel's own or a form of it, gives for the tensors that the kernel sees."""
        return function(*(given[name] for name in self.kernel.inputs), **scalars)

    def results(
        self,
        stored: Mapping[str, Tensor],
        function: Callable[..., Any],
        scalars: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The new value of each stored tensor; noise is used up."""
        given = self.given(stored)
        return self.kept(stored, given, self.values(given, function, scalars))

    def kept(self, stored: Mapping[str, Tensor], given: Mapping[str, Tensor], values: Sequence[Any]) -> dict[str, Any]:
        """The new value of each stored tensor for the values that the kernel has returned for what it was given."""
        results = dict(zip(self.kernel.outputs, _copy_aliases(self.kernel.outputs, values, given), strict=True))
        if "weight" in results:
            weight = results["weight"]
            if self.precision == "stochastic":
                results["weight"] = round_stochastically(weight, self.dtype, stored[NOISE])
            if self.precision in ("kahan", "master"):
                low = results["weight"] = weight.to(self.dtype)
                results[self.precision] = weight - low if self.precision == "kahan" else weight
        return results


def _copy_aliases(names: Sequence[str], values: Sequence[Any], given: Mapping[str, Tensor]) -> list[Any]:
    """The values, with copies of those that share memory with an input that is yet to be overwritten.

    What lies in its own input just as that does, as after an operation in place, may stay.
    """
    overwritten: dict[int, list[str]] = {}
    for name, value in zip(names, values, strict=True):
        if name in given and value is not given[name]:
            overwritten.setdefault(_storage(given[name]), []).append(name)
    if not overwritten:
        return list(values)

    def is_lent(name: str, value: Any) -> bool:
        others = overwritten.get(_storage(value), ()) if isinstance(value, Tensor) else ()
        return any(other != name or not _lies_like(value, given[name]) for other in others)

    return [value.clone() if is_lent(name, value) else value for name, value in zip(names, values, strict=True)]


def _lies_like(x: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage are the same elements in the same order."""
    return x.shape == other.shape and x.stride() == other.stride() and x.storage_offset() == other.storage_offset()
