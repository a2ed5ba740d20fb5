"""Checkpoints that know their spec: what loads, what is converted as the spec says, and what is refused by name."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import optforge.generated as generated
from optforge.compiler.commands.generated_files import render_snapshot
from optforge.compiler.driver import check_file, check_source, compile_program, run_passes
from optforge.compiler.frontend.files import SPECS
from optforge.compiler.ir import nodes as ir
from optforge.compiler.load import compile_source
from optforge.compiler.oracle.interpreter import Inputs, evaluate_function
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl.diagnostics import render_text
from optforge.dsl.source import Source
from tests.support.classes import is_untouched, set_gradients

OLD = """
optimizer Adam:
    hyper lr    = 0.01  where lr >= 0
    hyper beta1 = 0.9   where 0 <= beta1 < 1
    hyper beta2 = 0.99  where 0 <= beta2 < 1
    for tensor:
        exp_avg    = ema(grad, beta1)
        exp_avg_sq = ema(grad^2, beta2)
        weight <- weight - lr * exp_avg / (sqrt(exp_avg_sq) + 1e-8)
"""

RENAMED = """
optimizer Adam:
    hyper lr    = 0.01  where lr >= 0
    hyper beta1 = 0.9   where 0 <= beta1 < 1
    hyper beta2 = 0.99  where 0 <= beta2 < 1
    for tensor:
        m = ema(grad, beta1)
        v = ema(grad^2, beta2)
        weight <- weight - lr * m / (sqrt(v) + 1e-8)

        m was exp_avg
        v was exp_avg_sq
"""

RESCALED = (
    RENAMED.replace("v = ema(grad^2, beta2)", "v = beta2 * prev(v) + grad^2")
    .replace("sqrt(v)", "sqrt((1 - beta2) * v)")
    .replace("v was exp_avg_sq", "v was exp_avg_sq / (1 - beta2)")
)

SHAPES = ((6, 4), (4, 6), (5,), ())


def optimizer_class(text: str, name: str | None = None) -> type[Any]:
    module = compile_source(text)
    return getattr(module, name or module.__all__[0])


def tensors(dtype: torch.dtype = torch.float32, shapes: Any = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]


def run(optimizer: Any, params: list[Tensor], steps: range) -> None:
    for seed in steps:
        set_gradients(params, seed)
        optimizer.step()


def trained(text: str, params: list[Tensor], steps: int = 3, **options: Any) -> Any:
    optimizer = optimizer_class(text)(params, **options)
    run(optimizer, params, range(steps))
    return optimizer


def through_a_file(state_dict: Any) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def loaded(text: str, saved: Any, params: list[Tensor], **options: Any) -> Any:
    """A new optimizer of the spec with the checkpoint; conversions warn, which is looked at elsewhere."""
    optimizer = optimizer_class(text)(params, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.load_state_dict(saved)
    return optimizer


def refusal(text: str, saved: Any, params: list[Tensor] | None = None) -> str:
    """What is said when a spec refuses a checkpoint; the optimizer that refused is as it was before."""
    params = tensors() if params is None else params
    optimizer = trained(text, params, 1)
    before = copy.deepcopy((optimizer.state_dict(), params))
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(saved)
    after = (optimizer.state_dict(), params)
    assert same(before, after)
    return str(caught.value)


def same(one: Any, other: Any) -> bool:
    """Equal, tensors bit by bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def compiled(text: str) -> ir.Optimizer:
    program = run_passes(check_source(Source("test.opt", text)).require(), TORCH.rewrites, verify=True)
    found = program.declarations[-1]
    assert isinstance(found, ir.Optimizer)
    return found


def fingerprints(text: str) -> dict[str, str]:
    return {kept.name: kept.fingerprint for rule in compiled(text).rules for kept in rule.states}


# -- the form of a checkpoint ------------------------------------------------------------------------------------------


def test_a_checkpoint_has_the_form_of_torch_and_says_what_its_states_mean():
    optimizer = trained(OLD, tensors())
    saved = optimizer.state_dict()
    assert saved.keys() == {"state", "param_groups"}
    (group,) = saved["param_groups"]
    assert optimizer.param_groups[0]["spec"] == group["spec"] and "spec" not in repr(optimizer)
    told = json.loads(group["spec"])
    assert told["version"] == 1 and told["hypers"] == ["lr", "beta1", "beta2"]
    assert told["rules"]["tensor"]["memories"]["exp_avg"][1] == "exp_avg = beta1 * prev(exp_avg) + (1 - beta1) * grad"
    assert told["hash"] == type(optimizer).SPEC.hash


@pytest.mark.parametrize("name", ["AdamW", "NAMO", "SOAP", "SophiaG", "Prodigy", "Muon"])
def test_descriptions_name_exactly_the_states_and_hypers(name):
    cls = getattr(generated, name)
    for rule in cls.RULES:
        assert [*cls.SPEC.states[rule.name]] == [kept.name for kept in rule.states]
    (group,) = cls(tensors(shapes=[(4, 3)])).state_dict()["param_groups"]
    told = json.loads(group["spec"])
    ours = {"params", "spec", "rule", "transposed", "split", "batch", "precision", "seed"}
    assert {*told["hypers"]} == group.keys() - ours


