"""What frameworks do to an optimizer between two steps, for every kind of class: parameters, groups, hypers, hooks."""

from __future__ import annotations

import ast
import copy
import inspect
import io
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

import optforge.generated
from optforge.generated import LAMB, NAMO, SGD, AdamW, Lion, Muon, Prodigy, ScheduleFreeSGD
from tests.runtime.test_compatibility import always_few, few_classes, mlp, one_thread, train
from tests.runtime.test_contract import has_totals, run, same, weights
from tests.support.classes import build, groups, hyper_arguments, parameters, roles, set_gradients
from tests.support.handwritten import Blend

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


@few_classes
@pytest.mark.parametrize("shape", [(3, 10), (7, 6), (30,)])
def test_gradients_from_before_a_resize_are_refused(cls, shape):
    """Torch compares shapes when a gradient is assigned, and never again: a step of equal sizes would mix elements."""
    first, other = parameter(5, 6), parameter(4, 6, seed=1)
    optimizer = build(cls, [{"params": [first, other], "rule": "vector"}])
    set_gradients([first, other], 0)
    first.data = torch.ones(shape)
    before = weights([first, other])
    with pytest.raises(RuntimeError, match=re.escape("a gradient of shape (5, 6) on cpu is from before")):
        optimizer.step()
    assert same(weights([first, other]), before)
    run(optimizer, [first, other], range(1))


def test_an_unpickled_optimizer_sees_that_a_state_is_of_another_size():
    optimizer = AdamW([p := parameter(5, 6)])
    run(optimizer, [p], range(1))
    other = copy.deepcopy(optimizer)
    (q,) = other.param_groups[0]["params"]
    q.data = torch.ones(3, 6)
    refused(other, [q], RuntimeError, r"had shape \(5, 6\) when it was made")


def test_a_state_that_is_moved_to_a_parameter_of_another_size_is_refused():
    optimizer = AdamW([p := parameter(5, 6)])
    run(optimizer, [p], range(1))
    q = parameter(3, 6)
    optimizer.state[q] = optimizer.state.pop(p)
    optimizer.param_groups[0]["params"][0] = q
    refused(optimizer, [q], RuntimeError, r"m has shape \(5, 6\), and \(3, 6\) is needed")


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
    for key in ("lr", "rule", "split", "precision", "seed"):
        held = optimizer.param_groups[0].pop(key)
        refused(optimizer, [p, q], ValueError, f"lacks '{key}': add_param_group fills in")
        optimizer.param_groups[0][key] = held


# -- keys of groups ----------------------------------------------------------------------------------------------------

FOREIGN = {"name": "decoder", "lr_scale": 0.5, "use_muon": True, "layer": 3, "tags": ["a", "b"], "fused": None}


