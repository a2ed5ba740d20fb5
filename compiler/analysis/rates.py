"""Rates: the hyper that a rule multiplies the learning rate with, as `for rest: use AdamW(lr=lr * rest_ratio)` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from optforge.compiler.ir import nodes as ir

RATE = "lr"


def lr_ratios(rules: tuple[ir.Rule, ...]) -> dict[str, str]:
    """For the rules behind the first, whose learning rate lr is, the hyper that makes theirs of it, if there is one."""
    found = {rule.name: lr_ratio(rule) for rule in rules[1:]}
    return {name: ratio for name, ratio in found.items() if ratio is not None}


def lr_ratio(rule: ir.Rule) -> str | None:
    """The hyper of which the rule knows nothing but its product with lr, and of lr nothing but that product.

    For an lr of its own such a rule does what it does for that lr and a ratio of 1.
    """
    products = [product for function in rule.functions for product in _products(function)]
    with_rate = [product for product in products if RATE in product]
    names = set.intersection(*map(set, with_rate)) - {RATE} if with_rate else set()
    found = [name for name in names if all(product[name] == product[RATE] for product in products)]
    return found[0] if len(found) == 1 else None


def _products(function: ir.Function) -> Iterator[Counter[str]]:
    """How often each hyper is a factor of each product; what is multiplied with nothing is a product of one."""
    stack = list(ir.values(function))
    while stack:
        factors, divisors = _split(stack.pop())
        hypers = [f.name for f in factors if isinstance(f, ir.Input) and f.source is ir.InputSource.HYPER]
        yield Counter(hypers)
        stack.extend(divisors)
        stack.extend(child for factor in factors for child in ir.children(factor))


def _split(product: ir.Expr) -> tuple[list[ir.Expr], list[ir.Expr]]:
    """The factors of a product, which are none themselves, and what it is divided by."""
    factors: list[ir.Expr] = []
    divisors: list[ir.Expr] = []
    stack = [product]
    while stack:
        match node := stack.pop():
            case ir.Apply(operator="mul" | "neg", arguments=arguments):
                stack.extend(arguments)
            case ir.Apply(operator="div", arguments=(dividend, divisor)):
                stack.append(dividend)
                divisors.append(divisor)
            case _:
                factors.append(node)
    return factors, divisors
