"""Steps and events in which something fails or Ctrl-C is pressed, at every operation in turn.

What holds is what the docstring of SpecOptimizer says: a parameter whose count has advanced has its whole step, the
others are as before, but for those of the one bucket that failed; and `step` may be called again.
"""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from optforge.generated import ASGD, NAMO, SGD, SOAP, AdamW, Muon, Nora, Shampoo, SophiaG
from optforge.runtime.execution.interrupts import _DeferredInterrupts
from tests.support.classes import build, class_parameters, groups, parameters, set_gradients
from tests.support.handwritten import Blend, Curvature, Lookback, Sphere

Values = list[dict[str, Any]]  # of each parameter: its weight and what the state has


class Fault(RuntimeError):
    """What an operation raises that finds no state."""


class At(TorchDispatchMode):
    """Runs `action` just before the k-th operation, counted from 0, and before each one after it up to `times`."""

    def __init__(self, k: int, action: Callable[[], None], times: int = 1) -> None:
        super().__init__()
        self.left, self.action, self.times = k, action, times

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "profiler":  # what torch's Optimizer wraps around every step
            self.left -= 1
            if -self.times <= self.left < 0:
                self.action()
        return func(*args, **(kwargs or {}))


def fail() -> None:
    raise Fault


def press() -> None:
    """Ctrl-C, delivered by the operating system."""
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def python_handler():
    """Python's own handler, whatever the test runner has installed; a test that leaves another one fails."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    left = signal.signal(signal.SIGINT, before)
    assert left is signal.default_int_handler


# -- what is compared --------------------------------------------------------------------------------------------------


def few_groups(cls: type[Any], dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    """Parameters that come in several buckets, and more than one in some."""
    made = [group for group in groups(cls, dtype) if group["rule"] in ("matrix", "vector")]
    return [{**group, "params": group["params"][1:3]} for group in made]


def params_of(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def values(optimizer: Any) -> Values:
    """A copy of everything that a step may change."""
    found = [{"weight": p.detach(), **optimizer.state.get(p, {})} for p in params_of(optimizer)]
    return [{n: x.clone() if isinstance(x, Tensor) else x for n, x in entry.items()} for entry in found]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    def equal(x: Any, y: Any) -> bool:
        return torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, Tensor) else x == y

    return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)


def all_same(a: Values, b: Values) -> bool:
    return all(map(same, a, b))


def ready(cls: type[Any], steps: int, missing: tuple[int, ...] = (), **options: Any) -> Any:
    """An optimizer after some steps; then the parameters of these places have no gradient, which moves the buckets."""
    dtype = torch.bfloat16 if "precision" in options else torch.float32
    made = few_groups(cls, dtype)
    made[-1]["lr"] = 0.003  # a hyper of its own, so that no class runs all in one bucket
    optimizer = build(cls, made, **options)
    for t in range(steps):
        set_gradients(params_of(optimizer), t)
        optimizer.step()
    return with_gradients(optimizer, steps, missing)


def with_gradients(optimizer: Any, seed: int, missing: tuple[int, ...] = ()) -> Any:
    params = params_of(optimizer)
    set_gradients(params, seed)
    for i in missing:
        params[i].grad = None
    return optimizer


def copied(optimizer: Any) -> Any:
    """A deep copy of the optimizer, its parameters and their gradients; the original's buckets are as they were."""
    other = copy.deepcopy(optimizer)
    for p, q in zip(params_of(optimizer), params_of(other), strict=True):
        q.grad = None if p.grad is None else p.grad.clone()
    return other


def disturbed(
    optimizer: Any, act: Callable[[Any], None], action: Callable[[], None], times: int = 1
) -> Iterator[tuple[Any, BaseException]]:
    """Copies on which `act` was disturbed before its first, second, ... operation, and what it raised."""
    for k in range(10_000):
        other = copied(optimizer)
        at = At(k, action, times)
        try:
            with at:
                act(other)
        except (Fault, KeyboardInterrupt) as raised:
            yield other, raised
        if at.left >= 0:
            assert k > 0  # there was something to disturb
            return
    raise AssertionError("no end")


# -- an operation fails ------------------------------------------------------------------------------------------------


def step(optimizer: Any) -> None:
    optimizer.step()


