"""What events of optimizers are given of a model's forward pass: inputs of layers, attention logits, the loss.

In: a model and its optimizer. Out: the optimizer's events `activations`, `clip` and `observe`, fired. A watcher looks
at what is computed within its context, or runs the model itself; it sees what its own process computes and averages
over none, so that processes that train together show it the same batch. Nothing here changes gradients or the model.

    activations = Activations(model, optimizer, every=32)
    logits = Logits([Projections.fused(layer.qkv, heads=12) for layer in layers], optimizer)
    for x, y in batches:
        optimizer.zero_grad()
        with activations, logits:
            loss = cross_entropy(model(x), y)
        loss.backward()
        activations.fire()
        optimizer.step()
        logits.fire()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Activations", "Logits", "Projections", "observe"]


def observe(optimizer: torch.optim.Optimizer, loss: Tensor | float) -> None:
    """Hands over the loss whose gradients the next step takes, as MoMo asks for.

    Args:
        optimizer: the optimizer whose event `observe(loss)` is fired.
        loss: a number or 0-d tensor; where processes average their gradients, the mean of their losses.

    Raises:
        TypeError: the optimizer has no event `observe(loss)`.
    """
    _require_event(optimizer, "observe", "loss")
    optimizer.observe(loss.detach() if isinstance(loss, Tensor) else loss)  # type: ignore[attr-defined]


class Watcher:
    """Sees what layers compute within its context, in one of every so many steps, and hands it over.

    Args:
        optimizer: the optimizer whose event is fired.
        every: how often `fire` is called from one time that it does something to the next.
    """

    EVENT: ClassVar[str]
    ARGUMENT: ClassVar[str]

    def __init__(self, optimizer: torch.optim.Optimizer, every: int = 1) -> None:
        _require_event(optimizer, self.EVENT, self.ARGUMENT)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"invalid every={every!r}: a whole number from 1 on is expected")
        self.optimizer = optimizer
        self.every = every
        self.calls = 0
        self.handles: list[RemovableHandle] = []

    @property
    def is_due(self) -> bool:
        """Whether what is computed now will be handed over."""
        return self.calls % self.every == 0

    def __enter__(self) -> Watcher:
        if self.is_due:
            self.handles += self.attached(_takers(self.optimizer, self.EVENT))
        return self

    def __exit__(self, *_: object) -> None:
        while self.handles:
            self.handles.pop().remove()

    def watch(self, model: Callable[..., Any], *inputs: Any, **named: Any) -> None:
        """Runs the model once, without gradients, in the mode that it is in, and fires: where nobody else runs it."""
        if self.is_due:
            with self, torch.no_grad():
                model(*inputs, **named)
        self.fire()

    def fire(self) -> None:
        """Fires the event with what was seen since the last time, if this is the turn, and forgets it."""
        found = self.seen() if self.is_due else {}
        self.forget()
        self.calls += 1
        if found:
            getattr(self.optimizer, self.EVENT)(**{self.ARGUMENT: found})

    def state_dict(self) -> dict[str, int]:
        """What a resumed training needs to go on with the same rhythm."""
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if not isinstance(state, dict) or not isinstance(state.get("calls"), int):
            raise TypeError("load_state_dict takes what state_dict() gave, a dictionary with the number of 'calls'")
        self.calls = state["calls"]

    def attached(self, takers: Mapping[Tensor, tuple[int, ...]]) -> Iterable[RemovableHandle]:
        """Hooks for the layers of these parameters, of which the shapes are known."""
        raise NotImplementedError

    def seen(self) -> dict[Tensor, Tensor]:
        """What parameters are to be given."""
        raise NotImplementedError

    def forget(self) -> None:
        raise NotImplementedError


class Activations(Watcher):
    """Second moments Z'Z / N (inputs, inputs) of the N inputs, rows of Z, of each `nn.Linear` (Newton-Muon).

    They are summed in float32 at least, over all that runs in the context: accumulated batches count as one. Layers
    that are not run, and those of other kinds, are given nothing.
    """

    EVENT, ARGUMENT = "activations", "k"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, every: int = 32) -> None:
        super().__init__(optimizer, every)
        if not isinstance(model, nn.Module):
            raise TypeError(f"Activations takes a module, not {model!r}")
        self.model = model
        self.forget()

    def attached(self, takers: Mapping[Tensor, tuple[int, ...]]) -> Iterable[RemovableHandle]:
        for layer in self.model.modules():
            if isinstance(layer, nn.Linear) and layer.weight in takers:
                yield layer.register_forward_pre_hook(self._adder(layer.weight))

    def _adder(self, weight: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            z = inputs[0].detach().flatten(0, -2)
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            with torch.autocast(z.device.type, enabled=False):
                moments = z.T @ z
            self.sums[weight] = self.sums[weight] + moments if weight in self.sums else moments
            self.counts[weight] = self.counts.get(weight, 0) + len(z)

        return add

    def seen(self) -> dict[Tensor, Tensor]:
        return {weight: total / self.counts[weight] for weight, total in self.sums.items() if self.counts[weight]}

    def forget(self) -> None:
        self.sums: dict[Tensor, Tensor] = {}
        self.counts: dict[Tensor, int] = {}


@dataclass(frozen=True, eq=False)
class Projections:
    """The layers that make queries and keys, head by head, of (batch, time, width).

    In one layer for both, queries come first, then keys, then what else there is. `key_heads` are fewer than `heads`
    where several heads of queries share one of keys. Logits are q k' * scale, 1 / sqrt(size of a head) if not given, of
    each position with the past and itself, or with all if not `causal`. What lies between the layers and the logits,
    such as rotary positions or norms, is not seen.
    """

    query: nn.Linear
    key: nn.Linear
    heads: int
    key_heads: int | None = None
    causal: bool = True
    scale: float | None = None
    size: int | None = None  # of a head; not given: the outputs of `query` over `heads`

    @classmethod
    def fused(cls, qkv: nn.Linear, heads: int, key_heads: int | None = None, causal: bool = True) -> Projections:
        """Of one layer whose outputs are the queries of all heads, then the keys, then as many values."""
        size = qkv.out_features // (heads + 2 * (key_heads or heads))
        return cls(qkv, qkv, heads, key_heads, causal, size=size)

    @property
    def groups(self) -> int:
        """How many heads of keys there are."""
        return self.key_heads or self.heads

    @property
    def width(self) -> int:
        """The size of a head."""
        return self.size or self.query.out_features // self.heads

    @property
    def starts(self) -> tuple[int, int]:
        """The first row of queries in theirs, and of keys in their layer."""
        return 0, self.heads * self.width if self.query is self.key else 0

    def largest(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The largest logit of each head of keys (key_heads,), for the outputs of both layers."""
        scale = 1 / math.sqrt(self.width) if self.scale is None else self.scale
        first, second = self.starts
        q = queries[..., first : first + self.heads * self.width].unflatten(-1, (self.groups, -1, self.width))
        k = keys[..., second : second + self.groups * self.width].unflatten(-1, (self.groups, self.width))
        found = []
        for one, other in zip(q.flatten(0, -5), k.flatten(0, -4), strict=True):  # (time, heads of a key, ...) at a time
            logits = torch.einsum("tghd,sgd->ghts", one.float(), other.float()) * scale
            if self.causal:
                past = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
                logits = logits.masked_fill(~past, -math.inf)
            found.append(logits.amax((1, 2, 3)))
        return torch.stack(found).amax(0)