def test_distributed_checkpoints_keep_the_description_and_continue_bitwise(tmp_path):
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))

    one, other = model(), model()
    params, others = [*one.parameters()], [*other.parameters()]
    optimizer = trained(OLD, params)
    saved = get_optimizer_state_dict(one, optimizer)
    assert "spec" in saved["param_groups"][0]
    dcp.save({"optimizer": saved}, checkpoint_id=tmp_path, no_dist=True)
    fresh = optimizer_class(OLD)(others)
    template = {"optimizer": get_optimizer_state_dict(other, fresh)}
    dcp.load(template, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other, fresh, template["optimizer"])
    other.load_state_dict(one.state_dict())
    assert same(fresh.state_dict(), optimizer.state_dict())
    run(optimizer, params, range(3, 6))
    run(fresh, others, range(3, 6))
    assert same(params, others)
    renamed = optimizer_class(RENAMED)(others)
    with pytest.warns(UserWarning, match="exp_avg"):
        set_optimizer_state_dict(other, renamed, saved)
    assert same(renamed.state[others[0]]["m"], saved["state"]["0.weight"]["exp_avg"])


# -- what means the same -----------------------------------------------------------------------------------------------

SAME = {
    "spaces and comments": OLD.replace("= ema", "=    ema").replace("for tensor:", "for tensor:  # all"),
    "documentation": OLD.replace("optimizer Adam:", 'optimizer Adam:\n    """Text."""'),
    "defaults": OLD.replace("0.01", "0.02").replace("0.99", "0.95"),
    "conditions": OLD.replace("0 <= beta1 < 1", "0 <= beta1 <= beta2 < 1"),
    "the order of equations and factors": OLD.replace("exp_avg    = ema(grad, beta1)\n        ", "").replace(
        "        weight <-", "        exp_avg = grad * (1 - beta1) + prev(exp_avg) * beta1\n        weight <-"
    ),
    "names of equations": OLD.replace(
        "exp_avg_sq = ema(grad^2, beta2)", "g = grad^2\n        exp_avg_sq = ema(g, beta2)"
    ),
    "functions written out": OLD.replace("ema(grad^2, beta2)", "beta2 * prev(exp_avg_sq) + (1 - beta2) * grad^2"),
    "the equation of the weight": OLD.replace("lr * exp_avg /", "2 * lr * exp_avg /"),
}


@pytest.mark.parametrize("change", SAME)
def test_what_leaves_the_states_as_they_are_loads_without_a_word(change):
    assert SAME[change] != OLD
    optimizer = trained(OLD, tensors())
    fresh = optimizer_class(SAME[change])(tensors())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.load_state_dict(optimizer.state_dict())
    states = [*optimizer.state.values()]
    assert all(same(old, new) for old, new in zip(states, fresh.state.values(), strict=True)) and states


def test_only_what_computes_differently_has_another_hash():
    kept = {change for change, text in SAME.items() if compiled(text).fingerprint == compiled(OLD).fingerprint}
    assert {*SAME} - kept == {"the equation of the weight"}


DIFFERENT = {
    "a factor": ("ema(grad, beta1)", "ema(2 * grad, beta1)"),
    "a hyper": ("ema(grad, beta1)", "ema(grad, beta2)"),
    "the order of a difference": ("ema(grad, beta1)", "ema(grad - weight, beta1)"),
    "the other order": ("ema(grad, beta1)", "ema(weight - grad, beta1)"),
    "the first value": ("ema(grad, beta1)", "ema(grad, beta1, init=grad)"),
    "another first value": ("ema(grad, beta1)", "ema(grad, beta1, init=weight)"),
    "the shape": ("ema(grad, beta1)", "ema(norm(grad), beta1)"),
    "a count": ("ema(grad, beta1)", "ema(grad / t, beta1)"),
    "an operator": ("ema(grad, beta1)", "ema(grad * weight, beta1)"),
    "another operator": ("ema(grad, beta1)", "ema(max(grad, weight), beta1)"),
    "a choice": ("ema(grad, beta1)", "ema(grad if t > 1 else weight, beta1)"),
    "when to choose": ("ema(grad, beta1)", "ema(grad if t > 2 else weight, beta1)"),
    "what to choose": ("ema(grad, beta1)", "ema(-grad if t > 1 else weight, beta1)"),
    "what to choose else": ("ema(grad, beta1)", "ema(grad if t > 1 else -weight, beta1)"),
    "what is read": ("ema(grad, beta1)", "ema(grad + prev(exp_avg_sq), beta1)"),
    "what is read in this step": ("ema(grad, beta1)", "ema(grad + exp_avg_sq, beta1)"),
    "a total": ("ema(grad, beta1)", "ema(grad / total(norm(grad)^2), beta1)"),
    "another total": ("ema(grad, beta1)", "ema(grad / total(norm(grad)), beta1)"),
}


def test_whatever_computes_another_state_has_another_fingerprint():
    marks = {change: fingerprints(OLD.replace(old, new))["exp_avg"] for change, (old, new) in DIFFERENT.items()}
    assert len({*marks.values(), fingerprints(OLD)["exp_avg"]}) == len(DIFFERENT) + 1


