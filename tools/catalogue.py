"""``specs/README.md``: a table of the shipped specs, written or (``--check``) compared.

In: the folder of a checkout, with ``specs/`` and ``tests/``. Out: Markdown, the same bytes for the same files. State is
counted from the states' types. What a spec is verified against is read off the source of the tests, which are not
run here: a line of the table says that such a test exists, and ``make test`` whether it passes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optforge.compiler.commands.generated_files import sync_files
from optforge.compiler.driver import Snapshot, check_file
from optforge.compiler.frontend.rules.compositions import lower_words
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import FULL, GRAMS, PER_COL, PER_ROW, SCALAR, Dim, Shape
from optforge.dsl.diagnostics import SpecError, render_text
from tools.evidence import find_evidence

COMMAND = "python -m tools.catalogue"

UNKNOWN = "–"

PER_WEIGHT: dict[Shape, str] = {
    FULL: "1",
    (Dim.ROWS, Dim.RANK): "r/cols",
    (Dim.COLS, Dim.RANK): "r/rows",
    (Dim.RANK, Dim.ROWS): "r/cols",
    (Dim.RANK, Dim.COLS): "r/rows",
    (Dim.RANK, Dim.RANK): "r^2/(rows cols)",
    GRAMS[0]: "rows/cols",
    GRAMS[1]: "cols/rows",
    PER_ROW: "1/cols",
    PER_COL: "1/rows",
    SCALAR: "1/(rows cols)",
}
"""How many numbers a state of some shape holds per weight of a matrix, largest first."""

SECTIONS: tuple[tuple[str, type[ir.Declaration]], ...] = (
    ("Optimizers", ir.Optimizer),
    ("Schedules", ir.Schedule),
    ("Penalties", ir.Penalty),
)

INTRODUCTION = f"""\
# Shipped specs

Written by `{COMMAND}`; do not edit.

- **Lines** are those of the file that are neither blank nor comment nor docstring; an `extends` says only what differs.
- **State** is how many numbers a hidden matrix keeps per weight, counted from the types of the spec's states; a rule
  for other parameters follows with its name where it keeps a different number. Counters of steps are left out.
