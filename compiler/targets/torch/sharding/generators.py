"""A rule's step on shards as a generator.

The lines are those of the step. Where ranks exchange values it yields what it asks for and is resumed with the answers;
between two of these nothing that travels may be overwritten, as the values are read where they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from optforge.compiler.analysis.sharding.placement import EITHER, Cut
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.ir.names import EquationName, name_text, read_name
from optforge.compiler.ir.printer import literal_type
from optforge.compiler.ir.shards import Owned, Reduced, Request, ShardStage, answers_of, kept_by
from optforge.compiler.ir.types import FULL, Dim, Shape, Type
from optforge.compiler.passes.shard_stages import shard_stages
from optforge.compiler.targets.torch.documents import docstring, wrap_text
from optforge.compiler.targets.torch.expressions import quote
from optforge.compiler.targets.torch.functions import PyFunction
from optforge.compiler.targets.torch.hygiene import ScalarNames, free_name, python_name
from optforge.compiler.targets.torch.passes.in_place import plan_storage
from optforge.compiler.targets.torch.sharding.owners import OwnerCall, left_name, owner_of
from optforge.compiler.targets.torch.statements import WIDTH, Lowering, fits

KEYWORDS = {"over", "function", "dims", "gives", "there", "owned", "leaves"}  # of generators and of `over.whole`
DOC = "`{}` for shards of matrices; each `yield` is a round in which ranks exchange values."
LONG = 60  # operands of more letters get lines of their own


@dataclass(frozen=True, slots=True)
class ShardFunctions:
    """A generator, the functions of owners that it names, and the states that they keep."""

    generator: PyFunction
    owners: tuple[PyFunction, ...]
    kept: tuple[str, ...]


def lower_shards(
    rule: ir.Rule, step: PyFunction, stem: str, taken: set[str], scalars: ScalarNames, cut: Cut = EITHER
) -> ShardFunctions | None:
    """The step where matrices are cut whose elements interact; None where the runtime does as well without.

    That is where owners would need what is not sent to them; rules with a dimension of their own are stepped by owners
    alone.
    """
    if rule.rank or KEYWORDS & set(step.scalars) or step.outputs == ("loss",):
        return None
    stages = shard_stages(rule.update, cut)
    requests = [request for stage in stages for request in stage.requests]
    calls = [request for request in requests if isinstance(request, Owned)]
    if not requests or sends_sums(stages, calls):
        return None
    names, states, kept = set(taken), tuple(state.name for state in rule.states), kept_by(stages)
    if not kept <= set(step.outputs):
        return None
    generator = free_name(f"{stem}_shards", names)
    owners = [owner_of(call, f"{stem}_whole", names, scalars) for call in calls]
    if any(owner is None for owner in owners):
        return None
    known = {id(call): owner for call, owner in zip(calls, owners, strict=True) if owner is not None}
    lowering = ShardLowering(merge_stages(rule.update, stages), states, scalars, step, stages, known)
    lowered = lowering.lowered(generator, docstring(wrap_text(DOC.format(step.name), WIDTH - 10)))
    if lowered.inputs != step.inputs or lowered.outputs != step.outputs:
        return None
    taken |= names
    functions = tuple(owner.function for owner in known.values() if owner.function is not None)
    return ShardFunctions(lowered, functions, tuple(name for name in states if name in kept))


def sends_sums(stages: Sequence[ShardStage], calls: Sequence[Owned]) -> bool:
    """Whether owners read what follows from sums over all parameters alone: there is one of it, not one a matrix."""
    answers = {name for stage in stages for request in stage.requests for name in answers_of(request)}
    sent = {name for call in calls for name in call.sent}
    for stage in stages:
        common: set[EquationName] = set()
        for equation in stage.function.equations:
            common |= {equation.name} if is_common(equation.value, common, answers) else set()
        for output in stage.function.outputs:
            if output.name in sent and is_common(output.value, common, answers):
                return True
    return False


def is_common(expr: ir.Expr, common: set[EquationName], answers: set[str]) -> bool:
    match expr:
        case ir.Input(source=source, name=name):
            return source not in (ir.InputSource.STREAM, ir.InputSource.STATE) and name not in answers
        case ir.Ref(name=name):
            return name in common
        case _:
            return all(is_common(each, common, answers) for each in ir.children(expr))


def merge_stages(function: ir.Function, stages: Sequence[ShardStage]) -> ir.Function:
    """All stages as one function, in which each answer is an equation that reads what it is made of."""
    answers = {name for stage in stages for request in stage.requests for name in answers_of(request)}

    def read_answer(node: ir.Expr) -> ir.Expr:
        if isinstance(node, ir.Input) and node.source is ir.InputSource.COMBINED and node.name in answers:
            return ir.Ref(read_name(node.name), type=node.type, span=node.span)
        return node

    equations: dict[EquationName, ir.Equation] = {}
    results: dict[str, ir.Expr] = {}
    for stage in stages:
        part = ir.map_expressions(lambda expr: ir.transform(read_answer, expr), stage.function)
        for equation in part.equations:
            equations.setdefault(equation.name, equation)
        results |= {output.name: output.value for output in part.outputs}
        for request in stage.requests:
            answered = {name_text(each.name): each for each in answer_equations(request, results)}
            equations |= {each.name: each for each in answered.values()}
            results |= {name: ir.Ref(each.name, type=each.value.type) for name, each in answered.items()}
    names = {each.name: each.name for each in function.outputs} | {name: kept_name(name) for name in kept_by(stages)}
    outputs = tuple(replace(each, value=results[names[each.name]]) for each in function.outputs)
    return plan_storage(replace(function, equations=tuple(equations.values()), outputs=outputs))


def answer_equations(request: Request, values: Mapping[str, ir.Expr]) -> Iterator[ir.Equation]:
    """What is answered, each made of all that it is asked for with."""
    if isinstance(request, Reduced):
        axis = ir.Literal(request.axis, request.axis, type=literal_type(request.axis, True))
        value = ir.Apply(request.operator, (values[request.name], axis), type=request.type)
        yield ir.Equation(read_name(request.name), value)
        return
    given = {output.name: output.value.type for output in request.function.outputs}
    states = {**{name: given[name] for name in request.kept}, **types_of_states(request.function)}
    kept = tuple(ir.Input(name, ir.InputSource.STATE, type=found) for name, found in states.items())
    asked = (*(values[name] for name in request.sent), *(values[left_name(name)] for name in request.carried), *kept)
    for name in request.back:
        yield ir.Equation(read_name(name), ir.Apply("whole", asked, type=given[name]))
    for name in request.left:
        yield ir.Equation(read_name(left_name(name)), ir.Apply("whole", asked, type=given[name]))
    for name in request.kept:
        yield ir.Equation(read_name(kept_name(name)), ir.Apply("whole", asked, type=given[name]))


def kept_of(request: Request) -> tuple[str, ...]:
    return request.kept if isinstance(request, Owned) else ()


def types_of_states(function: ir.Function) -> dict[str, Type]:
    return {node.name: node.type for node in inputs_of(function) if node.source is ir.InputSource.STATE}


def results_of(request: Request) -> tuple[str, ...]:
    """The names of what is answered, then of what stays with the owner: for a later call, and its states."""
    if isinstance(request, Reduced):
        return answers_of(request)
    return (*request.back, *map(left_name, request.left), *map(kept_name, request.kept))


def kept_name(state: str) -> str:
    """The new value of a state that its owner keeps, which no equation of the spec is called."""
    return name_text(replace(read_name(state), scope="kept"))


class Listed(NamedTuple):
    """A keyword argument that is a tuple."""

    key: str
    items: Sequence[str]

    def __str__(self) -> str:
        return f"{self.key}={tuple_of(self.items)}"


@dataclass
class ShardLowering(Lowering):
    """A generator on its way to Python: answers come from `over`, and keywords are those of the step."""

    step: PyFunction | None = None
    stages: tuple[ShardStage, ...] = ()
    owners: Mapping[int, OwnerCall] = field(default_factory=dict)

    def __init__(
        self,
        function: ir.Function,
        states: tuple[str, ...],
        scalars: ScalarNames,
        step: PyFunction,
        stages: tuple[ShardStage, ...],
        owners: Mapping[int, OwnerCall],
    ) -> None:
        super().__init__(function, states, scalars)
        self.step, self.stages, self.owners = step, stages, owners
        self.values = {equation.name: equation.value for equation in self.function.equations}
        self.rounds = {names_of(stage.requests[0])[0]: stage.requests for stage in stages if stage.requests}
        self.answers = {name for stage in stages for request in stage.requests for name in names_of(request)}

    def _name_scalars(self) -> list[str]:
        assert self.step is not None
        self.names[EquationName.of("over", scope="line")] = "over"
        self.names |= {key: text for key, text in self.scalars.items() if text in self.step.scalars}
        return ["over", *self.step.scalars]

    def _equation(self, index: int, equation: ir.Equation) -> None:
        if equation.name in self.rounds:
            self._exchange(self.rounds[equation.name])
        elif equation.name not in self.answers:
            super()._equation(index, equation)

    def _exchange(self, requests: Sequence[Request]) -> None:
        """One `yield`, of all that is asked for at this time; answers may have the names of what nobody reads later."""
        calls = [self._call(request) for request in requests]
        names = [name for request in requests for name in names_of(request)]
        found = {each.name: (i, each) for i, each in enumerate(self.function.equations) if each.name in names}
        last = max(i for i, _ in found.values())
        targets: list[str] = []
        for request in requests:
            states = {read_name(kept_name(name)): name for name in kept_of(request)}
            for name in names_of(request):
                known = ir.stored(states[name]) if name in states else None  # nobody else reads what the owner has
                self.names[name] = self.names[known] if known else self._name_equation(last, found[name][1])
            texts = [self.names[name] for name in names_of(request)]
            is_alone = isinstance(request, Reduced) or (len(requests) == 1 and len(texts) > 1)
            targets += texts if is_alone else [tuple_of(texts)]
        self.lines += yield_lines(targets, calls, self.width)

    def _call(self, request: Request) -> tuple[str, Sequence[str | Listed]]:
        """The method of `over` and its arguments."""
        if isinstance(request, Reduced):
            value = self.values[read_name(request.name)]
            assert isinstance(value, ir.Apply)
            operand = value.arguments[0]
            dims = [] if operand.type.shape == FULL else [f"dims={dims_text(operand.type.shape)}"]
            return f"over.{request.operator}", [self._operand(operand, request.name), f'"{request.axis}"', *dims]
        owner = self.owners[id(request)]
        value = self.values[names_of(request)[0]]
        assert isinstance(value, ir.Apply)
        sent = dict(zip(request.sent, value.arguments, strict=False))
        shapes = [sent[name].type.shape for name in owner.values]
        gives = [output.value.type.shape for output in request.returned]
        arguments: list[str | Listed] = [owner.name, *(self._operand(sent[name], name) for name in owner.values)]
        arguments += [] if all(shape == FULL for shape in shapes) else [Listed("dims", list(map(dims_text, shapes)))]
        arguments += [] if gives == [FULL] else [Listed("gives", list(map(dims_text, gives)))]
        there = [self.names[read_name(left_name(name))] for name in request.carried]
        there += [self.names[ir.stored(name)] for name in request.reads]
        owned = [self.names[ir.stored(name)] for name in request.kept]
        arguments += [Listed("there", there)] if there else []
        arguments += [Listed("owned", owned)] if owned else []
        arguments += [f"leaves={len(request.left)}"] if request.left else []
        self.writer.used |= {owner.name} if owner.function is None else set()
        return "over.whole", [*arguments, *owner.keywords]

    def _operand(self, expr: ir.Expr, name: str) -> str:
        """What is sent; a long expression has a line of its own."""
        text = self.writer.text(expr)
        if len(text) <= LONG:
            return text
        part = self.free(f"{python_name(read_name(name))}_part")
        self.names[EquationName.of(part, scope="line")] = part
        self.lines += self.assigned(part, expr, self.width)
        return part


def names_of(request: Request) -> list[EquationName]:
    """The equations that stand for the results of a request."""
    return list(map(read_name, results_of(request)))


def yield_lines(targets: Sequence[str], calls: Sequence[tuple[str, Sequence[str | Listed]]], width: int) -> list[str]:
    """``targets = yield ...`` on one line where it fits, and else with one thing on each."""
    flat = f"{', '.join(targets)} = yield {', '.join(call_text(*call) for call in calls)}"
    if fits(flat, width):
        return [flat]
    if len(calls) == 1:
        ((name, arguments),) = calls
        start, asked = f"yield {name}(", argument_lines(arguments, width)
    else:
        start, asked = "yield (", [f"    {line}" for call in calls for line in request_lines(*call, width)]
    head = f"{', '.join(targets)} = {start}"
    if fits(head, width):
        return [head, *asked, ")"]
    return ["(", *(f"    {each}," for each in targets), f") = {start}", *asked, ")"]


def call_text(name: str, arguments: Sequence[str | Listed]) -> str:
    return f"{name}({', '.join(map(str, arguments))})"


def request_lines(name: str, arguments: Sequence[str | Listed], width: int) -> list[str]:
    flat = f"{call_text(name, arguments)},"
    return [flat] if fits(flat, width - 4) else [f"{name}(", *argument_lines(arguments, width - 4), "),"]


def argument_lines(arguments: Sequence[str | Listed], width: int) -> list[str]:
    """Each on a line, or one that is a tuple with each of its items on a line."""
    lines: list[str] = []
    for each in arguments:
        if isinstance(each, str) or fits(f"{each},", width - 4):
            lines.append(f"    {each},")
        else:
            lines += [f"    {each.key}=(", *(f"        {item}," for item in each.items), "    ),"]
    return lines


def tuple_of(texts: Sequence[str]) -> str:
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def dims_text(shape: Shape | None) -> str:
    assert shape is not None
    return f"({', '.join('1' if dim is Dim.ONE else quote(dim.value) for dim in shape)})"
