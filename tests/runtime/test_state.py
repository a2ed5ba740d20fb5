"""The state of an optimizer in the hands of frameworks: replaced, moved, freed, saved in parts, sent to a process."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optforge.generated import SOAP, AdamW, Muon, SophiaG
from tests.runtime.test_compatibility import one_thread
from tests.runtime.test_contract import run, same, weights
from tests.runtime.test_torch_suite import Live
from tests.support.classes import build, class_parameters, groups, is_untouched, parameters, roles, set_gradients

__all__ = ["one_thread"]

# One state a weight, several, numbers beside them, statistics of rows and columns, first values and events.
FEW = {"AdamW", "Muon", "NAMO", "SOAP", "ScheduleFreeAdamW", "SophiaG"}
few_classes = pytest.mark.parametrize(
    "cls", [pytest.param(*each.values, id=each.id) for each in class_parameters() if each.id in FEW]
)
every_class = pytest.mark.parametrize(
    "cls",
    [
        pytest.param(*each.values, id=each.id, marks=() if each.id in FEW else pytest.mark.wide)
        for each in class_parameters()
    ],
)


def fire_all(optimizer: Any) -> None:
    """Every event of the class that needs no argument or has a number for one, no tensors."""
    for name in dict.fromkeys(event.name for rule in optimizer.RULES for event in rule.events if not event.given):
        method = getattr(optimizer, name, None)
        if method is not None:
            method(*[1.0] * len(_required(method)))


def _required(method: Callable[..., Any]) -> list[str]:
    return [n for n, a in inspect.signature(method).parameters.items() if a.default is a.empty]


def started(cls: type[Any], steps: int = 2, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    made = groups(cls, dtype)
    optimizer = build(cls, made, **options)
    run(optimizer, parameters(made), range(steps))
    return optimizer


def params_of(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def everything(optimizer: Any) -> Any:
    """The weights and what the state has of each parameter, in their order."""
    return copy.deepcopy((weights(params_of(optimizer)), [dict(optimizer.state[p]) for p in params_of(optimizer)]))


def states(optimizer: Any) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    for p in params_of(optimizer):
        for name, value in list(optimizer.state[p].items()):
            if not name.endswith("step"):
                yield optimizer.state[p], name, value


# -- what is put into a state is what steps use ------------------------------------------------------------------------


def replace(optimizer: Any, of: Callable[[Tensor], Tensor]) -> None:
    for entry, name, value in states(optimizer):
        entry[name] = of(value)


def replace_data(optimizer: Any, of: Callable[[Tensor], Tensor]) -> None:
    for _, _, value in states(optimizer):
        value.data = of(value.data)


def replace_entries(optimizer: Any, of: Callable[[Tensor], Tensor]) -> None:
    for p in params_of(optimizer):
        entry = optimizer.state[p]
        optimizer.state[p] = {name: x if name.endswith("step") else of(x) for name, x in entry.items()}


def replace_state(optimizer: Any, of: Callable[[Tensor], Tensor]) -> None:
    replace_entries(optimizer, of)
    optimizer.state = type(optimizer.state)(dict, {**optimizer.state})


REPLACING = [replace, replace_data, replace_entries, replace_state]


@every_class
@pytest.mark.parametrize("replacing", REPLACING)
def test_what_replaces_a_state_is_taken_up(cls, replacing):
    """As if a checkpoint had brought it; what is saved after the next steps is what they left."""
    optimizer, other = started(cls), started(cls)
    halved = copy.deepcopy(other.state_dict())
    for entry in halved["state"].values():
        entry.update({name: x / 2 for name, x in entry.items() if not name.endswith("step")})
    other.load_state_dict(halved)
    replacing(optimizer, lambda x: x / 2)
    for t in range(2, 5):
        for each in (optimizer, other):
            run(each, params_of(each), range(t, t + 1))
        assert same(everything(optimizer), everything(other))
        assert same(optimizer.state_dict()["state"], other.state_dict()["state"])


@few_classes
@pytest.mark.parametrize("is_data", [True, False])
def test_one_state_that_is_replaced_is_taken_up(cls, is_data):
    """While all others still lie in the buffer, which therefore still is there."""
    for place in range(len(parameters(groups(cls)))):
        optimizer, other = started(cls), started(cls)
        p, q = params_of(optimizer)[place], params_of(other)[place]
        for name, value in [(n, x) for n, x in optimizer.state[p].items() if not n.endswith("step")]:
            other.state[q][name].mul_(0.5)
            if is_data:
                value.data = value.data * 0.5
            else:
                optimizer.state[p][name] = value * 0.5
        for each in (optimizer, other):
            run(each, params_of(each), range(2, 4))
        assert same(everything(optimizer), everything(other))


@few_classes
def test_a_state_written_in_place_counts(cls):
    optimizer, other = started(cls), started(cls)
    for _, _, value in states(optimizer):
        value.mul_(0.5)
    replace(other, lambda x: x / 2)
    for each in (optimizer, other):
        run(each, params_of(each), range(2, 4))
    assert same(everything(optimizer), everything(other))


def test_states_that_share_their_memory_with_something_else_are_copied():
    """A weight, another state, a piece of a larger tensor: steps write to none of them."""
    for shape in ((4, 3), (300, 200)):  # in a batch, and alone
        p, q = (nn.Parameter(torch.randn(shape)) for _ in range(2))
        optimizer, large = AdamW([p, q]), torch.ones(2, *shape)
        run(optimizer, [p, q], range(1))
        optimizer.state[p]["m"], optimizer.state[q]["m"] = p.data, optimizer.state[p]["v"]
        optimizer.state[q]["v"] = large[1]
        twin = copy.deepcopy(optimizer)
        run(optimizer, [p, q], range(1, 3))
        run(twin, params_of(twin), range(1, 3))
        assert same(everything(optimizer), everything(twin)) and (large == 1).all()
        storages = {x.untyped_storage()._cdata for x in (p, q, *(x for _, _, x in states(optimizer)))}
        assert len(storages) == 6


COUNTS = {
    "another number": lambda entry, name: entry.update({name: 7}),
    "a tensor": lambda entry, name: entry.update({name: torch.tensor(7)}),
    "a tensor of one element": lambda entry, name: entry.update({name: torch.tensor([7.0], dtype=torch.float64)}),
    "in place": lambda entry, name: entry[name].fill_(7),
    "its data": lambda entry, name: setattr(entry[name], "data", torch.tensor(7.0)),
}


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("how", COUNTS)
def test_a_count_that_is_set_counts(how, backend):
    optimizer, other = started(AdamW, backend=backend), started(AdamW, backend=backend)
    saved = copy.deepcopy(other.state_dict())
    for entry in saved["state"].values():
        entry["step"] = torch.tensor(7.0)
    other.load_state_dict(saved)
    for p in params_of(optimizer):
        COUNTS[how](optimizer.state[p], "step")
    for each in (optimizer, other):
        run(each, params_of(each), range(2, 4))
    assert same(everything(optimizer), everything(other))
    assert all(optimizer.state[p]["step"] == 9 for p in params_of(optimizer))


@few_classes
def test_counts_are_tensors_of_their_own(cls):
    """0-d float32 on the CPU, as in torch's optimizers; to write to one changes no other."""
    optimizer = started(cls)
    fire_all(optimizer)
    counts = {name: x for p in params_of(optimizer) for name, x in optimizer.state[p].items() if name.endswith("step")}
    assert all((x.dtype, x.shape, x.device.type) == (torch.float32, (), "cpu") for x in counts.values())
    first, *others = params_of(optimizer)
    held = optimizer.state[first]["step"]
    held.fill_(5)
    assert all(optimizer.state[p]["step"] == 2 for p in others)
    run(optimizer, params_of(optimizer), range(2, 3))
    assert held is optimizer.state[first]["step"] and held == 6