- **Paper** is what the spec's docstring names: an arXiv number, or else authors and a year.
- **Verified against** says which comparisons stand in the tests of this checkout, read off their source; a dash: none
  but with the spec itself. *Reference*: a hand-written optimizer in `tests/references`, which
  `tests/specs/test_agreement.py` holds the generated module and the interpreter of the spec's equations to, step by
  step. *torch.optim*: a row of `tests/specs/test_torch_family.py`, or `tests/specs/test_torch_agreement.py`. Any other
  name is a published package with the same steps, a row of `tests/specs/test_peers.py`; packages whose steps differ are
  in `tests/references/DIFFERENCES.md`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table."""

    name: str
    file: str
    lines: int
    state: str
    paper: str
    verified: tuple[str, ...]


# -- what a spec says --------------------------------------------------------------------------------------------------


def count_lines(text: str) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    without_docs = re.sub(r'"""[\s\S]*?"""', "", text)
    return sum(bool(line.split("#")[0].strip()) for line in without_docs.splitlines())


def state_of(declaration: ir.Declaration) -> str:
    """Numbers kept per weight: by the rule for hidden matrices, and by other rules where they differ."""
    if not isinstance(declaration, ir.Optimizer):
        return "none"
    states = [(rule, state_per_weight(rule.states)) for rule in declaration.rules]
    main = next((state for rule, state in states if "matrix" in rule.roles or "tensor" in rule.roles), None)
    others = [f"{rule.name}: {state}" for rule, state in states if state != main]
    return "; ".join(([main] if main else []) + others) or "none"


def state_per_weight(kept_states: Iterable[ir.State]) -> str:
    """``2 + 1/cols``: the sum over states, whole numbers added up, largest first."""
    counts = Counter(kept.type.shape for kept in kept_states)
    return " + ".join(_multiple(counts[shape], unit) for shape, unit in PER_WEIGHT.items() if counts[shape]) or "0"


def _multiple(count: int, unit: str) -> str:
    """``3``, ``1/cols``, ``2/cols``, ``2 rows/cols``."""
    if unit.startswith("1"):
        return f"{count}{unit[1:]}"
    return unit if count == 1 else f"{count} {unit}"


def paper_of(doc: str) -> str:
    """The arXiv numbers of a docstring as links; without any, what it cites as ``(authors, year)``."""
    numbers = dict.fromkeys(re.findall(r"\b\d{4}\.\d{4,5}\b", doc))
    if numbers:
        return ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers)
    cited = re.search(r"\(([^()]*\b(?:19|20)\d\d)\)", " ".join(doc.split()))
    return cited[1] if cited else UNKNOWN


# -- the page ----------------------------------------------------------------------------------------------------------


def catalogue_text(specs: Path, tests: Path) -> str:
    """The whole page.

    Raises:
        SpecError: a spec is wrong.
    """
    snapshots = [check_file(path) for path in sorted(specs.glob("*.opt"))]
    evidence = find_evidence(tests)
    parts = [INTRODUCTION]
    for title, kind in SECTIONS:
        entries = [entry for snapshot in snapshots for entry in entries_of(snapshot, kind, evidence)]
        if entries:
            parts += [f"## {title} ({len(entries)})", table(entries)]
        if kind is ir.Optimizer:
            parts += wrapper_parts(snapshots, evidence)
    missing = specs / "NOT_EXPRESSED.md"
    if missing.is_file():
        parts += ["## Not expressed", body_of(missing.read_text(encoding="utf-8"))]
    return "\n\n".join(parts) + "\n"


def wrapper_parts(snapshots: Iterable[Snapshot], evidence: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The section of wrappers, each with its hyperparameters as those of an optimizer that it is around."""
    rows = []
    for snapshot in snapshots:
        assert snapshot.typed is not None
        for wrapper in snapshot.typed.wrappers:
            text = f"{snapshot.typed.doc}\n{wrapper.doc}"
            prefix = lower_words(wrapper.name)
            hypers = [f"`{each.name}`" for each in wrapper.hypers if each.name.startswith(f"{prefix}_")]
            verified = ", ".join(evidence.get(wrapper.name.lower(), ())) or UNKNOWN
            name = f"[{wrapper.name}]({snapshot.path.name})"
            rows.append(f"| {name} | {', '.join(hypers) or 'none'} | {paper_of(text)} | {verified} |")
    heads = ["| wrapper | hyperparameters | paper | verified against |", "|---|---|---|---|"]
    said = f"## Wrappers ({len(rows)})\n\nAround any optimizer: `Muon |> Grokfast(alpha=0.95)`."
    return [said, "\n".join([*heads, *sorted(rows, key=str.lower)])] if rows else []


def entries_of(
    snapshot: Snapshot, kind: type[ir.Declaration], evidence: Mapping[str, tuple[str, ...]]
) -> Iterator[Entry]:
    """A line for each declaration of that kind in a spec."""
    program = snapshot.require()
    for declaration in (each for each in program.declarations if isinstance(each, kind)):
        yield Entry(
            declaration.name,
            snapshot.path.name,
            count_lines(snapshot.source.text),
            state_of(declaration),
            paper_of(f"{program.doc}\n{declaration.doc}"),
            evidence.get(declaration.name) or evidence.get(declaration.name.lower(), ()),
        )


def table(entries: Iterable[Entry]) -> str:
    """A Markdown table, by name."""
    rows = [
        f"| [{e.name}]({e.file}) | {e.lines} | {e.state} | {e.paper} | {', '.join(e.verified) or UNKNOWN} |"
        for e in sorted(entries, key=lambda entry: entry.name.lower())
    ]
    return "\n".join(["| spec | lines | state per weight | paper | verified against |", "|---|--:|---|---|---|", *rows])


def body_of(page: str) -> str:
    """A page without its heading."""
    return re.sub(r"\A# .*\n", "", page).strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` compare it; 1 when it is out of date or a spec is wrong."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the table of the shipped specs.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the table is out of date")
    check = parser.parse_args(arguments).check
    page = Path("specs/README.md")
    try:
        different = sync_files({page: catalogue_text(Path("specs"), Path("tests"))}, check, COMMAND)
    except SpecError as error:
        print(render_text(error.diagnostics), file=sys.stderr)
        return 1
    if check and different:
        print(f"{page} is not what the specs and tests say\nrun: {COMMAND}", file=sys.stderr)
    return int(check and bool(different))


if __name__ == "__main__":
    sys.exit(main())
