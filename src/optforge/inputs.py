"""What events of optimizers are given of a model's forward pass: inputs of layers, attention logits, the loss.

In: a model and its optimizer. Out: the optimizer's events `activations`, `clip` and `observe`, fired. A watcher has
hooks in the layers within its context alone, where compiled modules run eagerly, as they would not call them. What
processes have seen is combined over all that train together, each of which has to fire. Nothing here changes gradients
or the model.

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

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from optforge.runtime.placement.fsdp import _require_resharded
from optforge.runtime.routing.places import Slot

__all__ = ["Activations", "Logits", "Projections", "observe"]


def observe(optimizer: torch.optim.Optimizer, loss: Tensor | float, group: dist.ProcessGroup | None = None) -> None:
    """Hands over the loss whose gradients the next step takes, as MoMo asks for.

    Args:
        optimizer: the optimizer whose event `observe(loss)` is fired.
        loss: a number or 0-d tensor, as the gradients are: the mean over accumulated batches, without the factor of a
            GradScaler.
        group: the processes that train together, over whose losses the mean is taken; not given: all there are.

    Raises:
        TypeError: the optimizer has no event `observe(loss)`.
        ValueError: the loss is no single number.
    """
    _require_event(optimizer, "observe", "loss")
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(f"the loss has shape {tuple(loss.shape)}, where one number is expected")
        loss = loss.detach().reshape(())
    if (size := _size(group)) > 1:
        device = loss.device if isinstance(loss, Tensor) else optimizer.param_groups[0]["params"][0].device
        loss = _combined(torch.as_tensor(loss, dtype=torch.float64, device=device).clone(), group) / size
    optimizer.observe(loss)  # type: ignore[attr-defined]


class Watcher:
    """Sees what layers compute within its context, in one of every so many steps, and hands it over.

    Args:
        optimizer: the optimizer whose event is fired.
        every: how often `fire` is called from one time that it does something to the next.
        group: the processes that train together, on different batches; not given: all there are.
    """

    EVENT: ClassVar[str]
    ARGUMENT: ClassVar[str]
    COMBINED_BY: ClassVar[Any]

    def __init__(self, optimizer: torch.optim.Optimizer, every: int, group: dist.ProcessGroup | None) -> None:
        _require_event(optimizer, self.EVENT, self.ARGUMENT)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"invalid every={every!r}: a whole number from 1 on is expected")
        self.optimizer = optimizer
        self.every = every
        self.group = group
        self.calls = 0
        self._entered: ExitStack | None = None
        self._forget()

    @property
    def is_due(self) -> bool:
        """Whether what is computed now will be handed over."""
        return self.calls % self.every == 0

    def __enter__(self) -> Watcher:
        """RuntimeError where it has been entered already, as everything would count twice."""
        if self._entered is not None:
            raise RuntimeError(f"this {type(self).__name__} watches already")
        with ExitStack() as stack:
            if self.is_due and "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for handle in self._attached() if self.is_due else ():
                stack.callback(handle.remove)
            self._entered = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """After an error what was seen is forgotten, as a part of it may come again."""
        if self._entered is not None:
            self._entered.close()
        self._entered = None
        if kind is not None:
            self._forget()

    def watch(self, model: Callable[..., Any], *inputs: Any, **named: Any) -> None:
        """Runs the model once, without gradients, in the mode that it is in, and fires: where nobody else runs it."""
        if self.is_due:
            with self, torch.no_grad():
                model(*inputs, **named)
            if callable(reshard := getattr(model, "reshard", None)):
                reshard()  # FSDP keeps the weights of its root whole until a backward, which there is none of
        self.fire()

    def fire(self) -> None:
        """Fires the event with what was seen since the last time, if this is the turn, and forgets it.

        Layers that were not run are given nothing, and without any the event is not fired.
        """
        found = dict(self._seen()) if self.is_due else {}
        self._forget()
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

    def _forget(self) -> None:
        self.found: dict[Tensor, Tensor] = {}  # by weight
        self.counts: dict[Tensor, int] = {}

    def _seen(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What all processes have seen for each weight that any of them has seen something for."""
        weights = list(self._blanks())
        counts = torch.tensor([self.counts.get(each, 0) for each in weights], device=weights[0].device)
        for weight, count in zip(weights, _combined(counts, self.group).tolist(), strict=True):
            if count:
                found = self.found.get(weight)
                found = self._blanks()[weight]() if found is None else found
                yield weight, self._finished(_combined(found, self.group, self.COMBINED_BY), count)

    def _attached(self) -> Iterable[RemovableHandle]:
        """Hooks for the layers."""
        raise NotImplementedError

    def _blanks(self) -> Mapping[Tensor, Callable[[], Tensor]]:
        """The weights that something may be seen for, and what has no effect on what others see."""
        raise NotImplementedError

    def _finished(self, found: Tensor, count: int) -> Tensor:
        return found


