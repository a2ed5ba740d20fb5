"""What comes to `load_state_dict`: forms of torch's checkpoint helpers, names in another order, what is no state."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from optforge.generated import AdamW, Muon
from tests.runtime.test_checkpoints import OLD, optimizer_class, tensors
from tests.runtime.test_compatibility import one_thread
from tests.runtime.test_contract import run, same, weights
from tests.runtime.test_state import every_class, everything, few_classes, started
from tests.support.classes import build, is_untouched, set_gradients

__all__ = ["one_thread"]


# -- torch's checkpoint helpers ----------------------------------------------------------------------------------------


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def routed(cls: type[Any], module: nn.Module, **options: Any) -> Any:
    """An optimizer of the module; of its matrices alone if the class takes nothing else."""
    try:
        return build(cls, module, **options)
    except ValueError:
        for name, p in module.named_parameters():
            p.requires_grad_(p.ndim > 1)
            assert name
        return build(cls, [p for p in module.parameters() if p.requires_grad], **options)


def trained(optimizer: Any, steps: range) -> None:
    run(optimizer, [p for group in optimizer.param_groups for p in group["params"]], steps)


FORMS = {
    "nested": StateDictOptions(),
    "flattened": StateDictOptions(flatten_optimizer_state_dict=True),
    "full": StateDictOptions(full_state_dict=True, cpu_offload=True),
}


@every_class
@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_on_disk_continue_bitwise(cls, form, tmp_path):
    """Through a template that a new optimizer makes, which takes no step for it."""
    options = FORMS[form]
    one, other = model(), model(1)
    optimizer, fresh = routed(cls, one), routed(cls, other)
    trained(optimizer, range(2))
    if form == "full" and not any(x.ndim for entry in optimizer.state.values() for x in entry.values()):
        pytest.skip("torch loads a full state dict of counts alone for no optimizer, its own SGD included")
    optimizer.zero_grad()
    dcp.save({"optimizer": get_optimizer_state_dict(one, optimizer, options=options)}, checkpoint_id=tmp_path)
    before = weights(list(other.parameters()))
    template = {"optimizer": get_optimizer_state_dict(other, fresh, options=options)}
    assert same(before, weights(list(other.parameters())))
    dcp.load(template, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, fresh, template["optimizer"], options=options)
    other.load_state_dict(one.state_dict())
    assert same(fresh.state_dict(), optimizer.state_dict())
    for each in (optimizer, fresh):
        trained(each, range(2, 5))
    assert same(everything(optimizer), everything(fresh))


@pytest.fixture(autouse=True)
def no_words_about_processes():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@every_class
@pytest.mark.parametrize("form", ["nested", "flattened"])
def test_a_template_moves_no_training(cls, form):
    """A new optimizer whose state was looked at, as helpers do before loading, trains as if nobody had; so does one
    that is given back what was seen.
    """
    one, other = model(), model()
    looked, plain = routed(cls, one), routed(cls, other)
    seen = get_optimizer_state_dict(one, looked, options=FORMS[form])
    set_optimizer_state_dict(one, looked, seen, options=FORMS[form])
    assert same(weights(list(one.parameters())), weights(list(other.parameters())))
    for each in (looked, plain):
        trained(each, range(3))
    assert same(everything(looked), everything(plain))


@pytest.mark.parametrize("form", ["nested", "flattened"])
def test_helpers_restore_by_name_whatever_the_order(form):
    """They order the parameters as the optimizer does, and leave `param_names` in the order of the checkpoint."""
    one, other = model(), model(1)
    optimizer = AdamW(list(one.named_parameters()))
    trained(optimizer, range(2))
    optimizer.zero_grad()
    saved = copy.deepcopy(get_optimizer_state_dict(one, optimizer, options=FORMS[form]))
    reordered = AdamW(list(other.named_parameters())[::-1])
    set_optimizer_state_dict(other, reordered, saved, options=FORMS[form])
    for (_, p), (_, q) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert same(dict(optimizer.state[p]), dict(reordered.state[q]))
    assert reordered.param_groups[0]["param_names"] == [name for name, _ in other.named_parameters()][::-1]


# -- names -------------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c")


def named(names: tuple[str, ...], **options: Any) -> tuple[Any, dict[str, Tensor]]:
    """Parameters of one shape, so that only names can tell them apart."""
    params = {name: nn.Parameter(torch.zeros(2, 2)) for name in names}
    return AdamW(list(params.items()), **options), params


def saved_by_name(names: tuple[str, ...] = NAMES) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint, and the momentum of each name: all different."""
    optimizer, params = named(names)
    for i, p in enumerate(params.values()):
        p.grad = torch.full_like(p, i + 1.0)
    optimizer.step()
    return optimizer.state_dict(), {name: optimizer.state[p]["m"].clone() for name, p in params.items()}


