"""What the memories of a rule mean, as fingerprints and as text: what checkpoints are compared by.

In: a checked program, before any pass has rewritten it. Out: the same with `fingerprint` and `equation` of each memory,
and a fingerprint of each optimizer. Names of equations and memories take no part in a fingerprint, nor do comments,
documentation, defaults and conditions of hypers, or in what order equations stand: two memories have the same one when
the equations that define them, written out down to gradients, weights and hypers, are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from optforge.compiler import ir
from optforge.compiler.causality import dependencies, inputs_of, local_name, ordered, reachable
from optforge.compiler.ops import OPERATORS
from optforge.compiler.text import expression_text

LENGTH = 12  # hexadecimal digits: two of a thousand memories agree by chance once in a billion
LONG = 40  # operations that an equation may have to be shown inside of another


def with_fingerprints(program: ir.Program) -> ir.Program:
    """The program with the fingerprints of its optimizers and their memories."""
    declarations = (described(each) if isinstance(each, ir.Optimizer) else each for each in program.declarations)
    return replace(program, declarations=tuple(declarations))


def described(optimizer: ir.Optimizer) -> ir.Optimizer:
    hypers = sorted(f"{hyper.name} {hyper.kind.value}" for hyper in optimizer.hypers)
    machines = [Machines(rule) for rule in optimizer.rules]
    return replace(
        optimizer,
        rules=tuple(replace(each.rule, memories=each.memories()) for each in machines),
        fingerprint=digest("optimizer", *hypers, *(each.whole() for each in machines)),
    )


def digest(*parts: str) -> str:
    text = "\n".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:LENGTH]


class Machines:
    """The step and the events of a rule, and what each of their memories depends on."""

    def __init__(self, rule: ir.Rule) -> None:
        self.rule = rule
        self.functions = {"step": rule.step} | {f"event {event.name}": event.function for event in rule.events}
        self.totals = {total.name: total for total in rule.totals}
        self.totals |= {total.name: total for event in rule.events for total in event.totals}
        self.owners = {o.name: owner for owner, function in self.functions.items() for o in function.outputs}
        self.initial = {output.name: output.value for output in rule.initial.outputs} if rule.initial else {}
        self.values = {
            name: next(output.value for output in self.functions[owner].outputs if output.name == name)
            for name, owner in self.owners.items()
        }
        self.names = [memory.name for memory in rule.memories]
        self.colors = self._refined()

    def memories(self) -> tuple[ir.Memory, ...]:
        """The memories with their fingerprints and equations."""
        return tuple(
            replace(memory, fingerprint=self.colors[memory.name], equation=self.equation(memory.name))
            for memory in self.rule.memories
        )

    def whole(self) -> str:
        """The fingerprint of all that the rule computes, with the names that a checkpoint has for it."""
        named = [f"{name} {self.colors[name]}" for name in sorted(self.names)]
        results = []
        for owner, function in self.functions.items():
            known = Digests(function, self, self.colors)
            results += [f"{owner} {known.of(o.value)}" for o in function.outputs if o.name not in self.names]
        arguments = [f"{event.name} {each.name}" for event in self.rule.events for each in event.parameters]
        return digest("rule", self.rule.name, *self.rule.roles, *named, *results, *arguments)

    def _refined(self) -> dict[str, str]:
        """A fingerprint for each memory that no name takes part in.

        At first all memories look alike; in each round a memory is told from another by what its equation reads. After
        as many rounds as there are memories that one depends on, nothing more is learned of it.
        """
        needs = {name: len(reachable(self._reads(), {name})) for name in self.names}
        colors = dict.fromkeys(self.names, "memory")
        found: dict[str, str] = {}
        for count in range(1, max(needs.values(), default=0) + 1):
            known = {owner: Digests(function, self, colors) for owner, function in self.functions.items()}
            first = Digests(self.rule.initial, self, colors) if self.rule.initial else None
            colors = {m.name: self._color(m, known[self.owners[m.name]], first) for m in self.rule.memories}
            found |= {name: color for name, color in colors.items() if needs[name] == count}
        return found

    def _color(self, memory: ir.Memory, known: Digests, first: Digests | None) -> str:
        assert memory.type.shape is not None
        shape = " ".join(dim.value for dim in memory.type.shape)
        initial = first.of(self.initial[memory.name]) if first and memory.name in self.initial else "0"
        return digest(self.owners[memory.name], shape, initial, known.of(self.values[memory.name]))

    def _reads(self) -> dict[str, set[str]]:
        """The memories that each memory's equation reads, now or through totals."""
        found = {}
        for name in self.names:
            function = self.functions[self.owners[name]]
            needed = written_out(function, self.values[name])
            reads = {each.name for value in needed for each in ir.walk(value) if isinstance(each, ir.Input)}
            for total in self.totals.values():  # a total may read earlier ones
                reads |= {node.name for node in inputs_of(total)} if reads & self.totals.keys() else set()
            found[name] = reads & set(self.names)
        return found

    def equation(self, name: str) -> str:
        """The equation of a memory as a spec would write it, what it reads written out as far as that stays short."""
        function = self.functions[self.owners[name]]
        shown = Shown(function, {n: v for n, v in self.values.items() if n in self.names and n != name})
        text = f"{name} = {expression_text(shown.definition(self.values[name]))}"
        if self.rule.initial and name in self.initial:
            first = Shown(self.rule.initial, {})
            text += f", at first {expression_text(first.definition(self.initial[name]))}"
        return text


