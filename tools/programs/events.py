"""Random events: what they are called with, and equations that read a rule's streams and are read by it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from optforge.compiler.ir.types import FULL, PER_COL, PER_ROW, SCALAR, Dim, Phase
from optforge.compiler.verify.shared.dice import Dice
from optforge.dsl import ast
from tools.programs.blocks import exchange, foreign, grow_bindings, grower_of, may_exchange
from tools.programs.grower import Aside, Scope, data_variables
from tools.programs.hypers import Setting
from tools.programs.terms import Variable

GIVEN = {"anchor": FULL, "level": PER_ROW, "width": PER_COL, "moments": (Dim.COLS, Dim.COLS)}  # by the name


def grow_event(
    dice: Dice, scope: Scope, seen: list[Variable], planned: Sequence[Variable], is_alone: bool
) -> tuple[ast.Event, dict[str, Setting]]:
    """An event that reads, and is read by, the rule with the planned streams; and the numbers of its calls."""
    text = dice.pick(("probe", "refresh"))
    taken = {v.name for v in (*seen, *planned)} | scope.taken
    parameters, arguments, variables = grow_parameters(dice, taken)
    given = grow_given(dice, taken, scope.is_matrix)
    parameters = (*(each for each, _ in given), *parameters)
    variables += [each for _, each in given]
    data = scope.data if dice.chance(70) else data_variables("weight")
    aside = Aside(["age", "span"])
    inside = replace(scope, variables=(*variables, *foreign(planned), *scope.variables), data=data, aside=aside)
    if data is scope.data and not given and dice.chance(25):
        inside = replace(inside, total_scope=inside.summed(is_alone))
    remembered = [variable for variable in seen if not variable.is_boolean]
    bindings = grow_bindings(grower_of(dice, inside), seen, remembered)
    statements: list[ast.Statement] = [*bindings[:-1], scaled(dice, bindings[-1], seen[-1], variables, scope)]
    if dice.chance(10) and may_exchange(data):
        statements += exchange()
    elif dice.chance(35):
        read = replace(inside, variables=(*seen[::-1], *inside.variables), remembered=tuple(remembered))
        grower = grower_of(dice, read)
        moved = grower.small(grower.exact(FULL, 2))
        step = ast.Binary("*", ast.Number("0.05"), moved.node)
        statements.append(ast.Update(ast.Identifier("weight"), ast.Binary("+", ast.Name("weight"), step)))
    statements += aside.bindings
    return ast.Event(ast.Identifier(text), parameters, tuple(dice.shuffled(statements))), arguments


def scaled(
    dice: Dice, binding: ast.Binding, variable: Variable, arguments: Sequence[Variable], scope: Scope
) -> ast.Binding:
    """The equation, often times a factor of arguments and hypers, which else are rarely read together."""
    hypers = [v for v in scope.variables if v.phase is Phase.CONSTANT and not v.is_boolean]
    fitting = [v for v in arguments if v.shape in (SCALAR, variable.shape)]
    if variable.is_boolean or not fitting or not hypers or not dice.chance(60):
        return binding
    factor = ast.Binary("*", ast.Number("0.1"), dice.pick(fitting).term().node)
    for hyper in hypers[:2]:
        factor = ast.Binary("*", factor, hyper.term().node)
    variable.is_pure = False
    return replace(binding, value=ast.Binary("*", binding.value, ast.Binary("+", ast.Number("1"), factor)))


def grow_parameters(
    dice: Dice, taken: Set[str]
) -> tuple[tuple[ast.Parameter, ...], dict[str, Setting], list[Variable]]:
    """Numbers that are called like hypers and streams of others. The name decides on the default, for events of one
    name have to agree on it."""
    parameters: list[ast.Parameter] = []
    arguments: dict[str, Setting] = {}
    variables: list[Variable] = []
    for names, default in ((("size", "m", "k", "lr_2"), None), (("gain", "s", "v"), ast.Number("0.5"))):
        free = [text for text in names if text not in taken]
        if not free or not dice.chance(75):
            continue
        text = dice.pick(free)
        parameters.append(ast.Parameter(ast.Identifier(text), default))
        variables.append(Variable(text, SCALAR, Phase.CONSTANT, 2))
        if default is None or dice.chance(50):
            arguments[text] = 1.25
    return tuple(parameters), arguments, variables


def grow_given(dice: Dice, taken: Set[str], is_matrix: bool) -> list[tuple[ast.Parameter, Variable]]:
    """Sometimes an argument that each parameter has its own matrix of; its shape follows from the name."""
    if not dice.chance(30):
        return []
    text = dice.pick(tuple(GIVEN)) if is_matrix else "anchor"
    if text in taken:
        return []
    shape = GIVEN[text]
    first, second = (ast.Identifier(dim.value) for dim in shape)
    return [(ast.Parameter(ast.Identifier(text), None, (first, second)), Variable(text, shape, bound=3))]
