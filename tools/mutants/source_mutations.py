"""Systematic small mistakes in a hand-written optimizer, one at a time, on the syntax tree of its module.

Only what steps compute is changed: constructors, class attributes and annotations are left alone. Runs nothing but
the module itself, when it is loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from copy import deepcopy
from types import ModuleType

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
METHODS = {
    "add": "sub",
    "sub": "add",
    "mul": "div",
    "div": "mul",
    "add_": "sub_",
    "sub_": "add_",
    "mul_": "div_",
    "div_": "mul_",
    "maximum": "minimum",
    "minimum": "maximum",
    "sum": "mean",
    "mean": "sum",
    "norm": "sum",
}
FUNCTIONS = {"max": "min", "min": "max"}
REMOVABLE = ("sqrt", "sqrt_", "abs", "abs_", "sign", "square", "neg", "exp", "log")
LEFT_ALONE = ("__init__",)


def source_mutants(text: str) -> Iterator[tuple[str, str]]:
    """``(label, text of the changed module)`` for every mistake in a module."""
    tree = ast.parse(text)
    count = len(places(tree))
    for index in range(count):
        node = places(tree)[index]
        for number in range(len(list(mistakes(node)))):
            changed = deepcopy(tree)
            target = places(changed)[index]
            before = ast.unparse(target)
            _, replacement = list(mistakes(target))[number]
            replace_node(changed, target, replacement)
            after = ast.unparse(replacement) if replacement is not None else "(nothing)"
            yield f"line {node.lineno}: {before} -> {after}", ast.unparse(ast.fix_missing_locations(changed))


def places(tree: ast.Module) -> list[ast.expr | ast.stmt]:
    """The nodes in function bodies that may be changed, in order."""
    found: list[ast.expr | ast.stmt] = []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name not in LEFT_ALONE]
    for function in functions:
        for statement in function.body:
            found += [node for node in ast.walk(statement) if isinstance(node, ast.expr | ast.stmt)]
    return list(dict.fromkeys(found))


def mistakes(node: ast.AST) -> Iterator[tuple[str, ast.expr | ast.stmt | None]]:
    """What could stand in place of a node; None leaves a statement out."""
    match node:
        case ast.Constant(value=bool(value)):
            yield "flag", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield "integer", ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield "constant", ast.Constant(value * 1.1 if value else 0.5)
        case ast.BinOp(op=operator) if type(operator) in OPERATORS:
            yield "operator", ast.BinOp(node.left, OPERATORS[type(operator)](), node.right)
            yield "left", node.left
        case ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            yield "operator", ast.AugAssign(node.target, OPERATORS[type(operator)](), node.value)
            yield "nothing", None
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in COMPARISONS:
            yield "comparison", ast.Compare(left, [COMPARISONS[type(operator)]()], [right])
        case ast.IfExp():
            yield "branches", ast.IfExp(node.test, node.orelse, node.body)
        case ast.UnaryOp(op=ast.USub()):
            yield "sign", node.operand
        case ast.Call():
            yield from wrong_calls(node)
        case ast.Expr(value=ast.Call()):
            yield "nothing", None


def wrong_calls(node: ast.Call) -> Iterator[tuple[str, ast.expr | ast.stmt | None]]:
    match node.func:
        case ast.Attribute(value=value, attr=name):
            if name in REMOVABLE and not node.args:
                yield "removed", value
            if name in METHODS:
                yield "method", ast.Call(ast.Attribute(value, METHODS[name], ast.Load()), node.args, node.keywords)
        case ast.Name(id=name) if name in FUNCTIONS:
            yield "function", ast.Call(ast.Name(FUNCTIONS[name], ast.Load()), node.args, node.keywords)


def replace_node(tree: ast.AST, old: ast.AST, new: ast.expr | ast.stmt | None) -> None:
    """Put a node in the place of another; a statement that is left out becomes ``pass``."""

    class Replacing(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            if node is old:
                return ast.Pass() if new is None else new
            visited: ast.AST = self.generic_visit(node)
            return visited

    Replacing().visit(tree)


def load_module(text: str, name: str) -> ModuleType:
    """The module of a changed source, known to nobody else."""
    module = ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    exec(compile(text, f"<mutant of {name}>", "exec"), module.__dict__)
    return module
