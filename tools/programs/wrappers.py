"""Random wrappers: what is put around an optimizer of a random program.

They call what they define by names that the optimizer has as well, remember something, and may be there twice.
"""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.ir.types import FULL
from optforge.compiler.verify.shared.dice import Dice
from optforge.dsl import ast
from tools.programs.blocks import grower_of
from tools.programs.grower import Scope
from tools.programs.terms import call_node, name
from tools.programs.uses import Made

LABEL = "Ahead"


def wrap(dice: Dice, scope: Scope, base: Made) -> tuple[ast.Wrapper, ast.Optimizer]:
    """A wrapper with one hyper, called `lr`, and the optimizer with it around.

    The weight is the one that the optimizer sees, which says what it was before the first step.
    """
    inner = grower_of(dice, replace(scope, data=tuple(v for v in scope.data if v.name != "weight")))
    fed = ast.Binary("+", name("grad"), inner.small(inner.exact(FULL, 1)).node)
    share = ast.Binary("*", name("lr"), ast.Number("0.5")) if dice.chance(50) else name("lr")
    kept = call_node("ema", ast.Binary("-", name("s"), name("weight")), share)
    ahead = ast.Binary("+", name("s"), ast.Binary("*", ast.Number("0.1"), name("m")))
    lines: list[ast.Statement] = [
        ast.Binding(ast.Identifier("m"), kept),
        ast.Binding(ast.Identifier("s"), call_node("step", fed)),
        ast.Update(ast.Identifier("weight"), ahead),
    ]
    rule = ast.Rule((ast.Identifier("tensor"),), tuple(dice.shuffled(lines)))
    hyper = ast.Hyper(ast.Identifier("lr"), ast.Number("0.5"))
    composition: ast.Expression = name(base.node.name.name)
    for _ in range(2 if dice.chance(30) else 1):
        composition = ast.Pipe(composition, ast.Call(ast.Identifier(LABEL), ()), bare=True)
    around = ast.Optimizer(ast.Identifier("Around"), None, (), None, composition)
    return ast.Wrapper(ast.Identifier(LABEL), (hyper, rule)), around