@few_classes
def test_keys_that_are_none_of_ours_are_kept(cls):
    """And ignored, through a checkpoint in a file, a copy and a pickle; also those of the optimizer that loads it."""
    plain, made, fresh = groups(cls), groups(cls), groups(cls)
    marked = [{**group, **FOREIGN} for group in made]
    optimizer, other = build(cls, marked), build(cls, plain)
    run(optimizer, parameters(made), range(2))
    run(other, parameters(plain), range(2))
    assert same(weights(parameters(made)), weights(parameters(plain)))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = build(cls, [{**group, "name": "encoder"} for group in fresh])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for each in (optimizer, resumed, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        for group in each.param_groups:
            assert {key: group[key] for key in FOREIGN} == FOREIGN
    assert same(resumed.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize(
    "key, meant",
    [
        *(("weight_decy", "weight_decay"), ("weigth_decay", "weight_decay"), ("wieght_deacy", "weight_decay")),
        *(("Lr", "lr"), ("rl", "lr"), ("lrr", "lr"), ("beta_1", "beta1"), ("bta2", "beta2"), ("EPS", "eps")),
        *(("role", "rule"), ("splits", "split"), ("transpose", "transposed"), ("params_names", "param_names")),
    ],
)
def test_keys_that_are_nearly_ours_are_errors(key, meant):
    """In a group and in a checkpoint."""
    p = parameter(3)
    with pytest.raises(ValueError, match=f"unknown key '{key}' in a parameter group; did you mean '{meant}'"):
        AdamW([{"params": [p], key: 0.1}])
    optimizer = AdamW([p])
    saved = optimizer.state_dict()
    saved["param_groups"][0][key] = 0.1
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        optimizer.load_state_dict(saved)


def test_settings_of_other_optimizers_are_errors_where_they_would_change_a_step():
    """torch's groups have them: those that ask for nothing, or for speed alone, are kept."""
    p = parameter(3)
    for key, value, said in (
        ("betas", (0.8, 0.9), "write beta1=0.8, beta2=0.9"),
        ("maximize", True, "negate the loss"),
        ("amsgrad", True, "AMSGrad is an optimizer of its own"),
        ("nesterov", True, "known are lr, beta1"),
        ("dampening", 0.5, "known are lr, beta1"),
    ):
        with pytest.raises(ValueError, match=f"AdamW has no '{key}' in parameter groups: {said}"):
            AdamW([{"params": [p], key: value}])
    for key, value in (("maximize", False), ("foreach", True), ("nesterov", False), ("dampening", 0), ("fused", True)):
        assert AdamW([{"params": [p], key: value}]).param_groups[0][key] is value
    with pytest.warns(UserWarning, match="use_muon=False is ignored"):
        Muon([{"params": [p], "use_muon": False}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Muon([{"params": [p], "use_muon": False, "rule": "rest"}])
        AdamW([{"params": [p], "use_muon": False}])


# -- arguments of constructors -----------------------------------------------------------------------------------------

NAMESAKES = [
    name
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and hasattr(optforge.generated, name)
]
OURS_ELSEWHERE = {"lr", "params", "capturable"}


@pytest.mark.parametrize("name", NAMESAKES)
def test_every_argument_of_torchs_class_is_ours_or_explained(name):
    """With torch's default it is taken, or the error says what to write; whatever changes a step is never dropped."""
    cls, theirs = getattr(optforge.generated, name), getattr(torch.optim, name)
    p = parameter(4, 3)
    for argument in inspect.signature(theirs).parameters.values():
        if argument.name in OURS_ELSEWHERE or argument.name in hyper_arguments(cls):
            continue
        for value in (argument.default, True, 0.5):
            try:
                cls([p], **{argument.name: value})
            except TypeError as error:
                assert f"{name} has no argument '{argument.name}': " in str(error)
                assert any(
                    word in str(error) for word in ("write ", "it has ", "known are ", "instead", "own", "flows")
                )
            else:
                assert argument.name in ("fused", "foreach") or value in (None, False, 0), (argument.name, value)


def test_arguments_of_other_optimizers_are_explained():
    p = parameter(4, 3)
    for cls, given, said in (
        (AdamW, {"betas": (0.8, 0.95)}, "AdamW has no argument 'betas': write beta1=0.8, beta2=0.95"),
        (AdamW, {"betas": (0.8,)}, "it has beta1, beta2"),
        (Muon, {"betas": (0.8, 0.95)}, "Muon has no argument 'betas': it has beta"),
        (Muon, {"momentum": 0.8}, "write beta=0.8"),
        (NAMO, {"momentum": 0.8}, "write mu1=0.8"),
        (Muon, {"ns_steps": 3}, "write steps=3"),
        (SGD, {"weight_decy": 0.1}, "did you mean 'weight_decay'"),
        (SGD, {"nonsense": None}, "SGD has no argument 'nonsense': known are lr, momentum"),
    ):
        with pytest.raises(TypeError, match=re.escape(said)):
            cls([p], **given)
    assert AdamW([p], fused=True, foreach=None, amsgrad=False).defaults["beta1"] == 0.9
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'params'"):
        AdamW(lr=0.1)


def test_signatures_and_classes_derived_by_hand_stay_as_they_are():
    """Editors see the hypers; a class of one's own may take what it likes."""
    assert list(inspect.signature(AdamW).parameters)[:3] == ["params", "lr", "beta1"]

    class Renamed(AdamW):
        def __init__(self, params: Any, betas: tuple[float, float] = (0.5, 0.6), **more: Any) -> None:
            super().__init__(params, beta1=betas[0], beta2=betas[1], **more)

    optimizer = Renamed([parameter(3)], betas=(0.1, 0.2), lr=0.5)
    assert [optimizer.param_groups[0][name] for name in ("beta1", "beta2", "lr")] == [0.1, 0.2, 0.5]
    with pytest.raises(TypeError, match="Renamed has no argument 'betta'"):
        Renamed([parameter(3)], betta=1)


# -- schedulers that cycle the momentum --------------------------------------------------------------------------------

CYCLES = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1e-2, total_steps=8),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, base_lr=1e-4, max_lr=1e-2, step_size_up=2),
}


@always_few
@pytest.mark.parametrize("name", CYCLES)
def test_cycles_of_torch_move_the_momentum_with_their_defaults(cls, name):
    """The weights are those of hypers set by hand to what torch's own SGD gets; whatever else is set stays."""
    if "lr" not in hyper_arguments(cls):
        pytest.skip("has no lr")
    scheduled, by_hand = groups(cls), groups(cls)
    optimizer, other = build(cls, scheduled), build(cls, by_hand)
    counterpart = torch.optim.SGD([{"params": [parameter(1)]} for _ in scheduled], momentum=0.5)
    if not optimizer.MOMENTUM:
        with pytest.raises(ValueError, match="must support momentum"):
            CYCLES[name](optimizer)
        return
    scheduler, reference = CYCLES[name](optimizer), CYCLES[name](counterpart)
    seen = set()
    for t in range(6):
        for group, theirs, ours in zip(
            other.param_groups, counterpart.param_groups, optimizer.param_groups, strict=True
        ):
            group["lr"] = theirs["lr"]
            for hyper in optimizer.MOMENTUM:
                group[hyper] = theirs["momentum"]
                assert ours[hyper] == ours["momentum"] == theirs["momentum"]
            seen.add(theirs["momentum"])
        run(optimizer, parameters(scheduled), range(t, t + 1))
        run(other, parameters(by_hand), range(t, t + 1))
        counterpart.step()
        scheduler.step()
        reference.step()
    assert len(seen) > 2 and same(weights(parameters(scheduled)), weights(parameters(by_hand)))


@pytest.mark.parametrize("name", CYCLES)
@pytest.mark.parametrize("cls", [AdamW, Muon, Lion])
def test_cycles_resume_from_a_checkpoint(cls, name):
    first, second = mlp(), mlp()
    optimizer, other = cls(first), cls(second)
    scheduler, successor = CYCLES[name](optimizer), CYCLES[name](other)
    for t in range(3):
        train(first, optimizer, range(t, t + 1))
        scheduler.step()
    file = io.BytesIO()
    torch.save({"o": optimizer.state_dict(), "s": scheduler.state_dict(), "m": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert all("momentum" not in group for group in saved["o"]["param_groups"])
    second.load_state_dict(saved["m"])
    other.load_state_dict(saved["o"])
    successor.load_state_dict(saved["s"])
    for model, each, schedule in ((first, optimizer, scheduler), (second, other, successor)):
        for t in range(3, 6):
            train(model, each, range(t, t + 1))
            schedule.step()
    assert same(weights(list(first.parameters())), weights(list(second.parameters())))
    assert same(optimizer.state_dict(), other.state_dict())


def ways_to_hold(optimizer: Any) -> list[Any]:
    return [optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]


def test_the_momentum_of_a_group_is_one_value_under_two_names():
    """However a group is read and written, and whoever holds it; it is no key of its own."""
    for each in ways_to_hold(Muon([{"params": [parameter(4, 3)], "momentum": 0.7}, {"params": [parameter(3)]}])):
        first, second = each.param_groups
        assert [first[n] for n in ("momentum", "beta", "rest_beta1")] == [0.7, 0.7, 0.7] and second["beta"] == 0.95
        for write in (
            lambda group, value: group.__setitem__("momentum", value),
            lambda group, value: group.update(momentum=value),
            lambda group, value: group.update({"momentum": value}),
            lambda group, value: group.update([("momentum", value)]),
            lambda group, value: group.__ior__({"momentum": value}),
            lambda group, value: group.update(beta=value, rest_beta1=value),
        ):
            value = first["beta"] / 2
            write(first, value)
            assert first.get("momentum") == first["momentum"] == first["beta"] == first["rest_beta1"] == value
            assert first.setdefault("momentum", 0.1) == value and second["momentum"] == 0.95
        assert "momentum" in first and "momentum" in each.defaults and first.get("nothing", 3) == 3
        for held in (first, dict(first), {**first}, each.state_dict()["param_groups"][0]):
            assert "momentum" not in list(held) and "momentum" not in repr(held)
        with pytest.raises(KeyError, match="nothing"):
            first["nothing"]


def keys_of_schedulers() -> set[str]:
    """The keys that torch's schedulers read and write in groups and defaults, as their source says."""
    keys = set()
    for module in (lr_scheduler, swa_utils):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            match node:
                case ast.Subscript(value=holder, slice=ast.Constant(value=str(key))):
                    pass
                case ast.Compare(left=ast.Constant(value=str(key)), comparators=[holder]):
                    pass
                case _:
                    continue
            if ast.unparse(holder).endswith(("group", "defaults")):
                keys.add(key)
    return keys


def test_no_hyper_has_a_name_that_schedulers_have_for_something_else():
    found = keys_of_schedulers()
    assert {"initial_lr", "max_momentum", "betas", "lr", "momentum", "swa_lr"} <= found
    for key in found - {"lr", "momentum"}:
        spec = f"optimizer A:\n    hyper {key} = 0.1\n    for tensor:\n        weight <- weight - {key} * grad\n"
        with pytest.raises(optforge.SpecError, match="parameter groups have a key of that name"):
            optforge.compile_source(spec)


@pytest.mark.parametrize("name", CYCLES)
def test_a_hyper_that_is_only_called_momentum_is_not_cycled(name):
    """As a class without momentum, it is refused: whether another hyper plays one or none does."""
    for direction in ("grad", "ema(grad, beta)"):
        spec = f"""
optimizer Bounded:
    hyper lr = 0.1
    hyper beta = 0.9 where 0 <= beta < 1
    hyper momentum = 0.5 where momentum >= 0
    for tensor:
        weight <- weight - lr * clamp({direction}, -momentum, momentum + beta)
"""
        optimizer = optforge.compile_source(spec).Bounded([parameter(3)])
        for each in ways_to_hold(optimizer):
            assert each.defaults["momentum"] == each.param_groups[0]["momentum"] == 0.5
            with pytest.raises(ValueError, match="must support momentum"):
                CYCLES[name](each)
        lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=8, cycle_momentum=False)


def test_classes_whose_hyper_is_called_momentum_have_only_that():
    optimizer = SGD([parameter(3)], momentum=0.5)
    assert optimizer.param_groups[0].momentum == () and optimizer.state_dict()["param_groups"][0]["momentum"] == 0.5
    without = ScheduleFreeSGD([{"params": [parameter(3)]}])
    assert "momentum" not in without.param_groups[0] and "momentum" not in without.defaults
    with pytest.raises(ValueError, match="ScheduleFreeSGD has no 'momentum' in parameter groups"):
        ScheduleFreeSGD([{"params": [parameter(3)], "momentum": 0.5}])


def test_a_group_that_was_exchanged_for_a_dictionary_is_a_group_again():
    p = parameter(4, 3)
    optimizer = AdamW([p])
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "momentum": 0.25}
    run(optimizer, [p], range(1))
    assert optimizer.param_groups[0]["beta1"] == optimizer.param_groups[0]["momentum"] == 0.25


# -- weights that are only shown ---------------------------------------------------------------------------------------

SHOWING = {"ScheduleFreeSGD": ("eval", "train"), "ScheduleFreeAdamW": ("eval", "train")}
SHOWING |= {"ASGD": ("show_average", "show_current")}
shown_classes = pytest.mark.parametrize("name", SHOWING)


def fired(optimizer: Any, event: str) -> None:
    getattr(optimizer, event)()


def fired_in_vain(optimizer: Any, params: list[Tensor], event: str, message: str) -> None:
    """What there is already is a mode that trainers may enter again, by doing nothing; any other event is an error."""
    before = snapshot(params, optimizer)
    if event in ("train", "eval"):
        fired(optimizer, event)
    else:
        with pytest.raises(RuntimeError, match=message):
            fired(optimizer, event)
    assert same(snapshot(params, optimizer), before)


@shown_classes
@pytest.mark.parametrize("options", [{}, {"capturable": True}], ids=["", "capturable"])
def test_weights_that_are_shown_are_not_stepped_nor_shown_again(name, options):
    """What is refused is a sentence that names the event to call; then training goes on as if undisturbed."""
    (show, hide), options = SHOWING[name], dict(options)
    cls = getattr(optforge.generated, name)
    params, alike = [parameter(4, 3), parameter(3, seed=1)], [parameter(4, 3), parameter(3, seed=1)]
    options |= {"t0": 0} if name == "ASGD" else {}  # from the first step on, the average is not the weight
    optimizer, other = build(cls, params, **options), build(cls, alike, **options)
    for t in range(0, 9, 3):
        run(optimizer, params, range(t, t + 3))
        run(other, alike, range(t, t + 3))
        fired_in_vain(optimizer, params, hide, rf"{hide}\(\) takes away what {show}\(\) has put in place, and nothing")
        training = weights(params)
        fired(optimizer, show)
        refused(optimizer, params, RuntimeError, rf"what {show}\(\) has put in place: call {hide}\(\) before a step")
        fired_in_vain(optimizer, params, show, rf"{show}\(\) has been called already, .*: call {hide}\(\) first")
        assert not same(weights(params), training)
        fired(optimizer, hide)
        for p, q in zip(params, training, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-5, atol=1e-6)
    for p, q in zip(params, alike, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@shown_classes
def test_what_is_shown_is_known_to_copies_and_checkpoints(name):
    show, hide = SHOWING[name]
    cls = getattr(optforge.generated, name)
    params, fresh = [parameter(4, 3)], [parameter(4, 3, seed=1)]
    optimizer = build(cls, params)
    run(optimizer, params, range(2))
    fired(optimizer, show)
    resumed = build(cls, fresh)
    resumed.load_state_dict(optimizer.state_dict())
    for each in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), resumed):
        held = each.param_groups[0]["params"]
        refused(each, held, RuntimeError, f"call {hide}")
        fired(each, hide)
        run(each, held, range(2, 3))


