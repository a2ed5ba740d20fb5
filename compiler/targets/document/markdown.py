"""Pages as Markdown with display mathematics in the part of LaTeX that KaTeX knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from optforge.compiler.ir import nodes as ir
from optforge.compiler.targets.base import Origin
from optforge.compiler.targets.document.formulas import Formula
from optforge.compiler.targets.document.layout import PrintedLine, line_rows
from optforge.compiler.targets.document.pages import (
    BlockKind,
    Code,
    HyperRow,
    PrintedAlgorithm,
    PrintedDeclaration,
    Prose,
    printed_program,
)


def render_markdown(program: ir.Program, origin: Origin) -> str:
    """A page with everything that a program declares."""
    head = f"<!-- Written by `optforge doc --markdown` from {origin.path}, whose text has the hash {origin.digest}. -->"
    blocks = [head]
    for page in printed_program(program):
        blocks += declaration_blocks(page)
    return "\n\n".join(blocks) + "\n"


def declaration_blocks(page: PrintedDeclaration) -> Iterator[str]:
    yield f"# {escape(page.name)}"
    yield from paragraphs(page.doc)
    if page.hypers:
        yield hyper_table(page.hypers)
    for condition in page.conditions:
        yield f"It must hold that ${condition.text}$."
    for algorithm in page.algorithms:
        yield from algorithm_blocks(algorithm, len(page.algorithms) > 1)
    if page.notes:
        yield "\n".join(f"- {prose(note)}" for note in page.notes)


def paragraphs(text: str) -> list[str]:
    return [escape(" ".join(each.split())) for each in text.split("\n\n") if each.strip()]


def hyper_table(rows: Sequence[HyperRow]) -> str:
    lines = ["| | name | default | condition | |", "|---|---|---|---|---|"]
    for row in rows:
        default = f"${row.default.text}$" if row.default else "required"
        conditions = ", ".join(f"${condition.text}$" for condition in row.conditions)
        cells = [f"${row.symbol.text}$" if row.symbol else "", f"`{row.name}`", default, conditions, escape(row.doc)]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def algorithm_blocks(page: PrintedAlgorithm, is_one_of_several: bool) -> Iterator[str]:
    if is_one_of_several:
        yield f"## {prose(page.caption)}"
    if page.first:
        yield (
            "Before the first step " + ", ".join(f"${line.left.text} = {line.right.text}$" for line in page.first) + "."
        )
    for block in page.blocks:
        heading = prose(block.heading)
        if block.kind is not BlockKind.FUNCTION:
            yield f"For {heading}:" if block.kind is BlockKind.LOOP else f"On {heading}:"
        yield display(block.lines)
    yield from map(prose, page.notes)


def display(lines: Sequence[PrintedLine]) -> str:
    """Equations below each other, aligned at their signs."""
    rows: list[str] = []
    for line in lines:
        first, *others = line_rows(line)
        rows += [f"{line.left.text} &{line.sign} {first}", *(rf"&\quad {row}" for row in others)]
    return "$$\n\\begin{aligned}\n" + " \\\\[4pt]\n".join(rows) + "\n\\end{aligned}\n$$"


def prose(parts: Prose) -> str:
    texts = []
    for part in parts:
        match part:
            case Formula(text=text):
                texts.append(f"${text}$")
            case Code(text=text):
                texts.append(f"`{text}`")
            case str():
                texts.append(escape(part))
    return "".join(texts)


def escape(text: str) -> str:
    """Plain text; what stands between backticks is code already."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape_signs(text)
    return "`".join(part if index % 2 else escape_signs(part) for index, part in enumerate(parts))


def escape_signs(text: str) -> str:
    return re.sub(r"([\\*_\[\]<>$#|~])", r"\\\1", text)
