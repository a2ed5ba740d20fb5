"""What an optimizer has to find out together with other ranks, before a step or event of parameters that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from ..batching.counters import _is_capturing
from ..batching.crossing import _ranks_of
from ..batching.parameter_batch import ParameterBatch
from ..batching.roster import Roster
from ..contract.interface import Rule
from ..exchange.agreement import Asked, Known, Reach, _is_so_everywhere, _require_same
from ..exchange.communication import Communication
from ..exchange.sharding import Ranks
from ..linalg.orthogonal import _dtypes_of_iteration
from ..placement.slots import LocalSlot, _crosses, _has_collectives
from .homes import _bring_home


class Together:
    """The ranks that have parts of the parameters of a roster."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        slots = [slot for slot in roster.slots.values() if isinstance(slot, LocalSlot)]
        meshes = {slot.layout.mesh: None for slot in slots}
        groups = [Ranks.of(mesh.get_group(i)) for mesh in meshes for i in range(mesh.ndim) if mesh.size(i) > 1]
        device = slots[0].device if slots else torch.device("cpu")
        if not all(_has_collectives(ranks.group, device) for ranks in groups if ranks.group is not None):
            device = torch.device(slots[0].layout.mesh.device_type)  # that of the process; what is asked is small
        self.reach = Reach(tuple(groups), device)
        is_cut = any(_ranks_of(slot).size > 1 for slot in slots)
        rules = {slot.rule.name: slot.rule for slot in roster.slots.values()}
        sums = {name: {each.over for kernel in rule.kernels for each in kernel.sums} for name, rule in rules.items()}
        adds_all_up = any("all" in each for each in sums.values())
        # The parameters, with a gradient or not, whose steps or events make calls that others must make as well.
        self.shared = {
            p: place
            for place, (p, slot) in enumerate(roster.slots.items())
            if _exchanges(slot) or (is_cut and (adds_all_up or sums[slot.rule.name]))
        }
        self._agreed: dict[str, tuple[Any, ...]] = {}  # by method, what all ranks knew when they last asked
        self._is_home = False

    @property
    def exchanges(self) -> bool:
        return bool(self.shared)

    def of(self, roster: Roster) -> Together:
        """Those of the parameters of this roster."""
        return self if roster is self.roster else Together(roster)

    def require_agreement(
        self,
        spec: str,
        asked: Asked,
        counts: Mapping[Tensor, Any],
        takes_part: Callable[[Rule, Tensor], bool],
        values: Iterable[Any],
        asks_always: bool,
        sent: Communication,
    ) -> None:
        """RuntimeError on every rank unless all are about to do the same with the same parameters.

        Parameters that nothing is sent for need not be the same, but what the method is given is, whatever the rule.
        `values` are the hypers of each group. On devices that would have to be waited for it is asked only when
        anything else than counts has changed, unless it is `always`.
        """
        if not self.exchanges:
            if self._asks(asked, asks_always):
                _require_same((), spec, asked, self.reach, sent)
            return
        known = [
            Known(name, takes_part(slot.rule, p), counts[p].number if p in counts else 0, hypers)
            for listing, hypers in zip(self.roster.listings, values, strict=True)
            for name, p, slot in zip(listing.names(), listing.params, listing.slots, strict=True)
            if p in self.shared
        ]
        spec = f"{spec}, iterated in {_dtypes_of_iteration(torch.float32, self.reach.device)}"  # and so it is sent
        facts = (spec, *((each.name, each.has_gradient, each.hypers) for each in known))
        if self._asks(asked, asks_always) or facts != self._agreed.get(asked.method):
            _require_same(known, spec, asked, self.reach, sent)
            self._agreed[asked.method] = facts

    def bring_home(self, state: MutableMapping[Any, Any], sent: Communication) -> Together:
        """Lets owners have the states that are theirs, once for a roster: others may have had them before."""
        if not self._is_home:
            _bring_home(self.roster.slots, state, sent)
            self._is_home = True
        return self

    def fail(self, problem: BaseException, asked: Asked, asks_always: bool, sent: Communication) -> NoReturn:
        """Raises the problem, for which this rank cannot step, and lets other ranks do so if they wait for this one.

        On devices that are not waited for they do not before they are in the midst of a step.
        """
        if self._asks(asked, asks_always) or (self.exchanges and asked.method not in self._agreed):
            _require_same((), "", asked, self.reach, sent, problem)
        elif asks_always and self.reach.groups:
            _is_so_everywhere(False, self.reach, sent, problem)
        raise problem

    def _asks(self, asked: Asked, asks_always: bool) -> bool:
        """Whether ranks ask each other before this whatever has changed."""
        is_given = bool(asked.arguments) and not _is_capturing()
        if self.exchanges:
            return asks_always or self._waits_for_nothing or is_given
        return is_given and bool(self.reach.groups)

    def everywhere(self, is_so: bool, sent: Communication) -> bool:
        """Whether it is so on all ranks, where parameters lie on several."""
        return _is_so_everywhere(is_so, self.reach, sent) if self.reach.groups else is_so

    def anywhere(self, flags: Sequence[Tensor], ranks: Ranks, sent: Communication) -> list[list[bool]]:
        """The flags as they are where any of these ranks has set one; all of them must give as many."""
        found = torch.cat([*flags]).to(self.reach.device, torch.int32)
        if ranks.size > 1:
            Reach((ranks,), found.device).reduce(found, dist.ReduceOp.MAX, sent)
        return [each.bool().tolist() for each in torch.split(found, [len(each) for each in flags])]

    def sort(self, batches: Sequence[ParameterBatch]) -> list[ParameterBatch]:
        """The batches in the order of what all ranks step: of other parameters they need not have the same."""
        if not self.exchanges:
            return [*batches]
        last = len(self.roster.slots)
        return sorted(batches, key=lambda batch: min(self.shared.get(p, last) for p in batch.params))

    @property
    def _waits_for_nothing(self) -> bool:
        return self.reach.device.type == "cpu"


def _exchanges(slot: Any) -> bool:
    return any(_crosses(slot, kernel) for kernel in slot.rule.kernels)
