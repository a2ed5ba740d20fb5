"""What the compiler finds in a spec for the generated class to know: its momentum, its modes, where it stands still."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import optforge
from optforge.compiler.analysis.modes import with_modes
from optforge.compiler.analysis.momentum import momentum_hypers
from optforge.compiler.analysis.rest import keeps_zero, moves_at_rest
from optforge.compiler.driver import check_source
from optforge.compiler.ir import nodes as ir
from optforge.dsl.source import Source
from optforge.generated import MuonH
from tests.support.classes import (
    SEEDS,
    build,
    generated_classes,
    groups,
    hyper_arguments,
    parameters,
    set_gradients,
    watching,
)

WITHOUT_MOMENTUM = {
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Rprop", "SignSGD"),
    "Ano",  # whose beta follows the step count if asked to
    *("ScheduleFreeAdamW", "ScheduleFreeSGD"),  # a mean of the weights, whose share cannot be changed between steps
}
REST_ALONE = {
    *("Dion", "RACS", "SinkGD", "SWAN", "SpectralDescent"),  # Dion keeps what its step leaves, which is no average
    *("PinnedSOAPMuon", "Record44", "Record45", "Record46", "RowFloorSOAPMuon"),  # whose beta follows the step count
}
USUAL = ("momentum", "beta1", "mu1", "beta")  # by these names, the first that a class has


def test_every_class_says_which_hyper_plays_the_momentum():
    for cls in generated_classes():
        hypers = hyper_arguments(cls)
        own = next((name for name in USUAL if name in hypers), "rest_beta1")
        if cls.__name__ == "Muown":  # whose momentum is Muon's; beta1 is that of its rows' norms
            own = "beta"
        if cls.__name__ in REST_ALONE:  # RACS has a beta of what its rows and columns are scaled by
            own = "rest_beta1"
        expected = [name for name in (own, "rest_beta1") if name in hypers]
        assert (() if cls.__name__ in WITHOUT_MOMENTUM else tuple(dict.fromkeys(expected))) == cls.MOMENTUM, cls
        assert (cls.MOMENTUM == ("rest_beta1",)) == (cls.__name__ in REST_ALONE)


def optimizer(*lines: str, hypers: str = "a b c") -> ir.Optimizer:
    declared = "".join(f"    hyper {name} = 0.5\n" for name in f"lr {hypers}".split())
    text = f"optimizer X:\n{declared}    for tensor:\n" + "".join(f"        {line}\n" for line in lines)
    (found,) = check_source(Source("x.opt", text)).require().declarations
    assert isinstance(found, ir.Optimizer)
    return found


@pytest.mark.parametrize(
    "lines, expected",
    [
        (("weight <- weight - lr * ema(grad, a)",), "a"),
        (("weight <- weight - lr * momentum(grad, a, nesterov=true)",), "a"),
        (("m = a * (grad if t == 1 else prev(m)) + (1 - a) * grad", "weight <- weight - lr * m"), "a"),
        (("weight <- weight - lr * heavy_ball(-grad / b, a)",), "a"),
        (("v = ema(grad^2, a)", "m = ema(grad, b)", "weight <- weight - lr * m / sqrt(v)"), "b"),
        (("v = ema(abs(grad), a)", "weight <- weight - lr * grad / v"), None),
        (("v = ema(grad * grad, a)", "weight <- weight - lr * sign(grad) * v"), None),
        (("m = a * prev(m) + grad", "u = b * prev(m) + c * grad", "weight <- weight - lr * u"), "b"),
        (("m = grad - b * prev(m)", "weight <- weight - lr * m"), "b"),
        (("g = grad / max(norm(grad), 1)", "m = ema(g if t > 2 else 2 * g, c)", "weight <- weight - lr * m"), "c"),
        (("m = 0.9 * prev(m) + grad", "weight <- weight - lr * a * m"), None),
        (("m = a * b * prev(m) + grad", "weight <- weight - lr * m"), None),
        (("weight <- weight - lr * grad",), None),
    ],
)
def test_the_momentum_is_what_weighs_the_past_in_the_direction(lines, expected):
    assert momentum_hypers(optimizer(*lines)) == ((expected,) if expected else ())


@pytest.mark.parametrize(
    "composition, expected",
    [
        ("Muon |> Grokfast", ("beta", "rest_beta1")),
        ("Muon |> EMANesterov", ("beta", "rest_beta1")),  # which sums up steps outside of it
        ("SGD |> SNOO |> GPA", ("momentum",)),
        ("SignSGD |> Grokfast", ()),  # whose decay is not of the optimizer
    ],
)
def test_the_momentum_is_that_of_the_optimizer_in_its_wrappers(composition, expected):
    assert expected == optforge.load(composition).MOMENTUM


def test_cycling_the_momentum_leaves_that_of_a_wrapper_alone():
    optimizer = optforge.load("Muon |> EMANesterov")([{"params": [torch.nn.Parameter(torch.ones(2, 3))]}])
    share = optimizer.param_groups[0]["ema_nesterov_decay"]
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9, max_momentum=0.5, base_momentum=0.25)
    (group,) = optimizer.param_groups
    assert (group["beta"], group["rest_beta1"], group["ema_nesterov_decay"]) == (0.5, 0.5, share)


# -- events that show weights ------------------------------------------------------------------------------------------

PAIRS = [
    (("on a():\n    weight <- 2 * weight", "on b():\n    weight <- weight / 2"), {"b": "a"}),
    (("on a():\n    weight <- a * weight + m", "on b():\n    weight <- (weight - m) / a"), {"b": "a"}),
    (("on a():\n    kept = weight\n    weight <- m", "on b():\n    weight <- kept"), {"b": "a"}),
    (("on b():\n    weight <- kept", "on a():\n    kept = weight\n    weight <- m"), {"b": "a"}),
    (("on a():\n    weight <- -weight",), {"a": "a"}),
    (("on a():\n    weight <- weight + m", "on b():\n    weight <- weight + m"), {}),
    (("on a():\n    weight <- 2 * weight", "on b():\n    weight <- weight / 4"), {}),
    (("on a():\n    weight <- m", "on b():\n    weight <- -m"), {}),
    (("on a():\n    weight <- weight", "on b():\n    weight <- 0 + weight"), {}),
    (("on a(k):\n    weight <- k * weight", "on b(k):\n    weight <- weight / k"), {}),
    (("on a():\n    weight <- t * weight", "on b():\n    weight <- weight / t"), {}),
]


@pytest.mark.parametrize("events, expected", PAIRS)
def test_events_that_give_back_the_weight_undo_the_one_before(events, expected):
    body = "".join(f"    {line}\n" for event in events for line in event.split("\n"))
    keep = "        seen = kept\n" if "kept" in body else ""
    text = (
        f"optimizer X:\n    hyper lr = 0.5\n    hyper a = 0.5 where a > 0\n{body}    for tensor:\n{keep}"
        "        m = ema(grad, a)\n        weight <- weight - lr * m" + (" + 0.5 * seen\n" if keep else "\n")
    )
    (found,) = check_source(Source("x.opt", text)).require().declarations
    assert isinstance(found, ir.Optimizer)
    (rule,) = (with_modes(rule) for rule in found.rules)
    assert {event.name: event.undoes for event in rule.events if event.undoes} == expected


def test_every_pair_of_a_shipped_class_is_known_and_nothing_else():
    pairs = {
        (cls.__name__, e.undoes, e.name) for cls in generated_classes() for r in cls.RULES for e in r.events if e.undoes
    }
    names = ("ASAM", "SAM", "Record45", "Record46", "ScheduleFreeAdamW", "ScheduleFreeSGD")
    modes = {(name, "eval", "train") for name in names}
    assert pairs == {("ASGD", "show_average", "show_current"), *modes}


# -- weights that stand still, and weights that do not -----------------------------------------------------------------

LR_ZERO, ALL_ZEROS = "lr = 0 need not leave", "that are all zeros stay so"


def stepped(cls: type[Any], made: list[dict[str, Any]], optimizer: Any, steps: range) -> None:
    """Steps as a user would make them; SAM's are climbed to."""
    for t in steps:
        set_gradients(parameters(made), t)
        if hasattr(cls, "ascend"):
            optimizer.ascend()
            set_gradients(parameters(made), t)
        optimizer.step()


