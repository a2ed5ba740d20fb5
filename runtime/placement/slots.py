"""Slots of parts: how this rank sees its part of a DTensor parameter, and which rules can run on it alone.

Along a dimension in which its elements do not interact, a rule gives on a part what it gives on the whole; so the
functions, buckets and graphs of whole parameters serve for parts. What else there is to say of a part is where its
states lie in those of the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..contract.interface import Kernel, State, _form_of
from ..routing.places import Place, Slot, _places
from .layouts import Layout, _is_dtensor


@dataclass(frozen=True, kw_only=True)
class LocalSlot(Slot):
    """The slot of the part of a DTensor parameter that is here: `shape` and the shapes of states are the part's.

    `owner` is the rank that has its matrices where a rule needs them whole, which follows from all parameters.
    """

    layout: Layout
    of: Slot
    owner: int | None = field(default=None, compare=False)

    @property
    def whole(self) -> Slot:
        return self.of

    @cached_property
    def owned(self) -> frozenset[str]:
        """The states that the owner has whole, and no other rank at all."""
        step = self.rule.step
        if not _interacts(self, step):
            return frozenset()
        return frozenset(step.owned if _parts_of(self.of, step.layout) == 1 else step.split_owned)

    @property
    def is_owner(self) -> bool:
        return self.layout.rank == self.owner

    def fits(self, p: Tensor) -> bool:
        return self.of.fits(p) and _is_dtensor(p) and self.layout.holds(p)

    def places(self, layout: str) -> tuple[Place, ...]:
        whole = self.of.places(layout)[0]  # of parts of a split matrix, which no kernel sees as parts, the first
        has_whole = all(_side(self.of, dim, layout) == "batch" for _, dim in self.layout.cuts)
        turning = self.rule.orientation if has_whole else whole.turned
        places = _places(layout, self.shape, self.view, turning)
        return self._ranked(tuple(replace(place, sizes=whole.unit) for place in places))

    def state_shape(self, kept: State) -> tuple[int, ...]:
        shape = self.of.state_shape(kept)
        if kept.name in self.owned:
            return shape if self.is_owner else (0, *shape[1:])
        cut = {at: self.layout.part(shape[at], dim)[1] for _, dim, at in self._cuts_of(kept)}
        return tuple([cut.get(at, size) for at, size in enumerate(shape)])

    def may_hold(self, state: State, x: Tensor) -> bool:
        if state.name not in self.owned:
            return super().may_hold(state, x)
        shape = self.of.state_shape(state)
        return tuple(x.shape) in (shape, (0, *shape[1:]))

    def cut(self, kept: State, x: Tensor) -> Tensor:
        """This rank's part of a state of all of the parameter."""
        if kept.name in self.owned:
            return x if self.is_owner else x[:0]
        for dim, at in dict.fromkeys((dim, at) for _, dim, at in self._cuts_of(kept)):
            x = x.narrow(at, *self.layout.part(x.shape[at], dim))
        return x

    def wrapped(self, kept: State, part: Tensor) -> Tensor:
        """A state of this rank's part as checkpoints have it: a DTensor of the shape that it has of the whole.

        What an owner has is as if it were cut along its first dimension.
        """
        from torch.distributed.tensor import DTensor
        from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

        shape = torch.Size(self.of.state_shape(kept))
        meta = TensorMeta(shape, torch.empty(shape, device="meta").stride(), part.dtype)
        # Not by `from_local`, which moves to the mesh's device what is kept elsewhere, and makes another tensor of it.
        spec = DTensorSpec(self.layout.mesh, self._placements(kept), tensor_meta=meta)
        return DTensor(part, spec, requires_grad=False)  # type: ignore[no-untyped-call]

    def holds(self, kept: State, x: Any) -> bool:
        """Whether a DTensor lies as the state does."""
        return tuple(x.placements) == self._placements(kept) and x.device_mesh == self.layout.mesh

    def _is_cut_alike(self, kept: State, dim: int) -> bool:
        """Whether torch cuts a state, which is not full, where it cuts the parameter along `dim`."""
        side, cut, shape = (
            _side(self.of, dim, self.rule.step.layout),
            self._cut_of(kept, dim),
            self.of.state_shape(kept),
        )
        if len(shape) == 1 or (side == "batch" and math.prod(self.of.shape[:dim]) > 1):
            return False  # its values stand in another order
        if cut is None:
            return side != "rows" or self.of.view.split is None  # of matrices whose rows may lie on several ranks
        size, own = shape[cut], self.of.shape[dim]
        if len(self.layout.cuts) > 1:
            return size == own
        parts = [(start * size, length * size) for start, length in self.layout.parts(own)]
        return parts == [(start * own, length * own) for start, length in self.layout.parts(size)]

    def _placements(self, kept: State) -> tuple[Any, ...]:
        from torch.distributed.tensor import Replicate, Shard

        if kept.name in self.owned:
            return self.shown
        if kept.full:
            return self.layout.placements
        cuts = {mesh_dim: Shard(at) for mesh_dim, _, at in self._cuts_of(kept)}
        return tuple(cuts.get(i, Replicate()) for i in range(self.layout.mesh.ndim))

    @property
    def shown(self) -> tuple[Any, ...]:
        """The placements of what an owner has, in checkpoints."""
        from torch.distributed.tensor import Replicate, Shard

        cut = {mesh_dim for mesh_dim, _ in self.layout.cuts}
        return tuple(Shard(0) if i in cut else Replicate() for i in range(self.layout.mesh.ndim))

    def _cuts_of(self, kept: State) -> list[tuple[int, int, int]]:
        """Where a state is cut as the parameter is: the mesh's dimension, the parameter's, and that of the state."""
        found = [(mesh_dim, dim, self._cut_of(kept, dim)) for mesh_dim, dim in self.layout.cuts]
        return [(mesh_dim, dim, at) for mesh_dim, dim, at in found if at is not None]

    def _cut_of(self, kept: State, dim: int) -> int | None:
        """The dimension of a state that is cut where the parameter is cut along `dim`; None if every rank has all."""
        if kept.full:
            return dim
        side, several = _side(self.of, dim, self.rule.step.layout), len(self.of.state_shape(kept)) == 3
        if side == "batch":
            return 0
        is_by_part = side == "rows" and self.of.view.split is not None and not kept.is_per_row
        return kept.shape.index(side) + several if side in kept.shape and not is_by_part else None


