"""What generated classes know of themselves beside what they compute, found before any pass rewrites a program."""

from __future__ import annotations

from dataclasses import replace

from optforge.compiler.analysis.modes import with_modes
from optforge.compiler.analysis.momentum import momentum_hypers
from optforge.compiler.analysis.rest import keeps_zero, moves_at_rest
from optforge.compiler.ir import nodes as ir


def with_facts(program: ir.Program) -> ir.Program:
    """The program with what is known of its optimizers."""
    declarations = (
        examine_optimizer(each) if isinstance(each, ir.Optimizer) else each for each in program.declarations
    )
    return replace(program, declarations=tuple(declarations))


def examine_optimizer(optimizer: ir.Optimizer) -> ir.Optimizer:
    has_lr = any(hyper.name == "lr" for hyper in optimizer.hypers)
    rules = tuple(
        replace(with_modes(rule), keeps_zero=keeps_zero(rule), moves_at_rest=has_lr and moves_at_rest(rule))
        for rule in optimizer.rules
    )
    return replace(optimizer, rules=rules, momentum=momentum_hypers(optimizer))
