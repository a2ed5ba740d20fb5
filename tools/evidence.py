"""Which tests of a checkout compare a shipped class with something from elsewhere, read off their source.

In: the folder ``tests``. Out: for each class the kinds of comparison. No test is imported or run: what is found says
that a comparison stands there, never that it holds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

REFERENCE, TORCH = "reference", "torch.optim"


def find_evidence(tests: Path) -> dict[str, tuple[str, ...]]:
    """For each class, or each schedule and penalty in lower case, what a test compares it with."""
    pairs = [(name, REFERENCE) for name in references(tests)]
    pairs += [(name, TORCH) for name in torch_twins(tests)]
    pairs += peers(tests)
    found: dict[str, dict[str, None]] = {}
    for name, kind in pairs:
        found.setdefault(name, {})[kind] = None
    return {name: tuple(kinds) for name, kinds in found.items()}


def references(tests: Path) -> Iterator[str]:
    """Classes of ``references`` with second values, which the agreement test runs over; functions that a test imports.

    The function of a schedule or penalty is called as it is, in lower case: ``uba_factor``, ``tscnc_official``.
    """
    for node in _nodes((tests / "references").glob("*.py")):
        if isinstance(node, ast.ClassDef) and any(
            _assigns(statement, name) for statement in node.body for name in ("SECOND", "HYPERS")
        ):
            yield node.name
    for node in _nodes(tests.rglob("test_*.py")):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests.references."):
            names = (alias.name for alias in node.names if alias.name.islower())
            yield from (name.removesuffix("_factor").replace("_", "") for name in names)


def torch_twins(tests: Path) -> Iterator[str]:
    """First arguments of each ``Pair(name, torch.optim.Class)``, and names that ours and torch's share in a test."""
    for node in _nodes(tests.rglob("test_torch_family.py")):
        yield from (name for name, *_ in _strings(node, "Pair"))
    imported: set[str] = set()
    named: set[str] = set()
    for node in _nodes(tests.rglob("test_torch_agreement.py")):
        if isinstance(node, ast.ImportFrom) and node.module == "optforge.generated":
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch.optim":
            named.add(node.attr)
    yield from sorted(imported & named)


def peers(tests: Path) -> Iterator[tuple[str, str]]:
    """Name and package of each ``Peer(name, "package:Class")``: a published class that takes the same steps."""
    for node in _nodes(tests.rglob("test_peers.py")):
        yield from ((name, target.partition(":")[0]) for name, target, *_ in _strings(node, "Peer"))


def _nodes(paths: Iterable[Path]) -> Iterator[ast.AST]:
    """Everything in the files that there are, in the order of their names."""
    for path in sorted(path for path in paths if path.is_file()):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def _assigns(statement: ast.stmt, name: str) -> bool:
    match statement:
        case ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found), value=ast.expr()):
            return found == name
        case _:
            return False


def _strings(node: ast.AST, function: str) -> Iterator[tuple[str, ...]]:
    """The positional arguments of a call of that function, as text; only if the first is a string."""
    match node:
        case ast.Call(func=ast.Name(id=called), args=[ast.Constant(value=str()), *_]) if called == function:
            yield tuple(_text(argument) for argument in node.args)
        case _:
            return


def _text(argument: ast.expr) -> str:
    """A string's own text, with what an f-string only knows when it runs left out; any other argument as written."""
    match argument:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts if isinstance(part, ast.Constant))
        case _:
            return ast.unparse(argument)