def require_documented(optimizer: Any, act: Callable[[Any], None], counter: str, is_local: bool = True) -> None:
    """For a failure of every operation in turn: the state it leaves, and that one can go on from it.

    `is_local` says that a parameter's step depends on its own gradient alone.
    """
    before, completed = values(optimizer), copied(optimizer)
    act(completed)
    after = values(completed)
    seen = set()
    for k, (other, raised) in enumerate(disturbed(optimizer, act, fail)):
        assert isinstance(raised, Fault)
        found = values(other)
        for old, value in zip(before, found, strict=True):  # failures come later and later; seen first is initialized
            first = {name: value[name] for name in initialized(other) & value.keys() if not old[name].any()}
            old.update(first if not any(value[name] for name in value if name.endswith("step")) else {})
        done = [bool(value[counter] != old[counter]) for value, old in zip(found, before, strict=True)]
        failed = require_documented_state(other, found, done, before, after)
        require_completion(other, act, done, after, counter, failed if is_local else None)
        if k % 5 == 0:
            require_usable(other)
        seen.add(any(done))
    assert seen == {True, False}


def initialized(optimizer: Any) -> set[str]:
    """The states that have first values."""
    return {name for rule in optimizer.RULES if rule.init is not None for name in rule.init.outputs}


def require_documented_state(other: Any, found: Values, done: list[bool], before: Values, after: Values) -> list[int]:
    """Returns the places of the parameters whose bucket failed after it had begun to write."""
    failed = []
    for i, value in enumerate(found):
        assert not done[i] or same(value, after[i])
        if done[i] or same(value, before[i]) or value.keys() == {"weight"}:
            continue
        failed.append(i)
        moved = value["weight"] != before[i]["weight"]
        assert torch.equal(value["weight"][moved], after[i]["weight"][moved])
        for name, x in value.items():
            assert not isinstance(x, Tensor) or (x.isfinite().all() and x.shape == after[i][name].shape)
    params = params_of(other)
    owners = {id(owner): owner for owner in (other._arrangement.owners.get(params[i]) for i in failed)}
    assert len(owners) <= 1
    return [i for i, p in enumerate(params) for owner in owners.values() if owner is None or p in set(owner.params)]


def require_completion(
    other: Any, act: Callable[[Any], None], done: list[bool], after: Values, counter: str, failed: list[int] | None
) -> None:
    """Without the gradients of the parameters that are done, the same call again completes what was interrupted.

    `failed`: the places of what cannot come out as if nothing had happened; None if it is not known of any parameter.
    """
    for p, is_done in zip(params_of(other), done, strict=True):
        p.grad = None if is_done else p.grad
    act(other)
    for i, value in enumerate(values(other)):
        assert value.get(counter) == after[i].get(counter)
        assert value["weight"].isfinite().all()
        assert failed is None or i in failed or same(value, after[i])


def require_usable(optimizer: Any) -> None:
    """Every parameter takes another step, and the state can be saved and loaded."""
    before = values(optimizer)
    with_gradients(optimizer, 99).step()
    for value, old in zip(values(optimizer), before, strict=True):
        assert value["weight"].isfinite().all() and not torch.equal(value["weight"], old["weight"])
        assert value["step"] == old.get("step", 0) + 1
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


SITUATIONS = {"first step": (0, ()), "third step": (2, ()), "other gradients": (2, (0,))}
SEVERAL = [AdamW, SGD, Muon, NAMO, Nora, SophiaG, ASGD, SOAP, Shampoo, Lookback, Sphere]


@pytest.mark.parametrize(
    "cls, situation",
    [(Blend, "other gradients"), (Muon, "first step")]
    + [pytest.param(cls, each, marks=pytest.mark.wide) for cls in (Blend, *SEVERAL) for each in SITUATIONS],
)
def test_a_failure_anywhere_leaves_what_is_documented(cls, situation):
    steps, missing = SITUATIONS[situation]
    require_documented(ready(cls, steps, missing), step, "step")


@pytest.mark.parametrize("precision", ["kahan", "master"])
def test_a_failure_anywhere_leaves_what_is_documented_in_low_precision(precision):
    require_documented(ready(AdamW, 1, precision=precision), step, "step")


@pytest.mark.parametrize("steps", [0, 1])
def test_a_failure_anywhere_leaves_what_is_documented_with_totals(steps):
    """And with initial values, on the first step."""
    require_documented(ready(Curvature, steps), step, "step", is_local=False)


def test_a_failure_anywhere_in_an_event_leaves_what_is_documented():
    require_documented(ready(Curvature, 1), lambda o: o.curvature(batch_size=8.0), "curvature_step")


