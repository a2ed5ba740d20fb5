"""What an optimizer has to find out together with other ranks, before a step or event of parameters that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from ..batching.crossing import _ranks_of
from ..batching.roster import Roster
from ..contract.interface import Rule
from ..exchange.agreement import Known, _is_so_everywhere, _require_same
from ..exchange.sharding import Ranks
from ..placement.slots import LocalSlot, _crosses
from .homes import _bring_home


class Together:
    """The ranks that have parts of the parameters of a roster."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        slots = [slot for slot in roster.slots.values() if isinstance(slot, LocalSlot)]
        meshes = {slot.layout.mesh: None for slot in slots}
        self.groups = [Ranks.of(mesh.get_group(i)) for mesh in meshes for i in range(mesh.ndim) if mesh.size(i) > 1]
        self.device = slots[0].device if slots else torch.device("cpu")
        kernels = [(slot, kernel) for slot in roster.slots.values() for kernel in slot.rule.kernels]
        is_cut = any(_ranks_of(slot).size > 1 for slot in slots)
        # Whether a step or event of some parameter, with a gradient or not, makes calls that others must make as well.
        self.exchanges = is_cut and any(_crosses(slot, kernel) or kernel.sums for slot, kernel in kernels)
        self._agreed: tuple[Any, ...] | None = None
        self._is_home = False

    def of(self, roster: Roster) -> Together:
        """Those of the parameters of this roster."""
        return self if roster is self.roster else Together(roster)

    def require_agreement(
        self, spec: str, counts: Mapping[Tensor, Any], takes_part: Callable[[Rule, Tensor], bool], values: Iterable[Any]
    ) -> Together:
        """RuntimeError on every rank unless all are about to step the same parameters, alike.

        `values` are the hypers of each group. On devices that would have to be waited for it is asked only when
        anything else than counts has changed.
        """
        if not self.exchanges:
            return self
        listed = [
            (name, takes_part(slot.rule, p), counts[p].number if p in counts else 0, hypers)
            for listing, hypers in zip(self.roster.listings, values, strict=True)
            for name, p, slot in zip(listing.names(), listing.params, listing.slots, strict=True)
        ]
        known = [Known(*each) for each in listed]
        facts = (spec, *((each.name, each.has_gradient, each.hypers) for each in known))
        if self.device.type == "cpu" or facts != self._agreed:
            _require_same(known, spec, self.groups, self.device)
            self._agreed = facts
        return self

    def bring_home(self, state: MutableMapping[Any, Any]) -> Together:
        """Lets owners have the states that are theirs, once for a roster: others may have had them before."""
        if not self._is_home:
            _bring_home(self.roster.slots, state)
            self._is_home = True
        return self

    def everywhere(self, is_so: bool) -> bool:
        """Whether it is so on all ranks, where parameters lie on several."""
        return _is_so_everywhere(is_so, self.groups, self.device) if self.groups else is_so
