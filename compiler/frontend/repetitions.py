"""Iteration: ``x |> f times 12`` and ``x |> f(g / 2^k) for k in 1..20``, written out round for round.

Arguments that do not depend on the counter are computed once, and may have state; a round has none. Each round but the
last is an equation, called as the function; that it keeps the shape of what it was given is seen once types are known.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from optforge.compiler.frontend.builtins import RESERVED
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import constant_value, number
from optforge.compiler.ir.operators import CALLABLE
from optforge.dsl import ast, errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from optforge.compiler.frontend.expressions import Place

MOST_ROUNDS = 32
GIVEN, START = "|>", "start"  # what a round is given, by a name that no spec has; what the first one is given
WHERE = "what is done again and again"
PLAIN = (ast.Name, ast.Super, ast.Number, ast.Boolean, ast.Text, ast.Tuple)


def unrolled(node: ast.Pipe, repetition: ast.Repetition, place: Place) -> ir.Expr:
    """The last of the rounds; those before it are left behind as equations."""
    numbers = numbers_of(repetition, place)
    is_usable = repetition.counter is None or is_new(repetition.counter, place)
    if numbers is None or not is_usable:
        place.expression(node.value)  # whose own mistakes are said as well
        return number("0", node.span)
    function = node.call.function.name
    value = place.named(place.expression(node.value), place.name_of(node.value, START), node.value.span)
    call, known = with_fixed_arguments(node, repetition.counter, place)
    for each in numbers:
        if each != numbers[0]:
            value = place.named(value, place.path.inside(function), node.span)
        names = {**known, GIVEN: value}
        if repetition.counter is not None:
            names[repetition.counter.name] = number(str(each), repetition.counter.span)
        found = knowing(place, names, repetition.counter).expression(call)
        value = ir.Apply(ir.ROUND, (value, found), span=node.call.function.span)
    return value


def numbers_of(repetition: ast.Repetition, place: Place) -> range | None:
    """The numbers of the rounds; None after reporting that they are none, or too many."""
    bounds = []
    for bound in (ast.Number("1") if repetition.first is None else repetition.first, repetition.last):
        value = constant_value(bound)
        if value is None or not value.is_integer():
            place.report(errors.bad_repetition("rounds are counted by whole numbers, written as such", bound.span))
            return None
        bounds.append(int(value))
    numbers = range(bounds[0], bounds[1] + 1)
    if not numbers:
        place.report(errors.bad_repetition("these are no rounds", repetition.span))
        return None
    if len(numbers) > MOST_ROUNDS:
        problem = f"these are {len(numbers)} rounds; {MOST_ROUNDS} at most are written out"
        place.report(errors.bad_repetition(problem, repetition.span))
        return None
    return numbers


def is_new(counter: ast.Identifier, place: Place) -> bool:
    """Whether the name of a counter means nothing else here; it is reported where it does."""
    if counter.name in RESERVED or counter.name in CALLABLE:
        place.report(errors.reserved_name(counter.name, counter.span))
        return False
    if counter.name in place.visible():
        problem = f"`{counter.name}` means something else here"
        place.report(errors.bad_repetition(problem, counter.span, "call the counter by another name"))
        return False
    return True


def with_fixed_arguments(
    node: ast.Pipe, counter: ast.Identifier | None, place: Place
) -> tuple[ast.Call, dict[str, ir.Expr]]:
    """The call of a round, with names for what is the same in all of them, and what these names mean."""
    known: dict[str, ir.Expr] = {}

    def fixed(argument: ast.Expression) -> ast.Expression:
        if isinstance(argument, PLAIN) or (counter is not None and reads(argument, counter.name)):
            return argument
        name = f"{GIVEN}{len(known) + 1}"
        path = place.name_of(argument, "given")
        known[name] = place.named(place.expression(argument), path, argument.span)
        return ast.Name(name, span=argument.span)

    arguments = (ast.Name(GIVEN, span=node.value.span), *map(fixed, node.call.arguments))
    keywords = tuple((keyword, fixed(argument)) for keyword, argument in node.call.keywords)
    return replace(node.call, arguments=arguments, keywords=keywords, span=node.span), known


def reads(node: object, name: str) -> bool:
    """Whether an expression mentions a name."""
    if isinstance(node, ast.Name):
        return node.name == name
    if isinstance(node, tuple):
        return any(reads(part, name) for part in node)
    return isinstance(node, ast.Node) and any(reads(getattr(node, each), name) for each in node.__dataclass_fields__)


def knowing(place: Place, names: Mapping[str, ir.Expr], counter: ast.Identifier | None) -> Place:
    """The place of a round: with these names as well, and without state."""

    def lookup(name: ast.Name) -> ir.Expr | None:
        if counter is not None and name.name == counter.name:
            place.scope.references.record(name.span, "local", counter.span)
        return names.get(name.name) or place.lookup(name)

    def visible() -> Iterable[str]:
        return (*place.visible(), *((counter.name,) if counter is not None else ()))

    return replace(place, lookup=lookup, visible=visible, state=False, step=None, what=WHERE)
