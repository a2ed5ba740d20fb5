"""Random hyperparameters: numbers, flags and strings, their conditions, and values to try."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from optforge.compiler.frontend.reserved_names import reason_against
from optforge.compiler.ir.types import SCALAR, Phase
from optforge.compiler.targets.torch.reserved import RESERVED
from optforge.compiler.verify.shared.dice import Dice
from optforge.dsl import ast
from tools.programs.terms import Variable, literal, name

Setting: TypeAlias = "float | int | bool | str"

DOCS = (
    None,
    "what it is",
    "a \\ and a 'quote' and {braces}",
    'in "quotes" here',
    "ends in ä quote\\",
    "50 % of # nothing",
)
# What other things are called, in the optimizers that others use, in functions, or by the compiler itself.
CONFUSING = (
    "m", "v", "u", "s", "h", "k", "x", "prev_grad", "prev_weight", "total_1", "size", "gain", "update", "denominator",
    "m_2", "first_m", "rho",
)  # fmt: skip
# What equations are called that come without being planned: a hyper of these names could not stand beside them.
UNPLANNED = {"turn", "turn_2", "turn_3", "kept", "w", "radius", "ramp", "age", "span", "share", "length"}
DECAYS = ("0.5", "0.9", "0.75", "6e-1")
SETTINGS: dict[str, tuple[ast.Expression, ...]] = {
    "decay": tuple(literal(spelling) for spelling in DECAYS),
    "period": (literal("3"), literal("2")),
    "iterations": (literal("3"), literal("2"), literal("6")),
    "root": (literal("2"), literal("4"), literal("1")),
    "wait": (literal("2"),),
    "cap": (literal("2"), literal("inf")),
    "method": tuple(ast.Text(text) for text in ("svd", "exact", "polar_express", "newton_schulz")),
}


@dataclass(frozen=True)
class HyperPlan:
    """``values`` are those it may be given; one without default must be given one."""

    node: ast.Hyper
    values: tuple[Setting, ...]

    @property
    def name(self) -> str:
        return self.node.name.name

    @property
    def is_required(self) -> bool:
        return self.node.default is None


@dataclass
class HyperSet:
    plans: list[HyperPlan] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    settings: dict[str, tuple[ast.Expression, ...]] = field(default_factory=lambda: dict(SETTINGS))
    choices: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    confusing: Sequence[str] = CONFUSING

    def add(
        self, dice: Dice, text: str, default: ast.Expression, condition: ast.Expression | None, *values: Setting
    ) -> None:
        is_required = dice.chance(8) and not isinstance(default, ast.Boolean)
        doc = dice.pick(DOCS)
        node = ast.Hyper(
            ast.Identifier(text), None if is_required else default, condition, None if doc is None else ast.Text(doc)
        )
        self.plans.append(HyperPlan(node, values))

    def prefer(self, kind: str, text: str) -> None:
        """Let the setting be read from the hyper, mostly."""
        self.settings[kind] = (name(text), name(text), *self.settings[kind][:1])


def named(dice: Dice, hypers: HyperSet, *usual: str) -> str:
    """A name that no hyper has yet: a usual one, or one that something else is called as well."""
    taken = {*UNPLANNED, *(plan.name for plan in hypers.plans)}
    usable = [text for text in hypers.confusing if reason_against(text, "hyperparameter", RESERVED) is None]
    confusing = [text for text in usable if text not in taken]
    if confusing and dice.chance(40 if hypers.confusing is CONFUSING else 75):
        return dice.pick(confusing)
    return dice.pick([text for text in usual if text not in taken])


def below(left: ast.Expression, *rest: tuple[str, ast.Expression]) -> ast.Comparison:
    return ast.Comparison(left, rest)


def grow_hypers(dice: Dice, count: int, confusing: Sequence[str] = ()) -> HyperSet:
    """``lr`` and some of the other kinds; ``confusing`` are names that would be taken for something else."""
    hypers = HyperSet(confusing=confusing or CONFUSING)
    zero = ast.Number("0")
    hypers.add(dice, "lr", ast.Number(dice.pick(("0.1", "0.05", "2e-2"))), below(name("lr"), (">=", zero)), 0.03, 0.1)
    hypers.variables.append(Variable("lr", SCALAR, Phase.CONSTANT, 0.1, is_pure=True))
    kinds = [add_decay, add_number, add_flag, add_period, add_mode, add_method, add_iterations, add_root, add_pair]
    kinds += [add_wait, add_wait, add_cap]
    for _ in range(count):
        add = dice.pick(kinds)
        kinds.remove(add)
        add(dice, hypers)
    return hypers


def add_decay(dice: Dice, hypers: HyperSet) -> None:
    text = named(dice, hypers, "beta", "decay", "update_part")
    condition = below(ast.Number("0"), ("<=", name(text)), ("<", ast.Number("1")))
    hypers.add(dice, text, ast.Number(dice.pick(DECAYS)), condition, 0.9, 0.6)
    hypers.variables.append(Variable(text, SCALAR, Phase.CONSTANT, 1, is_pure=True))
    hypers.prefer("decay", text)


def add_pair(dice: Dice, hypers: HyperSet) -> None:
    condition = below(ast.Number("0"), ("<=", name("mu1")), ("<=", name("mu2")), ("<", ast.Number("1")))
    hypers.add(dice, "mu1", ast.Number("0.8"), condition, 0.7, 0.8)
    hypers.add(dice, "mu2", ast.Number("0.9"), None, 0.85, 0.95)
    hypers.prefer("decay", "mu2")
    hypers.variables += [Variable(text, SCALAR, Phase.CONSTANT, 1, is_pure=True) for text in ("mu1", "mu2")]


def add_number(dice: Dice, hypers: HyperSet) -> None:
    text = named(dice, hypers, "scale", "eps", "part", "weight_decay")
    default = literal(dice.pick(("0.3", "1e-1", "0", "-0.4", "1")))
    condition = dice.pick(
        (None, ast.Unary("not", below(name(text), (">", ast.Number("2")))), below(name(text), ("!=", ast.Number("7"))))
    )
    hypers.add(dice, text, default, condition, 0.2, 1, 0.0)
    hypers.variables.append(Variable(text, SCALAR, Phase.CONSTANT, 1, is_pure=True))


def add_flag(dice: Dice, hypers: HyperSet) -> None:
    text = named(dice, hypers, "flag")
    condition = ast.Binary("or", ast.Unary("not", name(text)), below(name("lr"), (">=", ast.Number("0"))))
    hypers.add(dice, text, ast.Boolean(dice.chance(50)), condition if dice.chance(50) else None, True, False)
    hypers.variables.append(Variable(text, SCALAR, Phase.CONSTANT, is_boolean=True))


def member(text: str, *values: str) -> ast.Member:
    return ast.Member(name(text), ast.Tuple(tuple(ast.Text(value) for value in values)))


def add_mode(dice: Dice, hypers: HyperSet) -> None:
    values = ("soft", "a \"hard\" \\ 'mode'")
    hypers.add(dice, "mode", ast.Text(dice.pick(values)), member("mode", *values), *values)
    hypers.choices.append(("mode", values))


def add_method(dice: Dice, hypers: HyperSet) -> None:
    values = ("exact", "polar_express", "svd")
    hypers.add(dice, "method", ast.Text(dice.pick(values)), member("method", *values), *values)
    hypers.choices.append(("method", values))
    hypers.prefer("method", "method")


def add_period(dice: Dice, hypers: HyperSet) -> None:
    text = named(dice, hypers, "every")
    condition = below(name(text), (">=", ast.Number("1")))
    hypers.add(dice, text, ast.Number(dice.pick(("2", "3"))), condition, 2, 4)
    hypers.prefer("period", text)


def add_iterations(dice: Dice, hypers: HyperSet) -> None:
    hypers.add(dice, "steps", ast.Number(dice.pick(("3", "5"))), below(name("steps"), (">=", ast.Number("1"))), 1, 4)
    hypers.prefer("iterations", "steps")


def add_wait(dice: Dice, hypers: HyperSet) -> None:
    """A number that may be 0, by which steps are counted."""
    if "wait" in {plan.name for plan in hypers.plans}:
        return
    hypers.add(dice, "wait", literal(dice.pick(("0", "2"))), below(name("wait"), (">=", ast.Number("0"))), 0, 2, 0.5)
    hypers.prefer("wait", "wait")


def add_cap(dice: Dice, hypers: HyperSet) -> None:
    """A limit that may be infinite."""
    inverse = below(ast.Binary("/", ast.Number("1"), name("cap")), ("<", ast.Number("3")))
    condition = ast.Binary("and", below(name("cap"), (">", ast.Number("0"))), inverse)
    hypers.add(dice, "cap", literal(dice.pick(("inf", "2"))), condition, math.inf, 0.75)
    hypers.prefer("cap", "cap")


def add_root(dice: Dice, hypers: HyperSet) -> None:
    numbers = ast.Member(name("p"), ast.Tuple((ast.Number("2"), ast.Number("4"))))
    hypers.add(dice, "p", ast.Number("2"), numbers, 2, 4)
    hypers.prefer("root", "p")
