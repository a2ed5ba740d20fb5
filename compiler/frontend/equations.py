"""The equations that a rule is written out to, and how many there may be.

Calls of functions grow quickly: ten functions that each call the one before twice make a thousand
operations. What grows beyond all measure is cut off here and reported once for a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from optforge.compiler.frontend.cycles import instantaneous_cycles
from optforge.compiler.frontend.reporting import Growth, Reporter
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import number
from optforge.compiler.ir.dependencies import dependencies, put_in, references, sort_topologically
from optforge.compiler.ir.names import EquationName, FunctionName, free_name_among
from optforge.compiler.ir.types import Universe
from optforge.dsl import errors
from optforge.dsl.source import Span

# How many operations the calls of a file may be written out to, and how deep they may nest.
SIZE_LIMIT = 20_000
DEPTH_LIMIT = 100


@dataclass
class Equations:
    """The equations of one function while they are being collected; ``depth`` is that of the expression we are in."""

    growth: Growth
    found: dict[EquationName, ir.Equation] = field(default_factory=dict)
    names: list[EquationName] = field(default_factory=list)
    counts: Counter[EquationName] = field(default_factory=Counter)
    depth: int = 0

    def has_room(self, is_called: bool) -> bool:
        """Whether there is room for one more operation."""
        self.growth.operations += is_called
        if self.growth.operations > SIZE_LIMIT:
            self.growth.problem = ("this takes too many operations once its functions are written out", SIZE_LIMIT)
        elif self.depth > DEPTH_LIMIT:
            self.growth.problem = ("this is nested too deeply once its functions are written out", DEPTH_LIMIT)
        else:
            return True
        return False

    def fresh(self, name: EquationName) -> EquationName:
        """The name itself, or with a number where it is taken."""
        unique = name
        while unique in self.found:
            self.counts[name] += 1
            unique = name.numbered(self.counts[name] + 1)
        self.names.append(unique)
        self.found[unique] = ir.Equation(unique, ir.Literal(0.0, "0"))
        return unique

    def define(self, name: EquationName, value: ir.Expr, span: Span) -> None:
        self.found[name] = ir.Equation(name, value, span)

    def share(self, words: Collection[str]) -> None:
        """Marks equations as shared, with what their calls left behind; their `t` counts the steps of the rule."""
        count = free_name_among(self.found, EquationName.of("shared_t"))

        def counted_together(node: ir.Expr) -> ir.Expr:
            return ir.Ref(count, span=node.span) if isinstance(node, ir.Input) and node.key == ir.STEP else node

        own = {name: each for name, each in self.found.items() if name.root.word in words}
        changed = {
            name: replace(each, value=ir.transform(counted_together, each.value), shared=True)
            for name, each in own.items()
        }
        self.found |= changed
        if changed != {name: replace(each, shared=True) for name, each in own.items()}:
            span = next(iter(own.values())).span
            before = ir.Prev(ir.Ref(count, span=span), number("0", span), count, "", span=span)
            value = ir.Apply("add", (before, number("1", span)), span=span)
            self.found[count] = ir.Equation(count, value, span, shared=True)

    def report_growth(self, report: Reporter, span: Span) -> None:
        """Report what grew beyond all measure, the first time only."""
        if self.growth.problem and not self.growth.is_reported:
            self.growth.is_reported = True
            report(errors.too_large(*self.growth.problem, span))

    def written_out(self, expr: ir.Expr, span: Span, report: Reporter) -> ir.Expr:
        """The expression, which stands at ``span``, with the equations that its calls left behind put back in."""
        own = [name for name in references(expr) if name in self.found]
        graph = dependencies(self.found.values())
        order, cycles = sort_topologically(graph, own)
        if cycles:
            for problem in instantaneous_cycles(
                ir.Function(FunctionName(), Universe.TENSOR, tuple(self.found.values()), ())
            ):
                report(problem)
            return number("0", span)
        values: dict[EquationName, ir.Expr] = {}
        sizes: dict[EquationName, tuple[int, int]] = {}
        for name in (name for name in order if name in self.found):
            value = self.found[name].value
            sizes[name] = measure(value, sizes)
            if not self._fits(*sizes[name]):
                self.report_growth(report, span)
                return number("0", span)
            values[name] = put_in(value, values)
        return put_in(expr, values)

    def _fits(self, size: int, height: int) -> bool:
        self.growth.operations += size
        self.depth = height
        return self.has_room(False)


def measure(expr: ir.Expr, known: dict[EquationName, tuple[int, int]]) -> tuple[int, int]:
    """How many operations the expression has, and how deep it is, with these names written out."""
    if isinstance(expr, ir.Ref):
        return known.get(expr.name, (1, 1))
    parts = [measure(child, known) for child in ir.children(expr)]
    return 1 + sum(size for size, _ in parts), 1 + max((height for _, height in parts), default=0)