def written_out(function: ir.Function, value: ir.Expr) -> list[ir.Expr]:
    """The value and those of all equations that it needs."""
    values = {equation.name: equation.value for equation in function.equations}
    order, _ = ordered(dependencies(function.equations), ir.references(value))
    return [value, *(values[name] for name in order if name in values)]


def plain(expr: ir.Expr, values: Mapping[str, ir.Expr]) -> ir.Expr:
    """The expression itself behind names, fills and choices that a literal has made already."""
    while True:
        match expr:
            case ir.Ref(name=name) if isinstance(values.get(name), ir.Ref | ir.Literal | ir.Input):
                expr = values[name]
            case ir.Apply(operator="fill", arguments=(inner,)):
                expr = inner
            case ir.Select(condition=condition, then=then, otherwise=otherwise):
                made = plain(condition, values)
                if not (isinstance(made, ir.Literal) and isinstance(made.value, bool)):
                    return expr
                expr = then if made.value else otherwise
            case _:
                return expr


class Digests:
    """Digests of a function's expressions, given those of the memories that it reads."""

    def __init__(self, function: ir.Function, machines: Machines, colors: Mapping[str, str]) -> None:
        self.machines, self.colors = machines, colors
        self.values = {equation.name: equation.value for equation in function.equations}
        self.known: dict[str, str] = {}
        order, _ = ordered(dependencies(function.equations), self.values)
        for name in order:
            self.known[name] = self.of(self.values[name])

    def of(self, expr: ir.Expr) -> str:
        match plain(expr, self.values):
            case ir.Literal(value=value):
                return digest("literal", repr(value))
            case ir.Input(name=name, source=ir.Source.MEMORY):
                return digest("memory", self.colors[name])
            case ir.Input(name=name, source=ir.Source.TOTAL):
                total = self.machines.totals[name]
                return digest("total", Digests(total, self.machines, self.colors).of(total.outputs[0].value))
            case ir.Input(name=name, source=source):
                return digest("input", source.value, name)
            case ir.Ref(name=name):
                return self.known[name]
            case ir.Select(condition=condition, then=then, otherwise=otherwise):
                return digest("select", self.of(condition), self.of(then), self.of(otherwise))
            case ir.Apply(operator=operator, arguments=arguments):
                parts = [self.of(argument) for argument in arguments]
                return digest("apply", operator, *(sorted(parts) if OPERATORS[operator].commutative else parts))
            case other:
                raise AssertionError(f"{other} is gone after the stream check")


class Shown:
    """Expressions of a function with short equations in place of their names."""

    def __init__(self, function: ir.Function, memories: Mapping[str, ir.Expr]) -> None:
        self.values = {equation.name: equation.value for equation in function.equations}
        streams = {name: plain(value, {}) for name, value in memories.items()}
        self.memories = {value.name: name for name, value in streams.items() if isinstance(value, ir.Ref)}
        self.known: dict[str, ir.Expr] = {}
        order, _ = ordered(dependencies(function.equations), self.values)
        for name in order:
            self.known[name] = self.of(self.values[name])

    def definition(self, expr: ir.Expr) -> ir.Expr:
        """What the expression is, be it long."""
        found = plain(expr, self.values)
        return self.known[found.name] if isinstance(found, ir.Ref) else self.of(found)

    def of(self, expr: ir.Expr) -> ir.Expr:
        """The expression; the new value of another memory, and what would grow long, keeps its name."""
        found = plain(expr, self.values)
        if not isinstance(found, ir.Ref):
            return ir.map_children(self.of, found)
        if found.name in self.memories:
            return replace(found, name=self.memories[found.name])
        is_short = sum(1 for _ in ir.walk(self.known[found.name])) <= LONG
        return self.known[found.name] if is_short else replace(found, name=local_name(found.name))