OFTEN = SEEDS | {"LARS", "MuonH", "MuonSphere", "Muown", "SAM", "SPEL"}
every_class = pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, id=cls.__name__, marks=() if cls.__name__ in OFTEN else pytest.mark.wide)
        for cls in generated_classes()
    ],
)


@every_class
def test_the_documentation_says_which_steps_with_lr_0_move_weights(cls):
    """In those classes and no other some bit changes, be it by rounding, in steps after others or the first ones.

    Of AdaMod, whose average of learning rates is 0 if all of them are, the form does not show it.
    """
    assert "lr" in hyper_arguments(cls)
    moved = False
    for before in (0, 3):
        made = groups(cls)
        optimizer = watching(build(cls, made))
        stepped(cls, made, optimizer, range(before))
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        for t in range(before, before + 3):
            set_gradients(parameters(made), t)
            if hasattr(cls, "ascend"):
                optimizer.ascend()
            old = [p.detach().clone() for p in parameters(made)]
            optimizer.step()
            moved |= any(not torch.equal(p, q) for p, q in zip(parameters(made), old, strict=True))
    said = " ".join((cls.__doc__ or "").split())
    assert (moved or cls.__name__ == "AdaMod") == (LR_ZERO in said)


@every_class
def test_a_weight_of_zeros_that_stays_so_is_named_at_its_first_step(cls):
    """Once, by name; in the documentation of those classes and no other."""
    made = groups(cls)
    for group in made:
        group["param_names"] = [f"{group['rule']}.{i}" for i in range(len(group["params"]))]
        for p in group["params"]:
            p.data.zero_()
    named = [{**g, "params": list(zip(g.pop("param_names"), g["params"], strict=True))} for g in made]
    optimizer = watching(build(cls, named))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in range(3):
            set_gradients(parameters(made), t)
            optimizer.step()
    stuck = {f"{g['rule']}.{i} of" for g in made for i, p in enumerate(g["params"]) if not p.any()}
    texts = [str(each.message) for each in caught if "is all zeros, and under the rule" in str(each.message)]
    assert len(texts) == len(stuck) and all(any(name in text for text in texts) for name in stuck)
    assert bool(stuck) == (ALL_ZEROS in " ".join((cls.__doc__ or "").split()))


