"""What is asked about claims: one claim of one rule, with all that is needed to answer it.

A decider takes a question and gives a verdict; the next one is asked where that is unknown. The deciders have modules
of their own, and ``decide.py`` their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.verify.shared.budget import Budget
from optforge.compiler.verify.shared.verdicts import Verdict

COMPARISON = "comparison"


@dataclass(frozen=True, slots=True)
class Subject:
    """A rule, schedule or penalty whose claims are in question.

    ``rule`` is what is compiled; None for a schedule. ``watched`` is the same with all that its claims read: each
    comparison, and each value that is claimed to be orthogonal, is an output of its step.
    """

    declaration: ir.Declaration
    rule: ir.Rule | None
    watched: ir.Rule

    @property
    def name(self) -> str:
        """The declaration's name, and the rule's where there are several."""
        rules = () if isinstance(self.declaration, ir.Schedule) else self.declaration.rules
        is_alone = self.rule is None or len(rules) < 2
        return self.declaration.name if is_alone else f"{self.declaration.name}, for {self.watched.name}"

    @property
    def hypers(self) -> tuple[ir.Hyper, ...]:
        """The hypers that the rule reads; those without a default, which a run needs in any case, are among them."""
        inputs = (node for function in self.watched.functions for node in inputs_of(function))
        read = {node.name for node in inputs if node.source is ir.InputSource.HYPER}
        return tuple(each for each in self.declaration.hypers if each.name in read or each.default is None)


@dataclass(frozen=True, slots=True)
class Question:
    """One claim of a subject; ``output`` is the output of the watched step that holds its value, if any does."""

    subject: Subject
    claim: ir.Claim
    output: str
    budget: Budget


Decider: TypeAlias = Callable[[Question], Verdict]
