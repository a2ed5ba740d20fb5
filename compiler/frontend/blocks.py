"""The equations of one rule, event, schedule or penalty, with the names they see."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from optforge.compiler.frontend.builtins import CLAIM_FORMS, UNIVERSAL, universal
from optforge.compiler.frontend.equations import Equations
from optforge.compiler.frontend.expressions import Place
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.reserved_names import require_usable_name
from optforge.compiler.frontend.rules.collecting import Block, Definition, FlatEvent
from optforge.compiler.frontend.scopes import Scope
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import number, read_argument
from optforge.compiler.ir.names import EquationName, FunctionName
from optforge.compiler.ir.types import Universe
from optforge.dsl import ast, errors
from optforge.dsl.source import Span

NEXT = EquationName.of("next")
KNOWN_SIZES = (*ir.SIZES, *ir.OWN_SIZES)


def written_equations(block: Block) -> tuple[ir.Written, ...]:
    """The equations as the spec says them, replaced ones left out."""
    bindings = (ast.Binding(each.name, each.value, each.is_shared) for each in block.bindings.values())
    updates = (ast.Update(definition.name, definition.value) for definition in block.updates.values())
    return (*bindings, *updates)


class Machine:
    """The equations of a rule, event, schedule or penalty, with the names they see."""

    def __init__(
        self,
        block: Block,
        events: Mapping[str, FlatEvent],
        owner: str,
        hypers: Mapping[str, ir.Expr],
        report: Report,
        rule: Block | None = None,
        arguments: Mapping[str, ir.Hyper] | None = None,
        what: str = "a rule",
        streams: bool = True,
        hint: str | None = None,
        words: tuple[str, ...] = (),
        orientation: str = "",
        of_base: Collection[str] = (),
    ) -> None:
        self.orientation = orientation
        self.of_base = of_base  # the hypers of the base, whose place an equation may take
        self.dimension = (rule or block).dimension
        self.block, self.owner, self.hypers, self.report = block, owner, hypers, report
        self.arguments, self.what, self.streams, self.hint = arguments or {}, what, streams, hint
        self.words = words
        self.equations = Equations(self.report.growth)
        self.visible_elsewhere: dict[str, ir.StreamRef] = {}
        self.definitions: dict[str, list[Span]] = {}
        for machine, event in events.items():
            for stream, definition in event.block.bindings.items():
                self.visible_elsewhere.setdefault(stream, ir.StreamRef(machine, EquationName.of(stream)))
                self.definitions.setdefault(stream, []).append(definition.name.span)
        if rule is not None:
            for stream, definition in rule.bindings.items():
                self.visible_elsewhere[stream] = ir.StreamRef("step", EquationName.of(stream))
                self.definitions[stream] = [definition.name.span]
        for word, own in block.bindings.items():
            name = self.equations.fresh(EquationName.of(word))
            self.equations.define(name, number("0", own.name.span), own.name.span)

    def check_names(self) -> None:
        for name, definition in self.block.bindings.items():
            require_usable_name(definition.name, "value", self.report)
            if (name in self.hypers and name not in self.of_base) or name in self.arguments:
                hyper = self.hypers.get(name)
                span = hyper.span if hyper is not None else definition.name.span
                hint = f"what a hyper becomes in the course of training has a name of its own, such as `{name}_now`"
                self.report(errors.duplicate("value", name, definition.name.span, span, hint if hyper else None))

    def function(self, universe: Universe) -> ir.Function:
        for word, definition in self.block.bindings.items():
            name = EquationName.of(word)
            self.equations.define(name, self.value_of(definition, name), definition.name.span)
        outputs = [
            ir.Output(word, self.value_of(definition, EquationName.of(word)))
            for word, definition in self.block.updates.items()
        ]
        if NEXT in self.equations.found:
            (result,) = outputs
            self.equations.define(NEXT, result.value, self.block.updates[result.name].name.span)
            outputs = [ir.Output(result.name, ir.Ref(NEXT))]
        if shared := [word for word, definition in self.block.bindings.items() if definition.is_shared]:
            self.equations.share(shared)
        equations = tuple(self.equations.found.values())
        rank = self.dimension.name.name if self.dimension else ""
        function = ir.Function(FunctionName(self.owner), universe, equations, tuple(outputs), rank=rank)
        return function if self.orientation else ir.map_expressions(with_own_sizes, function)

    def rank(self) -> ir.Function | None:
        """The size of the rule's dimension, which sees hypers and the sizes of the matrix."""
        if self.dimension is None:
            return None
        definition, name = self.dimension, self.dimension.name
        require_usable_name(name, "value", self.report)
        others = {each: one.name.span for each, one in self.block.bindings.items()}
        others |= {each: value.span for each, value in self.hypers.items()}
        if name.name in others:
            self.report(errors.duplicate("value", name.name, name.span, others[name.name]))
        place = replace(
            self.place(definition, EquationName.of(name.name)), state=False, totals=False, what="a dimension"
        )
        local = Equations(self.report.growth)
        value = local.written_out(replace(place, equations=local).expression(definition.value), name.span, self.report)
        for node in ir.walk(value):
            known = isinstance(node, ir.Input) and (node.source is ir.InputSource.HYPER or node.key in KNOWN_SIZES)
            if isinstance(node, ir.Input | ir.Ref | ir.Latest) and not known:
                words = f"the size of `{name.name}` follows from hyperparameters, `rows` and `cols` alone"
                self.report(errors.bad_dimension(words, node.span))
                value = number("1", name.span)
                break
        value = value if self.orientation else with_own_sizes(value)
        return ir.Function(FunctionName(name.name), Universe.MATRIX, (), (ir.Output(name.name, value),))

    def value_of(self, definition: Definition, path: EquationName) -> ir.Expr:
        return self.place(definition, path).expression(definition.value)

    def place(self, definition: Definition, path: EquationName) -> Place:
        def lookup(name: ast.Name) -> ir.Expr | None:
            return self.lookup(name, definition, path)

        def inherited(node: ast.Super) -> ir.Expr:
            return self.inherited_value(node, definition)

        return Place(
            definition.scope, lookup, self.equations, self.report, path, self.visible,
            state=self.streams, totals=self.streams, what=self.what, hint=self.hint, inherited=inherited,
            words=self.words,
        )  # fmt: skip

    def visible(self) -> list[str]:
        """Every name that an equation here may use."""
        own = [self.dimension.name.name] if self.dimension else []
        return [*self.block.bindings, *self.hypers, *self.arguments, *self.visible_elsewhere, *own, *UNIVERSAL]

    def lookup(self, name: ast.Name, definition: Definition, path: EquationName) -> ir.Expr | None:
        text, references = name.name, definition.scope.references
        if text == "super":
            return self.super_value(name, definition, path)
        if text == NEXT.word and "weight" in self.block.updates:
            return self.next_value()
        if text in self.arguments:
            argument = self.arguments[text]
            references.record(name.span, "argument", argument.span)
            return read_argument(argument)
        if text in self.block.bindings:
            references.record(name.span, "equation", self.block.bindings[text].name.span)
            return ir.Ref(EquationName.of(text))
        if found := universal(name):
            return found
        if self.dimension is not None and text == self.dimension.name.name:
            references.record(name.span, "dimension", self.dimension.name.span)
            return ir.Input(text, ir.InputSource.DIMENSION)
        if text in self.hypers:
            references.record(name.span, "hyper", self.hypers[text].span)
            return self.hypers[text]
        if text in self.visible_elsewhere:
            self.require_one_event(text)
            references.record(name.span, "equation", self.definitions[text][0])
            return ir.Latest(self.visible_elsewhere[text])
        return None

    def require_one_event(self, name: str) -> None:
        """A stream that is read from outside must be that of one event."""
        places = [] if self.visible_elsewhere[name].machine == "step" else self.definitions[name]
        for place in places[1:]:
            self.report(errors.duplicate("value", name, place, places[0]))

    def next_value(self) -> ir.Expr:
        """The result of the rule under a name, which it has from the first time that it is asked for."""
        if NEXT not in self.equations.found:
            self.equations.fresh(NEXT)
        return ir.Ref(NEXT)

    def inherited_value(self, node: ast.Super, definition: Definition) -> ir.Expr:
        """The base's equation of that name, be it one that this definition's optimizer replaces; or its hyper."""
        word = node.name.name
        found, path = self.block.bindings.get(word), EquationName.of(word)
        while found is not None and found.level >= definition.level:
            found, path = found.below, path.inside("super")
        if found is not None:
            return self.value_below(found, path, node.name.span)
        if word in self.of_base and definition.level > 0:
            definition.scope.references.record(node.name.span, "hyper", self.hypers[word].span)
            return self.hypers[word]
        known = [name for name, each in self.block.bindings.items() if each.level < definition.level or each.below]
        hint = errors.suggest_nearest(word, known) or (
            f"it has {errors.join_quoted(known[:5], 'and')}" if known else None
        )
        self.report(errors.no_super(f"the base has no equation `{word}`", node.span, hint))
        return number("0", node.span)

    def value_below(self, below: Definition, path: EquationName, use: Span) -> ir.Expr:
        """An equation of the base: the rule's own, or, where that is replaced, another one under this name."""
        below.scope.references.record(use, "equation", below.name.span)
        if path not in self.equations.found:
            self.equations.fresh(path)
            self.equations.define(path, self.value_of(below, path), below.name.span)
        return ir.Ref(path)

    def super_value(self, name: ast.Name, definition: Definition, path: EquationName) -> ir.Expr:
        if definition.below is None and path.root.word in self.of_base:
            definition.scope.references.record(name.span, "hyper", self.hypers[path.root.word].span)
            return self.hypers[path.root.word]
        if definition.below is None:
            reason = "it stands for the equation of the same name in the base, and there is none"
            others = [other for other in self.block.bindings if other != path.root.word]
            inherited = [
                other for other in others if self.block.bindings[other].name.span.source is not name.span.source
            ]
            known = [*inherited, *(other for other in others if self.block.bindings[other].below is not None)]
            hint = (
                f"give this the name of the equation that it changes, such as {errors.join_quoted(known[:3])}"
                if known
                else None
            )
            self.report(errors.no_super(reason, name.span, hint))
            return number("0", name.span)
        return self.value_below(definition.below, path.inside("super"), name.span)

    def claims(self, state: bool = True) -> tuple[ir.Claim, ...]:
        """Claims read the rule's streams, with ``state`` also those of the step before; their calls are written out."""
        found = []
        for node, scope in self.block.claims:
            form, promise = "comparison", node.promise
            if isinstance(promise, ast.Call) and promise.function.name in CLAIM_FORMS:
                form = promise.function.name
                if len(promise.arguments) != 1 or promise.keywords:
                    self.report(errors.bad_claim(f"`{form}` takes one argument", node.span))
                    continue
                promise = promise.arguments[0]
            elif not is_testable(promise) or is_conjunction(promise):
                self.report_formless(node)
                continue
            found.append(self.claim(node, form, promise, scope, state))
        return tuple(found)

    def report_formless(self, node: ast.Claim) -> None:
        """A claim that is no comparison: suggest the form that was probably meant."""
        forms = [f"{form}({argument})" for form, argument in CLAIM_FORMS.items()]
        hint = f"compare two values, or claim {errors.join_quoted(forms)}"
        if isinstance(node.promise, ast.Call):
            hint = errors.suggest_nearest(node.promise.function.name, CLAIM_FORMS) or hint
        elif is_conjunction(node.promise):
            hint = "make two claims of it"
        self.report(errors.bad_claim("it is neither a comparison nor of a known form", node.promise.span, hint))

    def claim(self, node: ast.Claim, form: str, promise: ast.Expression, scope: Scope, state: bool) -> ir.Claim:
        if form == "equivariant" and not (isinstance(promise, ast.Name) and promise.name in ("rows", "cols")):
            self.report(errors.bad_claim("`equivariant` takes `rows` or `cols`", node.span))
        local = Equations(self.report.growth)
        definition = Definition(ast.Identifier("claim"), promise, scope)
        place = replace(
            self.place(definition, EquationName.of("claim")),
            equations=local,
            state=state,
            totals=False,
            what="a claim",
        )
        value = local.written_out(place.expression(promise), promise.span, self.report)
        self.require_plain_state(value, local)
        return ir.Claim(node.promise, form, value if self.orientation else with_own_sizes(value), node.span)

    def require_plain_state(self, promise: ir.Expr, local: Equations) -> None:
        """A claim may look back at what the rule defines, but it has no equations of its own to remember."""
        for node in ir.walk(promise):
            if isinstance(node, ir.Prev) and node.inner:
                hint = "a claim may look back at a value of its rule, `prev(x)`; give this one a name there"
                self.report(errors.not_available("prev", "a function that a claim calls", node.span, hint))
            elif isinstance(node, ir.Prev) and isinstance(node.stream, ir.Ref) and node.stream.name in local.found:
                self.report(errors.prev_needs_name(node.span))


def with_own_sizes(expr: ir.Expr) -> ir.Expr:
    """The expression of a rule that sees matrices as they are: `outputs` are the rows, and `inputs` the columns."""
    names = {own: seen[1] for own, seen in zip(ir.OWN_SIZES, ir.SIZES, strict=True)}

    def change(node: ir.Expr) -> ir.Expr:
        return replace(node, name=names[node.key]) if isinstance(node, ir.Input) and node.key in names else node

    return ir.transform(change, expr)


def is_testable(promise: ast.Expression) -> bool:
    """Whether an expression says of every step that it is so or not: comparisons, and what is made of them."""
    match promise:
        case ast.Binary(operator="or" | "and", left=left, right=right):
            return is_testable(left) and is_testable(right)
        case ast.Unary(operator="not", operand=operand):
            return is_testable(operand)
        case _:
            return isinstance(promise, ast.Comparison)


def is_conjunction(promise: ast.Expression) -> bool:
    """Two claims in one."""
    return isinstance(promise, ast.Binary) and promise.operator == "and"