def test_a_state_of_an_event_is_none_of_the_step():
    step = "optimizer A:\n    for tensor:\n        h = ema(grad^2, 0.9)\n        weight <- weight - h\n"
    event = step.replace(
        "    for tensor:\n        h = ema(grad^2, 0.9)\n",
        "    on {0}():\n        h = ema(grad^2, 0.9)\n    for tensor:\n",
    )
    marks = [fingerprints(text)["h"] for text in (step, event.format("one"), event.format("other"))]
    assert len({*marks}) == 3


def test_fingerprints_do_not_see_what_they_do_not_depend_on():
    assert fingerprints(OLD)["exp_avg_sq"] == fingerprints(RENAMED)["v"]
    coupled = OLD.replace("ema(grad, beta1)", "ema(grad + prev(exp_avg_sq), beta1)")
    assert fingerprints(coupled)["exp_avg_sq"] == fingerprints(OLD)["exp_avg_sq"]
    upstream = coupled.replace("ema(grad^2, beta2)", "ema(grad^2, beta1)")
    assert fingerprints(upstream)["exp_avg"] != fingerprints(coupled)["exp_avg"]


def test_states_that_read_each_other_are_told_apart_whatever_they_are_called():
    text = """
optimizer Pair:
    hyper lr = 1
    for tensor:
        a = 0.5 * prev(b) + grad
        b = 0.5 * prev(a) + 2 * grad
        weight <- weight - lr * (a + b)
"""
    swapped = re.sub(r"\b[ab]\b", lambda found: {"a": "b", "b": "a"}[found[0]], text)
    one, other = fingerprints(text), fingerprints(swapped)
    assert one["a"] == other["b"] and one["b"] == other["a"] and one["a"] != one["b"]


@pytest.mark.parametrize("count", [3, 30])
def test_a_change_anywhere_in_a_ring_of_states_is_seen_everywhere_in_it(count):
    """From some length on names tell states apart; what computes something else is still seen."""
    lines = [f"x{i} = 0.5 * prev(x{(i + 1) % count}) + {i + 1} * grad" for i in range(count)]
    text = "optimizer Ring:\n    for tensor:\n" + "".join(f"        {line}\n" for line in (*lines, "weight <- x0"))
    marks, other = fingerprints(text), fingerprints(text.replace("+ 3 *", "+ 4 *"))
    assert len(set(marks.values())) == count and not {*marks.values()} & {*other.values()}
    turned = re.sub(r"x(\d+)", lambda found: f"x{(int(found[1]) + 1) % count}", text)
    assert ({*fingerprints(turned).values()} == {*marks.values()}) is (count == 3)


def test_equal_fingerprints_of_shipped_specs_have_equal_equations():
    """Over all states of all shipped specs; their names stand for each other."""
    told: dict[str, set[str]] = {}
    for path in sorted(SPECS.glob("*.opt"))[::4]:
        for declaration in run_passes(check_file(path).require(), TORCH.rewrites, until="fold").declarations:
            for rule in getattr(declaration, "rules", ()):
                for kept in rule.states:
                    if len(set(re.findall(r"prev\((\w+)\)", kept.equation))) <= 1:
                        text = re.sub(rf"\b{re.escape(kept.name)}\b", "x", kept.equation)
                        told.setdefault(kept.fingerprint, set()).add(text)
    assert len(told) > 20 and all(len(texts) == 1 for texts in told.values())


def test_fingerprints_are_a_format_that_stays():
    """What these are is written in people's checkpoints: whoever changes them makes every one of those unreadable."""
    assert fingerprints(OLD) == {"exp_avg": "3d1fa4ce4acb", "exp_avg_sq": "a3ae6b680b3d"}


# -- what is refused ---------------------------------------------------------------------------------------------------


def changed(old: str, new: str, text: str = OLD) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            changed("ema(grad, beta1)", "ema(grad, beta2)"),
            ["exp_avg has changed: it was `exp_avg = beta1 * prev(exp_avg) + (1 - beta1) * grad`, and is "
             "`exp_avg = beta2 * prev(exp_avg) + (1 - beta2) * grad`"],
        ),
        (
            changed("exp_avg_sq", "v"),
            ["v is new: `v = beta2 * prev(v) + (1 - beta2) * grad^2`", "it means what exp_avg_sq was",
             "the spec can say `v was exp_avg_sq`", "exp_avg_sq is gone"],
        ),
        (
            changed("weight <-", "third = ema(grad^3, beta1)\n        weight <- third +"),
            ["third is new: `third = beta1 * prev(third) + (1 - beta1) * grad^3`"],
        ),
        (changed("exp_avg / (sqrt(exp_avg_sq) + 1e-8)", "exp_avg"), ["exp_avg_sq is gone: it was `exp_avg_sq = beta2"]),
        (changed("ema(grad, beta1)", "ema(grad, beta1, init=grad)"), ["at first grad`"]),
    ],
    ids=["changed", "renamed", "new", "gone", "initial"],
)  # fmt: skip
def test_each_kind_of_change_is_refused_by_name(text, said):
    message = refusal(text, trained(OLD, tensors()).state_dict())
    assert compiled(OLD).fingerprint in message and compiled(text).fingerprint in message
    for part in said:
        assert part in message