class Logits(Watcher):
    """The largest attention logit of each head, in every row of its query and key, and 0 in other rows (MuonClip)."""

    EVENT, ARGUMENT = "clip", "logit"

    def __init__(self, projections: Iterable[Projections], optimizer: torch.optim.Optimizer, every: int = 1) -> None:
        super().__init__(optimizer, every)
        self.projections = list(projections)
        for each in self.projections:
            if not isinstance(each, Projections):
                raise TypeError(f"Logits takes Projections, one for each attention layer, not {each!r}")
        self.forget()

    def attached(self, takers: Mapping[Tensor, tuple[int, ...]]) -> Iterable[RemovableHandle]:
        for each in self.projections:
            outputs: dict[nn.Module, Tensor] = {}
            for layer in dict.fromkeys((each.query, each.key)):
                yield layer.register_forward_hook(self._looker(each, outputs, takers))

    def _looker(
        self, layers: Projections, outputs: dict[nn.Module, Tensor], takers: Mapping[Tensor, tuple[int, ...]]
    ) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        """A hook of both layers: the one that comes second looks at the logits."""

        def look(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            outputs[layer] = output.detach()
            if len(outputs) < len({layers.query, layers.key}):
                return
            found = layers.largest(outputs[layers.query], outputs[layers.key])
            outputs.clear()
            for each, start, count in zip(
                (layers.query, layers.key), layers.starts, (layers.heads, layers.groups), strict=True
            ):
                if each.weight in takers:
                    rows = self.rows.setdefault(each.weight, found.new_zeros(takers[each.weight][0], 1))
                    own = rows[start : start + count * layers.width, 0]
                    own.copy_(torch.maximum(own, found.repeat_interleave(len(own) // len(found))))

        return look

    def seen(self) -> dict[Tensor, Tensor]:
        return dict(self.rows)

    def forget(self) -> None:
        self.rows: dict[Tensor, Tensor] = {}


def _require_event(optimizer: object, event: str, argument: str) -> None:
    """TypeError unless it is an optimizer of a generated class with this event, which takes the argument alone."""
    given = [each for rule in getattr(optimizer, "RULES", ()) for each in rule.events if each.name == event]
    if isinstance(optimizer, type) or not given or not callable(getattr(optimizer, event, None)):
        name = optimizer.__qualname__ if isinstance(optimizer, type) else type(optimizer).__qualname__
        raise TypeError(f"{name} has no event `{event}({argument})`")


def _takers(optimizer: Any, event: str) -> dict[Tensor, tuple[int, ...]]:
    """The parameters whose rule is given something by the event, with their whole shapes."""
    optimizer._look_at_groups()
    slots = optimizer._roster.slots.items()
    return {p: tuple(p.shape) for p, slot in slots if any(e.name == event and e.given for e in slot.rule.events)}