def test_counts_beyond_the_precision_of_their_tensors_go_on():
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer, plain = SOAP([p]), SOAP([q])
    run(optimizer, [p], range(1))
    run(plain, [q], range(1))
    optimizer.state[p]["step"] = 2**24
    seen = []
    for _ in range(3):
        optimizer.step()
        seen.append(optimizer._counters.known("step", optimizer.state)[p].number)
    assert seen == [2**24 + 1, 2**24 + 2, 2**24 + 3] and plain.state[q]["step"] == 1


# -- memory is given back ----------------------------------------------------------------------------------------------


def empty(optimizer: Any) -> None:
    replace(optimizer, lambda x: torch.empty(0))


def empty_data(optimizer: Any) -> None:
    replace_data(optimizer, lambda x: torch.empty(0))


def clear(optimizer: Any) -> None:
    optimizer.state.clear()


def move(optimizer: Any) -> None:
    replace(optimizer, lambda x: x.to("meta"))


def move_data(optimizer: Any) -> None:
    for entry, name, value in states(optimizer):
        value.data = torch.empty(0)
        entry[name] = torch.empty(0)


@contextmanager
def without_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@every_class
@pytest.mark.parametrize("freeing", [empty, empty_data, clear, move, move_data])
def test_freed_states_free_their_memory_at_once(cls, freeing):
    """Every storage made in steps is gone but the gradients' and those of counts; nobody has to call the collector."""
    made = groups(cls)
    params = parameters(made)
    with without_collector():
        with Live() as live:
            optimizer = build(cls, made)
            for t in range(3):
                set_gradients(params, t)
                optimizer.step()
            fire_all(optimizer)
            for p in params:
                p.grad = None
        held = sum(x.numel() * x.element_size() for _, _, x in states(optimizer))
        before = live.bytes()
        assert before >= held
        freeing(optimizer)
        assert live.bytes() <= before - held and live.bytes() <= 8 * len(params)


