"""What the compiler finds out of a spec for the generated class to say: which hyper plays the momentum."""

from __future__ import annotations

import pytest
from classes import generated_classes, hyper_arguments

from optforge.compiler import ir
from optforge.compiler.analysis.modes import with_modes
from optforge.compiler.analysis.momentum import momentum_hypers
from optforge.compiler.check import check_source
from optforge.dsl.source import Source

WITHOUT_MOMENTUM = {
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Rprop", "SignSGD"),
    *("ScheduleFreeAdamW", "ScheduleFreeSGD"),  # a mean of the weights, whose share cannot be changed between steps
}
REST_ALONE = {"SinkGD", "SWAN"}
USUAL = ("momentum", "beta1", "mu1", "beta")  # by these names, the first that a class has


def test_every_class_says_which_hyper_plays_the_momentum():
    for cls in generated_classes():
        hypers = hyper_arguments(cls)
        own = next((name for name in USUAL if name in hypers), "rest_beta1")
        if cls.__name__ == "Muown":  # whose momentum is Muon's; beta1 is that of its rows' norms
            own = "beta"
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
    schedule_free = {(f"ScheduleFree{name}", "show_mean", "show_training") for name in ("SGD", "AdamW")}
    assert pairs == {("ASGD", "show_average", "show_current"), *schedule_free}
