"""The base of generated optimizers: groups, steps, events and checkpoints."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from .batching.counters import Counters, DeviceCounters
from .batching.group_values import GroupValues, _check_values
from .batching.noise import Noise
from .batching.parameter_batch import ParameterBatch
from .batching.roster import Roster
from .batching.states import _begin_states, _complete_states, _counters_of, _drop_precision, _drop_untouched
from .checkpoints import SPEC_KEY, Spec, _description, _of_same_spec
from .contract.arguments import _require_arguments, _require_callable, _require_kind
from .contract.generated import Generated
from .contract.hypers import _check_hypers, _distinguish
from .contract.interface import Kernel, Rule
from .exchange.agreement import Asked
from .exchange.communication import Communication
from .execution.arrangement import Arrangement
from .execution.autocast import _without_autocast
from .execution.calls import _all_finite
from .execution.interrupts import _DeferredInterrupts
from .execution.strategies import Refused, Runner, _require_ways, _strategy
from .fixed_points import _warn_of_fixed_points
from .loading import _Reader, _require_form, _run_pre_hooks
from .modes import Firing, _mode_counts, _require_training
from .placement.fsdp import _require_in_place
from .placement.parts import _part_of
from .routing.groups import (
    Group,
    _copy_group,
    _defaults_of,
    _explains_arguments,
    _read_groups,
    _require_groups,
    _require_known_keys,
    _second_names,
)
from .routing.parameters import _has_grad
from .routing.places import _wider
from .routing.readings import _settle_rates, _warn_of_guesses
from .steps.homes import _show_owned
from .steps.jobs import Job, _run_jobs
from .steps.shared import _require_one_value, _share
from .steps.sums import _sums
from .steps.together import Together

_Found = TypeVar("_Found")


class SpecOptimizer(Generated, torch.optim.Optimizer):
    """Base of generated optimizers: a `torch.optim.Optimizer` that runs the kernels of `RULES`.

    Args:
        params: a module (routed by role), (name, tensor) pairs (by name and shape), tensors (by number of dimensions),
            or groups of these as in torch. A group may set any hyper, `rule` (a role or a rule's name), `precision`,
            and how its matrices are read: `transposed`, `split` (a number or a tuple of row counts), `batch` (how many
            leading dimensions count matrices). An lr that it sets is that of its parameters, whatever ratio to lr their
            rule has otherwise.
        hypers: the defaults of the hypers.
        precision: how parameters of less than 32 bits are kept between steps: "plain", "kahan" (with a compensation of
            their dtype), "stochastic" (rounded without bias) or "master" (with a float32 copy).
        seed: of stochastic rounding and random numbers; a key of groups, and so of checkpoints, alike on all ranks.
        skip_nonfinite: leave everything as it is in steps, and in events that read gradients, in which a gradient has a
            NaN or infinity.
        backend: "eager" runs kernels as they are written, "compile" by torch.compile or inductor, "auto" by torch's
            fused kernels where there are some, compiled from `AUTO_ELEMENTS` elements of a rule on, else eagerly.
        capturable: count steps on the device, and read hypers that are tensors there, so that a CUDA graph can hold
            a step; run a few steps before capturing one.

    `compile_options`, an attribute, are the options that torch.compile gets, such as `{"triton.cudagraphs": True}`.

    Faults: what can be checked in advance (hypers, gradients, the closure) raises before a step or event has changed
    anything. An operation that fails later (no memory left, LAPACK) raises to the caller, who may call `step` again:
    parameters step bucket by bucket, `state[p]["step"]` counts those that are done, and the others are as before, save
    that in the bucket that failed states may have taken in the gradient and some weights have moved (so may those of
    an unequal `split` in buckets before it). The next `step` is one more for every gradient; without the gradients of
    those counted it completes the one that failed. Ctrl-C is raised when the step is complete, a second one when the
    bucket at work is.
    """

    RULES: ClassVar[tuple[Rule, ...]] = ()
    MOMENTUM: ClassVar[tuple[str, ...]] = ()  # the hypers that play the momentum, one for each rule that has one
    SPEC: ClassVar[Spec | None] = None

    skip_nonfinite: bool = False
    _arriving: list[tuple[dict[str, Any], set[str]]] | None = None  # groups and the keys given, until all are there

    def __init__(
        self,
        params: Any,
        hypers: Mapping[str, Any],
        *,
        precision: str = "plain",
        seed: int = 0,
        skip_nonfinite: bool = False,
        backend: str = "auto",
        capturable: bool = False,
    ) -> None:
        _require_ways(backend, skip_nonfinite, capturable)
        self.backend, self.skip_nonfinite, self.capturable = backend, skip_nonfinite, capturable
        self.compile_options: dict[str, Any] = {}
        self._hyper_names = tuple(hypers)
        self._forget()
        _check_hypers(type(self), hypers)
        self._arriving = []
        super().__init__(_read_groups(type(self), params), _defaults_of(type(self), hypers, precision, seed))
        arrived, self._arriving = self._arriving, None
        self._admit(arrived)
        _warn_of_guesses(type(self), self.param_groups)

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__init__" in vars(cls):
            options = inspect.signature(SpecOptimizer.__init__).parameters.values()
            named = [each for each in options if each.kind is each.KEYWORD_ONLY]
            cls.__init__ = _explains_arguments(cls.__init__, named)  # type: ignore[method-assign]

    def _forget(self) -> None:
        """Drops what is derived from groups, parameters and states."""
        self._values = GroupValues(type(self), self._hyper_names, self.capturable)
        self._roster = Roster()
        self._arrangement = Arrangement()
        self._together = Together(self._roster)
        self._sent = Communication()  # in the last step or event
        self._counters = self._new_counters()
        self._refused: Refused = {}

    def _new_counters(self) -> Counters:
        return DeviceCounters() if self.capturable else Counters()

    def __getstate__(self) -> dict[str, Any]:
        names = ("skip_nonfinite", "backend", "capturable", "compile_options", "_hyper_names")
        own = {name: getattr(self, name) for name in names}
        return {**super().__getstate__(), **own, "_spec": self.SPEC.hash if self.SPEC else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = _of_same_spec(type(self).__name__, self.SPEC, state)
        super().__setstate__(state)
        self._forget()
        if "_counters" in state:  # of a checkpoint, which has been read as a whole
            self._roster, self._counters = state["_roster"], state["_counters"]
            return
        for group in self.param_groups:
            self._describe(group)
        self._look_at_groups()
        for counter in {counter for rule in self.RULES for counter in _counters_of(rule)}:
            self._counters.adopt(counter, self.state)

    # -- groups --------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        """As in torch, without what the groups say of the spec."""
        lines = super().__repr__().split("\n")
        return "\n".join(line for line in lines if not line.startswith(f"    {SPEC_KEY}: "))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; ValueError for misspelt keys, invalid hypers, or a parameter that no rule takes."""
        group = self._group(_copy_group(param_group))
        self._describe(group)
        _require_known_keys(group, type(self), self._hyper_names, (SPEC_KEY,))
        given = set(group)
        super().add_param_group(group)
        if self._arriving is not None:
            self._arriving.append((group, given))
            return
        try:
            self._admit([(group, given)])
        except BaseException:
            self.param_groups.pop()
            raise

    def _admit(self, arrived: Sequence[tuple[dict[str, Any], set[str]]]) -> None:
        """Checks groups that are new, each with the keys that it was given."""
        for group, _ in arrived:
            self._check_group(group)
        self._look_at_groups()
        _settle_rates(type(self), arrived, self.param_groups, self.defaults, self._hyper_names)

    def _group(self, items: Mapping[str, Any]) -> Group:
        return Group(items, _second_names(self.MOMENTUM, self._hyper_names))

    def _describe(self, group: dict[str, Any]) -> None:
        """Lets the group say of which spec its states are, as helpers for checkpoints keep the keys that they find."""
        if self.SPEC is not None:
            group[SPEC_KEY] = _description(type(self), self._hyper_names)

    def _check_group(self, group: dict[str, Any]) -> None:
        """ValueError unless the group's hypers and options are valid."""
        _check_values(type(self), group, self._hyper_names)
        if group.get("differentiable"):  # torch gives groups the key, as False
            raise ValueError("invalid differentiable=True: no gradient flows through a step")

    # -- steps and events ----------------------------------------------------------------------------------------------

    @_disable_dynamo  # what decides here is Python's work; kernels that are worth it compile themselves
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step for every parameter that has a gradient; returns the closure's loss. On faults see the class."""
        loss = None
        if closure is not None:
            _require_callable("step", closure, "a function that computes the loss")
            with torch.enable_grad():
                loss = closure()

        def prepare() -> tuple[list[ParameterBatch], list[Runner], bool]:
            batches = self._collect("step", _has_grad)
            _require_one_value(self.RULES, self._roster)
            _require_in_place(self._roster.slots, self._roster.name)
            _require_training(batches, _mode_counts(self.RULES, self._counters, self.state))
            runners = [self._runner(batch.rule.step, batch, "step") for batch in batches]
            return batches, runners, not self.skip_nonfinite or _all_finite(batches)

        batches, runners, is_finite = self._prepare_together("step", Asked("step"), _has_grad, prepare)
        if self.skip_nonfinite and not self._together.everywhere(is_finite, self._sent):
            return loss
        _warn_of_fixed_points(batches, self._roster, type(self).__name__, self._together, self._sent)
        with _DeferredInterrupts() as interrupts, _without_autocast(batch.device for batch in batches):
            slots, state = self._roster.slots, self._roster.seen(self.state)
            settled = [self._arrangement.settled(batch, slots, state, self._sent) for batch in batches]
            kernels = {batch.rule.name: batch.rule.step for batch in batches}
            sums = _sums(kernels, batches, {}, self._arrangement, slots, state, self._sent)
            scalars = [batch.scalars(batch.rule.step, sums[batch.rule.name], {}) for batch in batches]
            advance = partial(self._counters.advance, "step", self.state)
            _run_jobs(list(map(Job, runners, scalars, settled)), advance, interrupts.pause, self._sent)
            _share(batches, slots, state, self._counters)
        return loss

    @_disable_dynamo
    @torch.no_grad()
    def fire(self, event: str, **arguments: Any) -> None:
        """Runs the event on the parameters of every rule that has it; without gradient only those that need none.

        RuntimeError if it puts in place what is there already, or takes away what is not.
        """
        firing = Firing(type(self).__name__, self.RULES, event, self._counters, self.state, arguments)
        counter, asked, kernels = f"{event}_step", Asked(event, firing.given.numbers), firing.kernels

        def prepare() -> tuple[list[ParameterBatch], list[ParameterBatch], list[Runner], bool]:
            _require_arguments(getattr(self, event, None), arguments, firing.given.numbers)
            firing.given.require_kinds()
            batches = self._collect(counter, firing.takes_part)
            firing.require_due(batches)
            firing.given.take(batches, self._roster.slots, self._roster.name)
            stepped = self._collect(counter, _has_grad) if any(kernel.sums for kernel in kernels.values()) else []
            runners = [self._runner(kernels[batch.rule.name], batch, counter) for batch in batches]
            read = [batch for batch in batches if any(firing.reads_gradient(batch.rule, p) for p in batch.params)]
            return batches, stepped, runners, not self.skip_nonfinite or _all_finite([*read, *stepped], batches)

        batches, stepped, runners, is_finite = self._prepare_together(counter, asked, firing.takes_part, prepare)
        if self.skip_nonfinite and not self._together.everywhere(is_finite, self._sent):
            return
        with _DeferredInterrupts() as interrupts, _without_autocast(batch.device for batch in batches):
            slots, state = self._roster.slots, self._roster.seen(self.state)
            for batch in batches:
                self._arrangement.require_states(batch, slots, state, self._sent)
            given = {name: found.scalars(firing.given.numbers) for name, found in firing.events.items()}
            sums = _sums(kernels, stepped, given, self._arrangement, slots, state, self._sent)
            jobs = []
            for batch, runner in zip(batches, runners, strict=True):
                rule, kernel = batch.rule, runner.kernel
                buckets = self._arrangement.buckets(batch, kernel, _wider(rule.step.layout, kernel.layout), slots)
                scalars = batch.scalars(kernel, sums[rule.name], given[rule.name])
                jobs.append(Job(runner, scalars, [(bucket, None) for bucket in buckets]))
            _run_jobs(jobs, partial(self._counters.advance, counter, self.state), interrupts.pause, self._sent)

    def _prepare_together(
        self, counter: str, asked: Asked, takes_part: Callable[[Rule, Tensor], bool], prepare: Callable[[], _Found]
    ) -> _Found:
        """What `prepare` finds here, if all ranks that share parameters with this one can go on, and do the same."""
        self._sent = Communication()
        try:
            found = prepare()
            groups, state = self.param_groups, self.state
            values = [(*self._values.of(group, state), group["precision"], group["seed"]) for group in groups]
            counts, spec = self._counters.known(counter, self.state), self.SPEC.hash if self.SPEC else ""
        except BaseException as problem:
            self._together.fail(problem, asked, self.skip_nonfinite, self._sent)
        self._together.require_agreement(spec, asked, counts, takes_part, values, self.skip_nonfinite, self._sent)
        self._together.bring_home(self.state, self._sent)
        return found

    def _runner(self, kernel: Kernel, batch: ParameterBatch, counter: str) -> Runner:
        strategy = _strategy(kernel, batch, self.backend, self.capturable, self._refused)
        states = self._roster.seen(self.state)
        return Runner(kernel, batch, states, strategy, self.compile_options, self._refused)

    def _collect(self, counter: str, takes_part: Callable[[Rule, Tensor], bool]) -> list[ParameterBatch]:
        """The parameters that take part, by rule, hypers, dtype, device and count; checks hypers and gradients."""
        batches: dict[tuple[Any, ...], ParameterBatch] = {}
        runs: dict[tuple[Any, ...], int] = {}
        self._look_at_groups()
        self._together = self._together.of(self._roster)
        counts = self._counters.known(counter, self.state)
        for group, listing in zip(self.param_groups, self._roster.listings, strict=True):
            values = self._values.of(group, self.state)
            run = runs.setdefault((_distinguish(values), group["precision"], group["seed"]), len(runs))
            batch: ParameterBatch | None = None
            for p, slot in zip(group["params"], listing.slots, strict=True):
                if not takes_part(slot.rule, p) or not p.numel():
                    continue
                if not slot.fits(p):
                    self._look_at_groups(resized=p)
                    return self._collect(counter, takes_part)
                part = _part_of(p, slot, self._roster.name)
                known = counts.get(p)
                count = known.number + 1 if known else 1
                kind = (slot.dtype, slot.device, count)
                if batch is None or not batch.takes(slot.rule, *kind):
                    batch = batches.get(key := (run, slot.rule.name, *kind))
                if batch is None:
                    precision = group["precision"] if slot.dtype.itemsize < 4 else "plain"
                    hypers = dict(zip(self._hyper_names, values, strict=True))
                    t = self._counters.current(counter, self.state, p, count)
                    noise = Noise(group["seed"], counter, t, self._roster.marks)
                    batch = batches[key] = ParameterBatch(slot.rule, precision, *kind, t, hypers, noise=noise)
                batch.params.append(p)
                if part is not None:
                    batch.parts[p] = part
        if self._together.exchanges:  # where an error on one rank alone would leave others waiting for what it sends
            for batch in batches.values():
                self._arrangement.require_fitting(batch, self._roster.slots, self._roster.seen(self.state))
        return self._together.sort([*batches.values()])

    def _look_at_groups(self, resized: Tensor | None = None) -> None:
        """Checks parameters that are new or changed, as the roster says, and drops what was made for what they were."""
        old = self._roster
        if resized is None and old.is_current(self.param_groups):
            return
        _require_groups(self.param_groups)
        self.param_groups[:] = [g if isinstance(g, Group) else self._group(g) for g in self.param_groups]
        self._roster = old.renewed(self.param_groups, type(self), self.state)
        changed = {p: slot for p, slot in old.slots.items() if self._roster.slots.get(p) is not slot}
        if changed:
            self._arrangement.forget(changed, old.seen(self.state))
            _drop_precision([p for p, slot in changed.items() if self._roster.slots.get(p) != slot], self.state)
            _drop_untouched(changed, self.state)
        _begin_states(self.param_groups, self._roster.slots, self._roster.seen(self.state), self._counters)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As in torch; each group has under "spec" what its states mean, for `load_state_dict` of later versions.

        Parameters that are to be trained have states before their first step, too: counts of 0, and states of zeros.
        States that one rank owns are shown as DTensors, for which ranks exchange them: all must call this then.
        """
        self._together = self._together.of(self._roster).bring_home(self.state, Communication())
        listed = {id(p) for group in self.param_groups for p in group["params"]}
        _drop_untouched({p: slot for p, slot in self._roster.slots.items() if id(p) not in listed}, self.state)
        _complete_states(self.param_groups, self._roster.slots, self._roster.seen(self.state), self._counters)
        for group in self.param_groups:
            self._describe(group)
        with _show_owned(self, self._roster.slots):
            return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but states keep their dtype, and are converted as the spec says (`m was exp_avg`).

        Raises:
            ValueError: states or hypers do not fit, or states mean something else in this spec. Nothing has changed.
            TypeError: it is no state dict of an optimizer.
        """
        _require_kind("load_state_dict", state_dict, dict, "what state_dict() gave")
        state_dict = _run_pre_hooks(self, state_dict.copy())
        _require_form(state_dict)
        reader = _Reader(type(self).__name__, self.SPEC, {name: self.defaults[name] for name in self._hyper_names})
        saved = reader.groups(self.param_groups, state_dict["param_groups"])
        groups: list[dict[str, Any]] = [self._group(each.group) for each in saved]
        for own, group in zip(self.param_groups, groups, strict=True):
            _require_known_keys(group, type(self), self._hyper_names, (SPEC_KEY, *own))
            self._check_group(group)
        roster, counters = Roster().renewed(groups, type(self), {}), self._new_counters()
        state = reader.state(state_dict["state"], saved, roster.slots, counters)
        _begin_states(groups, roster.slots, roster.seen(state), counters)
        self.__setstate__({"state": state, "param_groups": groups, "_roster": roster, "_counters": counters})
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)
