"""One program in every way there is: printed and read, after each pass, generated with and without writing in place.

:func:`examine` raises :class:`Disagreement` where two ways differ. Errors are measured as the largest difference
over the largest element of the step (of the state, for states), which must not exceed ``TOLERANCE``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optforge.compiler.driver import check_tree, fold_requirements, map_functions, passes_of
from optforge.compiler.frontend.files import Files
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.verifier import require_valid
from optforge.compiler.oracle.interpreter import Inputs, evaluate_function
from optforge.compiler.targets.base import Origin
from optforge.compiler.targets.torch.render import origin_line, render_program
from optforge.compiler.targets.torch.reserved import RESERVED
from optforge.compiler.targets.torch.target import TORCH
from optforge.dsl import ast
from optforge.dsl.diagnostics import SpecError
from optforge.dsl.parser import parse_source
from optforge.dsl.printer import print_file
from optforge.dsl.source import Source
from optforge.runtime.execution import graphs
from tools.programs.programs import RandomProgram, Trial
from tools.programs.specials import determined, has_average

Array = NDArray[np.float64]
TOLERANCE = 1e-10
SMALLEST_STEP = 1e-4  # relative to the weight: below it a step is rounding
SMALLEST_VALUE = 1e-3  # generated programs keep their values near 1
HUGE = 1e9  # what is larger comes from special gradients, and says nothing of the other elements
LINE_WIDTH = 120
IGNORED_BY_ORACLE = ("schedule", "guard")  # the last pass shows what these did to the order


class Disagreement(Exception):
    """Two ways gave different results; ``text`` is the spec, ready to be saved."""

    def __init__(self, way: str, detail: str, text: str) -> None:
        self.way, self.detail, self.text = way, detail, text
        super().__init__(f"{way}: {detail}\n\n{text}")


class Difference(Exception):
    """Where two ways differ, before it is known in which spec."""

    def __init__(self, way: str, detail: str) -> None:
        self.way, self.detail = way, detail
        super().__init__(f"{way}: {detail}")


@dataclass(frozen=True)
class Compiled:
    """A program at every stage, and its two modules."""

    program: ir.Program
    stages: tuple[tuple[str, ir.Program], ...]
    module: ModuleType
    plain_module: ModuleType
    rendered: str

    def declared(self, name: str) -> Any:
        return next(each for each in self.program.declarations if each.name == name)

    def versions(self, name: str) -> Iterator[tuple[str, Any]]:
        """The declaration after each pass that the oracle can tell from the one before."""
        for stage, program in self.stages:
            if stage not in IGNORED_BY_ORACLE:
                yield stage, next(each for each in program.declarations if each.name == name)


@dataclass(frozen=True)
class Shares:
    """One program in so many runs as graphs as well: recorded, as inductor rewrites them, compiled by inductor."""

    recorded: int = 100
    rewritten: int = 100
    compiled: int = 0


def examine(program: RandomProgram, shares: Shares = Shares()) -> Compiled:
    """Everything that must hold for the program; raises :class:`Disagreement`."""
    from tools.programs.runs import run_trial

    text = program.text
    try:
        compiled = compile_everywhere(require_printed(program, text), text)
        for trial in program.trials:
            run_trial(compiled, trial, program.seed, shares)
    except Difference as difference:
        raise Disagreement(difference.way, difference.detail, text) from None
    except SpecError as error:
        raise Disagreement("type-directed generation", str(error), text) from None
    except Exception as error:
        raise Disagreement("no crash", f"{type(error).__name__}: {error}", text) from error
    return compiled


def require_printed(program: RandomProgram, text: str) -> ast.File:
    """What is printed reads back as the same tree, which is returned, and is final."""
    tree, problems = parse_source(Source("random.opt", text))
    if tree is None:
        raise Difference("printer", f"the printed text does not parse: {problems}")
    if tree != program.tree:
        raise Difference("printer", f"the printed text reads back as another tree: {print_file(tree)}")
    if print_file(tree) != text:
        raise Difference("printer", "formatting what was formatted changes it")
    return tree


def compile_everywhere(tree: ast.File, text: str) -> Compiled:
    _, program, found = check_tree(tree, None, Report(RESERVED), Files())
    if program is None:
        raise SpecError(found)
    stages = [("check", program)]
    current = fold_requirements(program)
    for name, rewrite in passes_of(TORCH.rewrites):
        current = map_functions(rewrite, current)
        require_valid(current, name)
        stages.append((name, current))
    rendered = [render_program(stage, origin_line(Origin("random.opt", text))) for stage in (current, stages[-2][1])]
    for line in rendered[0].splitlines():
        if len(line) > LINE_WIDTH:
            raise Difference("layout", f"a line of {len(line)} characters: {line}")
    module = load_module(rendered[0])
    plain = module if rendered[0] == rendered[1] else load_module(rendered[1])
    return Compiled(program, tuple(stages), module, plain, rendered[0])


def load_module(text: str) -> ModuleType:
    """The module of a rendered text, known to nobody else."""
    module = ModuleType("_random_program")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(text, "<random>", "exec"), module.__dict__)
    return module


def forget_modules() -> None:
    """Let go of the classes that the runtime keeps notes about."""
    graphs._forget_graphs()
    own = [module for name, module in sys.modules.items() if name.startswith("optforge.runtime.")]
    for value in (value for module in own for value in vars(module).values()):
        if hasattr(value, "cache_clear"):
            value.cache_clear()


# Measuring


def require_close(way: str, what: str, found: Any, wanted: Any, scale: float) -> None:
    """The largest difference is at most ``TOLERANCE`` times the scale."""
    found, wanted = np.asarray(found, dtype=np.float64).ravel(), np.asarray(wanted, dtype=np.float64).ravel()
    if found.shape != wanted.shape:
        raise Difference(way, f"{what} has {found.size} elements, not {wanted.size}")
    error = errors(found, wanted, scale)
    if error.max(initial=0.0) > TOLERANCE:
        worst = int(error.argmax())
        values = f"{float(found[worst])!r} instead of {float(wanted[worst])!r}"
        raise Difference(way, f"{what}, element {worst}: {values}; error / scale = {error[worst]:.3g}")


def is_close(found: Any, wanted: Any, scale: float) -> bool:
    return bool(errors(np.asarray(found), np.asarray(wanted), scale).max(initial=0.0) <= TOLERANCE)


def errors(found: Array, wanted: Array, scale: float) -> Array:
    """How far each element is off, relative to the scale; a huge one relative to itself.

    An infinity or a NaN is off by nothing from its like, and infinitely far from all else.
    """
    is_same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    with np.errstate(all="ignore"):
        scales = np.where(np.abs(wanted) > HUGE, np.abs(wanted), scale)
        off = np.abs(found - wanted) / scales
    return np.where(is_same, 0.0, np.where(np.isnan(off), np.inf, off))


def size(value: Any, least: float = SMALLEST_VALUE) -> float:
    """The largest element that is not huge."""
    sizes = np.abs(np.asarray(value, dtype=np.float64))
    return max(least, float(sizes[sizes <= HUGE].max(initial=0.0)))


def require_same_function(name: str, versions: Sequence[tuple[str, ir.Function]], inputs: Inputs) -> dict[str, Any]:
    """Every version of a function gives the same outputs, which are returned."""
    (_, first), *later = versions
    wanted = evaluate_function(first, inputs)
    before = first
    for stage, function in later:
        if function == before:
            continue
        found = evaluate_function(function, inputs)
        for output in determined(wanted, has_average([function])):
            value = wanted[output]
            require_close(f"pass {stage}", f"{output} of {name}", found[output], value, size(value))
        before = function
    return wanted


def is_determined(function: ir.Function, inputs: Inputs, shaken: Inputs) -> bool:
    """Whether a function gives the same where its inputs differ by little."""
    wanted, found = evaluate_function(function, inputs), evaluate_function(function, shaken)
    return all(is_close(found[name], value, size(value)) for name, value in wanted.items())


def hyper_values(declaration: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The hypers of a declaration: their defaults, or what they were given."""
    return {hyper.name: given.get(hyper.name, hyper.default and hyper.default.value) for hyper in declaration.hypers}


__all__ = ["Compiled", "Disagreement", "Trial", "examine"]