def _side(slot: Slot, dim: int, layout: str) -> str:
    """What a kernel sees along a dimension of the parameter: "rows", "cols", or a "batch" of matrices."""
    if layout != "matrix" or len(slot.shape) < 2:
        return "rows"
    axis = dim - slot.view.batch
    if axis < 0:
        return "batch"
    return "rows" if (axis == slot.view.transposed) != slot.places(layout)[0].turned else "cols"


def _interacts(slot: LocalSlot, kernel: Kernel) -> bool:
    """Whether elements interact in a kernel along a dimension that is cut."""
    return any(_side(slot.of, dim, kernel.layout) in (kernel.along or ()) for _, dim in slot.layout.cuts)


def _crosses(slot: Slot, kernel: Kernel) -> bool:
    """Whether a kernel needs more of a parameter than this rank has of it."""
    if not isinstance(slot, LocalSlot):
        return False
    return _interacts(slot, kernel) or not slot.owned.isdisjoint((*kernel.inputs, *kernel.outputs))


def _parts_of(slot: Slot, layout: str) -> int:
    """How many equal matrices, one below the other, a matrix of the parameter is split into."""
    first = slot.places(layout)[0]
    return first.count // math.prod(first.leading) if first.count else 1


def _local_slot(slot: Slot, layout: Layout, name: str, adds_up: bool = False) -> LocalSlot:
    """The slot of this rank's part; NotImplementedError unless its rule can run on the part alone.

    `adds_up` says whether what any rule computes of the parameter is added up over all of them.
    """
    for _, dim in layout.cuts:
        _require_local(slot, layout, dim, name)
    has_rows = any(_side(slot, dim, slot.rule.step.layout) == "rows" for _, dim in layout.cuts)
    view = replace(slot.view, split=None) if has_rows else slot.view  # what is here may end inside a part
    found = LocalSlot(
        slot.role, slot.rule, layout.shape, slot.dtype, slot.device, view, slot.sizing, layout=layout, of=slot
    )
    asks = layout.is_cut and (adds_up or any(_interacts(found, kernel) for kernel in slot.rule.kernels))
    if asks and not all(_has_collectives(layout.mesh.get_group(mesh_dim), slot.device) for mesh_dim, _ in layout.cuts):
        raise NotImplementedError(
            f"{name} is a DTensor that is kept on {slot.device.type}, and the rule {slot.rule.name!r} needs what other "
            f"ranks have of it: its processes have collectives for {layout.mesh.device_type} alone"
        )
    if asks and len(layout.cuts) > 1:
        raise NotImplementedError(
            f"{name} is a DTensor sharded over {len(layout.cuts)} dimensions of its mesh, and the rule "
            f"{slot.rule.name!r} needs what other ranks have of it: that is exchanged over one dimension alone yet"
        )
    return found