def test_a_state_that_reads_a_changed_one_is_named_too():
    before = changed("ema(grad, beta1)", "ema(grad / (1 + exp_avg_sq), beta1)")
    after = before.replace("ema(grad^2, beta2)", "ema(grad^2, beta1)")
    message = refusal(after, trained(before, tensors()).state_dict())
    assert "exp_avg_sq has changed" in message
    assert re.search(r"exp_avg has changed: .* \(what it reads has changed\)", message)


def test_checkpoints_that_do_not_say_of_which_spec_they_are_need_someone_to_say_it():
    optimizer = trained(OLD, tensors())
    saved = optimizer.state_dict()
    told = saved["param_groups"][0].pop("spec")
    message = refusal(OLD, saved)
    assert "does not say of which spec" in message and "exp_avg, exp_avg_sq" in message
    saved["param_groups"][0]["spec"] = told
    assert same([*loaded(OLD, saved, tensors()).state.values()], [*optimizer.state.values()])


def test_checkpoints_of_torch_are_refused():
    params = tensors()
    other = torch.optim.Adam(params)
    run(other, params, range(2))
    assert "without 'beta1'" in refusal(OLD, other.state_dict())
    saved = other.state_dict()
    saved["param_groups"] = [{**optimizer_class(OLD)(tensors()).state_dict()["param_groups"][0]}]
    saved["param_groups"][0].pop("spec")
    assert "does not say of which spec" in refusal(OLD, saved)


def test_an_empty_checkpoint_is_one_of_every_spec():
    saved = optimizer_class(OLD)(tensors()).state_dict()
    saved["param_groups"][0].pop("spec")
    other = changed("ema(grad, beta1)", "ema(grad, beta2)")
    for optimizer in (loaded(OLD, saved, tensors()), loaded(other, trained(OLD, tensors(), 0).state_dict(), tensors())):
        assert all(is_untouched(optimizer, p) for p in optimizer.param_groups[0]["params"])


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", '{"version": 1}', '{"version": 1, "hash": "", "hypers": [], "rules": 3}', None, {"version": 1}],
)
def test_damaged_descriptions_are_refused(damage):
    saved = trained(OLD, tensors()).state_dict()
    saved["param_groups"][0]["spec"] = damage
    assert "damaged" in refusal(OLD, saved)


def test_a_newer_format_is_refused():
    saved = trained(OLD, tensors()).state_dict()
    saved["param_groups"][0]["spec"] = json.dumps({"version": 2, "hash": "?"})
    assert "version 2 of the checkpoint format" in refusal(OLD, saved)


def test_a_pickled_optimizer_is_of_its_spec_alone():
    optimizer = trained(OLD, tensors())
    again = pickle.loads(pickle.dumps(optimizer))
    assert same(again.state_dict(), optimizer.state_dict())
    state = optimizer.__getstate__()
    fresh = object.__new__(optimizer_class(RENAMED))
    with pytest.raises(ValueError, match=r"pickled with another version of its spec .* `state_dict\(\)`"):
        fresh.__setstate__(state)


# -- what is converted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_renamed_states_continue_bitwise(dtype):
    params, others = tensors(dtype), tensors(dtype)
    optimizer = trained(OLD, params)
    converted = loaded(RENAMED, through_a_file(optimizer.state_dict()), others)
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    run(optimizer, params, range(3, 7))
    run(converted, others, range(3, 7))
    assert same(params, others)
    for p, q in zip(params, others, strict=True):
        old, new = optimizer.state[p], converted.state[q]
        assert same([old["exp_avg"], old["exp_avg_sq"], old["step"]], [new["m"], new["v"], new["step"]])
        assert new.keys() == {"m", "v", "step"}


def test_rescaled_states_continue_up_to_rounding():
    """Errors against the length of the steps that follow; without the conversion these are ten times too long."""
    params, others = tensors(torch.float64), tensors(torch.float64)
    optimizer = trained(OLD, params)
    converted = loaded(RESCALED, optimizer.state_dict(), others)
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    start = [p.detach().clone() for p in params]
    run(optimizer, params, range(3, 7))
    run(converted, others, range(3, 7))
    for p, q, before in zip(params, others, start, strict=True):
        assert (p - q).norm() <= 1e-13 * (p - before).norm()


MATRICES = """
optimizer Rows:
    hyper lr = 0.1
    for matrix:
        r     = ema(mean(grad^2, per=row), 0.9)
        s     = ema(norm(grad), 0.9)
        gram  = ema(grad @ grad', 0.9)
        weight <- weight - lr * grad / (sqrt(r) + s) - lr * gram @ grad
"""