@pytest.mark.parametrize(
    "names",
    [
        ("c", "a", "b"),
        ("module.b", "module.a", "module.c"),
        ("_orig_mod.b", "_orig_mod.c", "_orig_mod.a"),
        ("module._orig_mod.c", "module._orig_mod.b", "module._orig_mod.a"),
    ],
)
def test_states_are_matched_by_name(names):
    saved, momenta = saved_by_name()
    optimizer, params = named(names)
    optimizer.load_state_dict(saved)
    for name, p in params.items():
        assert torch.equal(optimizer.state[p]["m"], momenta[name.rpartition(".")[2]])
    assert optimizer.param_groups[0]["param_names"] == list(names)
    wrapped, own = saved_by_name(names)
    bare, bare_params = named(NAMES)
    bare.load_state_dict(wrapped)
    for name, p in bare_params.items():
        assert torch.equal(bare.state[p]["m"], next(m for n, m in own.items() if n.rpartition(".")[2] == name))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a", "b", "d"), "the optimizer alone has d; the loaded state dict alone has c"),
        (("a", "b"), "the loaded state dict alone has c"),
        (("a", "b", "c", "d"), "the optimizer alone has d"),
        (("x", "y", "z"), "the optimizer alone has x, y, z"),
        (("module.a", "b", "c"), "the optimizer alone has module.a"),
    ],
)
def test_other_names_are_refused(names, said):
    saved, _ = saved_by_name()
    optimizer, params = named(names)
    with pytest.raises(ValueError, match=said):
        optimizer.load_state_dict(saved)
    assert all(is_untouched(optimizer, p) for p in params.values())
    if len(names) == len(NAMES):
        del saved["param_groups"][0]["param_names"]
        optimizer.load_state_dict(saved)
        assert not any(is_untouched(optimizer, p) for p in params.values())


def test_a_name_that_stands_twice_tells_nothing_in_another_order():
    saved, _ = saved_by_name()
    saved["param_groups"][0]["param_names"] = ["a", "a", "c"]
    optimizer, params = named(("c", "a", "b"))
    with pytest.raises(ValueError, match="several parameters of the name 'a'"):
        optimizer.load_state_dict(saved)
    twice = AdamW([("a", nn.Parameter(torch.zeros(2, 2))), ("b", nn.Parameter(torch.zeros(2, 2)))])
    twice.param_groups[0]["param_names"] = ["a", "a"]
    again = copy.deepcopy(twice.state_dict())
    twice.load_state_dict(again)
    assert all(is_untouched(optimizer, p) for p in params.values())


def test_groups_are_matched_by_the_names_in_them_with_their_hypers():
    saved_from = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    optimizer = AdamW(
        [
            {"params": list(zip("ab", saved_from[:2], strict=True)), "lr": 0.1},
            {"params": [("c", saved_from[2])], "lr": 0.2},
        ]
    )
    for i, p in enumerate(saved_from):
        p.grad = torch.full_like(p, i + 1.0)
    optimizer.step()
    own = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    other = AdamW([{"params": [("c", own[2])]}, {"params": [("b", own[1]), ("a", own[0])]}])
    other.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in other.param_groups] == [0.2, 0.1]
    assert all(same(dict(optimizer.state[p]), dict(other.state[q])) for p, q in zip(saved_from, own, strict=True))
    mixed = AdamW([{"params": [("c", own[2]), ("a", own[0])]}, {"params": [("b", own[1])]}])
    with pytest.raises(ValueError, match="is in a group of other parameters"):
        mixed.load_state_dict(optimizer.state_dict())