@few_classes
def test_states_that_spend_a_phase_elsewhere_come_back(cls):
    """As in reinforcement learning, where the optimizer leaves the device while the model generates; counts as well."""
    optimizer, other = started(cls), started(cls)
    for t in range(2, 5):
        kept = {p: {name: x.to("cpu", copy=True) for name, x in optimizer.state[p].items()} for p in optimizer.state}
        for entry in optimizer.state.values():
            for name, x in entry.items():
                entry[name] = x.to("meta")
        with pytest.raises(ValueError, match=r"invalid state|is on meta, and the parameter on cpu; move it there"):
            run(optimizer, params_of(optimizer), range(t, t + 1))
        for p, entry in kept.items():
            for name, x in entry.items():
                optimizer.state[p][name] = x.double() if name == "step" else x
        for each in (optimizer, other):
            run(each, params_of(each), range(t, t + 1))
        assert same(everything(optimizer), everything(other))


UNFIT = {
    "empty": (lambda x: torch.empty(0), r"has shape \(0,\), where .* is expected"),
    "a number": (lambda x: 0.0, "is no tensor, but 0.0"),
    "integers": (lambda x: torch.zeros(x.shape, dtype=torch.int64), "is torch.int64"),
    "complex": (lambda x: x.to(torch.complex64), "is torch.complex64"),
    "sparse": (lambda x: x.to_sparse(), "with layout torch.sparse_coo"),
}


@few_classes
@pytest.mark.parametrize("what", UNFIT)
def test_a_step_with_what_is_no_state_is_an_error_that_changes_nothing(cls, what):
    made, (of, said) = groups(cls), UNFIT[what]
    optimizer = build(cls, made)
    params = parameters(made)
    run(optimizer, params, range(2))
    kept, entry = copy.deepcopy(everything(optimizer)), optimizer.state[params[0]]
    name = next(name for name in entry if not name.endswith("step"))
    good = entry[name].clone()
    set_gradients(params, 2)
    for _ in range(2):
        entry[name] = of(good)
        with pytest.raises(ValueError, match=rf"state '{name}' of a .*{said}"):
            optimizer.step()
    entry[name] = good
    assert same(everything(optimizer), kept)
    optimizer.step()
    assert not same(everything(optimizer), kept)