def _has_collectives(group: dist.ProcessGroup, device: torch.device) -> bool:
    """Whether processes can send each other tensors of such a device, which may not be that of their mesh.

    What is yet to be given a device, none is asked for.
    """
    return device.type == "meta" or any(each.type == device.type for each in group._device_types)


def _require_local(slot: Slot, layout: Layout, dim: int, name: str) -> None:
    rule = slot.rule
    ranks = math.prod(layout.mesh.size(mesh_dim) for mesh_dim, each in layout.cuts if each == dim)
    start = f"{name} is a DTensor sharded along dimension {dim} over {ranks} ranks"
    if dim >= slot.view.batch + 2:
        raise NotImplementedError(f"{start}: rules run on parts that are cut along rows, columns or experts alone")
    sides = [(kernel, _side(slot, dim, kernel.layout)) for kernel in rule.kernels]
    if slot.view.split is not None and rule.orientation and any(side in ("rows", "cols") for _, side in sides):
        raise NotImplementedError(
            f"{start}, and has split={slot.view.split}, parts that the rule {rule.name!r} sees as {rule.orientation}: "
            "no rule is run on these yet"
        )
    if slot.view.split is not None and any(side == "cols" for _, side in sides):
        raise NotImplementedError(f"{start}, its columns, and has split={slot.view.split}: no rule is run on these yet")
    needs_parts = any("rows" in kernel.scalars or side in (kernel.along or ()) for kernel, side in sides)
    if needs_parts and sides[0][1] == "rows" and len(slot.places(rule.step.layout)) > 1:
        raise NotImplementedError(
            f"{start}, and has split={slot.view.split}, parts of unequal size, which the rule {rule.name!r} needs apart"
        )
    _require_cut_states(slot, layout, dim, ranks, start)


def _require_cut_states(slot: Slot, layout: Layout, dim: int, ranks: int, start: str) -> None:
    """NotImplementedError for a state, or what an event is given, that ranks would not have as torch cuts its shape, or
    for what is shared where not each has a copy."""
    part = LocalSlot(
        slot.role, slot.rule, layout.shape, slot.dtype, slot.device, sizing=slot.sizing, layout=layout, of=slot
    )
    side = _side(slot, dim, slot.rule.step.layout)
    lacks_copies = (side == "rows" and slot.view.split is not None) or (side == "batch" and slot.shape[dim] < ranks)
    known = [(f"the state {kept.name!r}", kept) for kept in slot.rule.states]
    for event in slot.rule.events:
        known += [(f"{given.name!r} of the event {event.name!r}", _form_of(given)) for given in event.given]
    for what, kept in known:
        if kept.shared is not None and lacks_copies:
            raise NotImplementedError(
                f"{start}: some ranks would have no copy of {kept.name!r}, which the parameters of the rule "
                f"{slot.rule.name!r} share"
            )
        if not (kept.full or kept.name in part.owned or part._is_cut_alike(kept, dim)):
            raise NotImplementedError(
                f"{start}: {what} of the rule {slot.rule.name!r}, of shape {slot.state_shape(kept)}, cannot be cut as "
                "the parameter is"
            )
