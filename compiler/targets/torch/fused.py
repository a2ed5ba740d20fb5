"""Rules that one of torch's fused kernels computes, as functions on lists of tensors.

What the kernels compute stands in `kernels.opt`, as specs whose hypers are the kernels' arguments. A rule of a program
that is such a rule for some values of these gets a function that calls the kernel with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from optforge.compiler.analysis.matching import Instance, KernelRule, Specialization, instance_of
from optforge.compiler.analysis.normal_form import Former, Product, Sum, TooLarge, single
from optforge.compiler.driver import check_source, run_passes
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of, put_in, references
from optforge.compiler.ir.names import FunctionName, Task
from optforge.compiler.ir.printer import apply, literal, natural_type
from optforge.compiler.ir.types import Universe
from optforge.compiler.passes.fold import is_literal_truth, spell
from optforge.compiler.targets.torch.functions import PyFunction, require_own_names
from optforge.compiler.targets.torch.hygiene import ScalarNames, python_name
from optforge.compiler.targets.torch.passes import TORCH_REWRITES
from optforge.compiler.targets.torch.statements import WIDTH, Lowering, signature_lines
from optforge.compiler.targets.torch.tame import is_tame
from optforge.dsl.source import Source

SPECS = Path(__file__).parent / "kernels.opt"

# The function of the runtime for each optimizer of `kernels.opt`.
FUNCTIONS = {
    "AdamW": "fused_adamw",
    "AdamWOfRoots": "fused_adamw",
    "Adam": "fused_adam",
    "AdamOfRoots": "fused_adam",
    "Adagrad": "fused_adagrad",
    "SGD": "fused_sgd",
    "SGDWithMomentum": "fused_sgd",
}
LISTS = {"weight": "weights", "grad": "grads"}
SIZE_LIMIT = 100  # of an argument
SCALARS = (ir.InputSource.HYPER, ir.InputSource.STEP)
SMALLER = {"lt": "lt", "le": "le", "gt": "lt", "ge": "le"}


@lru_cache(maxsize=1)
def kernels() -> tuple[tuple[ir.Optimizer, KernelRule], ...]:
    """The optimizers of `kernels.opt` after all passes, and their one rule."""
    checked = check_source(Source(SPECS.name, SPECS.read_text(encoding="utf-8")))
    program = run_passes(checked.require(), TORCH_REWRITES)
    found = [each for each in program.declarations if isinstance(each, ir.Optimizer)]
    return tuple((each, KernelRule(each.rules[0])) for each in found)


def lower_fused(
    rule: ir.Rule, step: PyFunction, name: str, scalars: ScalarNames, requirements: tuple[ir.Requirement, ...]
) -> PyFunction | None:
    """The rule's step on lists of tensors by a fused kernel; None where no kernel is known to compute it.

    ``step`` is the function of the rule; ``scalars`` are the keywords of its optimizer's functions, ``requirements``
    what that demands of its hypers.
    """
    tensors = {"weight", "grad", *(state.name for state in rule.states)}
    if set(step.inputs) != tensors:
        return None  # a kernel reads them all: `weight <- grad` is no descent with a decay of everything
    if not is_tame(rule.update):
        return None
    for kernel, pattern in kernels():
        found = instance_of(pattern, rule)
        if found is None:
            continue
        try:
            is_fit = all(is_allowed(kernel, case, requirements) for case in found.cases)
            values = arguments(kernel, found, rule.update) if is_fit else None
        except TooLarge:
            continue
        if values is not None and is_tame(pass_on(values, rule.update)):
            fused = call_of(kernel, found, values, step, name, scalars, rule.update.given)
            require_own_names(rule.update, fused)
            return fused
    return None


def pass_on(values: Mapping[str, ir.Expr], step: ir.Function) -> ir.Function:
    """What is computed for the kernel's arguments."""
    return replace(step, equations=(), outputs=tuple(ir.Output(hyper, value) for hyper, value in values.items()))


