"""Whether one step function is an instance of another: which values of the pattern's hypers make the two equal.

The pattern is a function whose hypers are the unknowns. Guesses are solved from coefficients that must agree; a guess
counts only if the pattern with these values has the same normal forms as the function, output by output, so that a
wrong guess costs nothing but a match. Choices on scalar conditions are looked at case by case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations, product

from optforge.compiler.analysis.normal_form import (
    ARITHMETIC,
    Atom,
    ExactFormer,
    Product,
    Sum,
    TooLarge,
    collect_terms,
    name_atom,
    outline_of,
    quotient,
    single,
)
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.names import EquationName
from optforge.compiler.ir.types import FULL, Kind

CONDITION_LIMIT, NODE_LIMIT = 3, 200

Forms = dict[str, Sum]  # of the outputs, and of everything that a name is kept for
Equation = tuple[Sum, Sum]


@dataclass(frozen=True)
class Specialization:
    """Values of the pattern's hypers, numbers and flags, where the scalar conditions are as ``chosen`` says."""

    chosen: Mapping[ir.Expr, bool]
    numbers: Mapping[str, Sum]
    flags: Mapping[str, bool]


@dataclass(frozen=True)
class Instance:
    """How the function is the pattern: its state for each of the pattern's, and the values case by case."""

    states: Mapping[str, str]
    cases: tuple[Specialization, ...]


class KernelRule:
    """A rule that others may be instances of, with what every comparison needs of it."""

    def __init__(self, rule: ir.Rule) -> None:
        self.step = rule.update
        self.states = tuple(state.name for state in rule.states)
        self.functions = functions(rule.update)
        self.flags = scalar_conditions(rule.update)
        self.hypers = numeric_hypers(rule.update)
        self._forms: dict[tuple[tuple[bool, ...], tuple[str, ...]], Forms] = {}

    def forms(self, truths: Mapping[ir.Expr, bool], known: Mapping[str, Sum]) -> Forms:
        """The normal forms of the outputs with these values; other hypers stand under keys of `unknown`."""
        if any(value.terms for value in known.values()):
            return self._formed(truths, known)  # with values of one rule, which nobody else will ask for
        key = (tuple(truths.values()), tuple(known))
        if key not in self._forms:
            self._forms[key] = self._formed(truths, known)
        return self._forms[key]

    def _formed(self, truths: Mapping[ir.Expr, bool], known: Mapping[str, Sum]) -> Forms:
        open_values = {name: single(name_atom(key, True)) for key, name in self.unknown(known).items()}
        states = {name: name for name in self.states}
        return output_forms(self.step, states, truths, {**known, **open_values})

    def unknown(self, known: Mapping[str, Sum]) -> dict[str, str]:
        """The hypers without a value by keys of their own, since a rule may have hypers of the same names."""
        return {f"unknown {name}": name for name in self.hypers if name not in known}


def instance_of(pattern: KernelRule, rule: ir.Rule) -> Instance | None:
    """How the rule's step is the pattern's for some values of the pattern's hypers; None where no way was found."""
    own, theirs = pattern.states, [state.name for state in rule.states]
    if len(own) != len(theirs) or not is_candidate(rule) or not functions(rule.update) <= pattern.functions:
        return None
    conditions = scalar_conditions(rule.update)
    if len(conditions) > CONDITION_LIMIT:
        return None
    for names in permutations(theirs):
        states = dict(zip(own, names, strict=True))
        try:
            cases = [solve(pattern, rule, states, chosen) for chosen in choices(conditions)]
        except TooLarge:
            return None
        found = tuple(case for case in cases if case is not None)
        if len(found) == len(cases):
            return Instance(states, found)
    return None


def is_candidate(rule: ir.Rule) -> bool:
    """Whether the step writes the weight and whole states, and is small enough to be worth a look."""
    outputs = {output.name for output in rule.update.outputs}
    return (
        outputs == {"weight", *(state.name for state in rule.states)}
        and sum(1 for _ in ir.nodes(rule.update)) <= NODE_LIMIT
        and all(state.type.shape == FULL for state in rule.states)
    )


def functions(function: ir.Function) -> set[str]:
    """The operators on tensors that normal forms keep as they are."""
    nodes = [node for node in ir.nodes(function) if not node.type.is_scalar_phase]
    found = {node.operator for node in nodes if isinstance(node, ir.Apply)} - ARITHMETIC
    lasting = [n for n in nodes if isinstance(n, ir.Select) and not n.condition.type.is_scalar_phase]
    return found | {"select" for _ in lasting}


def scalar_conditions(function: ir.Function) -> list[ir.Expr]:
    """What the choices made in Python depend on, each once."""
    found = [n.condition for n in ir.nodes(function) if isinstance(n, ir.Select) and n.condition.type.is_scalar_phase]
    return list(dict.fromkeys(found))