@pytest.mark.parametrize("options", [{"batch": 1}, {"split": (4, 2)}, {"split": 2, "transposed": True}], ids=str)
def test_a_matrix_of_zeros_within_a_parameter_is_named(options):
    p = torch.nn.Parameter(torch.ones(3, 6, 4) if "batch" in options else torch.ones(6, 6))
    p.data[1 if "batch" in options else slice(4, None)] = 0
    if "transposed" in options:
        p.data = torch.cat([torch.ones(6, 3), torch.zeros(6, 3)], dim=1)
    before = p.detach().clone()
    optimizer = MuonH([{"params": [p], "rule": "matrix", **options}])
    set_gradients([p], 0)
    with pytest.warns(UserWarning, match="one of the matrices in parameter 0 .* is all zeros, and under the rule"):
        optimizer.step()
    assert not p[before == 0].any() and not torch.equal(p, before)


def test_nothing_is_said_of_weights_that_can_move():
    """Of others of the same rule, of one zero row, or of a weight that became zero later."""
    p, q = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    p.data[0] = 0
    optimizer = MuonH([p, q])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_gradients([p, q], 0)
        optimizer.step()
        p.data.zero_()
        optimizer.step()


@pytest.mark.parametrize(
    "lines, keeps, moves",
    [
        (("weight <- weight - lr * grad",), False, False),
        (("weight <- (1 - lr * a) * weight - lr * grad",), False, False),
        (("weight <- (weight - lr * grad) / (1 + lr * a)",), False, False),
        (("weight <- weight - min(lr, 1 / t) * grad",), False, False),
        (("weight <- weight * (1 - a * grad)",), True, True),
        (("weight <- weight - lr * norm(weight) * grad",), True, False),
        (("r = prev(r, norm(weight))", "weight <- scale_to(weight - lr * grad, r)"), True, True),
        (("r = prev(r, norm(weight) + 1)", "weight <- scale_to(weight - lr * grad, r)"), False, True),
        (("r = prev(r, norm(weight)) + norm(grad)", "weight <- scale_to(weight - lr * grad, r)"), False, True),
        (("m = a * prev(m) + lr * grad", "weight <- weight - m"), False, True),
        (("m = a * grad", "weight <- weight - lr * prev(m)"), False, False),
        (("m = a * grad", "n = 2 * prev(m)", "weight <- weight - lr * prev(n)"), False, False),
        (("weight <- weight - lr * grad if t > 2 else weight",), False, False),
        (("weight <- weight - lr * grad if t > 2 else 0.5 * weight",), False, True),
        (("weight <- weight + min(lr, -a) * grad",), False, True),
        (("weight <- weight - min(lr, abs(a) / max(norm(grad), 1e-30)) * grad",), False, False),
        (("weight <- weight - min(lr, abs(a) / norm(grad)) * grad",), False, True),  # 0 / 0
        (("weight <- weight - min(lr, max(a, 0)) * grad",), False, False),
        (("weight <- (weight - lr * grad) - a + a",), False, True),
    ],
)
def test_where_a_rule_stands_still(lines, keeps, moves):
    (rule,) = optimizer(*lines).rules
    assert (keeps_zero(rule), moves_at_rest(rule)) == (keeps, moves)


def test_questions_about_values_are_asked_once_each():
    """A value that stands twice in the next, sixty times over."""
    chain = [f"x{i} = x{i - 1} + x{i - 1} * norm(x{i - 1})" for i in range(1, 60)]
    (rule,) = optimizer("x0 = lr * grad", *chain, "weight <- weight - x59").rules
    assert (keeps_zero(rule), moves_at_rest(rule)) == (False, False)