def composition(name: str) -> Any:
    return getattr(optforge.generated, name) if name in SHOWING else optforge.load(name)


@pytest.mark.parametrize("is_shown", [False, True], ids=["over_what_is_shown", "over_training"])
@pytest.mark.parametrize("name", ["ScheduleFreeAdamW", "ASGD", "SGD |> Averaged", "Muon |> ScheduleFree |> Grokfast"])
def test_a_checkpoint_brings_its_mode_into_an_optimizer_in_the_other(name, is_shown):
    """Training goes on from it to the bit, wherever weights and states are loaded to."""
    show, hide = SHOWING.get(name, ("eval", "train"))
    cls, params, others = composition(name), [parameter(4, 3)], [parameter(4, 3, seed=1)]
    optimizer, other = build(cls, params, lr=0.01), build(cls, others, lr=0.01)
    run(optimizer, params, range(3))
    run(other, others, range(2))
    fired(optimizer if is_shown else other, show)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        others[0].copy_(params[0])
    for each, held in ((optimizer, params), (other, others)):
        if is_shown:
            refused(each, held, RuntimeError, f"call {hide}")
            fired(each, hide)
        run(each, held, range(3, 6))
        fired(each, show)
        fired(each, hide)
        run(each, held, range(6, 7))
    assert torch.equal(*params, *others)
    assert same(snapshot(params, optimizer), snapshot(others, other))


@shown_classes
def test_a_parameter_added_while_others_are_shown_is_shown_with_the_next_call(name):
    show, hide = SHOWING[name]
    p, late = parameter(4, 3), parameter(4, 3, seed=1)
    optimizer = build(getattr(optforge.generated, name), [p])
    run(optimizer, [p], range(2))
    fired(optimizer, show)
    optimizer.add_param_group({"params": [late]})
    kept = p.detach().clone()
    fired(optimizer, show)
    assert torch.equal(p, kept)
    fired(optimizer, hide)
    run(optimizer, [p, late], range(2, 3))
    assert optimizer.state[late]["step"] == 1
