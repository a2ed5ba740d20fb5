"""Whether contestants that claim the same method take the same steps: a race of different mathematics says nothing.

In: contestants, with `like` and `within`. Out: the largest difference of a step, relative to the size of that step, in
float64 on a tiny model, from the generated class that they claim to be like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.contestants import Contestant, Make, backends, ours
from benchmarks.peers import iterating_in, uncompiled
from benchmarks.races import races
from benchmarks.shapes import Entry, entries, named, random_tensors

STEPS = 5


def take_steps(make: Make, chosen: Sequence[Entry], device: torch.device, dtype: torch.dtype) -> Iterator[list[Tensor]]:
    """The change of each parameter in each step, from the same weights and gradients for whoever steps."""
    params = named(chosen, random_tensors(chosen, 1.0, seed=0, device=device, dtype=dtype))
    gradients = [torch.empty_like(p.tensor) for p in params]  # always in the same memory, as recorded graphs want it
    step = make(params)
    for number in range(STEPS):
        before = [p.tensor.detach().clone() for p in params]
        fresh = random_tensors(chosen, 1.0, seed=1 + number, device=device, dtype=dtype)
        for p, gradient, values in zip(params, gradients, fresh, strict=True):
            p.tensor.grad = gradient.copy_(values)
        step()
        yield [p.tensor.detach() - start for p, start in zip(params, before, strict=True)]


def difference(
    contestant: Contestant,
    scope: str,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float64,
    *,
    as_published: bool = False,
) -> float:
    """The largest relative difference of a parameter's step from that of the class it is `like`; NaN if one is NaN.

    Peers iterate in `dtype`, or in whatever their code says if it runs `as_published`.
    """
    place = device or torch.device("cpu")
    chosen = entries("tiny", scope)
    plain = next(other for other in ours(contestant.like) if other.name == reference(contestant.like))
    with iterating_in(None if as_published else dtype), uncompiled():
        found = list(take_steps(contestant.make, chosen, place, dtype))
        expected = list(take_steps(plain.make, chosen, torch.device("cpu"), torch.float64))
    pairs = [pair for ours_, theirs in zip(found, expected, strict=True) for pair in zip(ours_, theirs, strict=True)]
    errors = [(one.cpu().double() - other).norm() / other.norm() for one, other in pairs]
    return float(torch.stack(errors).max())


def reference(method: str) -> str:
    """The name of the generated contestant that the others are compared with: its plainest backend."""
    return f"generated {method} eager" if "eager" in backends(method) else f"generated {method}"


def claims(device_type: str = "cpu", *, compiled: bool = False) -> list[tuple[Contestant, str]]:
    """Every contestant that claims a method, once for each scope it is timed in.

    On the CPU without the class that it would be compared with; elsewhere that one is held to its own steps there.
    """
    seen = {
        (contestant.name, race.scope): (contestant, race.scope)
        for race in races("tiny", device_type=device_type, slow=compiled)
        for contestant in race.contestants
        if contestant.like and (compiled or not contestant.compiles)
    }
    if device_type != "cpu":
        return list(seen.values())
    return [(contestant, scope) for contestant, scope in seen.values() if contestant.name != reference(contestant.like)]