@pytest.mark.parametrize("value", [-1, 1.5, float("nan"), 1e30, True, None, "3", torch.ones(2), torch.tensor(1j)])
def test_a_step_with_what_is_no_count_is_an_error_that_changes_nothing(value):
    optimizer = started(AdamW)
    before = weights(params_of(optimizer))
    optimizer.state[params_of(optimizer)[1]]["step"] = value
    with pytest.raises(ValueError, match="invalid state step="):
        run(optimizer, params_of(optimizer), range(2, 3))
    assert same(weights(params_of(optimizer)), before)


# -- what is saved of a state is that state ----------------------------------------------------------------------------


def saved_size(value: Any) -> int:
    file = io.BytesIO()
    torch.save(value, file)
    return len(file.getvalue())


def cloned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: cloned(each) for key, each in value.items()}
    return value.clone() if isinstance(value, Tensor) else value


@every_class
def test_a_part_of_a_state_is_saved_copied_and_pickled_alone(cls):
    optimizer = started(cls)
    saved = optimizer.state_dict()["state"]
    for value in (*saved.values(), {key: saved[key] for key in list(saved)[:2]}, saved):
        assert saved_size(value) <= 1.02 * saved_size(cloned(value)) + 64
        assert len(pickle.dumps(value)) <= 1.02 * len(pickle.dumps(cloned(value))) + 64
    for _, _, value in states(optimizer):
        copied = copy.deepcopy(value)
        assert copied.untyped_storage().nbytes() == value.untyped_storage().nbytes() == value.numel() * value.itemsize
        assert same(copied, value)


@pytest.mark.peers
@few_classes
def test_states_are_saved_as_safetensors(cls):
    safetensors = pytest.importorskip("safetensors.torch")
    optimizer = started(cls)
    flat = {f"{i}.{name}": x for i, entry in optimizer.state_dict()["state"].items() for name, x in entry.items()}
    again = safetensors.load(safetensors.save(flat))
    assert same(again, flat) and again


# -- before the first step ---------------------------------------------------------------------------------------------


@every_class
def test_a_state_is_there_from_the_start_and_takes_up_no_memory(cls):
    made = groups(cls)
    with Live() as live:
        optimizer = build(cls, made)
        assert live.bytes() <= sum(4 + 8 * len(optimizer.state[p]) for p in params_of(optimizer))
    later = started(cls)
    for p, q in zip(params_of(optimizer), params_of(later), strict=True):
        assert is_untouched(optimizer, p)
        assert optimizer.state[p].keys() == later.state[q].keys()
        for name, value in optimizer.state[p].items():
            assert (value.shape, value.dtype) == (later.state[q][name].shape, later.state[q][name].dtype)


@every_class
def test_looking_at_the_state_changes_no_training(cls):
    """Nor does a checkpoint from before the first step; first values are those of the weights at the first step."""
    looked, other = started(cls, 0), started(cls, 0)
    saved = looked.state_dict()
    assert all(value.is_contiguous() for entry in saved["state"].values() for value in entry.values())
    looked = build(cls, groups(cls, seed=1))
    looked.load_state_dict(copy.deepcopy(saved))
    with torch.no_grad():
        for p, q in zip(params_of(looked), params_of(other), strict=True):
            p.copy_(q)
    for each in (looked, other):
        run(each, params_of(each), range(3))
    assert same(everything(looked), everything(other))


@few_classes
@pytest.mark.parametrize("looks", [True, False])
def test_a_model_may_move_between_construction_and_the_first_step(cls, looks):
    made, others = groups(cls), groups(cls, torch.float64)
    optimizer = build(cls, made)
    if looks:
        optimizer.state_dict()
    for p, q in zip(parameters(made), parameters(others), strict=True):
        p.data = q.detach().clone()
    other = build(cls, others)
    for each in (optimizer, other):
        run(each, params_of(each), range(2))
    assert same(everything(optimizer), everything(other))