def test_states_of_every_shape_and_layout_are_converted():
    """One value per row, per matrix and a Gram matrix; a split parameter keeps several of each, unequal parts flat."""
    new = re.sub(r"\bgram\b", "g", re.sub(r"\bs\b", "scale", MATRICES))
    new += "\n        scale was s\n        g was 2 * gram / 2\n"
    for options in ({}, {"split": 2}, {"split": (4, 2)}, {"transposed": True}):
        shapes = [(4, 6)] if options.get("transposed") else [(6, 4)]
        params, others = tensors(shapes=shapes), tensors(shapes=shapes)
        optimizer = optimizer_class(MATRICES)([{"params": params, **options}])
        run(optimizer, params, range(3))
        converted = loaded(new, optimizer.state_dict(), others)
        with torch.no_grad():
            torch._foreach_copy_(others, params)
        run(optimizer, params, range(3, 6))
        run(converted, others, range(3, 6))
        assert same(params, others), options


def test_a_conversion_may_count_the_steps():
    old = changed(
        "exp_avg    = ema(grad, beta1)",
        "exp_avg = (beta1 * (1 - beta1^(t - 1)) * prev(exp_avg) + (1 - beta1) * grad) / (1 - beta1^t)",
    )
    new = RENAMED.replace("lr * m", "lr * debias(m, beta1)").replace("m was exp_avg", "m was exp_avg * (1 - beta1^t)")
    params, others = tensors(torch.float64), tensors(torch.float64)
    optimizer = trained(old, params)
    converted = loaded(new, optimizer.state_dict(), others)
    start = [p.detach().clone() for p in params]
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    run(optimizer, params, range(3, 5))
    run(converted, others, range(3, 5))
    for p, q, before in zip(params, others, start, strict=True):
        assert (p - q).norm() <= 1e-13 * (p - before).norm()


def test_states_can_change_places():
    swapped = OLD.replace("exp_avg_sq", "?").replace("exp_avg", "exp_avg_sq").replace("?", "exp_avg")
    swapped += "\n        exp_avg was exp_avg_sq\n        exp_avg_sq was exp_avg\n"
    optimizer = trained(OLD, params := tensors())
    converted = loaded(swapped, optimizer.state_dict(), others := tensors())
    for p, q in zip(params, others, strict=True):
        assert same(optimizer.state[p]["exp_avg"], converted.state[q]["exp_avg_sq"])
        assert same(optimizer.state[p]["exp_avg_sq"], converted.state[q]["exp_avg"])


def test_a_new_state_may_begin_with_a_constant_and_an_old_name_may_be_no_name():
    inner = changed("exp_avg    = ema(grad, beta1)", "exp_avg = ema(grad, beta1) + ema(2 * grad, beta1)")
    saved = trained(inner, params := tensors()).state_dict()
    names = [name for name in saved["state"][0] if "." in name]
    assert len(names) == 2
    new = changed("weight <-", "c = prev(c) + 1\n        weight <- weight + c * 0 +", RENAMED)
    new = new.replace("m was exp_avg\n", f'm was "{names[0]}"\n        c was 7\n')
    message = refusal(new, saved)
    assert f"{names[1]} is gone" in message and "c is new" not in message
    new = new.replace(f'm was "{names[0]}"', f'm was "{names[0]}"\n        n was "{names[1]}"').replace(
        "v = ema", "n = ema(2 * grad, beta1)\n        v = ema").replace("lr * m", "lr * (m + n)")  # fmt: skip
    converted = loaded(new, saved, others := tensors())
    for i, q in enumerate(others):
        assert same(converted.state[q]["m"], saved["state"][i][names[0]])
        assert same(converted.state[q]["n"], saved["state"][i][names[1]])
        assert (converted.state[q]["c"] == 7).all()
    assert params


def test_an_old_name_among_several_is_found_and_today_s_checkpoints_are_left_alone():
    third = re.sub(r"\bm\b", "momentum", RENAMED) + "        momentum was m\n"
    for text, name in ((OLD, "exp_avg"), (RENAMED, "m"), (third, "momentum")):
        optimizer = trained(text, params := tensors())
        converted = loaded(third, optimizer.state_dict(), others := tensors())
        for p, q in zip(params, others, strict=True):
            assert same(optimizer.state[p][name], converted.state[q]["momentum"])
    doubled = changed("ema(grad, beta1)", "ema(2 * grad, beta1)") + "\n        exp_avg was 2 * exp_avg\n"
    once = loaded(doubled, trained(OLD, params := tensors()).state_dict(), others := tensors())
    twice = loaded(doubled, once.state_dict(), tensors())
    assert same([*once.state.values()], [*twice.state.values()])
    later = loaded(changed("weight - lr *", "weight - 2 * lr *", doubled), once.state_dict(), tensors())
    assert same([*once.state.values()], [*later.state.values()])


def test_a_conversion_is_told_once():
    saved = trained(OLD, tensors()).state_dict()
    with pytest.warns(UserWarning) as told:
        optimizer_class(RENAMED)(tensors()).load_state_dict(saved)
    messages = [str(each.message) for each in told]
    assert len(messages) == 2 and "m of the rule 'tensor' was made of the checkpoint's exp_avg" in messages[0]


