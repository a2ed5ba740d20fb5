"""Buckets of parameters whose matrices lie on several ranks, under kernels that need them whole.

In: parameters with slots of their parts. Out: buckets that are the same on all ranks, as they follow from global shapes
alone, however much of a parameter a rank has; and for each parameter the rank that owns its matrices when they are
whole. In a bucket those of the first rank come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from ..contract.interface import Kernel
from ..exchange.owners import _flops_of_whole, _owners
from ..exchange.sharding import Ranks, Sharding
from ..placement.slots import LocalSlot, _crosses, _parts_of, _side
from ..routing.places import Place, Slot, _wider
from .buckets import Bucket, Homes, _arrange

# Elements of a bucket per rank: enough for a call to be worth its latency, few enough for several to be under way.
CPU_CROSSING, DEVICE_CROSSING = 1 << 20, 1 << 24


def _arrange_for(kernel: Kernel, layout: str, slots: Iterable[tuple[Tensor, Slot]]) -> list[Bucket]:
    """The buckets in which the kernel runs; those whose matrices cross between ranks come last."""
    slots = list(slots)
    local = [(p, slot) for p, slot in slots if not _crosses(slot, kernel)]
    crossing = [(p, slot) for p, slot in slots if isinstance(slot, LocalSlot) and _crosses(slot, kernel)]
    return [*_arrange(local, layout), *_arrange_across(crossing, layout)]


def _arrange_across(slots: Iterable[tuple[Tensor, LocalSlot]], layout: str) -> list[Bucket]:
    alike: dict[Sharding, list[tuple[Tensor, LocalSlot]]] = {}
    for p, slot in slots:
        alike.setdefault(_sharding_of(slot, layout), []).append((p, slot))
    buckets = []
    for sharding, listed in alike.items():
        limit = CPU_CROSSING if listed[0][0].device.type == "cpu" else DEVICE_CROSSING
        size = sharding.rows * sharding.cols // sharding.ranks.size
        for start, end in _runs_up_to([slot.places(layout)[0].count * size for _, slot in listed], limit):
            own = sorted(listed[start:end], key=lambda each: each[1].owner or 0)
            places = [slot.places(layout)[0] for _, slot in own]
            owned = [0] * sharding.ranks.size
            for (_, slot), place in zip(own, places, strict=True):
                owned[slot.owner or 0] += place.count
            entries = [(p, place) for (p, _), place in zip(own, places, strict=True)]
            homes = Homes(own[0][1].owned, tuple([_home_of(slot, layout) for _, slot in own]))
            buckets.append(Bucket(entries, replace(sharding, owned=tuple(owned)), homes))
    return buckets


def _home_of(slot: LocalSlot, layout: str) -> Place:
    """Where the matrices of a parameter lie in what its owner has; on other ranks there are none."""
    place = slot.of.places(layout)[0]
    return place if slot.is_owner else replace(place, count=0)


def _runs_up_to(sizes: list[int], limit: int) -> Iterable[tuple[int, int]]:
    """Runs of sizes that add up to the limit at most, as pairs of indices; one that is larger is a run of its own."""
    start = total = 0
    for end, size in enumerate(sizes):
        if end > start and total + size > limit:
            yield start, end
            start, total = end, 0
        total += size
    yield start, len(sizes)


def _sharding_of(slot: LocalSlot, layout: str) -> Sharding:
    """How the matrices of a parameter lie on ranks, but for who owns them."""
    dim, lengths = slot.layout.dim, [length for _, length in slot.layout.parts(slot.of.shape[slot.layout.dim or 0])]
    assert dim is not None
    first = slot.of.places(layout)[0]
    side, parts = _side(slot.of, dim, layout), _parts_of(slot.of, layout)
    sizes = {"rows": first.unit[0] * parts, "cols": first.unit[1]}
    each = sizes[side] // slot.of.shape[dim]  # columns of a convolution come in blocks, and a tensor is one column
    extents = tuple(length * each for length in lengths)
    return Sharding(_ranks_of(slot), sizes["rows"], sizes["cols"], side, extents, (), parts, first.rank)


def _ranks_of(slot: Slot) -> Ranks:
    """The ranks that have the parts of a parameter; this one alone if each has all of it."""
    group = slot.layout.group if isinstance(slot, LocalSlot) and slot.layout.is_cut else None
    return Ranks() if group is None else Ranks.of(group)


def _owners_of(slots: Mapping[Tensor, Slot]) -> dict[Tensor, int]:
    """The rank that owns the matrices of each parameter that any kernel of its rule may need whole.

    All parameters count, with gradient or not, so that owners stay when gradients come and go. Meshes of the same ranks
    share the work among them as one does.
    """
    costs: dict[tuple[int, ...], dict[Tensor, tuple[int, tuple[int, ...]]]] = {}
    for p, slot in slots.items():
        if not slot.is_empty and any(_crosses(slot, kernel) for kernel in slot.rule.kernels):
            first = slot.whole.places(_wider("tensor", slot.rule.step.layout))[0]
            costs.setdefault(_ranks_of(slot).members, {})[p] = (first.count * _flops_of_whole(*first.unit), first.unit)
    owners: dict[Tensor, int] = {}
    for ranks, each in costs.items():
        flops, units = zip(*each.values(), strict=True)
        owners.update(zip(each, _owners(flops, units, len(ranks)), strict=True))
    return owners
