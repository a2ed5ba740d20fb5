"""What an event is given for parameters: matrices that come with the call, each in the form that a state would have.

In: the arguments of a call, each one tensor for all parameters or a dictionary from parameter to tensor. Out: which
parameters the call is for, and the tensors of each as kernels gather them. They are checked as gradients are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..contract.arguments import _kind_of
from ..contract.interface import Event, Rule, State, _form_of
from ..placement.layouts import _is_dtensor, _local
from ..placement.slots import LocalSlot
from ..routing.places import Slot
from .parameter_batch import ParameterBatch


class GivenTensors:
    """The arguments of one call of an event, by the rules that have the event."""

    def __init__(self, name: str, events: Mapping[str, Event], arguments: Mapping[str, Any]) -> None:
        self.name, self.events = name, events
        wanted = {state.name for event in events.values() for state in event.given}
        self.tensors = {key: value for key, value in arguments.items() if key in wanted}
        self.numbers = {key: value for key, value in arguments.items() if key not in wanted}

    def require_kinds(self) -> None:
        """TypeError for an argument that is no tensor and no dictionary from parameters to tensors."""
        for key, value in self.tensors.items():
            if not isinstance(value, (Tensor, Mapping)):
                expected = "a tensor, or a dictionary from parameters to tensors"
                raise TypeError(f"{self.name}({key}) takes {expected}, not {_kind_of(value)}")

    def is_for(self, rule: Rule, p: Tensor) -> bool:
        """Whether the call has something for the parameter: it does unless dictionaries leave it out."""
        listed = [self.tensors[state.name] for state in self.events[rule.name].given]
        return all(p in value for value in listed if isinstance(value, Mapping))

    def take(
        self, batches: Iterable[ParameterBatch], slots: Mapping[Tensor, Slot], name: Callable[[Tensor], str]
    ) -> None:
        """Puts into the batches what their parameters are given.

        Raises:
            TypeError: something given is no tensor.
            ValueError: it is not of the shape, dtype or device that the parameter asks for, or for no parameter.
        """
        batches = list(batches)
        self._require_takers(batches, slots, name)
        for batch in batches:
            for state in self.events[batch.rule.name].given:
                value, form = self.tensors[state.name], _form_of(state)
                batch.forms[form.name] = form
                for p in batch.params:
                    found = value[p] if isinstance(value, Mapping) else value
                    made = _in_form(found, p, slots[p], form, f"{self.name}({state.name}) of {name(p)}")
                    batch.given.setdefault(p, {})[form.name] = made.to(batch.compute_dtype)

    def _require_takers(
        self, batches: Iterable[ParameterBatch], slots: Mapping[Tensor, Slot], name: Callable[[Tensor], str]
    ) -> None:
        """ValueError for what is given for a parameter that has no use for it, or that lacks another argument."""
        takers = {p for batch in batches for p in batch.params}
        for key, value in self.tensors.items():
            for p in value if isinstance(value, Mapping) else ():
                slot = slots.get(p) if isinstance(p, Tensor) else None
                if slot is None:
                    raise ValueError(f"{self.name}({key}) has something for what is no parameter of the optimizer")
                event = self.events.get(slot.rule.name)
                if event is None or key not in [state.name for state in event.given]:
                    raise ValueError(
                        f"{self.name}({key}) has something for {name(p)}, and its rule {slot.rule.name!r} takes none"
                    )
                if p in takers or not p.numel():
                    continue
                others = [each.name for each in event.given if not _has(self.tensors[each.name], p)]
                if others:
                    raise ValueError(f"{self.name}({key}) has something for {name(p)}, and {others[0]!r} has not")


def _has(value: Any, p: Tensor) -> bool:
    return not isinstance(value, Mapping) or p in value


def _in_form(x: object, p: Tensor, slot: Slot, form: State, what: str) -> Tensor:
    """What is here of the tensor, in the shape of a state; one matrix for all matrices of the parameter is repeated."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} is no tensor, but {_kind_of(x)}")
    if x.layout is not torch.strided or not x.is_floating_point():
        raise ValueError(f"{what} is {x.dtype} with layout {x.layout}, where dense real numbers are expected")
    if x.device != p.device:
        raise ValueError(f"{what} is on {x.device}, and the parameter on {p.device}")
    if _is_dtensor(x):
        return _here_of(x, slot, form, what)
    shape = slot.whole.state_shape(form)
    found = x.detach() if tuple(x.shape) == shape else _repeated(x.detach(), slot.whole, form, what)
    return slot.cut(form, found) if isinstance(slot, LocalSlot) else found


def _here_of(x: Any, slot: Slot, form: State, what: str) -> Tensor:
    """What this rank has of a DTensor that lies on ranks as a state of the parameter would."""
    if isinstance(slot, LocalSlot) and tuple(x.shape) == slot.of.state_shape(form) and slot.holds(form, x):
        return _local(x)
    raise ValueError(
        f"{what} is a DTensor of shape {tuple(x.shape)} with the placements {tuple(x.placements)}: a plain tensor of "
        f"shape {slot.whole.state_shape(form)}, the same on all ranks, is expected, or one that lies as a state would"
    )


def _repeated(x: Tensor, slot: Slot, form: State, what: str) -> Tensor:
    """One matrix, for each that the parameter is read as."""
    shape = slot.state_shape(form)
    sizes = [place.batch(place.count, form) for place in slot.places(slot.rule.step.layout)]
    if not form.full and all(tuple(x.shape) == size[1:] for size in sizes):
        return torch.cat([x.expand(size).flatten() for size in sizes]).view(shape)
    one = f" or {sizes[0][1:]}" if len({size[1:] for size in sizes}) == 1 and sizes[0][1:] != shape else ""
    raise ValueError(f"{what} has shape {tuple(x.shape)}, where {shape}{'' if form.full else one} is expected")
