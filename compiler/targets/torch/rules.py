"""A rule as the text of a ``Rule(...)`` in a class, and the functions that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optforge.compiler.analysis.layouts import layout_of, step_layout
from optforge.compiler.analysis.sharding.placement import SPLIT, Interactions
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.builders import read_argument
from optforge.compiler.ir.collectives import Over
from optforge.compiler.ir.dependencies import given_by
from optforge.compiler.ir.types import FULL, Dim, Shape, Universe
from optforge.compiler.targets.torch.documents import describe_tensors, docstring, wrap_text
from optforge.compiler.targets.torch.expressions import quote
from optforge.compiler.targets.torch.functions import PyFunction
from optforge.compiler.targets.torch.fused import lower_fused
from optforge.compiler.targets.torch.hygiene import ScalarNames, free_name
from optforge.compiler.targets.torch.sharding.calls import call_owners
from optforge.compiler.targets.torch.sharding.generators import lower_shards
from optforge.compiler.targets.torch.statements import NOISE, WIDTH, lower_function
from optforge.dsl.errors import join_quoted

NO_FUNCTIONS: Mapping[str, str] = {}


def lower_rule(
    rule: ir.Rule, prefix: str, scalars: ScalarNames, taken: set[str], requirements: tuple[ir.Requirement, ...]
) -> tuple[list[str], list[PyFunction]]:
    """The text of a ``Rule(...)`` and the functions it names; ``requirements`` are those of its optimizer."""
    states = tuple(state.name for state in rule.states)
    stem, interactions = f"{prefix}{rule.name}", Interactions(rule.update)

    def lower(function: ir.Function, name: str, sentence: str) -> PyFunction:
        doc = docstring(wrap_text(sentence, WIDTH - 10))
        return lower_function(function, free_name(name, taken), doc, states, scalars)

    def sum_lines(stages: tuple[ir.Stage, ...], name: str, indent: int) -> list[str]:
        """The stages before the last, which is to be a kernel with these lines among its own."""
        found: list[str] = []
        for stage in stages[:-1]:
            sums = tuple(scalars[ir.InputSource.COMBINED, each.name] for each in stage.collectives)
            function = lower(stage.function, name, f"What each parameter adds to {join_quoted(sums, 'and')}.")
            functions.append(replace(function, outputs=sums))
            own = {"over": quote("rule")} if stage.collectives[0].over is Over.OF_RULE else NO_FUNCTIONS
            found += kernel_lines("", stage.function, functions[-1], rule, interactions, indent + 4, own)
        space = " " * indent
        if len(found) == 1:  # a tuple of one thing that fits in a line is written in one, a few characters longer
            return [f"{space}sums=({found[0].strip()}),"]
        return [f"{space}sums=(", *found, f"{space}),"] if found else []

    shown = describe_tensors(rule)
    noun = "loss" if rule.update.outputs[0].name == "loss" else "rule"
    functions = [lower(rule.update, f"{stem}_{noun}", f"{shown}.")]
    lines = ["Rule(", f'    name="{rule.name}",', *assign_tuple("roles", quote_all(rule.roles), 4)]
    lines += state_lines(rule)
    fused = lower_fused(rule, functions[0], free_name(f"{stem}_fused", set(taken)), scalars, requirements)
    if fused:
        taken.add(fused.name)
        functions.append(fused)
    on_shards, shards = shard_arguments(rule, interactions, functions[0], stem, taken, scalars)
    functions = [call_owners(functions[0], shards), *functions[1:], *shards]
    others = {**({"fused": fused.name} if fused else {}), **on_shards}
    sums = sum_lines(rule.step, f"{stem}_sums", 8)
    lines += kernel_lines("step", rule.update, functions[0], rule, interactions, 4, others, sums)
    functions += lowered_rank(rule, f"{stem}_rank", taken, scalars)
    lines += fact_lines(rule, functions[-1], scalars)
    if rule.initial:
        initial = lower(
            rule.initial, f"{stem}_init", f"First values of {', '.join(o.name for o in rule.initial.outputs)}."
        )
        functions.append(initial)
        lines += kernel_lines("init", rule.initial, initial, rule, interactions, 4)
    if rule.events:
        lines.append("    events=(")
        for event in rule.events:
            function = lower(event.update, f"{stem}_{event.name}", f"What the event {event.name} does.")
            functions.append(function)
            sums = sum_lines(event.step, f"{stem}_{event.name}_sums", 16)
            kernel = kernel_lines("kernel", event.update, function, rule, interactions, 12, sums=sums)
            lines += event_lines(event, kernel, scalars)
        lines.append("    ),")
    return [*lines, "),"], functions


def lowered_rank(rule: ir.Rule, name: str, taken: set[str], scalars: ScalarNames) -> list[PyFunction]:
    """The size of a rule's own dimension as a function of sizes and hypers; none without one."""
    if rule.rank is None:
        return []
    doc = docstring((f"The size {rule.rank.outputs[0].name} for a matrix.",))
    lowered = lower_function(rule.rank, free_name(name, taken), doc, (), scalars)
    return [replace(lowered, returns=(f"return {lowered.returns[0].removeprefix('return (').removesuffix(',)')}",))]


def fact_lines(rule: ir.Rule, last: PyFunction, scalars: ScalarNames) -> list[str]:
    """What the runtime has to know of a rule; its rank, if there is one, is the ``last`` function."""
    key = (ir.InputSource.DIMENSION, rule.rank.outputs[0].name) if rule.rank else None
    rank = [f"    rank=Rank({quote(scalars[key])}, {last.name}),"] if key else []
    orientation = [f"    orientation={quote(rule.orientation)},"] if rule.orientation else []
    return [*orientation, *(["    keeps_zero=True,"] if rule.keeps_zero else []), *rank]