def test_the_state_of_an_event_is_converted():
    old = """
optimizer Sophia:
    hyper lr = 0.1
    on curvature:
        h = ema(grad^2, 0.9)
    for tensor:
        weight <- weight - lr * grad / (h + 1)
""".replace("on curvature:", "on curvature():")
    new = re.sub(r"\bh\b", "hessian", old) + "\n        hessian was h\n"
    params, others = tensors(), tensors()
    optimizer = optimizer_class(old)(params)
    run(optimizer, params, range(2))
    optimizer.curvature()
    converted = loaded(new, optimizer.state_dict(), others)
    for p, q in zip(params, others, strict=True):
        assert same(optimizer.state[p]["h"], converted.state[q]["hessian"])
        assert converted.state[q]["curvature_step"] == 1


@pytest.mark.parametrize("text", [RENAMED, RESCALED, RENAMED.replace("was exp_avg\n", "was exp_avg * (1 - beta1^t)\n")])
def test_conversions_of_the_class_are_those_of_the_interpreter(text):
    (rule,) = compile_program(Source("test.opt", text), TORCH).declarations[0].rules
    cls = optimizer_class(text)
    generator = np.random.default_rng(0)
    assert len(rule.was) == len(cls.SPEC.was) == 2
    for function, was in zip(rule.was, cls.SPEC.was, strict=True):
        old = {name: generator.normal(size=(4, 3)) for name in was.states}
        scalars = {"beta1": 0.8, "beta2": 0.7, "t": 5.0}
        (expected,) = evaluate_function(function, Inputs(t=5.0, hypers=scalars, states=old)).values()
        given = [torch.from_numpy(old[name].copy()) for name in was.states]
        found = was.function(*given, **{name: scalars[name] for name in was.scalars})
        assert was.target == function.outputs[0].name
        assert np.abs(found.numpy() - expected).max() <= 1e-15 * np.abs(expected).max()


# -- hypers ------------------------------------------------------------------------------------------------------------

PLAIN = """
optimizer Plain:
    hyper lr = 0.1
    hyper b  = 0.5
    for tensor:
        m = ema(grad, 0.9)
        weight <- weight - lr * (b * m + grad)
"""


