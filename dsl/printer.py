"""The formatter: a surface tree in, the one way to write it out.

``parse(print(tree)) == tree``, printing what was printed changes nothing, and every comment stays with its
statement. Single empty lines are kept inside blocks, and one separates the items of a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optforge.dsl import ast
from optforge.dsl.comments import Element, Line, Surroundings, attach_comments, parts_of
from optforge.dsl.expressions import INDENT, WIDTH, lay_out, print_expression, print_text

__all__ = ["print_expression", "print_file"]

MAX_ALIGNED_NAME = 20


def print_file(file: ast.File) -> str:
    """The whole file, ending in a line break."""
    surroundings, closing = attach_comments(file)
    return "\n".join(_Printer(surroundings).render_file(file, closing)) + "\n"


class _Printer:
    """Renders elements to lines, taking along what surrounds them."""

    def __init__(self, surroundings: dict[int, Surroundings]) -> None:
        self.surroundings = surroundings

    def around(self, element: Element) -> Surroundings:
        return self.surroundings.get(id(element)) or Surroundings()

    def render_file(self, file: ast.File, closing: Sequence[Line]) -> Iterator[str]:
        """Items with an empty line between any two but what is taken, then the comments behind the last."""
        first, before = True, None
        for part in parts_of(file):
            is_next_taken = isinstance(part, ast.Taken) and isinstance(before, ast.Taken)
            if not first and not is_next_taken:
                yield ""
            yield from self.render_element(part, self.head_lines(part, 0), 0, True)
            first, before = False, part
        if closing and not first:
            yield ""
        yield from render_comments(closing, 0, True)

    def render_block(self, owner: Element, depth: int) -> Iterator[str]:
        first = True
        for run in self.runs_of(parts_of(owner)):
            for part, lines in zip(run, self.run_lines(run, owner, depth), strict=True):
                yield from self.render_element(part, lines, depth, first)
                first = False
        yield from render_comments(self.around(owner).closing, depth, False)

    def render_element(self, element: Element, lines: list[str], depth: int, first: bool) -> Iterator[str]:
        """Comments above, the element's own lines with its trailing comment, and the block it opens."""
        around = self.around(element)
        yield from render_comments(around.leading, depth, first)
        if around.blank_before and (around.leading or not first):
            yield ""
        yield from lines[:-1]
        yield f"{lines[-1]}  {around.trailing}" if around.trailing else lines[-1]
        if parts_of(element):
            yield from self.render_block(element, depth + 1)

    def runs_of(self, parts: Sequence[Element]) -> Iterator[list[Element]]:
        """Neighbours that are aligned with each other: of one kind, with no empty line between."""
        run: list[Element] = []
        for part in parts:
            around = self.around(part)
            apart = around.blank_before or any(line.blank_before for line in around.leading)
            if run and (apart or type(part) is not type(run[-1])):
                yield run
                run = []
            run.append(part)
        if run:
            yield run

    def run_lines(self, run: list[Element], owner: Element, depth: int) -> list[list[str]]:
        """The own lines of each element of a run."""
        if isinstance(owner, ast.Function) and run[-1] is owner.result:
            *before, _ = run
            returned = lay_out("return ", owner.result, "", depth)
            return [*(self.head_lines(part, depth) for part in before), returned]
        if isinstance(run[0], ast.Hyper):
            return lay_out_hypers([part for part in run if isinstance(part, ast.Hyper)], depth)
        if isinstance(run[0], ast.Binding):
            return lay_out_bindings([part for part in run if isinstance(part, ast.Binding)], depth)
        return [self.head_lines(part, depth) for part in run]

    def head_lines(self, element: Element, depth: int) -> list[str]:
        """The lines of a simple element, or those that open a block."""
        match element:
            case ast.Text(value=value):
                return [f'{INDENT * depth}"""{value}"""']
            case ast.Optimizer(name=name, composition=ast.Node() as composition):
                opens_block = ":" if parts_of(element) else ""
                return lay_out(f"optimizer {name.name} = ", composition, opens_block, depth)
            case ast.Wrapper(name=name):
                return [f"wrapper {name.name}:"]
            case ast.Optimizer(name=name, base=base):
                return [f"optimizer {name.name} extends {base.name}:" if base else f"optimizer {name.name}:"]
            case ast.Taken(file=file, names=names):
                return [f"from {file.name}: {join_names(names)}"]
            case ast.Schedule(name=name):
                return [f"schedule {name.name}:"]
            case ast.Penalty(name=name):
                return [f"penalty {name.name}:"]
            case ast.Function():
                return lay_out_function(element, depth)
            case ast.Rule(roles=roles, orientation=seen):
                return [f"{INDENT * depth}for {join_names(roles)}{f' as {seen.name}' if seen else ''}:"]
            case ast.Delegate(roles=roles):
                call = ast.Call(element.optimizer, element.arguments, element.keywords)
                return lay_out(f"for {join_names(roles)}: use ", call, "", depth)
            case ast.Event(name=name, parameters=parameters):
                return lay_out_head(f"on {name.name}", parameters, ":", depth)
            case ast.Update(target=target, value=value):
                return lay_out(f"{target.name} <- ", value, "", depth)
            case ast.Was(target=target, value=value):
                return lay_out(f"{target.name} was ", value, "", depth)
            case ast.Dimension(name=name, size=size):
                return lay_out(f"dim {name.name} = ", size, "", depth)
            case ast.Claim(promise=promise):
                return lay_out("claim ", promise, "", depth)
            case _:
                raise TypeError(f"{type(element).__name__} is laid out with its neighbours")


