"""Random wrappers: what is put around an optimizer of a random program, or around a shipped one.

They call what they define by names that the optimizer has as well, remember something, and may be there twice. Around
AdamW, of which more is known than of an optimizer that was drawn, they also change its direction and hypers, and have
events that show an average.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from optforge.compiler.ir.types import FULL
from optforge.compiler.verify.shared.dice import Dice
from optforge.dsl import ast
from tools.programs.blocks import grower_of
from tools.programs.grower import Scope
from tools.programs.terms import call_node, name
from tools.programs.uses import Made

LABEL = "Ahead"
ONE = ast.Number("1")


@dataclass(frozen=True)
class Around:
    """A wrapper with one hyper, called `lr`, and the optimizer with it around, `Around`."""

    wrapper: ast.Wrapper
    optimizer: ast.Optimizer


def wrap(dice: Dice, scope: Scope, base: Made) -> Around:
    """A wrapper around an optimizer of the program, once or twice.

    What is shared may sum up gradients beside other rules, for which they read nothing that is remembered.
    """
    composition: ast.Expression = name(base.node.name.name)
    rules = [member for member in base.node.members if isinstance(member, ast.Rule)]
    seen = next((rule.orientation for rule in rules if rule.orientation is not None), None)
    shares = any(isinstance(each, ast.Binding) and each.shared for rule in rules for each in rule.statements)
    step = call_node("step", product(name("grad"), ast.Number("0.75")) if shares else fed(dice, scope))
    return around(dice, scope, composition, 2 if dice.chance(30) else 1, step=step, orientation=seen)


def wrap_adamw(dice: Dice, scope: Scope) -> Around:
    """A wrapper around AdamW that changes, each now and then, its direction, its hypers, and what is evaluated."""
    composition = ast.Call(ast.Identifier("AdamW"), (), ((ast.Identifier("lr"), ast.Number("0.05")),))
    given: dict[str, ast.Expression] = {}
    if dice.chance(60):
        given["lr"] = product(name("super"), call_node("min", ast.Binary("/", name("t"), ast.Number("3")), ONE))
    if dice.chance(40):
        given["beta1"] = product(name("super"), name("lr"))
    if dice.chance(50):
        given["weight_decay"] = dice.pick((ast.Number("0"), product(ast.Number("2"), name("super"))))
    lines: list[ast.Statement] = []
    if dice.chance(60):
        agrees = ast.Comparison(product(name("super"), name("grad")), ((">", ast.Number("0")),))
        lines.append(
            ast.Binding(ast.Identifier("direction"), product(name("super"), ast.Select(agrees, ONE, name("lr"))))
        )
    shows = dice.chance(50)
    if shows:
        lines.append(
            ast.Binding(ast.Identifier("v"), call_node("ema", name("s"), ast.Number("0.9"), init=name("weight")))
        )
    step = call_node("step", fed(dice, scope), **given)
    return around(dice, scope, composition, 1, step=step, lines=lines, events=modes() if shows else ())


def around(
    dice: Dice,
    scope: Scope,
    composition: ast.Expression,
    times: int,
    *,
    step: ast.Call,
    lines: list[ast.Statement] | None = None,
    events: tuple[ast.Event, ...] = (),
    orientation: ast.Identifier | None = None,
) -> Around:
    """The step, a mean of what it moves by and other lines, for all parameters or for matrices, as both see them."""
    share = product(name("lr"), ast.Number("0.5")) if dice.chance(50) else name("lr")
    word, moved = "tensor", ast.Binary("-", name("s"), name("weight"))
    if dice.chance(40):
        word = "matrix"
        moved = ast.Binary("/", moved, ast.Binary("+", ONE, call_node("norm", moved, per=name("row"))))
    ahead = ast.Binary("+", name("s"), product(ast.Number("0.1"), name("m")))
    statements: list[ast.Statement] = [
        ast.Binding(ast.Identifier("m"), call_node("ema", moved, share)),
        ast.Binding(ast.Identifier("s"), step),
        ast.Update(ast.Identifier("weight"), ahead),
        *(lines or ()),
    ]
    seen = orientation if word == "matrix" else None
    rule = ast.Rule((ast.Identifier(word),), tuple(dice.shuffled(statements)), orientation=seen)
    members: list[ast.OptimizerMember] = [*events, rule]
    hyper = ast.Hyper(ast.Identifier("lr"), ast.Number("0.5"))
    for _ in range(times):
        composition = ast.Pipe(composition, ast.Call(ast.Identifier(LABEL), ()), bare=True)
    optimizer = ast.Optimizer(ast.Identifier("Around"), None, (), None, composition)
    return Around(ast.Wrapper(ast.Identifier(LABEL), (hyper, *dice.shuffled(members))), optimizer)


def fed(dice: Dice, scope: Scope) -> ast.Expression:
    """What the wrapped optimizer gets for its gradient.

    It does not read the weight, which the optimizer sees as well, and of which that says what it was at first.
    """
    inner = grower_of(dice, replace(scope, data=tuple(v for v in scope.data if v.name != "weight")))
    return ast.Binary("+", name("grad"), inner.small(inner.exact(FULL, 1)).node)


def modes() -> tuple[ast.Event, ...]:
    """Events that put the average `v` in place of the weights, and take it away."""
    kept = ast.Binding(ast.Identifier("u"), name("weight"))
    shown, hidden = (ast.Update(ast.Identifier("weight"), name(text)) for text in ("v", "u"))
    return (
        ast.Event(ast.Identifier("eval"), (), (kept, shown), None),
        ast.Event(ast.Identifier("train"), (), (hidden,), None),
    )


def product(left: ast.Expression, right: ast.Expression) -> ast.Expression:
    return ast.Binary("*", left, right)