def test_a_hyper_that_is_new_or_gone_is_told():
    saved = trained(PLAIN, tensors()).state_dict()
    more = PLAIN.replace("hyper b", "hyper c = 0.25\n    hyper b").replace("+ grad", "+ c * grad")
    optimizer = optimizer_class(more)(tensors(), c=0.75, b=0.1)
    with pytest.warns(UserWarning, match="no hyperparameter c; it keeps 0.75"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["c"] == 0.75 and optimizer.param_groups[0]["b"] == 0.5
    less = PLAIN.replace("    hyper b  = 0.5\n", "").replace("b * m", "m")
    optimizer = optimizer_class(less)(tensors())
    with pytest.warns(UserWarning, match="hyperparameter b=0.5 does not exist any more"):
        optimizer.load_state_dict(saved)
    assert "b" not in optimizer.param_groups[0]


def test_a_renamed_hyper_is_refused_unless_the_spec_says_so():
    saved = trained(PLAIN, tensors(), b=0.25).state_dict()
    renamed = re.sub(r"\bb\b", "beta", PLAIN)
    message = refusal(renamed, saved)
    assert "hyperparameters b, where there are now beta" in message and "`hyper beta ... was b`" in message
    said = renamed.replace("hyper beta  = 0.5", "hyper beta = 0.5 was b")
    assert loaded(said, saved, tensors()).param_groups[0]["beta"] == 0.25
    other = renamed.replace("hyper beta  = 0.5", "hyper beta = 0.6 was 1 - b where beta > 0.5")
    other = other.replace("beta *", "(1 - beta) *")
    assert loaded(other, saved, tensors()).param_groups[0]["beta"] == 0.75
    with pytest.raises(ValueError, match=r"invalid beta=0\.25: the condition is beta > 0\.5"):
        loaded(other, trained(PLAIN, tensors(), b=0.75).state_dict(), tensors())


def test_a_hyper_that_was_renamed_before_is_left_alone_and_nothing_is_said_of_it():
    both = PLAIN.replace("hyper b ", "hyper beta = 0.5\n    hyper b ").replace("b *", "b * beta *")
    last = PLAIN.replace("hyper b  = 0.5", "hyper beta = 0.5 was b").replace("b *", "beta *")
    optimizer = optimizer_class(last)(tensors())
    with pytest.warns(UserWarning, match="hyperparameter b=0.25 does not exist any more"):
        optimizer.load_state_dict(trained(both, tensors(), b=0.25, beta=0.75).state_dict())
    assert optimizer.param_groups[0]["beta"] == 0.75
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(trained(PLAIN, tensors(), b=0.25).state_dict())
    assert optimizer.param_groups[0]["beta"] == 0.25


def test_hypers_that_are_flags_or_choices_can_be_renamed():
    old = """
optimizer Plain:
    hyper lr     = 0.1
    hyper fast   = true
    hyper method = "svd" where method in ("svd", "exact")
    for matrix:
        d = orthogonalize(grad, method=method)
        weight <- weight - lr * (d if fast else grad)
    for rest:
        weight <- weight - lr * grad
"""
    new = re.sub(r"\bfast\b", "quick", old).replace("quick   =", "quick = true was fast #")
    new = re.sub(r"\bmethod\b(?!=)", "way", new).replace('way = "svd"', 'way = "svd" was method')
    saved = trained(old, tensors(shapes=[(3, 3)]), 1, fast=False, method="exact").state_dict()
    group = loaded(new, saved, tensors(shapes=[(3, 3)])).param_groups[0]
    assert (group["quick"], group["way"]) == (False, "exact")


# -- hypers that states are computed with ----------------------------------------------------------------------------


def renamed_hypers(text: str, **names: str) -> str:
    """The text with other names of hypers, which says what they were."""
    for old, new in names.items():
        text = re.sub(rf"\b{old}\b", new, text)
        text = re.sub(rf"(hyper {new} +)= ([\d.]+)", rf"\1= \2 was {old}", text)
    return text


def continues_bitwise(old: str, new: str, name: str | None = None, **hypers: float) -> None:
    """Training of the old spec goes on with the new one as if nothing had been renamed, from a file."""
    params, others = tensors(), tensors()
    optimizer = optimizer_class(old, name)(params, **hypers)
    run(optimizer, params, range(3))
    fresh = optimizer_class(new, name)(others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh.load_state_dict(through_a_file(optimizer.state_dict()))
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    run(optimizer, params, range(3, 6))
    run(fresh, others, range(3, 6))
    assert same(params, others)
    assert same([*optimizer.state.values()], [*fresh.state.values()])


@pytest.mark.parametrize("names", [{"beta1": "b"}, {"beta2": "decay"}, {"beta1": "b", "beta2": "c"}, {"lr": "rate"}])
def test_a_state_is_the_same_under_another_name_of_its_hyper(names):
    continues_bitwise(OLD, renamed_hypers(OLD, **names), beta1=0.8, beta2=0.7, lr=0.03)


def test_hypers_renamed_in_versions_of_their_own():
    """A checkpoint of any version loads into the last one, whichever of the names it has."""
    second = renamed_hypers(OLD, beta1="first")
    third = renamed_hypers(second, beta2="second", lr="rate")
    for version in (OLD, second, third):
        continues_bitwise(version, third)
    assert not optimizer_class(OLD).SPEC.before and len(optimizer_class(third).SPEC.before["tensor"]) == 2


def test_a_name_for_what_was_an_expression_counts():
    """If the equation is what it was with the expression in the hyper's place; what only amounts to it is refused."""
    old = OLD.replace("ema(grad, beta1)", "(1 - beta1) * prev(exp_avg) + grad")
    new = old.replace("hyper beta1 = 0.9   where 0 <= beta1 < 1", "hyper keep = 0.1 was 1 - beta1 where keep > 0")
    continues_bitwise(old, new.replace("(1 - beta1) *", "keep *"), beta1=0.75)
    message = refusal(new.replace("(1 - beta1) *", "(keep + 0 * keep) *"), trained(old, tensors()).state_dict())
    assert "exp_avg has changed" in message


def test_a_renamed_hyper_excuses_no_other_change():
    saved = trained(OLD, tensors()).state_dict()
    new = renamed_hypers(OLD, beta1="b").replace("ema(grad, b)", "ema(2 * grad, b)")
    assert "exp_avg has changed" in refusal(new, saved)
    swapped = renamed_hypers(OLD, beta1="b").replace("ema(grad, b)", "ema(grad, beta2)")
    assert "exp_avg has changed" in refusal(swapped.replace("exp_avg /", "b * exp_avg /"), saved)


def test_state_and_hyper_may_both_be_renamed():
    params, others = tensors(), tensors()
    optimizer = trained(OLD, params)
    fresh = loaded(renamed_hypers(RENAMED, beta1="b"), optimizer.state_dict(), others)
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    run(optimizer, params, range(3, 6))
    run(fresh, others, range(3, 6))
    assert same(params, others)


USING = """
optimizer Own:
    hyper lr = 0.1
    for matrix:
        weight <- weight - lr * grad
    for rest: use Adam(lr=lr)
"""


@pytest.mark.parametrize("names", [{"beta1": "b"}, {"beta1": "b", "beta2": "c"}])
def test_hypers_of_a_used_optimizer_are_renamed_with_it(names):
    new = renamed_hypers(OLD, **names)
    assert pasts(new + USING)[-1] == ("", f"rest_{[*names.values()][-1]}", f"rest_{[*names][-1]}")
    continues_bitwise(OLD + USING, new + USING, "Own", rest_beta1=0.8, rest_beta2=0.7)
    nested = USING.replace("optimizer Own", "optimizer Outer").replace("use Adam", "use Own")
    continues_bitwise(OLD + USING + nested, new + USING + nested, "Outer")


def test_a_state_of_many_renamed_hypers_is_compiled_in_no_time():
    """Sets of names are without end; a state that reads that many is told with all of them renamed, or one."""
    hypers = [f"h{i}" for i in range(14)]
    lines = "".join(f"    hyper {name} = 0.{i + 1:02}\n" for i, name in enumerate(hypers))
    text = f"optimizer Many:\n{lines}    for tensor:\n        m = prev(m) + grad * ({' + '.join(hypers)})\n"
    text += "        weight <- weight - m\n"
    continues_bitwise(text, renamed_hypers(text, **{name: f"new{name}" for name in hypers}))
    continues_bitwise(text, renamed_hypers(text, h3="other"))


# -- the form in the language ------------------------------------------------------------------------------------------


def pasts(text: str) -> list[tuple[str, ...]]:
    """Of the last optimizer: the function of each state that was something else, with its rule."""
    cls = optimizer_class(text, text.split("optimizer ")[-1].split()[0].rstrip(":"))
    return [(was.rule, was.target, *was.states, *was.scalars) for was in cls.SPEC.was]


def test_an_extension_inherits_what_states_were_as_long_as_it_keeps_them():
    inherited = [("tensor", "m", "exp_avg"), ("tensor", "v", "exp_avg_sq")]
    assert pasts(RENAMED) == inherited
    own = RENAMED + "\noptimizer Own extends Adam:\n    for tensor:\n        "
    assert pasts(own + "weight <- super - 0") == inherited
    assert pasts(own + "m = ema(2 * grad, beta1)") == inherited[1:]
    assert pasts(own + "m was 2 * old") == [inherited[1], ("tensor", "m", "old")]
    assert pasts(own + "weight <- weight - lr * m") == inherited[:1]  # v is no state any more
    saved = trained(OLD, params := tensors()).state_dict()
    optimizer = optimizer_class(own + "weight <- super - 0", "Own")(others := tensors())
    with pytest.warns(UserWarning, match="exp_avg"):
        optimizer.load_state_dict(saved)
    assert same(optimizer.state[others[0]]["m"], saved["state"][0]["exp_avg"]) and params


def test_a_used_optimizer_brings_what_its_states_were_with_its_hypers():
    text = (
        RESCALED
        + """
optimizer Own:
    hyper lr = 1
    for matrix:
        weight <- weight - lr * grad
    for rest: use Adam(lr=lr{bound})
"""
    )
    assert pasts(text.format(bound="")) == [("rest", "m", "exp_avg"), ("rest", "v", "exp_avg_sq", "rest_beta2")]
    assert pasts(text.format(bound=", beta2=0.5")) == [("rest", "m", "exp_avg"), ("rest", "v", "exp_avg_sq")]


def test_the_generated_functions_read_like_the_spec(tmp_path):
    path = tmp_path / "adam.opt"
    path.write_text(RESCALED.replace("hyper lr    = 0.01 ", "hyper lr = 0.01 was rate"), encoding="utf-8")
    text = render_snapshot(check_file(path))
    assert (
        'def tensor_v_was(exp_avg_sq, *, beta2):\n    """The v of an older checkpoint."""\n'
        "    v = exp_avg_sq / (1 - beta2)\n    return v\n"
    ) in text
    assert 'def lr_was(*, rate):\n    """The lr of an older checkpoint."""\n    return rate\n' in text
    assert '    was=(\n        Was("tensor", "m", tensor_m_was, ("exp_avg",), ()),\n' in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("m was weight", "E028"),
        ("m was rows * exp_avg", "E028"),
        ("m was prev(m)", "E028"),
        ("m was super", "E028"),
        ("m was exp_avg > 0", "E032"),
        ("m was sum(exp_avg)", "E040"),
        ("m was ema(exp_avg, 0.5)", "E028"),
        ("m was __x", "E011"),
        ("u was exp_avg", "E040"),
        ("weight was exp_avg", "E040"),
    ],
)
def test_a_past_that_cannot_be_is_an_error_in_the_spec(line, said):
    text = RENAMED.replace("m was exp_avg\n", f"{line}\n").replace("weight <-", "u = 2 * m\n        weight <- 0 * u +")
    assert [d.code for d in check_source(Source("test.opt", text)).diagnostics] == [said]