# What a kernel demands of its arguments


def is_allowed(kernel: ir.Optimizer, case: Specialization, requirements: tuple[ir.Requirement, ...]) -> bool:
    """Whether the kernel's conditions hold in this case: for its numbers, or because the optimizer requires them."""
    promised = {each for requirement in requirements for each in comparisons(requirement.condition, {})}
    wanted = [each for requirement in kernel.requirements for each in comparisons(requirement.condition, case.numbers)]
    return all(holds(*each) or each in promised for each in wanted)


def comparisons(condition: ir.Expr, known: Mapping[str, Sum]) -> Iterator[tuple[str, Sum, Sum]]:
    """The comparisons that all hold where the condition does, as (lt or le, smaller, larger)."""
    match condition:
        case ir.Apply(operator="and", arguments=(left, right)):
            yield from comparisons(left, known)
            yield from comparisons(right, known)
        case ir.Apply(operator="lt" | "le" | "gt" | "ge" as operator, arguments=sides):
            smaller, larger = sides if operator == SMALLER[operator] else reversed(sides)
            former = Former(ir.Function(FunctionName(task=Task.CONDITION), Universe.TENSOR, (), ()), known=known)
            yield SMALLER[operator], former.form(smaller), former.form(larger)


def holds(operator: str, smaller: Sum, larger: Sum) -> bool:
    left, right = smaller.number(), larger.number()
    return left is not None and right is not None and (left < right or (operator == "le" and left == right))


# Values as expressions


def arguments(kernel: ir.Optimizer, found: Instance, step: ir.Function) -> dict[str, ir.Expr] | None:
    """The kernel's keyword arguments as expressions of the rule's scalars; None where they need anything else."""
    values: dict[str, ir.Expr] = {}
    words = [Words(step, case) for case in found.cases]
    for hyper in kernel.hypers:
        try:
            value = by_cases([(dict(each.case.chosen), each.value(hyper.name)) for each in words])
            values[hyper.name] = inline(value, step)
        except (KeyError, OverflowError):  # not a scalar of the spec, or a number that no float is
            return None
    nodes = [node for value in values.values() for node in ir.walk(value)]
    is_scalar = all(node.source in SCALARS for node in nodes if isinstance(node, ir.Input))
    return values if is_scalar else None


def by_cases(cases: list[tuple[dict[ir.Expr, bool], ir.Expr]]) -> ir.Expr:
    """One expression for the values in all cases: choices on the conditions that matter."""
    chosen, value = cases[0]
    if all(other == value for _, other in cases):
        return value
    condition = next(iter(chosen))
    sides = []
    for wanted in (True, False):
        kept = [
            ({c: t for c, t in each.items() if c != condition}, v) for each, v in cases if each[condition] is wanted
        ]
        sides.append(by_cases(kept))
    then, otherwise = sides
    if then == otherwise:
        return then
    if is_literal_truth(then, True) and is_literal_truth(otherwise, False):
        return condition
    if is_literal_truth(then, False) and is_literal_truth(otherwise, True):
        return apply("not", condition)
    choice = ir.Select(condition, then, otherwise)
    return replace(choice, type=natural_type(choice))


