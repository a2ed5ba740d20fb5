"""Pages as LaTeX: an article with an `algorithm` for each rule, for plain pdflatex with amsmath and algorithmicx."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from optforge.compiler.ir import nodes as ir
from optforge.compiler.targets.base import Origin
from optforge.compiler.targets.document.formulas import Formula
from optforge.compiler.targets.document.layout import line_rows
from optforge.compiler.targets.document.pages import (
    BlockKind,
    Code,
    HyperRow,
    PrintedAlgorithm,
    PrintedBlock,
    PrintedDeclaration,
    Prose,
    printed_program,
)

LONG_NAME = re.compile(r"\\mathrm\{[^{}]*\\_[^{}]*\}")
FLOAT = 20  # an algorithm with more lines than this may begin on one page and end on another, which no float can
HEAD = r"""\documentclass[10pt]{article}
\usepackage[margin=1in]{geometry}
\usepackage{amsmath,amssymb,array}
\usepackage{algorithm,algpseudocode}
\renewcommand{\algorithmicrequire}{\textbf{Start:}}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt}
\renewcommand{\arraystretch}{1.15}
\setlength{\emergencystretch}{4em}
\setlength{\lineskip}{4pt}
\setlength{\lineskiplimit}{3pt}
\begin{document}"""


def render_latex(program: ir.Program, origin: Origin) -> str:
    """A document with everything that a program declares."""
    lines = [f"% Written by `optforge doc --latex` from {origin.path}, whose text has the hash {origin.digest}.", HEAD]
    for page in printed_program(program):
        lines += ["", *declaration_lines(page)]
    return "\n".join([*lines, "", r"\end{document}"]) + "\n"


def declaration_lines(page: PrintedDeclaration) -> Iterator[str]:
    yield rf"\section*{{{escape(page.name)}}}"
    yield from paragraphs(page.doc)
    if page.hypers:
        yield from hyper_table(page.hypers)
    for condition in page.conditions:
        yield f"It must hold that ${condition.text}$.\n"
    for algorithm in page.algorithms:
        yield from algorithm_lines(algorithm)
    if page.notes:
        yield r"{\small\raggedright"
        yield from (f"{prose(note)}\\par" for note in page.notes)
        yield "}"


def paragraphs(text: str) -> list[str]:
    return [f"{escape(' '.join(each.split()))}\n" for each in text.split("\n\n") if each.strip()]


def hyper_table(rows: Sequence[HyperRow]) -> Iterator[str]:
    yield r"\begin{center}\small"
    yield r"\begin{tabular}{@{}lll>{\raggedright}p{0.21\linewidth}>{\raggedright\arraybackslash}p{0.25\linewidth}@{}}"
    yield r"\hline"
    yield r" & name & default & condition & \\"
    yield r"\hline"
    for row in rows:
        default = f"${row.default.text}$" if row.default else "required"
        conditions = ", ".join(f"${breakable(condition.text)}$" for condition in row.conditions)
        cells = [f"${row.symbol.text}$" if row.symbol else "", code(row.name), default, conditions, escape(row.doc)]
        yield rf"{' & '.join(cells)} \\"
    yield r"\hline"
    yield r"\end{tabular}"
    yield r"\end{center}"


def algorithm_lines(page: PrintedAlgorithm) -> Iterator[str]:
    is_long = sum(len(block.lines) for block in page.blocks) > FLOAT
    if is_long:
        yield r"\par\medskip\hrule height 0.8pt \smallskip\refstepcounter{algorithm}"
        yield rf"\textbf{{Algorithm \thealgorithm}} {prose(page.caption)}\par\smallskip\hrule"
    else:
        yield r"\begin{algorithm}[H]"
        yield rf"\caption{{{prose(page.caption)}}}"
    yield r"\begin{algorithmic}[1]"
    if page.first:
        values = ", ".join(f"${line.left.text} = {line.right.text}$" for line in page.first)
        yield rf"\Require {values}"
    for block in page.blocks:
        yield from block_lines(block)
    yield r"\end{algorithmic}"
    yield r"\hrule\medskip" if is_long else r"\end{algorithm}"
    for note in page.notes:
        yield rf"{{\small\raggedright {prose(note)}\par}}"


def block_lines(block: PrintedBlock) -> Iterator[str]:
    heading = prose(block.heading)
    match block.kind:
        case BlockKind.LOOP:
            yield rf"\For{{{heading}}}"
        case BlockKind.EVENT:
            yield rf"\Statex \textbf{{on}} {heading} \textbf{{do}}"
        case BlockKind.FUNCTION:
            yield rf"\Statex \textbf{{function}} {heading}"
    for line in block.lines:
        first, *others = line_rows(line)
        if not others:
            yield rf"\State $\displaystyle {line.left.text} {line.sign} {first}$"
        else:
            rows = [rf"{line.left.text} &{line.sign} {first}", *(rf"&\quad {row}" for row in others)]
            yield r"\State $\begin{aligned}[t]"
            yield " \\\\\n".join(f"  {row}" for row in rows)
            yield r"\end{aligned}$"
    if block.kind is BlockKind.LOOP:
        yield r"\EndFor"


def prose(parts: Prose) -> str:
    texts = []
    for part in parts:
        match part:
            case Formula(text=text):
                texts.append(f"${text}$")
            case Code(text=text):
                texts.append(code(text))
            case str():
                texts.append(escape(part))
    return "".join(texts)


def code(text: str) -> str:
    return rf"\texttt{{{escape_signs(text)}}}"


SIGNS = {
    **{sign: f"\\{sign}" for sign in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
}


def escape(text: str) -> str:
    """Plain text; what stands between backticks is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape_signs(text)
    return "".join(code(part) if index % 2 else escape_signs(part) for index, part in enumerate(parts))


def escape_signs(text: str) -> str:
    return "".join(SIGNS.get(sign) or plain(sign) for sign in text)


def plain(sign: str) -> str:
    """A character that pdflatex has; others without their accents, or by their number."""
    if sign.isascii() and (sign.isprintable() or sign == "\n"):
        return sign
    if "\u00a1" <= sign <= "\u017f":
        return sign
    simple = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return simple or f"U+{ord(sign):04X}"


def breakable(formula: str) -> str:
    """The formula with long names that may go on in another line behind an underscore."""
    return LONG_NAME.sub(lambda match: match[0].replace(r"\_", r"\_}\allowbreak\mathrm{"), formula)