@pytest.mark.parametrize(
    "text",
    [
        "schedule S:\n    hyper a = 1 was b\n    factor <- a * t\n",
        "penalty P:\n    hyper a = 1 was b\n    for matrix:\n        loss <- a * norm(weight)\n",
        "penalty P:\n    for matrix:\n        loss <- norm(weight)\n        m was b\n",
    ],
)
def test_what_has_no_checkpoint_has_no_past(text):
    found = check_source(Source("test.opt", text)).diagnostics
    assert [d.code for d in found] == ["E028"], render_text(found)


def test_the_example_of_the_page_converts_and_refuses_as_it_says():
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    section = page.partition("## Checkpoints of a changed spec\n")[2].partition("\n## ")[0]
    before, after, message = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    optimizer = trained(before, params := tensors(torch.float64))
    saved = copy.deepcopy(optimizer.state_dict())
    converted = loaded(after, saved, others := tensors(torch.float64))
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    start = [p.detach().clone() for p in params]
    run(optimizer, params, range(3, 6))
    run(converted, others, range(3, 6))
    for p, q, at_first in zip(params, others, start, strict=True):
        kept, renamed = optimizer.state[p]["exp_avg"], converted.state[q]["m"]
        assert (kept - renamed).norm() <= 1e-12 * kept.norm()  # by torch's fused kernel, and by the module's own lines
        assert (p - q).norm() <= 1e-12 * (p - at_first).norm()
    unsaid = "".join(line for line in after.splitlines(keepends=True) if " was " not in line)
    assert f"ValueError: {refusal(unsaid, saved)}".split() == message.split()