def test_a_parameter_in_several_buckets_is_counted_when_all_of_it_is_done():
    """Units of unequal sizes run apart; a parameter of which one has stepped and another has not is not done."""
    p, q = (nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(i))) for i in range(2))
    optimizer = with_gradients(Muon([{"params": [p], "split": (2, 3)}, {"params": [q]}]), 0)
    completed = copied(optimizer)
    completed.step()
    after, halves = values(completed), 0
    for other, _ in disturbed(optimizer, step, fail):
        (found, _), (x, _) = values(other), params_of(other)
        moved = (x != p).any(dim=1).tolist()
        halves += any(moved) and not all(moved)
        assert same(found, after[0]) if found["step"] else not all(moved)
        other.step()
        assert all(value["weight"].isfinite().all() for value in values(other))
    assert halves


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


EVENT = partial(Curvature.curvature, batch_size=8.0)


@pytest.mark.parametrize(
    "cls, act, steps",
    [(AdamW, step, 0), (Muon, step, 2), (Curvature, step, 0), (Curvature, EVENT, 1)],
    ids=["AdamW", "Muon", "Curvature", "event"],
)
def test_ctrl_c_is_raised_when_the_step_is_complete(cls, act, steps):
    optimizer = ready(cls, steps)
    completed = copied(optimizer)
    act(completed)
    after = values(completed)
    for other, raised in disturbed(optimizer, act, press):
        assert type(raised) is KeyboardInterrupt
        assert all_same(values(other), after)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_before_anything_is_written_is_raised_at_once():
    """While gradients are looked at, or in a closure."""
    optimizer = ready(AdamW, 1, skip_nonfinite=True)
    before, completed = values(optimizer), copied(optimizer)
    completed.step()
    after = values(completed)
    whole = [all_same(values(other), after) for other, _ in disturbed(optimizer, step, press)]
    assert whole == sorted(whole) and set(whole) == {False, True}
    untouched = [all_same(values(other), before) for other, _ in disturbed(optimizer, step, press)]
    assert untouched == [not each for each in whole]
    reached = []

    def closure():
        press()
        reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert all_same(values(optimizer), before) and not reached


@pytest.mark.parametrize("cls, act, counter", [(Muon, step, "step"), (Curvature, EVENT, "curvature_step")])
def test_a_second_ctrl_c_is_raised_when_a_bucket_is_complete(cls, act, counter):
    optimizer = ready(cls, 1)
    before, completed = values(optimizer), copied(optimizer)
    act(completed)
    after = values(completed)
    seen = set()
    for other, raised in disturbed(optimizer, act, press, times=2):
        assert type(raised) is KeyboardInterrupt and raised.__context__ is None
        done = [bool(value[counter] == new[counter]) for value, new in zip(values(other), after, strict=True)]
        expected = [new if is_done else old for is_done, new, old in zip(done, after, before, strict=True)]
        assert all_same(values(other), expected)
        if sum(done) not in seen:
            require_usable(other)
        seen.add(sum(done))
    assert {0 < count < len(after) for count in seen} == {True, False}


def test_a_handler_of_ones_own_is_called_after_the_step_once_for_each_ctrl_c():
    """One that does not raise, as those that only note that it is time to end: the step goes on."""
    optimizer = ready(Muon, 1)
    completed = copied(optimizer)
    completed.step()
    calls: list[tuple[int, bool, bool]] = []

    def note(signum, frame):
        calls.append((signum, frame is not None, all_same(values(optimizer), values(completed))))

    signal.signal(signal.SIGINT, note)
    with At(5, press):
        optimizer.step()
    assert calls == [(signal.SIGINT, True, True)]
    assert signal.getsignal(signal.SIGINT) is note
    completed.step()
    with At(5, press, times=3):
        optimizer.step()
    assert len(calls) == 4 and all_same(values(optimizer), values(completed))
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is note


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_where_no_python_runs_at_a_ctrl_c_nothing_is_changed(handler):
    signal.signal(signal.SIGINT, handler)
    with _DeferredInterrupts():
        assert signal.getsignal(signal.SIGINT) is handler
        if handler is signal.SIG_IGN:
            press()
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is handler


def test_only_the_main_thread_waits():
    seen = []

    def look():
        with _DeferredInterrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_contexts_nest_and_an_error_inside_comes_with_the_interrupt():
    reached = []
    with pytest.raises(KeyboardInterrupt) as raised, _DeferredInterrupts() as outer:
        with _DeferredInterrupts():
            press()
        outer.pause()
        reached.append(True)
        raise Fault
    assert reached and isinstance(raised.value.__context__, Fault)


