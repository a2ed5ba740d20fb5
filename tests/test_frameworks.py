"""What frameworks do to an optimizer between two steps, for every kind of class: parameters, groups, hypers, hooks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from classes import build, groups, parameters, roles, set_gradients
from handwritten import Blend
from test_compatibility import few_classes, one_thread
from test_contract import has_totals, run, same, weights
from torch import Tensor, nn

from optforge.generated import LAMB, SGD, AdamW, Muon, Prodigy

__all__ = ["one_thread"]


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def snapshot(params: list[Tensor], optimizer: Any) -> Any:
    return copy.deepcopy((weights(params), {i: dict(optimizer.state.get(p, {})) for i, p in enumerate(params)}))


def refused(optimizer: Any, params: list[Tensor], error: type[Exception], match: str) -> None:
    """A step is an error that says so, each time anew, and changes nothing."""
    set_gradients(params, 7)
    before = snapshot(params, optimizer)
    for _ in range(2):
        with pytest.raises(error, match=match):
            optimizer.step()
        assert same(snapshot(params, optimizer), before)


# -- parameters that are flattened, resized, replaced ------------------------------------------------------------------


def flattened_in_place(p: Tensor, group: dict[str, Any]) -> Tensor:
    p.data = p.data.flatten()
    return p


def replaced_by_flat(p: Tensor, group: dict[str, Any]) -> Tensor:
    flat = nn.Parameter(p.detach().flatten().clone())
    group["params"] = [flat if each is p else each for each in group["params"]]
    return flat


def all_replaced_by_one(p: Tensor, group: dict[str, Any]) -> Tensor:
    flat = nn.Parameter(torch.cat([each.detach().flatten() for each in group["params"]]))
    group["params"] = [flat]
    return flat


def sharded_in_place(p: Tensor, group: dict[str, Any]) -> Tensor:
    p.data = p.data.flatten()[: p.numel() // 2].clone()
    return p


FLATTENED = [flattened_in_place, replaced_by_flat, all_replaced_by_one, sharded_in_place]


@pytest.mark.parametrize("flatten", FLATTENED)
@pytest.mark.parametrize("explicit", [True, False], ids=["rule given", "by dimensions"])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_matrix_that_was_flattened_is_no_matrix(flatten, explicit, steps):
    """Before the first step or later, whether the group says which rule it has or dimensions do."""
    params = [parameter(5, 6), parameter(4, 6, seed=1), parameter(3, seed=2)]
    rule = {"rule": "matrix"} if explicit else {}
    made = [{"params": params[:2], **rule}, {"params": params[2:]}] if explicit else [{"params": params}]
    optimizer = Muon(made)
    run(optimizer, params, range(steps))
    flat = flatten(params[0], optimizer.param_groups[0])
    with_grad = [p for group in optimizer.param_groups for p in group["params"]]
    shape = f"of shape \\({flat.numel()},\\)"
    refused(optimizer, with_grad, RuntimeError, f"{shape} stands where the rule 'matrix' had a parameter of shape")


@pytest.mark.parametrize("flatten", FLATTENED)
def test_rules_of_elements_step_shards(flatten):
    """They see no shapes: a flat shard steps as that part of the parameter would."""
    params, whole = [parameter(5, 6), parameter(4, seed=1)], parameter(5, 6)
    optimizer, other = AdamW(params), AdamW([whole])
    flat = flatten(params[0], optimizer.param_groups[0])
    for t in range(3):
        set_gradients([whole], t)
        flat.grad = torch.zeros_like(flat)
        size = min(flat.numel(), whole.numel())
        flat.grad[:size] = whole.grad.flatten()[:size]
        optimizer.step()
        other.step()
    torch.testing.assert_close(flat.detach()[:size], whole.detach().flatten()[:size])


def test_rules_of_whole_tensors_step_flat_ones_but_no_shards():
    whole, part = parameter(5, 6), parameter(5, 6)
    by_whole, by_part = LAMB([whole]), LAMB([part])
    flattened_in_place(whole, {})
    run(by_whole, [whole], range(2))
    sharded_in_place(part, {})
    refused(by_part, [part], RuntimeError, r"shape \(15,\) stands where .* \(5, 6\)")


def test_a_flat_parameter_may_be_meant():
    p, late = parameter(5, 6), parameter(7)
    optimizer = Muon([p])
    optimizer.param_groups[0]["params"] = [late]
    refused(optimizer, [late], RuntimeError, "Set the group's rule if it is meant so")
    optimizer.param_groups[0]["rule"] = "vector"
    run(optimizer, [late], range(1))
    assert set(optimizer.state[late]) == {"m", "v", "step"}


@pytest.mark.parametrize("mark", ["_fsdp_flattened", "ds_shape"])
def test_shards_that_frameworks_mark_are_named_at_construction(mark):
    """FSDP1 marks all parameters; those of NO_SHARD keep their shapes, and biases among them are biases."""
    params = [parameter(30), parameter(4, seed=1)]
    for p in params:
        setattr(p, mark, True)
    name = "FSDP1" if mark == "_fsdp_flattened" else "ZeRO-3"
    for cls in (Muon, LAMB, Prodigy):
        with pytest.raises(NotImplementedError, match=rf"shape \(30,\) is a flat shard of {name}: .* such as AdamW"):
            cls(params)
    run(AdamW(params), params, range(1))
    whole = [parameter(5, 6), parameter(4, seed=1)]
    for p in whole:
        setattr(p, mark, True)
    run(Muon(whole), whole, range(1))


@few_classes
def test_weights_resized_in_place_begin_anew_or_are_named(cls):
    """A state of the old size is a sentence, and gone with its entry; without a state a resized weight is as any."""
    if has_totals(cls):
        pytest.skip("parameters depend on each other")
    role = roles(cls)[0]
    first, other, fresh = parameter(5, 6), parameter(4, 6, seed=1), parameter(7, 6, seed=3)
    optimizer, reference = (
        build(cls, [{"params": [first, other], "rule": role}]),
        build(cls, [{"params": [fresh], "rule": role}]),
    )
    optimizer.param_groups[0]["param_names"] = ["emb.weight", "other"]
    first.data = parameter(5, 4).data
    run(optimizer, [first, other], range(1))
    held = [value for value in optimizer.state[first].values() if isinstance(value, Tensor)]
    first.data = fresh.detach().clone()
    if held:
        name = r"emb\.weight of shape \(7, 6\) does not fit its state: .* had shape \(5, 4\) when .* begins anew"
        refused(optimizer, [first, other], RuntimeError, name)
        del optimizer.state[first]
    run(optimizer, [first, other], range(1, 2))
    set_gradients([fresh], 1)
    reference.step()
    assert torch.equal(first, fresh)


def test_an_unpickled_optimizer_sees_that_a_state_is_of_another_size():
    optimizer = AdamW([p := parameter(5, 6)])
    run(optimizer, [p], range(1))
    other = copy.deepcopy(optimizer)
    (q,) = other.param_groups[0]["params"]
    q.data = torch.ones(3, 6)
    refused(other, [q], RuntimeError, r"had shape \(5, 6\) when it was made")


def test_a_rule_changed_after_construction_counts():
    """Before the first step it is the rule; afterwards the state is of the old one, which is said."""
    p, alike = parameter(5, 6), parameter(5, 6)
    optimizer, other = Muon([p]), Muon([{"params": [alike], "rule": "rest"}])
    optimizer.param_groups[0]["rule"] = "rest"
    for each, q in ((optimizer, p), (other, alike)):
        run(each, [q], range(2))
    assert torch.equal(p, alike) and same(dict(optimizer.state[p]), dict(other.state[alike]))
    optimizer.param_groups[0]["rule"] = "matrix"
    refused(optimizer, [p], RuntimeError, "it is that of the rule 'rest', and the parameter is now one for 'matrix'")
    optimizer.param_groups[0]["rule"] = "nothing"
    refused(optimizer, [p], ValueError, "has no rule 'nothing' for parameter 0 of its group")
    optimizer.param_groups[0]["rule"] = "matrix"
    optimizer.param_groups[0]["split"] = 2
    refused(optimizer, [p], ValueError, "split=2 does not divide 5 rows")
    optimizer.param_groups[0]["split"] = None
    optimizer.state.clear()
    run(optimizer, [p], range(2))
    assert set(optimizer.state[p]) == {"m", "step"}


@few_classes
def test_parameters_appended_to_a_group_begin_there(cls):
    """Past add_param_group, with the checks it would have made."""
    if has_totals(cls):
        pytest.skip("parameters depend on each other")
    made, alone, late = groups(cls), groups(cls), groups(cls, seed=1)[0]["params"][0]
    fresh = groups(cls, seed=1)[0]["params"][0]
    optimizer, first, second = build(cls, made), build(cls, alone), build(cls, [{**groups(cls)[0], "params": [fresh]}])
    run(optimizer, parameters(made), range(2))
    run(first, parameters(alone), range(2))
    optimizer.param_groups[0]["params"].append(late)
    for t in range(2, 4):
        for params in (parameters(made), parameters(alone), [late], [fresh]):
            set_gradients(params, t)
        for each in (optimizer, first, second):
            each.step()
    assert same(weights(parameters(made)), weights(parameters(alone))) and torch.equal(late, fresh)
    listed = optimizer.param_groups[0]["params"]
    for bad, error in ((listed[0], "more than once"), (nn.Parameter(listed[0].data), "share their memory")):
        listed.append(bad)
        refused(optimizer, [p for g in optimizer.param_groups for p in g["params"]], ValueError, error)
        listed.pop()
    listed.append(nn.Parameter(torch.ones(4, 4, dtype=torch.complex64)))
    refused(optimizer, listed[:-1], RuntimeError, "complex64")
    listed.pop()
    run(optimizer, listed, range(1))


def test_a_parameter_listed_twice_in_place_of_another_is_seen():
    """The number of parameters is as it was."""
    p, q = parameter(3), parameter(3, seed=1)
    optimizer = SGD([p, q])
    run(optimizer, [p, q], range(1))
    optimizer.param_groups[0]["params"][1] = p
    refused(optimizer, [p], ValueError, "more than once")


def test_a_parameter_may_move_to_another_group():
    """With its state, and to the hypers of that group."""
    p, q, alike = parameter(5, 6), parameter(4, 6, seed=1), parameter(5, 6)
    optimizer = Muon([{"params": [p]}, {"params": [q], "lr": 0.5}])
    other = Muon([alike])
    run(optimizer, [p, q], range(2))
    run(other, [alike], range(2))
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop())
    other.param_groups[0]["lr"] = 0.5
    run(optimizer, [p, q], range(2, 4))
    run(other, [alike], range(2, 4))
    assert torch.equal(p, alike)


def test_parameters_freed_between_steps_come_back():
    """Offloading puts an empty tensor where the weight was; the parameter is the same when the weight is back."""
    p, q, alike = parameter(5, 6), parameter(3, seed=1), parameter(5, 6)
    optimizer, other = Muon([p, q]), Muon([alike])
    for t in range(3):
        run(optimizer, [p, q], range(t, t + 1))
        run(other, [alike], range(t, t + 1))
        kept, p.grad = p.data, None
        p.data = torch.empty(0)
        optimizer.step()
        p.data = kept
    assert torch.equal(p, alike) and optimizer.state[p]["step"] == 3


def test_groups_put_past_add_param_group_are_complete_or_named():
    p, q = parameter(3), parameter(3, seed=1)
    optimizer = Blend([p])
    optimizer.param_groups.append({"params": [q]})
    refused(optimizer, [p, q], ValueError, "lacks 'rule': add_param_group fills in")
    optimizer.param_groups[1] = {**optimizer.param_groups[0], "params": [q], "lr": 0.5}
    run(optimizer, [p, q], range(1))
    assert optimizer.state[q]["step"] == 1