def render_comments(comments: Sequence[Line], depth: int, first: bool) -> Iterator[str]:
    for comment in comments:
        if comment.blank_before and not first:
            yield ""
        yield INDENT * depth + comment.text
        first = False


def join_names(names: Sequence[ast.Identifier]) -> str:
    return ", ".join(name.name for name in names)


def lay_out_head(start: str, parameters: Sequence[ast.Parameter], end: str, depth: int) -> list[str]:
    """``start(parameters) end``, with a line for each parameter where one line is too short."""
    texts = [print_parameter(parameter) for parameter in parameters]
    pad = INDENT * depth
    flat = f"{pad}{start}({', '.join(texts)}){end}"
    if len(flat) <= WIDTH or not texts:
        return [flat]
    return [
        f"{pad}{start}(",
        *(f"{pad}{INDENT}{text}," for text in texts),
        f"{pad}){end}",
    ]


def print_parameter(parameter: ast.Parameter) -> str:
    shape = f": {parameter.shape[0].name} x {parameter.shape[1].name}" if parameter.shape else ""
    default = "" if parameter.default is None else f"={print_expression(parameter.default)}"
    return f"{parameter.name.name}{shape}{default}"


def lay_out_function(function: ast.Function, depth: int) -> list[str]:
    """A whole short function, or the line that opens a long one."""
    end = ":" if function.is_block else " = "
    *lines, last = lay_out_head(f"def {function.name.name}", function.parameters, end, depth)
    return [*lines, last] if function.is_block else [*lines, *lay_out(last, function.result, "", depth)]


def lay_out_bindings(bindings: list[ast.Binding], depth: int) -> list[list[str]]:
    """Bindings with their ``=`` in one column; long names stay outside."""
    lengths = [len(binding.head) for binding in bindings]
    width = max((length for length in lengths if length <= MAX_ALIGNED_NAME), default=0)
    return [lay_out(f"{binding.head:<{width}} = ", binding.value, "", depth) for binding in bindings]


def lay_out_hypers(hypers: list[ast.Hyper], depth: int) -> list[list[str]]:
    """Hypers as a table of names, defaults, conditions and descriptions, as far as lines stay short enough."""
    rows = [_hyper_cells(hyper) for hyper in hypers]
    for columns in range(3, -1, -1):
        widths = [max(len(row[column]) for row in rows) for column in range(columns)]
        lines = [_join_cells(row, widths, depth) for row in rows]
        if all(len(line) <= WIDTH for line in lines):
            return [[line] for line in lines]
    return [
        [line] if len(line) <= WIDTH else _break_hyper(hyper, depth) for hyper, line in zip(hypers, lines, strict=True)
    ]


def _hyper_cells(hyper: ast.Hyper) -> list[str]:
    values = [
        "" if hyper.default is None else f"= {print_expression(hyper.default)}",
        "" if hyper.before is None else f"was {print_expression(hyper.before)}",
    ]
    return [
        f"hyper {hyper.name.name}",
        " ".join(filter(None, values)),
        "" if hyper.condition is None else f"where {print_expression(hyper.condition)}",
        "" if hyper.doc is None else print_text(hyper.doc),
    ]


def _join_cells(cells: list[str], widths: list[int], depth: int) -> str:
    """The cells of a row, the first ones padded to the given widths, with two spaces before a description."""
    text = ""
    for index, cell in enumerate(cells):
        gap = "" if index == 0 else "  " if index == 3 and cell else " "
        if index < len(widths):
            text += gap + cell.ljust(widths[index]) if widths[index] else ""
        elif cell:
            text += gap + cell
    return (INDENT * depth + text).rstrip()


def _break_hyper(hyper: ast.Hyper, depth: int) -> list[str]:
    """A hyper that no line can hold, broken inside its condition, or else inside its last value."""
    name, default, _, doc = _hyper_cells(hyper)
    tail = f"  {doc}" if doc else ""
    if hyper.condition is not None:
        return lay_out(" ".join(filter(None, (name, default, "where "))), hyper.condition, tail, depth)
    if hyper.before is not None:
        value = "" if hyper.default is None else f"= {print_expression(hyper.default)} "
        return lay_out(f"{name} {value}was ", hyper.before, tail, depth)
    if hyper.default is not None:
        return lay_out(f"{name} = ", hyper.default, tail, depth)
    return [f"{INDENT * depth}{name}{tail}"]