class Words:
    """How the scalars of a step are written in the spec, in one case."""

    def __init__(self, step: ir.Function, case: Specialization) -> None:
        self.case = case
        former = Former(step, chosen=case.chosen)
        nodes = list(ir.nodes(step))
        scalars = [n for n in nodes if n.type.is_scalar_phase and not isinstance(n, ir.Literal | ir.Select)]
        spellings = [n for n in nodes if isinstance(n, ir.Literal) and isinstance(n.value, float)]
        self.numbers = {number: n for n in spellings if (number := former.form(n).number()) is not None}
        self.written: dict[str, ir.Expr] = {}
        for node in scalars:
            if all(isinstance(n, ir.Literal | ir.Input | ir.Apply | ir.Ref) for n in ir.walk(node)):
                self.written.setdefault(former.form(node).key, node)

    def value(self, hyper: str) -> ir.Expr:
        """The value of a hyper of the kernel."""
        if hyper in self.case.flags:
            flag = self.case.flags[hyper]
            return literal(flag, str(flag).lower())
        return self.expression(self.case.numbers[hyper])

    def expression(self, value: Sum) -> ir.Expr:
        """The value as the spec has it, or put together from parts that the spec has; KeyError where it has not all."""
        number = value.number()
        if number is not None:
            return self.numbers.get(number) or literal(float(number), spell(float(number)))
        if value.key in self.written:
            return self.written[value.key]
        result: ir.Expr | None = None
        for atoms, factor in value.terms:
            part = self.product(atoms, abs(factor) if result else factor)
            result = apply("add" if factor > 0 else "sub", result, part) if result else part
        assert result is not None
        return result

    def product(self, atoms: Product, factor: Fraction) -> ir.Expr:
        """One term of a sum; KeyError for an atom that no scalar of the spec is."""
        divisors = [atom.parts[0] for atom in atoms if atom.is_inverse]
        result: ir.Expr | None = None if factor == 1 else literal(float(factor), spell(float(factor)))
        for atom in atoms:
            if not atom.is_inverse:
                part = self.written[single(atom).key]
                result = apply("mul", result, part) if result else part
        for divisor in divisors:
            result = apply("div", result or literal(1.0, "1"), self.expression(divisor))
        return result or literal(1.0, "1")


def inline(expr: ir.Expr, step: ir.Function) -> ir.Expr:
    """The expression without references to equations; raises :class:`TooLarge`."""
    values = {equation.name: equation.value for equation in step.equations}
    while references(expr):
        if len(list(ir.walk(expr))) > SIZE_LIMIT:
            raise TooLarge
        expr = put_in(expr, values)
    return expr


# The function


def call_of(
    kernel: ir.Optimizer,
    found: Instance,
    values: Mapping[str, ir.Expr],
    step: PyFunction,
    name: str,
    scalars: ScalarNames,
    given: tuple[ir.Expr, ...],
) -> PyFunction:
    """A Python function that calls the kernel; lists by position as the step's tensors, scalars by keyword."""
    outputs = tuple(ir.Output(hyper, value) for hyper, value in values.items())
    known = {key: scalar for key, scalar in scalars.items() if scalar in step.scalars}
    lowering = Lowering(ir.Function(FunctionName(name), Universe.TENSOR, (), outputs, given))
    lowering.names.update(known.items())
    lowering.taken.update(FUNCTIONS.values())
    lists: dict[str, str] = {}
    for key in step.inputs:
        lists[key] = lowering.free(LISTS.get(key) or python_name(key))
        lowering.taken.add(lists[key])
    passed = [lists["weight"], lists["grad"], *(lists[state] for state in found.states.values())]
    reads_t = any(node.source is ir.InputSource.STEP for node in inputs_of(kernel.rules[0].update))
    passed += ["t=t"] if reads_t else []
    for output in lowering.function.outputs:
        lines, short = lowering.shortened(output.value, WIDTH - 5, output.name)
        lowering.lines += lines
        passed.append(f"{output.name}={lowering.writer.text(short)}")
    call = f"{FUNCTIONS[kernel.name]}({', '.join(passed)})"
    exploded = [f"{FUNCTIONS[kernel.name]}(", *(f"    {argument}," for argument in passed), ")"]
    return replace(
        step,
        name=name,
        signature=signature_lines(name, [lists[key] for key in step.inputs], list(step.scalars)),
        doc=(f'"""`{step.name}` for lists of tensors, by a fused kernel of torch."""',),
        body=(*lowering.lines, *([call] if len(call) + 4 <= WIDTH else exploded)),
        returns=(),
        used=frozenset({FUNCTIONS[kernel.name], *lowering.writer.used}),
        names={ir.stored(key): text for key, text in lists.items()} | known,
    )