def test_frozen_parameters_have_no_state_until_they_are_trained():
    p, q = (nn.Parameter(torch.randn(4, 3)) for _ in range(2))
    q.requires_grad_(False)
    optimizer = AdamW([p, q])
    assert q not in optimizer.state
    run(optimizer, [p], range(2))
    assert optimizer.state_dict()["state"].keys() == {0}
    q.requires_grad_(True)
    assert optimizer.state_dict()["state"].keys() == {0, 1}
    run(optimizer, [p, q], range(2, 4))
    assert optimizer.state[p]["step"] == 4 and optimizer.state[q]["step"] == 2


def test_parameters_that_frameworks_put_in_place_of_others_have_a_state_and_those_have_none():
    """As ZeRO and apex replace weights by masters before the first step; what nothing was written to is dropped."""
    low, other = nn.Parameter(torch.randn(4, 3).bfloat16()), nn.Parameter(torch.randn(5))
    optimizer = AdamW([low, other])
    master = nn.Parameter(low.detach().float())
    optimizer.param_groups[0]["params"][0] = master
    assert optimizer.state_dict()["state"].keys() == {1}
    run(optimizer, [master, other], range(2))
    assert optimizer.state.keys() == {master, other}
    assert optimizer.state_dict()["state"].keys() == {0, 1}


# -- anything, in any order --------------------------------------------------------------------------------------------


def reload(optimizer: Any) -> None:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))


def take_out_and_back(optimizer: Any) -> None:
    kept = {p: dict(entry) for p, entry in optimizer.state.items()}
    optimizer.state.clear()
    for p, entry in reversed(kept.items()):
        optimizer.state[p] = {name: x.clone() for name, x in entry.items()}


def share(optimizer: Any) -> None:
    for _, _, value in states(optimizer):
        value.share_memory_()


def replace_some(optimizer: Any, generator: random.Random) -> None:
    for entry, name, value in states(optimizer):
        if generator.random() < 0.3:
            entry[name] = value.clone()
        elif generator.random() < 0.3:
            value.data = value.data.clone()


HARMLESS: list[Callable[[Any, random.Random], None]] = [
    replace_some,
    lambda optimizer, _: reload(optimizer),
    lambda optimizer, _: take_out_and_back(optimizer),
    lambda optimizer, _: share(optimizer),
    lambda optimizer, _: optimizer.state_dict(),
    lambda optimizer, _: pickle.dumps(optimizer),
    lambda optimizer, _: replace_state(optimizer, Tensor.clone),
    lambda optimizer, _: optimizer.__setstate__(optimizer.__getstate__()),
]


@every_class
@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_done_to_a_state_that_keeps_its_values_changes_no_step(cls, seed):
    """Between steps of changing sets of gradients, and events: the same weights, states and checkpoints, bit by bit."""
    generator = random.Random(f"{cls.__name__} {seed}")
    optimizer, plain = started(cls, 0), started(cls, 0)
    for t in range(8):
        for action in generator.sample(HARMLESS, 2):
            action(optimizer, generator)
        missing = [generator.random() < 0.3 for _ in params_of(plain)]
        for each in (optimizer, plain):
            set_gradients(params_of(each), t)
            for p, is_missing in zip(params_of(each), missing, strict=True):
                p.grad = None if is_missing else p.grad
            each.step()
            if t % 3 == 2:
                set_gradients(params_of(each), t)
                fire_all(each)
        assert same(everything(optimizer), everything(plain)), t
    assert same(optimizer.state_dict(), plain.state_dict())


@pytest.mark.parametrize("cls", [Muon, SophiaG])
def test_tied_and_late_parameters_have_one_state(cls):
    p, late = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 3))
    model = nn.ModuleDict({"one": nn.Linear(3, 4, bias=False), "other": nn.Linear(3, 4, bias=False)})
    model["one"].weight = model["other"].weight = p
    optimizer = build(cls, [{"params": list(model.parameters()), "rule": roles(cls)[0]}])
    run(optimizer, [p], range(2))
    optimizer.add_param_group({"params": [late], "rule": roles(cls)[0]})
    assert is_untouched(optimizer, late) and optimizer.state.keys() == {p, late}
    run(optimizer, [p, late], range(2, 4))
    assert optimizer.state[p]["step"] == 4 and optimizer.state[late]["step"] == 2