def choices(conditions: list[ir.Expr]) -> Iterator[dict[ir.Expr, bool]]:
    for truths in product((True, False), repeat=len(conditions)):
        yield dict(zip(conditions, truths, strict=True))


# One case


def solve(
    pattern: KernelRule, rule: ir.Rule, states: Mapping[str, str], chosen: Mapping[ir.Expr, bool]
) -> Specialization | None:
    """Values of the pattern's hypers with which it is the rule in this case."""
    standing = {name: own for own, name in states.items()}
    target = output_forms(rule.update, standing, chosen, {})
    for truths in choices(pattern.flags):
        for start in ({}, *({name: Sum()} for name in pattern.hypers)):
            numbers = fit_hypers(pattern, target, truths, start)
            if numbers is not None:
                named = {node.name: truth for node, truth in truths.items() if isinstance(node, ir.Input)}
                return Specialization(chosen, numbers, named)
    return None


def output_forms(
    function: ir.Function, states: Mapping[str, str], chosen: Mapping[ir.Expr, bool], known: Mapping[str, Sum]
) -> Forms:
    """The normal form of each output; states go by their name in the pattern."""
    kept: dict[EquationName, str] = {}
    for output in function.outputs:
        if output.name in states and isinstance(output.value, ir.Ref):
            kept.setdefault(output.value.name, states[output.name])
    former = ExactFormer(function, states, kept, chosen, known)
    forms = {}
    for output in function.outputs:
        name, value = output.name, output.value
        form = former.defined(value.name) if name in states and isinstance(value, ir.Ref) else former.form(value)
        forms[states.get(name, name)] = form
    return forms


def numeric_hypers(function: ir.Function) -> list[str]:
    nodes = [node for node in ir.nodes(function) if isinstance(node, ir.Input)]
    return list(dict.fromkeys(n.name for n in nodes if n.source is ir.InputSource.HYPER and n.type.kind is Kind.NUMBER))


def fit_hypers(
    pattern: KernelRule, target: Forms, truths: Mapping[ir.Expr, bool], start: Mapping[str, Sum]
) -> dict[str, Sum] | None:
    """Values of the hypers that make the pattern's outputs equal to the target's: solved one by one, then checked."""
    known = dict(start)
    while True:
        unknown = pattern.unknown(known)
        forms = pattern.forms(truths, known)
        if not unknown:
            return known if forms == target else None
        equations = [each for name in forms for each in equate(forms[name], target[name])]
        if any(not side.terms and other.terms for side, other in equations):
            return None  # the target has something that the pattern has for no values
        found = dict(one for each in equations if (one := solution(*each, unknown)))
        if not found:
            return None
        known |= found


def solution(side: Sum, other: Sum, unknown: Mapping[str, str]) -> tuple[str, Sum] | None:
    """The hyper that the equation is linear in, and its value, where it is the only unknown."""
    open_keys = {key for key in unknown if any(mentions(atom, key) for part, _ in side.terms for atom in part)}
    if len(open_keys) != 1:
        return None
    (key,) = open_keys
    factor: list[tuple[Product, Fraction]] = []
    rest: list[tuple[Product, Fraction]] = []
    for atoms, number in side.terms:
        others = tuple(atom for atom in atoms if atom.key != key)
        if any(mentions(atom, key) for atom in others) or len(atoms) - len(others) > 1:
            return None
        (rest if len(others) == len(atoms) else factor).append((others, number))
    value = quotient(other - collect_terms(rest), collect_terms(factor))
    return None if value is None else (unknown[key], value)


def mentions(atom: Atom, key: str) -> bool:
    return atom.key == key or any(
        mentions(inner, key) for part in atom.parts for inside, _ in part.terms for inner in inside
    )


# Which coefficients must agree


def equate(one: Sum, two: Sum) -> list[Equation]:
    """The scalar coefficients that two sums have for the same tensors, and those inside of these tensors."""
    mine, yours = by_tensors(one), by_tensors(two)
    found: list[Equation] = []
    for shape in dict.fromkeys((*mine, *yours)):
        found.append((mine[shape][0] if shape in mine else Sum(), yours[shape][0] if shape in yours else Sum()))
        if shape in mine and shape in yours:
            for left, right in zip(mine[shape][1], yours[shape][1], strict=True):
                for part, other in zip(left.parts, right.parts, strict=True):
                    found += equate(part, other)
    return found


def by_tensors(form: Sum) -> dict[str, tuple[Sum, Product]]:
    """Coefficients by the outline of the tensors they stand before."""
    found: dict[str, tuple[Sum, Product]] = {}
    for atoms, number in form.terms:
        tensors = tuple(sorted((atom for atom in atoms if not atom.is_scalar), key=lambda atom: atom.outline))
        share = collect_terms([(tuple(atom for atom in atoms if atom.is_scalar), number)])
        before, first = found.get(outline_of(tensors), (Sum(), tensors))
        found[outline_of(tensors)] = (before + share, first)
    return found