def shard_arguments(
    rule: ir.Rule, interactions: Interactions, step: PyFunction, stem: str, taken: set[str], scalars: ScalarNames
) -> tuple[dict[str, str | tuple[str, ...]], list[PyFunction]]:
    """What a kernel says of its step on shards, of matrices and of parameters that are several, and the functions.

    Both may be the same functions.
    """
    along, before = interactions.along(rule.update), set(taken)
    if not along:
        return {}, []
    shards = lower_shards(rule, step, stem, taken, scalars)
    found, split = {"": shards}, None
    if rule.universe is Universe.MATRIX and Dim.ROWS in along:
        split = lower_shards(rule, step, stem, before, scalars, SPLIT)
        if split != shards:
            split = lower_shards(rule, step, f"{stem}_split", taken, scalars, SPLIT)
        found["split_"] = split
    arguments: dict[str, str | tuple[str, ...]] = {}
    for start, each in found.items():
        if each is not None:
            arguments[f"{start}shards"] = each.generator.name
            arguments |= {f"{start}owned": each.kept} if each.kept else {}
    new = [each for each in (shards, split if split != shards else None) if each is not None]
    return arguments, [function for each in new for function in (each.generator, *each.owners)]


def state_lines(rule: ir.Rule) -> list[str]:
    return assign_tuple("states", [state_text(each.name, each.type.shape, each) for each in rule.states], 4)


def state_text(name: str, shape: Shape | None, state: ir.State | None = None) -> str:
    """``State("m")``, or what is given in that form."""
    assert shape is not None
    dims = ", ".join("1" if dim is Dim.ONE else f'"{dim.value}"' for dim in shape)
    more = "" if shape == FULL else f", ({dims})"
    more += f", shared={tuple_text(state.reads)}" if state is not None and state.shared else ""
    return f"State({quote(name)}{more})"


def kernel_lines(
    argument: str,
    function: ir.Function,
    lowered: PyFunction,
    rule: ir.Rule,
    interactions: Interactions,
    indent: int,
    others: Mapping[str, str | tuple[str, ...]] = NO_FUNCTIONS,
    sums: Sequence[str] = (),
) -> list[str]:
    """The lines of ``Kernel(...)`` with what the signature of its function does not say."""
    space, head = " " * indent, f"{argument}=Kernel(" if argument else "Kernel("
    layout = step_layout(rule) if function is rule.update else layout_of(function)
    dims = tuple(dim.value for dim in interactions.along(function))
    usual = () if layout == "elementwise" else tuple(key[1] for key in ir.SIZES)
    sides = [] if dims == usual else [f"along={tuple_text(dims)}"]
    is_step_like = lowered.outputs == tuple(name for name in lowered.inputs if name not in ("grad", NOISE))
    names = {} if is_named_alike(lowered) else {"inputs": lowered.inputs}
    names |= {} if is_step_like else {"outputs": lowered.outputs}
    arguments = {**names, **others}
    parts = [lowered.name, f'layout="{layout}"', *sides]
    parts += [f"{key}={tuple_text(of) if isinstance(of, tuple) else of}" for key, of in arguments.items()]
    flat = f"{space}{head}{', '.join(parts)}),"
    if not sums and len(flat) + 8 <= WIDTH:
        return [flat]
    first = [f"{space}    {part}," for part in parts[: 2 + len(sides)]]
    last: list[str] = []
    for key, of in arguments.items():
        last += assign_tuple(key, quote_all(of), indent + 4) if isinstance(of, tuple) else [f"{space}    {key}={of},"]
    return [f"{space}{head}", *first, *last, *sums, f"{space}),"]


def is_named_alike(lowered: PyFunction) -> bool:
    """Whether the function calls its inputs what the state calls them, which may be no name in Python (`m.s`)."""
    return all(lowered.names.get(ir.stored(name), name) == name for name in lowered.inputs)


def event_lines(event: ir.Event, kernel: list[str], scalars: ScalarNames) -> list[str]:
    """The lines of ``Event(...)`` around those of its kernel."""
    given = [state_text(each.name, each.shape) for each in given_by(event)]
    lines = ["        Event(", f'            name="{event.name}",', *kernel, *renamed_lines(event, scalars)]
    lines += assign_tuple("given", given, 12) if given else []
    lines += [f"            undoes={quote(event.undoes)},"] if event.undoes else []
    return [*lines, "        ),"]


def renamed_lines(event: ir.Event, scalars: ScalarNames) -> list[str]:
    """``renamed={"k": "k_2"},`` for the arguments whose own names are hypers."""
    names = {each.name: scalars[read_argument(each).key] for each in event.parameters if not each.shape}
    shown = [f"{quote(name)}: {quote(text)}" for name, text in names.items() if text != name]
    flat = f"            renamed={{{', '.join(shown)}}},"
    if len(flat) + 8 <= WIDTH:
        return [flat] if shown else []
    return ["            renamed={", *(f"                {each}," for each in shown), "            },"]


def quote_all(names: tuple[str, ...]) -> list[str]:
    return [quote(name) for name in names]


def tuple_text(names: tuple[str, ...]) -> str:
    return f"({', '.join(quote_all(names))}{',' if len(names) == 1 else ''})"


def assign_tuple(name: str, items: list[str], indent: int) -> list[str]:
    """``name=(a, b),`` on one line where it fits, else one item a line."""
    space = " " * indent
    flat = f"{space}{name}=({', '.join(items)}{',' if len(items) == 1 else ''}),"
    if len(flat) + 8 <= WIDTH:
        return [flat]
    return [f"{space}{name}=(", *(f"{space}    {item}," for item in items), f"{space}),"]
