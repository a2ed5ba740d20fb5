"""What must hold between passes: every name defined once, every node typed, every input one that is there to read.

What must hold of the text that a target writes is for the target to check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set

from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import read_argument
from optforge.compiler.ir.collectives import Combination, Over
from optforge.compiler.ir.dependencies import inputs_of
from optforge.compiler.ir.names import EquationName, function_text, name_text
from optforge.compiler.ir.operators import OPERATORS, Across
from optforge.compiler.ir.shards import Owned, ShardStage, answers_of, kept_by, operands_of, reduced_dims
from optforge.compiler.ir.types import GRAMS, SCALAR, Dim, Kind

OF_RANKS = (ir.InputSource.STREAM, ir.InputSource.STATE)  # what each has its part of
ORDERED_AFTER = ("schedule", "guard", "storage")


class InternalError(Exception):
    """A mistake of the compiler, never of the spec."""


def functions_of(program: ir.Program) -> list[ir.Function]:
    """Every function of a program."""
    found: list[ir.Function] = []
    for declaration in program.declarations:
        if isinstance(declaration, ir.Schedule):
            found.append(declaration.function)
            continue
        for rule in declaration.rules:
            found += [*rule.functions, *rule.was]
        found += declaration.was if isinstance(declaration, ir.Optimizer) else ()
    return found


def require_valid(program: ir.Program, stage: str) -> None:
    """Raise :class:`InternalError` for the first invariant that does not hold after ``stage``."""
    for function in functions_of(program):
        require_valid_function(function, stage)
    for declaration in program.declarations:
        rules = () if isinstance(declaration, ir.Schedule) else declaration.rules
        require_distinct("rules", (rule.name for rule in rules), stage)
        for rule in rules:
            for stages in (rule.step, *(event.step for event in rule.events)):
                require_valid_stages(stages, stage)
        require_distinct("hyperparameters", (hyper.name for hyper in declaration.hypers), stage)
        for function, readable in readers_of(declaration):
            require_readable(function, readable, stage)


def require_valid_stages(stages: tuple[ir.Stage, ...], after: str) -> None:
    """All outputs of a stage are combined but those of the last: one number each is summed over parameters.

    A target may combine otherwise what it cuts into shards.
    """
    if not stages or stages[-1].collectives:
        raise InternalError(f"after {after}: the last stage of a step gives its results, and must be there")
    for stage in stages[:-1]:
        given = [(output.name, output.value.type) for output in stage.function.outputs]
        if not given or given != [(each.name, each.type) for each in stage.collectives]:
            raise InternalError(
                f"after {after}: the outputs of `{function_text(stage.function.name)}` are not what is combined"
            )
        for each in stage.collectives:
            is_sum = (each.kind, each.type.shape) == (Combination.SUM, SCALAR)
            if not is_sum or each.over not in (Over.PARAMETERS, Over.OF_RULE):
                raise InternalError(f"after {after}: `{each.name}` is combined as nothing before a target combines")
        if len({each.over for each in stage.collectives}) > 1:
            name = function_text(stage.function.name)
            raise InternalError(f"after {after}: `{name}` runs for some parameters and for others")
    require_distinct("collectives", (each.name for stage in stages for each in stage.collectives), after)


def require_valid_shards(stages: tuple[ShardStage, ...], combined: Set[str], after: str) -> None:
    """A rank computes only with what it has, an owner with what is sent to it; each answer has a name of its own.

    ``combined`` are the names of what was combined over parameters before.
    """
    if not stages or stages[-1].requests:
        raise InternalError(f"after {after}: the last stage of a step on shards gives its results, and must be there")
    requests = [request for stage in stages for request in stage.requests]
    kept = kept_by(stages)
    known, left = set(combined), set[str]()
    for stage in stages:
        require_valid_function(stage.function, after)
        require_given(stage.function, {ir.stored(name) for name in kept}, known, after)
        for node in (node for node in ir.nodes(stage.function) if isinstance(node, ir.Apply)):
            if not is_done_by_ranks(node):
                raise InternalError(f"after {after}: `{node.operator}` needs more than a rank has")
        wanted = {name for each in stage.requests for name in operands_of(each)}
        if stage.requests and {output.name for output in stage.function.outputs} != wanted:
            raise InternalError(
                f"after {after}: the outputs of `{function_text(stage.function.name)}` are not what is asked for"
            )
        for owned in (each for each in stage.requests if isinstance(each, Owned)):
            require_valid_function(owned.function, after)
            own = {ir.stored(name) for name in (*owned.kept, *owned.reads)}
            away = {node.key for node in inputs_of(owned.function) if node.source in OF_RANKS and node.key not in own}
            require_given(owned.function, away, {*owned.sent, *owned.carried}, after)
            if not {*owned.carried} <= left:
                raise InternalError(f"after {after}: `{owned.function.name}` reads what nobody has left there")
            if {output.name for output in owned.function.outputs} - {*owned.kept} != {*owned.back, *owned.left}:
                raise InternalError(f"after {after}: the outputs of `{owned.function.name}` are not what it gives")
        left |= {name for each in stage.requests if isinstance(each, Owned) for name in each.left}
        known |= {name for each in stage.requests for name in answers_of(each)}
    names = [*combined, *(name for request in requests for name in answers_of(request))]
    require_distinct("answers", names, after)


def require_given(function: ir.Function, away: Set[ir.Key], combined: Set[str], after: str) -> None:
    """The function reads nothing that is ``away``, and only those of the combined values."""
    for node in inputs_of(function):
        if node.key in away or (node.source is ir.InputSource.COMBINED and node.name not in combined):
            raise InternalError(
                f"after {after}: `{function_text(function.name)}` reads `{node.name}`, which is not there"
            )


def is_done_by_ranks(node: ir.Apply) -> bool:
    """Whether a rank can compute its part of the result from its parts of the arguments."""
    operator = OPERATORS[node.operator]
    shapes = [argument.type.shape for argument in node.arguments[: operator.values]]
    if operator.across is Across.PRODUCT:
        are_grams = any(shape in GRAMS for shape in (*shapes, node.type.shape))
        return not are_grams and shapes[0] is not None and shapes[0][1] is Dim.ONE
    if operator.across is Across.WHOLE:
        return False
    if operator.across is Across.ORDER:
        return node.type.is_scalar_phase or {*reduced_dims(node)} <= {Dim.ONE, Dim.RANK}
    return not operator.reduces or node.type.is_scalar_phase or all(shape == SCALAR for shape in shapes)


def require_distinct(what: str, names: Iterable[str], stage: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InternalError(f"after {stage}: two {what} are called `{twice[0]}`")


def require_readable(function: ir.Function, readable: Set[ir.Key], stage: str) -> None:
    """Every input is one that the function can be given, and has one type wherever it stands."""
    types: dict[ir.Key, object] = {}
    for node in (node for node in ir.nodes(function) if isinstance(node, ir.Input)):
        if node.key not in readable:
            what = f"{node.source.value} `{node.name}`"
            raise InternalError(f"after {stage}: `{function_text(function.name)}` reads {what}, which it is not given")
        if types.setdefault(node.key, node.type) != node.type:
            raise InternalError(f"after {stage}: `{node.name}` has two types in `{function_text(function.name)}`")


def readers_of(declaration: ir.Declaration) -> Iterator[tuple[ir.Function, Set[ir.Key]]]:
    """The functions of a declaration, each with the inputs that it is given."""
    hypers: set[ir.Key] = {(ir.InputSource.HYPER, hyper.name) for hyper in declaration.hypers}
    match declaration:
        case ir.Schedule():
            yield declaration.function, hypers | {ir.STEP}
        case ir.Penalty():
            for rule in declaration.rules:
                yield rule.update, hypers | {ir.WEIGHT, *ir.SIZES}
        case ir.Optimizer():
            for rule in declaration.rules:
                yield from readers_in_rule(rule, hypers)


def readers_in_rule(rule: ir.Rule, hypers: Set[ir.Key]) -> Iterator[tuple[ir.Function, Set[ir.Key]]]:
    """A step and events read states, and each stage what those before it have combined; first values no state."""
    first = {*hypers, ir.WEIGHT, ir.GRAD, ir.NOISE, *ir.SIZES, *(ir.OWN_SIZES if rule.orientation else ())}
    first |= {(ir.InputSource.DIMENSION, output.name) for output in rule.rank.outputs} if rule.rank else set()
    known = {*first, ir.STEP, *(ir.stored(state.name) for state in rule.states)}
    machines = [(rule.step, known)]
    for event in rule.events:
        arguments = {read_argument(argument).key for argument in event.parameters}
        machines.append((event.step, known | arguments))
    for stages, readable in machines:
        given = set(readable)
        for stage in stages:
            yield stage.function, set(given)
            given |= {(ir.InputSource.COMBINED, collective.name) for collective in stage.collectives}
    if rule.initial is not None:
        yield rule.initial, first


def require_valid_function(function: ir.Function, stage: str) -> None:
    defined: set[EquationName] = set()
    names = [equation.name for equation in function.equations]
    require_distinct("equations", map(name_text, names), stage)
    require_distinct("outputs", (output.name for output in function.outputs), stage)
    for equation in function.equations:
        known = defined if stage in ORDERED_AFTER else set(names)
        require_valid_expression(equation.value, known, stage)
        defined.add(equation.name)
        if equation.in_place and not (
            isinstance(equation.value, ir.Apply) and OPERATORS[equation.value.operator].in_place
        ):
            raise InternalError(f"after {stage}: `{name_text(equation.name)}` cannot be computed in place")
    for output in function.outputs:
        require_valid_expression(output.value, set(names), stage)


def require_valid_expression(expr: ir.Expr, known: set[EquationName], stage: str) -> None:
    for node in ir.walk(expr):
        if isinstance(node, ir.Prev | ir.Latest):
            raise InternalError(f"after {stage}: a {type(node).__name__} is left")
        if isinstance(node, ir.Ref) and node.name not in known:
            raise InternalError(f"after {stage}: `{name_text(node.name)}` is read before it is defined")
        if node.type.kind is Kind.NUMBER and node.type.shape is None:
            raise InternalError(f"after {stage}: {node} has no shape")