def test_without_names_on_both_sides_places_decide():
    saved, momenta = saved_by_name()
    params = [nn.Parameter(torch.zeros(2, 2)) for _ in NAMES]
    optimizer = AdamW(params)
    optimizer.load_state_dict(saved)
    assert all(torch.equal(optimizer.state[p]["m"], m) for p, m in zip(params, momenta.values(), strict=True))
    assert optimizer.param_groups[0]["param_names"] == list(NAMES)


def test_a_parameter_that_is_listed_twice_is_refused():
    saved, _ = saved_by_name()
    saved["param_groups"][0]["params"] = [0, 1, 1]
    with pytest.raises(ValueError, match="lists a parameter twice"):
        named(NAMES)[0].load_state_dict(saved)


# -- what is no state --------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], Any]

COUNTS: list[Any] = [
    -1, 1.5, math.nan, math.inf, 1e30, 2**70, True, None, "3", 1j, [3], torch.tensor(-1), torch.tensor(1.5),
    torch.tensor(math.nan), torch.tensor(True), torch.tensor(1j), torch.ones(2), torch.ones((), device="meta"),
]  # fmt: skip

STATES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "complex": (lambda x: x.to(torch.complex64), "is torch.complex64"),
    "integers": (lambda x: x.to(torch.int64), "is torch.int64"),
    "flags": (lambda x: x.bool(), "is torch.bool"),
    "sparse": (lambda x: x.to_sparse(), "with layout torch.sparse_coo"),
    "another shape": (lambda x: x.flatten()[:1], "has shape"),
    "empty": (lambda x: torch.empty(0), "has shape"),
    "without data": (lambda x: torch.ones_like(x, device="meta"), "on the device meta, and has no data"),
    "a list": (lambda x: x.tolist(), "is no tensor"),
    "a number": (lambda x: 3.0, "is no tensor"),
    "none": (lambda x: None, "is no tensor"),
}


def refused(optimizer: Any, saved: Any, said: str) -> None:
    """Loading is a ValueError that says so, and changes nothing: neither values nor the tensors that hold them."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before, held = everything(optimizer), [optimizer.state[p][name] for p in params for name in optimizer.state[p]]
    groups = copy.deepcopy([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])
    with pytest.raises(ValueError, match=said):
        optimizer.load_state_dict(saved)
    assert same(everything(optimizer), before)
    now = [optimizer.state[p][name] for p in params for name in optimizer.state[p]]
    assert len(now) == len(held) and all(x is y for x, y in zip(now, held, strict=True))
    assert groups == [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


@pytest.mark.parametrize("value", COUNTS, ids=repr)
def test_what_is_no_count_is_refused(value):
    for cls, name in ((AdamW, "step"), (optimizer_class(EVENTFUL), "curvature_step")):
        optimizer = started_with_events(cls)
        saved = copy.deepcopy(optimizer.state_dict())
        last = max(saved["state"])
        saved["state"][last][name] = value
        refused(optimizer, saved, f"invalid state {name}=")


EVENTFUL = """
optimizer Eventful:
    hyper lr = 0.1
    on curvature():
        h = ema(grad^2, 0.9)
    for tensor:
        weight <- weight - lr * grad / (h + 1)
