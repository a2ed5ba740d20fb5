"""A compiled program as a Python module: everything a template needs, decided and named.

Takes the IR after all passes, gives :class:`PyModule`: frozen text in the order it is laid out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from optforge.compiler.analysis.rates import lr_ratios
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import calls_of
from optforge.compiler.ir.names import FunctionName, Task
from optforge.compiler.ir.printer import expression_text
from optforge.compiler.ir.types import Kind, Universe
from optforge.compiler.targets.torch.descriptions import lower_spec
from optforge.compiler.targets.torch.documents import (
    class_doc,
    doc_lines,
    docstring,
    escape,
    wrap_text,
)
from optforge.compiler.targets.torch.expressions import number_text, quote
from optforge.compiler.targets.torch.functions import PyFunction
from optforge.compiler.targets.torch.hygiene import scalar_names
from optforge.compiler.targets.torch.reserved import MODULE_NAMES
from optforge.compiler.targets.torch.rules import lower_rule, quote_all
from optforge.compiler.targets.torch.statements import (
    WIDTH,
    Lowering,
    lower_function,
    signature_lines,
)

RUNTIME = "optforge.runtime"  # what generated modules import from
RUNTIME_VERSION = 6  # the one that they are written for
KIND_NAMES = {Kind.NUMBER: "float", Kind.BOOLEAN: "bool", Kind.TEXT: "str"}
BASES = {"optimizer": "SpecOptimizer", "schedule": "SpecSchedule", "penalty": "SpecPenalty"}


@dataclass(frozen=True, slots=True)
class PyMethod:
    """A method as lines without their indentation."""

    signature: tuple[str, ...]
    doc: tuple[str, ...]
    body: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PyClass:
    """A class as lines without their indentation; ``uses`` are the imported names they mention."""

    name: str
    base: str
    version: int
    doc: tuple[str, ...]
    rules: tuple[str, ...]
    momentum: tuple[str, ...]
    spec: tuple[str, ...]
    arguments: tuple[str, ...]
    hypers: tuple[str, ...]
    construction: tuple[str, ...]
    check_signature: tuple[str, ...]
    checks: tuple[str, ...]
    events: tuple[PyMethod, ...]
    factor: PyFunction | None

    @property
    def uses(self) -> set[str]:
        text = "\n".join((*self.rules, *self.spec, *self.arguments, *self.checks))
        words = set(re.findall(r"[A-Za-z_]+(?=[(.])", text)) | ({"Tensor"} if "| Tensor" in text else set())
        known = {"ieee", "Kernel", "State", "Rule", "Rank", "Event", "Spec", "Was", "require", "math", "Tensor"}
        options = {"Options", "Unpack"} if self.base == BASES["optimizer"] else set()
        return (words & known) | options | {self.base} | (set(self.factor.used) if self.factor else set())


@dataclass(frozen=True, slots=True)
class PyModule:
    """A module as lines, functions and classes, in the order they are laid out."""

    doc: tuple[str, ...]
    imports: tuple[str, ...]
    exports: tuple[str, ...]
    functions: tuple[PyFunction, ...]
    classes: tuple[PyClass, ...]


@dataclass(frozen=True, slots=True)
class PyPackage:
    """The ``__init__.py`` of a folder of generated modules."""

    mark: str
    imports: tuple[str, ...]
    exports: tuple[str, ...]
    homes: tuple[tuple[str, str], ...]


def lower_package(homes: Mapping[str, str], mark: str) -> PyPackage:
    """``homes`` gives the module of each class."""
    by_module: dict[str, list[str]] = {}
    for name, module in homes.items():
        by_module.setdefault(module, []).append(name)
    imports: list[str] = []
    for module in sorted(by_module):
        names = sorted(by_module[module], key=export_order)
        flat = f"from .{module} import {', '.join(names)}"
        exploded = [f"from .{module} import (", *(f"    {name}," for name in names), ")"]
        imports += [flat] if len(flat) + 4 <= WIDTH else exploded
    exports = sorted(homes, key=export_order)
    return PyPackage(mark, tuple(imports), tuple(exports), tuple((name, homes[name]) for name in sorted(homes)))


def lower_program(program: ir.Program, origin: str) -> PyModule:
    """The module of a program; ``origin`` is the line that says where it comes from."""
    single = len(program.declarations) == 1
    declarations = [replace(e, doc=e.doc or (program.doc if single else "")) for e in program.declarations]
    taken = {*MODULE_NAMES, *(each.name for each in declarations)}
    lowered = [lower_declaration(each, not single, taken) for each in declarations]
    functions = tuple(function for _, own in lowered for function in own)
    classes = tuple(each for each, _ in lowered)
    used = {name for function in functions for name in function.used}
    used |= {name for each in classes for name in each.uses}
    return PyModule(
        docstring((*doc_lines(program.doc or "A generated module."), "", *wrap_text(escape(origin)))),
        import_lines(used),
        export_lines(sorted((each.name for each in classes), key=export_order)),
        functions,
        classes,
    )


def import_lines(used: set[str]) -> tuple[str, ...]:
    """The imports in the order that import sorters want."""
    lines = ["from __future__ import annotations", ""]
    lines += ["import math"] if "math" in used else []
    lines += ["from typing import Unpack"] if "Unpack" in used else []
    lines += [""] if used & {"math", "Unpack"} else []
    lines += ["import torch"] if "torch" in used else []
    lines += ["from torch import Tensor"] if "Tensor" in used else []
    lines += [""] if used & {"torch", "Tensor"} else []
    names = sorted(used - {"math", "Unpack", "torch", "Tensor"}, key=import_order)
    flat = f"from {RUNTIME} import {', '.join(names)}"
    exploded = [f"from {RUNTIME} import (", *(f"    {name}," for name in names), ")"]
    return (*lines, *([flat] if len(flat) <= WIDTH else exploded))


def export_lines(names: list[str]) -> tuple[str, ...]:
    """``__all__ = ["NAMO"]``, one name a line where they do not fit on one."""
    flat = f"__all__ = [{', '.join(quote_all(tuple(names)))}]"
    return (flat,) if len(flat) <= WIDTH else ("__all__ = [", *(f'    "{name}",' for name in names), "]")


def export_order(name: str) -> tuple[int, list[tuple[bool, int, str]]]:
    """Constants' case before classes' case before the rest, numbers by size, as sorters of ``__all__`` have it."""
    parts = re.findall(r"\d+|\D", name)
    natural = [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
    return 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, natural


def import_order(name: str) -> tuple[int, str]:
    """Classes before functions, as import sorters have it."""
    return (1 if name[0].islower() else 0, name)


def lower_declaration(
    node: ir.Declaration, is_one_of_several: bool, taken: set[str]
) -> tuple[PyClass, tuple[PyFunction, ...]]:
    """The class of a declaration and its functions, whose names join those that are taken in the module."""
    prefix = f"{snake_case(node.name)}_" if is_one_of_several else ""
    match node:
        case ir.Schedule():
            factor = lower_function(node.function, "factor", (), (), scalar_names(node), WIDTH - 4)
            factor = replace(
                factor, returns=(f"return {factor.returns[0].removeprefix('return (').removesuffix(',)')}",)
            )
            return lower_class("schedule", node, (), (), factor), ()
        case ir.Optimizer() | ir.Penalty():
            functions: list[PyFunction] = []
            rules: list[str] = []
            scalars, ratios = scalar_names(node), lr_ratios(node.rules)
            for rule in node.rules:
                text, own = lower_rule(rule, prefix, scalars, taken, node.requirements)
                text[-1:-1] = [f"    lr_ratio={quote(ratios[rule.name])},"] if rule.name in ratios else []
                rules.extend(text)
                functions.extend(own)
            if isinstance(node, ir.Penalty):
                return lower_class("penalty", node, tuple(rules), node.rules, None), tuple(functions)
            spec, past = lower_spec(node, prefix, taken)
            lowered = lower_class("optimizer", node, tuple(rules), node.rules, None)
            return replace(lowered, spec=tuple(spec)), (*functions, *past)


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# Classes


def lower_class(
    kind: str, node: ir.Declaration, rules: tuple[str, ...], ir_rules: tuple[ir.Rule, ...], factor: PyFunction | None
) -> PyClass:
    hypers = sorted(node.hypers, key=lambda hyper: hyper.default is not None)
    names = [hyper.name for hyper in hypers]
    first, last, call = CONSTRUCTION[kind]
    if factor is not None:
        factor = replace(factor, signature=signature_lines("factor", ["t"], names, WIDTH - 4))
    return PyClass(
        node.name,
        BASES[kind],
        RUNTIME_VERSION,
        docstring(class_doc(node, ir_rules)),
        rules,
        momentum_lines(node.momentum) if isinstance(node, ir.Optimizer) else (),
        (),
        (first, *(declare_hyper(hyper) for hyper in hypers), *last),
        hyper_lines(names),
        call,
        signature_lines("check_hypers", [], names, WIDTH - 12, " -> None"),
        tuple(line for index in range(len(node.requirements)) for line in requirement_lines(node, index)),
        lower_events(ir_rules),
        factor,
    )


def hyper_lines(names: list[str]) -> tuple[str, ...]:
    """``hypers = {"lr": lr}``, one hyper a line where they do not fit on one."""
    items = [f'"{name}": {name}' for name in names]
    flat = f"hypers = {{{', '.join(items)}}}"
    return (flat,) if len(flat) + 8 <= WIDTH else ("hypers = {", *(f"    {item}," for item in items), "}")


def momentum_lines(hypers: tuple[str, ...]) -> tuple[str, ...]:
    return (f"MOMENTUM = ({', '.join(quote_all(hypers))}{',' if len(hypers) == 1 else ''})",) if hypers else ()


# For each kind: the first argument, those after the hypers, and the call of the base's constructor.
CONSTRUCTION: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "optimizer": (
        "params",
        ("**options: Unpack[Options]",),
        ("super().__init__(params, hypers, **options)",),
    ),
    "schedule": (
        "optimizer",
        ("*", "last_epoch: int = -1"),
        ("super().__init__(optimizer, hypers, last_epoch=last_epoch)",),
    ),
    "penalty": ("params", (), ("super().__init__(params, hypers)",)),
}


def declare_hyper(hyper: ir.Hyper) -> str:
    """A hyper as it stands in a signature."""
    kind = "float | Tensor" if hyper.name == "lr" and hyper.kind is Kind.NUMBER else KIND_NAMES[hyper.kind]
    kind = "Tensor | dict[Tensor, Tensor]" if hyper.shape else kind
    default = f" = {default_text(hyper.default)}" if hyper.default else ""
    return f"{hyper.name}: {kind}{default}"


def default_text(literal: ir.Literal) -> str:
    match literal.value:
        case bool():
            return str(literal.value)
        case str():
            return quote(literal.value)
        case float():
            return number_text(literal.value, literal.spelling)
        case _:
            return repr(literal.value)


def requirement_lines(node: ir.Declaration, index: int) -> tuple[str, ...]:
    """``require(name, value, "condition", condition)`` below those before it, in a function of all hypers."""
    requirement = node.requirements[index]
    outputs = (ir.Output("value", requirement.value), ir.Output("condition", requirement.condition))
    given = tuple(earlier.condition for earlier in node.requirements[:index])
    lowering = Lowering(ir.Function(FunctionName(task=Task.CONDITION), Universe.TENSOR, (), outputs, given))
    shown_value, checked = (output.value for output in lowering.function.outputs)
    lowering.names |= {(ir.InputSource.HYPER, hyper.name): hyper.name for hyper in node.hypers}
    shown = expression_text(requirement.condition)
    text = quote(shown if len(shown) <= 64 else f"{shown[:61]}...")
    subject, value, condition = quote(requirement.subject), *map(lowering.writer.text, (shown_value, checked))
    line = f"require({subject}, {value}, {text}, {condition})"
    if len(line) + 8 <= WIDTH:
        return (line,)
    lines, short = lowering.shortened(checked, WIDTH - 8, "holds")
    condition = lowering.writer.text(short)
    return (*lines, "require(", *(f"    {each}," for each in (subject, value, text, condition)), ")")


def lower_events(rules: tuple[ir.Rule, ...]) -> tuple[PyMethod, ...]:
    """A method for each event; rules that share an event are fired together."""
    docs = {event.name: event.doc for rule in rules for event in rule.events if event.doc}
    methods = []
    for name, parameters in calls_of(rules).items():
        ordered = sorted(parameters, key=lambda parameter: parameter.default is not None)
        arguments = ["self", *(declare_hyper(parameter) for parameter in ordered)]
        given = [quote(name), *(f"{parameter.name}={parameter.name}" for parameter in ordered)]
        call = f"self.fire({', '.join(given)})"
        body = (call,) if len(call) + 8 <= WIDTH else ("self.fire(", *(f"    {each}," for each in given), ")")
        doc = doc_lines(docs.get(name) or f"Advance what the spec computes on {name}.", WIDTH - 8)
        signature = signature_lines(name, arguments, [], WIDTH - 12, " -> None")
        methods.append(PyMethod(signature, docstring(doc), body))
    return tuple(methods)