class Activations(Watcher):
    """Second moments Z'Z / N (inputs, inputs) of the N inputs, rows of Z, of each `nn.Linear` (Newton-Muon).

    They are summed in float32 at least, over all that runs in the context and over processes: accumulated batches count
    as one, and so do layers that share a weight. Layers of other kinds are given nothing.

    Raises:
        TypeError: the optimizer has no event `activations(k)`.
        ValueError: it takes second moments for no `nn.Linear` of the model, or reads the weight of one as transposed.
        RuntimeError: FSDP has whole weights in the place of its shards, as between a forward and its backward.
    """

    EVENT, ARGUMENT, COMBINED_BY = "activations", "k", dist.ReduceOp.SUM

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        every: int = 32,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(optimizer, every, group)
        if not isinstance(model, nn.Module):
            raise TypeError(f"Activations takes a module, not {model!r}")
        named = {layer: name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        self.layers = _taken({layer: layer.weight for layer in named}, optimizer, self.EVENT)
        for layer, (_, slot) in self.layers.items():
            if slot.view.transposed:
                raise ValueError(
                    f"{named[layer]}.weight is read as transposed, and its inputs are not its columns then"
                )

    def _attached(self) -> Iterable[RemovableHandle]:
        for layer, (weight, _) in self.layers.items():
            yield layer.register_forward_pre_hook(self._adder(weight), with_kwargs=True)

    def _adder(self, weight: Tensor) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def add(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            x: Tensor = (inputs[0] if inputs else named["input"]).detach()
            z = x.reshape(-1, x.shape[-1]).to(_wide(weight))
            with torch.autocast(z.device.type, enabled=False):
                moments = z.T @ z
            self.found[weight] = self.found[weight] + moments if weight in self.found else moments
            self.counts[weight] = self.counts.get(weight, 0) + len(z)

        return add

    def _blanks(self) -> Mapping[Tensor, Callable[[], Tensor]]:
        def blank(layer: nn.Linear, weight: Tensor) -> Tensor:
            return torch.zeros(layer.in_features, layer.in_features, dtype=_wide(weight), device=weight.device)

        return {weight: partial(blank, layer, weight) for layer, (weight, _) in self.layers.items()}

    def _finished(self, found: Tensor, count: int) -> Tensor:
        return found / count


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

    def __post_init__(self) -> None:
        """TypeError or ValueError for layers that do not have so many heads."""
        for layer in (self.query, self.key):
            if not isinstance(layer, nn.Linear):
                raise TypeError(f"queries and keys are outputs of nn.Linear, not of {layer!r}")
        counts = self.heads, self.groups
        is_grouped = min(counts) > 0 and self.heads % self.groups == 0
        ends = [start + n * self.width for start, n in zip(self.starts, counts, strict=True)] if is_grouped else []
        found = [self.query.out_features, self.key.out_features]
        if not (is_grouped and self.width and (ends[1] <= found[1] if self.query is self.key else ends == found)):
            raise ValueError(f"{found} outputs are no {self.heads} heads of queries and {self.groups} of keys")

    @classmethod
    def fused(cls, qkv: nn.Linear, heads: int, key_heads: int | None = None, causal: bool = True) -> Projections:
        """Of one layer whose outputs are the queries of all heads, then the keys, then as many values."""
        size, left = divmod(qkv.out_features, max(heads + 2 * (key_heads or heads), 1))
        if left:
            raise ValueError(f"{qkv.out_features} outputs are no {heads} heads of queries, keys and values")
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
        q = queries[..., first : first + self.heads * self.width]
        k = keys[..., second : second + self.groups * self.width]
        q = q.reshape(-1, q.shape[-2], self.groups, self.heads // self.groups, self.width)
        k = k.reshape(-1, k.shape[-2], self.groups, self.width)
        past = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril()
        found = []
        with torch.autocast(q.device.type, enabled=False):
            for one, other in zip(q, k, strict=True):  # (time, heads of a key, ...) at a time
                logits = torch.einsum("tghd,sgd->ghts", one.float(), other.float()) * scale
                found.append((logits.masked_fill(~past, -math.inf) if self.causal else logits).amax((1, 2, 3)))
        return torch.stack(found).amax(0)


class Logits(Watcher):
    """The largest attention logit of each head, in every row of its query and key, and 0 in other rows (MuonClip).

    Raises:
        TypeError: the optimizer has no event `clip(logit)`, or is no `Projections`.
        ValueError: it takes logits for none of these layers.
        RuntimeError: FSDP has whole weights in the place of its shards, as between a forward and its backward.
    """

    EVENT, ARGUMENT, COMBINED_BY = "clip", "logit", dist.ReduceOp.MAX

    def __init__(
        self,
        projections: Iterable[Projections],
        optimizer: torch.optim.Optimizer,
        every: int = 1,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(optimizer, every, group)
        self.projections = list(projections)
        for each in self.projections:
            if not isinstance(each, Projections):
                raise TypeError(f"Logits takes Projections, one for each attention layer, not {each!r}")
        layers = [layer for each in self.projections for layer in (each.query, each.key)]
        self.layers = _taken({layer: layer.weight for layer in layers}, optimizer, self.EVENT)

    def _attached(self) -> Iterable[RemovableHandle]:
        for each in self.projections:
            outputs: dict[nn.Module, Tensor] = {}
            for layer in dict.fromkeys((each.query, each.key)):
                yield layer.register_forward_hook(self._looker(each, outputs))

    def _looker(
        self, layers: Projections, outputs: dict[nn.Module, Tensor]
    ) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        """A hook of both layers: the one that comes second looks at the logits."""

        def look(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            outputs[layer] = output.detach()
            if len(outputs) < len({layers.query, layers.key}) or not output.numel():
                return
            found = layers.largest(outputs[layers.query], outputs[layers.key])
            outputs.clear()
            counts = layers.heads, layers.groups
            for each, start, count in zip((layers.query, layers.key), layers.starts, counts, strict=True):
                if each in self.layers:
                    weight, _ = self.layers[each]
                    rows = self.found.setdefault(weight, self._blanks()[weight]())
                    self.counts[weight] = 1
                    own = rows[start : start + count * layers.width, 0]
                    own.copy_(torch.maximum(own, found.repeat_interleave(len(own) // len(found))))

        return look

    def _blanks(self) -> Mapping[Tensor, Callable[[], Tensor]]:
        def blank(weight: Tensor) -> Tensor:
            return torch.zeros(weight.shape[0], 1, device=weight.device)

        return {weight: partial(blank, weight) for weight, _ in self.layers.values()}


def _taken(weights: Mapping[nn.Linear, Tensor], optimizer: Any, event: str) -> dict[nn.Linear, tuple[Tensor, Slot]]:
    """The layers whose weights have rules that are given something by the event; ValueError if there are none."""
    _require_resharded(weights.values(), lambda p: f"a weight of shape {tuple(p.shape)}")
    optimizer._look_at_groups()
    slots = optimizer._roster.slots
    takers = {p for p, slot in slots.items() if any(e.name == event and e.given for e in slot.rule.events)}
    found = {layer: (p, slots[p]) for layer, p in weights.items() if p in takers}
    if not found:
        raise ValueError(
            f"none of {len(weights)} nn.Linear has a weight that {type(optimizer).__name__} steps by a rule "
            f"with the event `{event}`"
        )
    return found


def _wide(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _size(group: dist.ProcessGroup | None) -> int:
    """How many processes train together."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def _combined(x: Tensor, group: dist.ProcessGroup | None, by: Any = dist.ReduceOp.SUM) -> Tensor:
    """x of all processes, in its place."""
    if _size(group) > 1:
        dist.all_reduce(x, by, group)
    return x


def _require_event(optimizer: object, event: str, argument: str) -> None:
    """TypeError unless it is an optimizer of a generated class with this event, which takes the argument alone."""
    given = [each for rule in getattr(optimizer, "RULES", ()) for each in rule.events if each.name == event]
    method = None if isinstance(optimizer, type) else getattr(optimizer, event, None)
    if not given or not callable(method) or [*inspect.signature(method).parameters] != [argument]:
        name = optimizer.__qualname__ if isinstance(optimizer, type) else type(optimizer).__qualname__
        raise TypeError(f"{name} has no event `{event}({argument})`")