"""


def started_with_events(cls: type[Any]) -> Any:
    optimizer = cls(params := tensors())
    for t in range(2):
        set_gradients(params, t)
        optimizer.step()
        if hasattr(optimizer, "curvature"):
            optimizer.curvature()
    return optimizer


@few_classes
@pytest.mark.parametrize("what", STATES)
def test_what_is_no_state_is_refused(cls, what):
    optimizer, (of, said) = started(cls), STATES[what]
    entries = optimizer.state_dict()["state"]
    last = max(entries)
    name = next(name for name, x in entries[0].items() if not name.endswith("step") and x.numel() > 1)
    key = next(key for key in (0, last) if name in entries[key])
    saved = optimizer.state_dict()
    saved["state"] = {k: dict(entry) for k, entry in entries.items()}
    saved["state"][key][name] = of(entries[key][name])
    refused(optimizer, saved, f"loaded state {name} .*{said}")


@pytest.mark.parametrize("entry", [3, "state", [1, 2], None])
def test_what_is_no_entry_is_refused(entry):
    optimizer = started(AdamW)
    saved = optimizer.state_dict()
    saved["state"] = {**saved["state"], 0: entry}
    refused(optimizer, saved, "is no mapping")


def test_a_state_without_its_count_is_refused():
    optimizer = started(AdamW)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][0]["step"]
    refused(optimizer, saved, "lacks step")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1j, True, "0.1", None, torch.tensor(math.inf)])
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_hypers_that_are_no_finite_numbers_are_refused(name, value):
    optimizer = started(Muon)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][-1][name] = value
    refused(optimizer, saved, f"invalid {name}")


def test_an_infinite_hyper_is_one_where_the_optimizer_has_one():
    text = OLD.replace("hyper lr    = 0.01 ", "hyper cap = 1 where cap > 0\n    hyper lr = 0.01").replace(
        "weight - lr * exp_avg", "weight - lr * clamp(exp_avg, -cap, cap)"
    )
    cls = optimizer_class(text)
    saved = cls(tensors(), cap=math.inf).state_dict()
    other = cls(tensors(), cap=math.inf)
    other.load_state_dict(saved)
    assert other.param_groups[0]["cap"] == math.inf
    refused(cls(tensors()), saved, "invalid cap=inf")


DIVIDED = OLD.replace("hyper beta1 = 0.9 ", "hyper beta1 = 0.9 was 1 / b")


def test_a_hyper_that_divides_by_zero_is_refused_by_its_name():
    before = OLD.replace("hyper beta1 = 0.9   where 0 <= beta1 < 1", "hyper b = 2").replace("beta1", "b")
    old = optimizer_class(before)(tensors(), b=0)
    optimizer = optimizer_class(DIVIDED)(tensors())
    refused(optimizer, old.state_dict(), "beta1")


@pytest.mark.parametrize("b", [1.0, torch.tensor(1.0)])
def test_a_state_that_divides_by_zero_is_refused_by_its_name(b):
    text = """
optimizer A:
    hyper b = 0.5
    for tensor:
        {name} = {value}
        weight <- weight - {name}
"""
    old = optimizer_class(text.format(name="s", value="b * prev(s) + grad"))(params := tensors(), b=b)
    trained(old, range(2))
    new = text.format(name="m", value="b * prev(m) + (1 - b) * grad") + "        m was s / (1 - b)\n"
    optimizer = optimizer_class(new)(others := tensors())
    trained(optimizer, range(1))
    refused(optimizer, old.state_dict(), "state m.* (is not finite|cannot be made)")
    assert params and others


def test_states_of_another_width_are_taken_in_the_declared_one():
    """As of a state that was kept in half precision, or of a model that is wider now."""
    optimizer, other = started(AdamW), started(AdamW, 1, torch.float64)
    for entry in (saved := copy.deepcopy(optimizer.state_dict()))["state"].values():
        entry.update({name: x.half() for name, x in entry.items() if name != "step"})
    optimizer.load_state_dict(saved)
    other.load_state_dict(saved)
    for each, dtype in ((optimizer, torch.float32), (other, torch.float64)):
        entries = each.state_dict()["state"].values()
        assert all(x.dtype == dtype for entry in entries for name, x in entry.items() if name != "step")
