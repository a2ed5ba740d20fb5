"""Expressions: surface tree in, untyped IR out, with every function call written out.

Each inlined call leaves named equations behind (its arguments and local bindings), so nothing is
computed twice and each ``prev`` finds the equation it remembers. Their names are paths: the binding
that the call stands in, then the local name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from optforge.compiler.frontend.builtins import NO_BASE, UNIVERSAL, nested, universal
from optforge.compiler.frontend.equations import DEPTH_LIMIT, Equations
from optforge.compiler.frontend.hints import ABSENT, FUNCTIONS, VALUES
from optforge.compiler.frontend.references import NameKind
from optforge.compiler.frontend.repetitions import unrolled
from optforge.compiler.frontend.reporting import EQUATION_LIMIT, Reporter, few
from optforge.compiler.frontend.scopes import Scope, overrides_prelude, prelude, prelude_source, shown_signature
from optforge.compiler.frontend.types.literal_checks import require_choosable, require_representable
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import constant_value, default_of, joined, literal, number
from optforge.compiler.ir.names import CallMark, EquationName, ParameterMark
from optforge.compiler.ir.operators import BINARY, CALLABLE, OWN_RULE, STREAMS, UNARY, Formal, Operator, Want
from optforge.compiler.ir.types import Kind
from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.source import NOWHERE, Span

Lookup = Callable[[ast.Name], ir.Expr | None]


@dataclass(frozen=True)
class Place:
    """Where an expression stands: which names it sees and where its calls leave equations.

    ``path`` is the name of the equation; ``lookup`` gives None for an unknown name, ``visible`` the names it knows,
    ``hint`` what to say of others.
    """

    scope: Scope
    lookup: Lookup
    equations: Equations
    report: Reporter
    path: EquationName
    visible: Callable[[], Iterable[str]] = tuple
    inner: str = ""
    calls: tuple[str, ...] = ()
    state: bool = True
    totals: bool = True
    what: str = "a rule"
    hint: str | None = None
    words: tuple[str, ...] = ()  # what stands after `for` in the rule
    step: Callable[[ast.Call, Place], ir.Expr] | None = None  # in a wrapper, what a call of `step` stands for
    inherited: Callable[[ast.Super], ir.Expr] | None = None

    def expression(self, node: ast.Expression) -> ir.Expr:
        """The IR of a surface expression; problems are reported and give a harmless literal."""
        if not self.equations.has_room(bool(self.calls)):
            return number("0", node.span)
        self.equations.depth += 1
        try:
            return self._resolved(node)
        finally:
            self.equations.depth -= 1

    def _resolved(self, node: ast.Expression) -> ir.Expr:
        match node:
            case ast.Number():
                require_representable(node, self.report)
                return number(node.spelling, node.span)
            case ast.Boolean():
                return literal(node.value, str(node.value).lower(), Kind.BOOLEAN, node.span)
            case ast.Text():
                require_choosable(node, self.report)
                return literal(node.value, f'"{node.value}"', Kind.TEXT, node.span)
            case ast.Name():
                found = self.lookup(node) or self._unknown(node)
                return found if self._is_given(found, node) else replace(found, span=node.span)
            case ast.Super():
                if self.inherited is not None and not self.calls:
                    return self.inherited(node)
                self.report(errors.no_super(NO_BASE, node.span))
                return number("0", node.span)
            case ast.Unary():
                return self._apply(UNARY[node.operator], (node.operand,), node.span)
            case ast.Binary():
                return self._apply(BINARY[node.operator], (node.left, node.right), node.span)
            case ast.Comparison():
                return self._comparison(node)
            case ast.Member():
                return self._member(node)
            case ast.Select():
                parts = (node.condition, node.then, node.otherwise)
                return ir.Select(*(self.expression(part) for part in parts), span=node.span)
            case ast.Tuple():
                return self._triples(node)
            case ast.Pipe(repetition=ast.Repetition() as repetition):
                return unrolled(node, repetition, self)
            case ast.Pipe():
                return self._call(replace(node.call, arguments=(node.value, *node.call.arguments), span=node.span))
            case ast.Call():
                return self._call(node)
            case _:
                assert_never(node)

    def _apply(self, operator: str, arguments: tuple[ast.Expression, ...], span: Span) -> ir.Expr:
        return ir.Apply(operator, tuple(self.expression(argument) for argument in arguments), span=span)

    def _is_short(self, parts: tuple[object, ...], span: Span) -> bool:
        """Whether a chain has few enough parts; each makes the expression one level deeper."""
        if len(parts) > DEPTH_LIMIT:
            self.report(errors.too_large("this has too many parts", DEPTH_LIMIT, span))
        return len(parts) <= DEPTH_LIMIT

    def _comparison(self, node: ast.Comparison) -> ir.Expr:
        if not self._is_short(node.rest, node.span):
            return literal(True, "true", Kind.BOOLEAN, node.span)
        operands = [self.expression(node.first), *(self.expression(operand) for _, operand in node.rest)]
        pairs: list[ir.Expr] = [
            ir.Apply(BINARY[symbol], (left, right), span=left.span.to(right.span))
            for (symbol, _), left, right in zip(node.rest, operands, operands[1:], strict=False)
        ]
        return joined("and", pairs, node.span)

    def _member(self, node: ast.Member) -> ir.Expr:
        if not self._is_short(node.choices.items, node.span):
            return literal(True, "true", Kind.BOOLEAN, node.span)
        item = self.expression(node.item)
        tests: list[ir.Expr] = [
            ir.Apply("eq", (item, self.expression(choice)), span=node.span) for choice in node.choices.items
        ]
        return joined("or", tests, node.span)

    def _triples(self, node: ast.Tuple) -> ir.Expr:
        if not self._is_short(node.items, node.span):
            return literal((), "()", Kind.TRIPLES, node.span)
        rows = node.items if all(isinstance(item, ast.Tuple) for item in node.items) else (node,)
        triples = []
        for row in rows:
            values = tuple(constant_value(item) for item in row.items) if isinstance(row, ast.Tuple) else ()
            if len(values) != 3 or None in values:
                wanted = "three numbers, or tuples of three numbers"
                found = "something else" if len(values) == 3 else f"{len(values)} values"
                self.report(errors.wrong_kind("a tuple of coefficients", wanted, found, row.span))
                return literal((), "()", Kind.TRIPLES, node.span)
            triples.append(tuple(value for value in values if value is not None))
        spelled = ", ".join("(" + ", ".join(repr(value) for value in triple) + ")" for triple in triples)
        return literal(tuple(triples), f"({spelled},)", Kind.TRIPLES, node.span)

    def _is_given(self, found: ir.Expr, node: ast.Name) -> bool:
        """Whether a name inside the prelude stands for an argument that has a place in the user's file."""
        source = prelude_source()
        return node.span.source is source and found.span is not NOWHERE and found.span.source is not source

    def _unknown(self, node: ast.Name) -> ir.Expr:
        """Report a name without a value here, saying what else it may be."""
        name, visible = node.name, list(self.visible())
        if name == "super":
            self.report(errors.no_super(NO_BASE, node.span))
        elif name in UNIVERSAL:
            self.report(errors.not_available(name, self.what, node.span, "only hyperparameters are known here"))
        elif name in CALLABLE or name == "prev" or name in self.scope.known_functions():
            help_text = f"`{name}` is a function: call it, `{name}(...)`"
            self.report(errors.unknown_name(name, node.span, visible, help_text))
        else:
            hint = f"a function sees only what is its own: make `{name}` a parameter" if self.calls else self.hint
            usual = f"here it is called `{VALUES[name]}`" if name in VALUES else ABSENT.get(name)
            usual = usual or (f"write `{FUNCTIONS[name]}`" if name in FUNCTIONS and not self.calls else None)
            usual = usual or errors.suggest_nearest(name, visible) or hint
            self.report(errors.unknown_name(name, node.span, visible, usual))
        return number("0", node.span)

    # Calls

    def _call(self, node: ast.Call) -> ir.Expr:
        name = node.function.name
        if name == "prev":
            return self._prev(node)
        if name == "step" and self.step is not None:
            return self.step(node, self)
        if name in CALLABLE:
            return self._operator(node, form_of(node, CALLABLE[name]))
        found = self.scope.find_function(node.function)
        if isinstance(found, Diagnostic):
            self.report(found)
            return number("0", node.span)
        if found is None:
            known = [*self.scope.known_functions(), *CALLABLE, "prev"]
            is_value = name in self.visible() or name in UNIVERSAL
            help_text = f"`{name}` is a value; multiply with `{name} * (...)`" if is_value else None
            if home := self.scope.shipped_home(name):
                help_text = help_text or f"take it from the shipped spec that has it: `from {home}: {name}`"
            help_text = help_text or (f"write `{FUNCTIONS[name]}`" if name in FUNCTIONS else ABSENT.get(name))
            self.report(errors.unknown_function(name, node.function.span, known, help_text))
            return number("0", node.span)
        function, scope = found
        if overrides_prelude(function) and scope is not prelude() and not self.scope.chooses(name):
            self.report(errors.replaces_prelude(name, node.function.span, function.name.span.source.path))
        return self.inlined(node, function, scope)

    def inlined(self, node: ast.Call, function: ast.Function, scope: Scope) -> ir.Expr:
        """What a call of this function is written out to."""
        result = self._inline(node, function, scope)
        if not self.calls:
            self.equations.report_growth(self.report, node.span)
        return result

    def _operator(self, node: ast.Call, operator: Operator) -> ir.Expr:
        if operator.name in ("total", *STREAMS) and not self.totals:
            self.report(errors.not_available(operator.name, self.what, node.function.span))
        nests = operator.name in ("min", "max")
        if nests and not self._is_short(node.arguments, node.span):
            return number("0", node.span)
        given = self._match_arguments(nested(node) if nests else node, operator.parameters, operator.signature)
        if given is None:
            return number("0", node.span)
        arguments = []
        for parameter in operator.parameters:
            value = given.get(parameter.name)
            resolve = self._own_rule if parameter.want is Want.RULE else self.expression
            arguments.append(resolve(value) if value else default_of(parameter, node.span))
        return ir.Apply(operator.name, tuple(arguments), span=node.span)

    def _own_rule(self, node: ast.Expression) -> ir.Expr:
        """The rule that an equation stands in, by a word of its `for`."""
        if not isinstance(node, ast.Name) or node.name not in self.words:
            self.report(errors.foreign_rule(node.span, self.words))
        return literal(OWN_RULE, OWN_RULE, Kind.TEXT, node.span)

    def _match_arguments(
        self, node: ast.Call, parameters: tuple[Formal, ...], signature: str
    ) -> dict[str, ast.Expression] | None:
        """Arguments by parameter name, or None after reporting what does not fit."""
        name = node.function.name
        positional = [parameter.name for parameter in parameters if not parameter.keyword_only]
        if len(node.arguments) > len(positional):
            problem = f"takes {counted(len(positional))}, not {len(node.arguments)}"
            self.report(errors.wrong_arity(name, signature, problem, node.span))
            return None
        given = dict(zip(positional, node.arguments, strict=False))
        for keyword, value in node.keywords:
            known = [parameter.name for parameter in parameters]
            if keyword.name not in known:
                self.report(errors.bad_keyword(name, keyword.name, "has no parameter", keyword.span, known))
                return None
            if keyword.name in given:
                self.report(errors.bad_keyword(name, keyword.name, "is given twice the argument", keyword.span, ()))
                return None
            given[keyword.name] = value
        missing = [p.name for p in parameters if p.default is None and p.name not in given]
        if missing:
            problem = f"lacks its argument{'s' if len(missing) > 1 else ''} " + errors.join_quoted(missing, "and")
            self.report(errors.wrong_arity(name, signature, problem, node.span))
            return None
        return given

    def _prev(self, node: ast.Call) -> ir.Expr:
        if not self.state:
            self.report(errors.not_available("prev", self.what, node.function.span))
            return number("0", node.span)
        parameters = (Formal("x", Want.VALUE), Formal("init", Want.VALUE, "0"))
        given = self._match_arguments(node, parameters, "prev(x, init=0)")
        x = given["x"] if given else None
        if not isinstance(x, ast.Name):
            if x is not None:
                self.report(errors.prev_needs_name(x.span))
            return number("0", node.span)
        stream = self.expression(x)
        if isinstance(stream, ir.Literal | ir.Apply | ir.Select | ir.Prev):
            name = self.equations.fresh(self.path.inside(x.name))
            self.equations.define(name, stream, node.span)
            stream = ir.Ref(name, span=stream.span)
        initial = self.expression(given["init"]) if given and "init" in given else number("0", node.span)
        if isinstance(stream, ir.Latest) or (
            isinstance(stream, ir.Input) and stream.source is not ir.InputSource.STREAM
        ):
            self.report(errors.prev_needs_name(x.span, x.name))
            return number("0", node.span)
        return ir.Prev(stream, initial, self.path.root, x.name if self.inner else "", span=node.span)

    def _inline(self, node: ast.Call, function: ast.Function, scope: Scope) -> ir.Expr:
        name = function.name.name
        if name in self.calls:
            cycle = [*self.calls[self.calls.index(name) :], name]
            if frozenset(cycle) not in self.equations.growth.cycles:
                self.equations.growth.cycles.add(frozenset(cycle))
                self.report(errors.recursion(cycle, node.function.span))
            return number("0", node.span)
        parameters = tuple(
            Formal(parameter.name.name, Want.ANY, "default" if parameter.default else None)
            for parameter in function.parameters
        )
        given = self._match_arguments(node, parameters, shown_signature(function))
        if given is None:
            return number("0", node.span)
        for keyword, _ in node.keywords:
            meant = next(each.name for each in function.parameters if each.name.name == keyword.name)
            self.scope.references.record(keyword.span, "parameter", meant.span)
        if scope is not prelude() or self.scope is scope:
            return self._body(function, scope, given, node.span)
        before = len(self.equations.names)
        result = replace(self, report=self._report_at(node.span, name))._body(function, scope, given, node.span)
        self._relocate(before, node.span)
        return self._relocated(result, node.span)

    def _report_at(self, span: Span, name: str) -> Reporter:
        """Reports that show the call where they would show the inside of a prelude function."""

        def report(diagnostic: Diagnostic) -> None:
            if diagnostic.span.source is not span.source:
                diagnostic = replace(diagnostic, span=span, note=f"inside `{name}`", labels=())
            self.report(diagnostic)

        return report

    def _relocate(self, before: int, span: Span) -> None:
        """What a prelude function leaves behind stands, for messages, where it was called."""
        for name in self.equations.names[before:]:
            equation = self.equations.found[name]
            self.equations.found[name] = replace(equation, value=self._relocated(equation.value, span), span=span)

    def _relocated(self, expr: ir.Expr, span: Span) -> ir.Expr:
        """The expression with all that stands in the prelude moved to the call, or to the one argument it is about."""

        def move(node: ir.Expr) -> ir.Expr:
            if node.span.source is span.source:
                return node
            places = {child.span for child in ir.children(node)} - {span}
            if isinstance(node, ir.Ref):
                places = {self.equations.found[node.name].value.span}
            place = places.pop() if len(places) == 1 else span
            return replace(node, span=place if place.source is span.source else span)

        return ir.transform(move, expr)

    def _body(self, function: ast.Function, scope: Scope, given: Mapping[str, ast.Expression], span: Span) -> ir.Expr:
        names: dict[str, ir.Expr] = {}
        homes: dict[str, tuple[NameKind, Span]] = {}
        homes |= {each.target.name: ("local", each.target.span) for each in function.body}
        homes |= {each.name.name: ("parameter", each.name.span) for each in function.parameters}

        def lookup(name: ast.Name) -> ir.Expr | None:
            if name.name not in names:
                return universal(name)
            scope.references.record(name.span, *homes[name.name])
            return names[name.name]

        def visible() -> Iterable[str]:
            return (*names, *UNIVERSAL)

        place = replace(self, scope=scope, lookup=lookup, visible=visible, step=None)
        local = replace(place, calls=(*self.calls, function.name.name), inner=function.name.name)
        for parameter in function.parameters:
            name = parameter.name.name
            asked = given.get(name)
            value = self.expression(asked) if asked else local.expression(parameter.default or ast.Number("0"))
            known = self.named(value, self.name_of(asked, name), span)
            names[name] = replace(known, mark=ParameterMark(name, given, known.mark)) if asked else known
        targets = {}
        for statement in few(function.body, EQUATION_LIMIT, "equations"):
            name = statement.target.name
            if name not in names:
                targets[name] = self.equations.fresh(self.path.inside(name))
                names[name] = ir.Ref(targets[name])
        for statement in function.body:
            name = statement.target.name
            if name in targets:
                value = replace(local, path=targets[name]).expression(statement.value)
                self.equations.define(targets[name], value, statement.target.span)
        result = local.expression(function.result)
        return replace(result, mark=CallMark(function, given, result.mark))

    def name_of(self, asked: ast.Expression | None, parameter: str) -> EquationName:
        """What a value is called that a parameter stands for: as the function that made it, if one did."""
        call = asked.call if isinstance(asked, ast.Pipe) else asked
        return self.path.inside(call.function.name if isinstance(call, ast.Call) else parameter)

    def named(self, value: ir.Expr, name: EquationName, span: Span) -> ir.Expr:
        """The value itself where it is a name or a literal, else a new equation that holds it."""
        if isinstance(value, ir.Literal | ir.Input | ir.Latest | ir.Ref):
            return value
        unique = self.equations.fresh(name)
        self.equations.define(unique, value, value.span)
        return ir.Ref(unique, span=value.span)


def form_of(node: ast.Call, forms: tuple[Operator, ...]) -> Operator:
    """Of the operators of one name the one that takes as many values as are given."""

    def given(form: Operator) -> int:
        values = {parameter.name for parameter in form.parameters[: form.values]}
        return len(node.arguments) + sum(keyword.name in values for keyword, _ in node.keywords)

    return next((form for form in forms if given(form) == form.values), forms[0])


def counted(arguments: int) -> str:
    return "no arguments" if not arguments else f"{arguments} argument{'s' if arguments > 1 else ''} at most"
