"""How often each parameter took a step or an event: Python numbers, or tensors on the device that a capture can hold.

A CUDA graph repeats what the device did, not what Python did. An optimizer that is capturable therefore counts on the
device. Outside of a capture it reads the counts, and so waits for the device once a step; inside it goes by what it
read last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


class Counters:
    """The counts in the states of an optimizer, under the names "step" and "<event>_step"."""

    def __init__(self, on_device: bool) -> None:
        self.on_device = on_device
        self.read: dict[str, dict[Tensor, int]] = {}  # the last known values, if they are on the device

    def known(self, counter: str, state: Mapping[Tensor, dict[str, Any]]) -> Mapping[Tensor, int]:
        """The count of each parameter that has one."""
        held = {p: entry[counter] for p, entry in state.items() if counter in entry}
        if not self.on_device:
            return held
        if not _is_capturing():
            by_device: dict[torch.device, list[Tensor]] = {}
            for p, count in held.items():
                held[p] = count if isinstance(count, Tensor) else _on_device(count, p)
                by_device.setdefault(held[p].device, []).append(p)
            self.read[counter] = {}
            for params in by_device.values():
                values = torch.stack([held[p] for p in params]).tolist()
                self.read[counter] |= {p: int(value) for p, value in zip(params, values, strict=True)}
        return self.read.setdefault(counter, {})

    def current(self, counter: str, state: Mapping[Tensor, dict[str, Any]], p: Tensor, t: int) -> Any:
        """The count t that the next step of p has, as kernels are to see it: a 0-d tensor where one is counted on."""
        count = state.get(p, {}).get(counter)
        return count.double() + 1 if self.on_device and isinstance(count, Tensor) else t

    def advance(self, counter: str, state: Mapping[Tensor, dict[str, Any]], params: Sequence[Tensor], t: int) -> None:
        """Notes that the parameters, which all had the count t - 1, took one more."""
        if not self.on_device:
            for p in params:
                state[p][counter] = t
            return
        new = [p for p in params if not isinstance(state[p].get(counter), Tensor)]
        old = [state[p][counter] for p in params if isinstance(state[p].get(counter), Tensor)]
        if old:
            torch._foreach_add_(old, 1)
        for p in new:
            state[p][counter] = _on_device(t, p)
        self.read.setdefault(counter, {}).update(dict.fromkeys(params, t))


def _on_device(count: int, p: Tensor) -> Tensor:
    return torch.full((), count, dtype=torch.float32, device=p.device)
