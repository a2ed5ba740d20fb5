"""Random uses of one optimizer by another, whose hypers mean one thing outside and are called like another inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optforge.compiler.ir.types import Universe
from optforge.compiler.verify.shared.dice import Dice
from optforge.dsl import ast
from tools.programs.hypers import HyperSet, Setting
from tools.programs.terms import Variable, call_node, name

ADAMW = ("lr", "beta1", "beta2", "eps", "weight_decay")


@dataclass
class Made:
    """An optimizer that others in its file may extend or use."""

    node: ast.Optimizer
    hypers: HyperSet
    universe: Universe
    planned: list[Variable]
    data: tuple[Variable, ...]
    is_for_all: bool
    events: dict[str, dict[str, Setting]]
    is_whole: bool = False  # it only uses another one


def names_inside(made: Iterable[Made]) -> list[str]:
    """What streams, and the arguments of events, are called in the optimizers that others of this file use."""
    shared = [each for each in made if each.is_for_all]
    streams = [variable.name for each in shared for variable in each.planned]
    events = [member for each in shared for member in each.node.members if isinstance(member, ast.Event)]
    arguments = [parameter.name.name for event in events for parameter in event.parameters]
    return [*arguments * 3, *streams]


def grow_delegate(dice: Dice, made: Sequence[Made], hypers: HyperSet, word: str = "rest") -> ast.Delegate:
    """``for rest: use`` a shipped optimizer or one of this file, its hypers bound to values of the own ones."""
    own = [each for each in made if each.is_for_all]
    used = dice.pick([None, *own, *own])
    target = "AdamW" if used is None else used.node.name.name
    values: dict[str, ast.Expression] = {}
    for plan in used.hypers.plans if used else ():
        if plan.is_required:
            values[plan.name] = name("lr") if plan.name == "lr" else setting_node(plan.values[0])
    if dice.chance(60):
        values["lr"] = ast.Binary("*", name("lr"), ast.Number("0.5"))
    if used is None and dice.chance(50):
        values["weight_decay"] = ast.Number("0")
    numbers = ADAMW if used is None else [v.name for v in used.hypers.variables if not v.is_boolean]
    # Left open, a hyper of an optimizer that is all use and one of what it uses would have one name.
    for text in (text for text in numbers if text not in ("mu1", "mu2")):  # of these one must stay below the other
        if dice.chance(35) if used is None else used.is_whole or dice.chance(70):
            value = share_of(dice, names_inside(made), hypers)
            values[text] = ast.Binary("*", ast.Number("0.1"), value) if text == "lr" else value
    keywords = tuple((ast.Identifier(text), value) for text, value in values.items())
    return ast.Delegate((ast.Identifier(word),), ast.Identifier(target), (), keywords)


def share_of(dice: Dice, inside: Sequence[str], hypers: HyperSet) -> ast.Expression:
    """A number from 0.2 to 0.8, which all conditions allow, that depends on a hyper."""
    confusing = [variable for variable in hypers.variables if variable.name in inside]
    likely = confusing if confusing and dice.chance(75) else hypers.variables[::-1]
    variable = dice.pick(likely)
    if variable.is_boolean:
        return ast.Select(name(variable.name), ast.Number("0.7"), ast.Number("0.3"))
    wave = call_node("sin", ast.Binary("*", ast.Number("2"), name(variable.name)))
    return ast.Binary("+", ast.Number("0.5"), ast.Binary("*", ast.Number("0.3"), wave))


def setting_node(value: Setting) -> ast.Expression:
    match value:
        case bool():
            return ast.Boolean(value)
        case str():
            return ast.Text(value)
        case _:
            return ast.Number(repr(value))
