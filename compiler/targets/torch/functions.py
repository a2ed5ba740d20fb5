"""A Python function ready to be laid out, and what must hold of it: each of its inputs has a name of its own."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.ir.verifier import InternalError

SCALAR_SOURCES = (
    ir.InputSource.DIMENSION,
    ir.InputSource.STEP,
    ir.InputSource.HYPER,
    ir.InputSource.ARGUMENT,
    ir.InputSource.COMBINED,
)

OWN_NAMES = (
    ir.InputSource.DIMENSION,
    ir.InputSource.STEP,
    ir.InputSource.HYPER,
)  # whose keyword is the name


@dataclass(frozen=True, slots=True)
class PyFunction:
    """A Python function as lines; ``inputs`` and ``outputs`` are state keys, ``scalars`` its keywords.

    ``names`` are what the lines call the inputs of the function that it was made of.
    """

    name: str
    signature: tuple[str, ...]
    doc: tuple[str, ...]
    body: tuple[str, ...]
    returns: tuple[str, ...]
    inputs: tuple[str, ...]
    scalars: tuple[str, ...]
    outputs: tuple[str, ...]
    used: frozenset[str]
    names: Mapping[ir.Key, str]
    renamed: frozenset[ir.Key] = frozenset()  # sizes that the runtime knows by the name in the text


def require_own_names(function: ir.Function, lowered: PyFunction) -> None:
    """Raise :class:`InternalError` where two inputs, told apart by what they are, have one name in the text.

    Sizes, hypers and the step count must keep their own, by which the runtime looks them up; and the parameters in the
    text are the names of what is read, each once.
    """
    read = {node.key for node in inputs_of(function)}
    names = {key: lowered.names[key] for key in read}
    for text in (text for text, count in Counter(names.values()).items() if count > 1):
        meant = [f"{source.value} `{name}`" for (source, name), other in names.items() if other == text]
        raise InternalError(f"`{lowered.name}` says `{text}` for {' and '.join(sorted(meant))}")
    for (source, name), text in names.items():
        if source in OWN_NAMES and text != name and (source, name) not in lowered.renamed:
            raise InternalError(f"`{lowered.name}` says `{text}` for {source.value} `{name}`")
    tensors = [lowered.names[ir.stored(name)] for name in lowered.inputs]
    found = parameters_of(lowered)
    if found != [*tensors, *lowered.scalars] or not set(names.values()) <= set(found):
        raise InternalError(f"`{lowered.name}` takes {', '.join(found)}, which is not what it reads")


def parameters_of(lowered: PyFunction) -> list[str]:
    """The parameters in the text, in their order."""
    (definition,) = ast.parse("\n".join((*lowered.signature, "    ...")), lowered.name).body
    assert isinstance(definition, ast.FunctionDef)
    arguments = definition.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