# -- what is checked before anything is changed ------------------------------------------------------------------------


def closure_that_raises(optimizer: Any) -> None:
    def closure():
        sum(p.square().sum() for p in params_of(optimizer)).backward()
        raise Fault

    optimizer.step(closure)


def with_last(change: Callable[[Any, Tensor], None], optimizer: Any) -> None:
    """A step after a change of the last group or of its last parameter."""
    change(optimizer.param_groups[-1], optimizer.param_groups[-1]["params"][-1])
    optimizer.step()


def sparse_gradient(group: dict[str, Any], p: Tensor) -> None:
    p.grad = p.grad.to_sparse()


def complex_gradient(group: dict[str, Any], p: Tensor) -> None:
    p.grad = None
    p.grad_dtype = None
    p.grad = torch.ones(p.shape, dtype=torch.complex64)


def negative_lr(group: dict[str, Any], p: Tensor) -> None:
    group["lr"] = -1.0


EARLY = {
    "closure": (closure_that_raises, Fault),
    "sparse": (partial(with_last, sparse_gradient), RuntimeError),
    "complex": (partial(with_last, complex_gradient), RuntimeError),
    "hyper": (partial(with_last, negative_lr), ValueError),
}


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("cause", EARLY)
@pytest.mark.parametrize("cls", [AdamW, Blend])
def test_what_can_be_known_in_advance_raises_before_anything_is_changed(cls, cause, steps):
    act, error = EARLY[cause]
    optimizer = ready(cls, steps)
    before, state = values(optimizer), copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(error):
        act(optimizer)
    assert all_same(values(optimizer), before) and state.keys() == optimizer.state_dict()["state"].keys()
    optimizer.param_groups[-1]["lr"] = 0.003
    for p in params_of(optimizer):
        p.grad = None
        p.grad_dtype = p.dtype
    with_gradients(optimizer, 7).step()
    assert all(value["step"] == steps + 1 for value in values(optimizer))


def test_loading_changes_everything_or_nothing():
    """Also if Ctrl-C is pressed: a state is put in its place when it has been copied."""
    source = ready(Blend, 3)
    saved = source.state_dict()
    load = partial(step_of_loading, saved)
    for action in (fail, press):
        optimizer = ready(Blend, 1)
        before, groups_before = values(optimizer), [g["lr"] for g in optimizer.param_groups]
        for other, _ in disturbed(optimizer, load, action):
            assert all_same(values(other), before)
            assert [g["lr"] for g in other.param_groups] == groups_before
            require_usable(other)
    hooked = ready(Blend, 1)
    hooked.register_load_state_dict_post_hook(lambda _: fail())
    with pytest.raises(Fault):
        hooked.load_state_dict(saved)
    assert all(value["step"] == 3 for value in values(hooked))


def step_of_loading(saved: dict[str, Any], optimizer: Any) -> None:
    optimizer.load_state_dict(saved)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Fault])
def test_a_group_that_cannot_be_checked_is_not_added(error):
    """Its lr stops the check, as Ctrl-C would."""

    class Stopped(float):
        def __ge__(self, other: object) -> bool:
            raise error

    optimizer = ready(Muon, 1)
    late = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(error):
        optimizer.add_param_group({"params": [late], "lr": Stopped(0.1)})
    assert all(p is not late for p in params_of(optimizer))
    optimizer.add_param_group({"params": [late]})
    require_usable(optimizer)


# -- NaN and infinity --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", class_parameters())
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nonfinite_gradient_changes_its_own_parameter_alone(cls, bad):
    """The other parameters take bitwise the step that they take beside a finite gradient, also of the same bucket."""
    if any(rule.step.sums for rule in cls.RULES):
        pytest.skip("parameters depend on each other")
    made, others = groups(cls), groups(cls)
    optimizer, other = build(cls, made), build(cls, others)
    at = len(made[0]["params"]) // 2
    for t in range(3):
        set_gradients(parameters(made), t)
        set_gradients(parameters(others), t)
        if t == 1:
            parameters(others)[at].grad.view(-1)[0] = bad
        optimizer.step()
        other.step()
    for i, (value, expected) in enumerate(zip(values(other), values(optimizer), strict=True)):
        assert i == at or same(value, expected)
    assert not same(values(other)[at], values(optimizer)[at])
