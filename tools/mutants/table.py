"""The result of a mutation campaign as Markdown: a row for each optimizer, then what survived and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

HEAD = """\
# How many small mistakes the fuzzer finds

`make mutants` makes one small mistake at a time in the programs of the shipped specs (a constant times 1.1 or with the
other sign, another operator, axis or hyper, a term or a root left out, a state read a step late or begun with another
value, decay after the update, the step counted from another number) and in the hand-written references, and runs each
of these mutants through the scenarios that `optforge fuzz` tries by default: those of specs against the reference or
torch's own optimizer, those of references against the generated class.

Mutants that do not compile or run do not count, nor do those with the program of another mutant. The score leaves out
those that are proved equivalent, as their program after the compiler's passes is the original's, and those listed below
with the reason why no scenario can tell them.

| optimizer | side | mutants | proved equivalent | listed | killed | survived | score |
|---|---|---:|---:|---:|---:|---:|---:|
"""


NOT_COUNTED = ("ill-typed", "repeated", "broken")


class Fate(Protocol):
    """What the table needs to know of a mutant."""

    @property
    def optimizer(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def fate(self) -> str: ...
    @property
    def scenarios(self) -> int: ...


Reasons = Mapping[str, Mapping[str, str]]  # by "optimizer side", then by label


def table(verdicts: Sequence[Fate], listed: Reasons) -> str:
    counted = [verdict for verdict in verdicts if verdict.fate not in NOT_COUNTED]
    groups: dict[tuple[str, str], list[Fate]] = {}
    for verdict in counted:
        groups.setdefault((verdict.optimizer, verdict.side), []).append(verdict)
    rows = [row(f"{name} | {side}", group, listed) for (name, side), group in groups.items()]
    return HEAD + "\n".join([*rows, row("**all** | ", counted, listed), "", *early(counted), *remarks(counted, listed)])


def is_listed(verdict: Fate, listed: Reasons) -> bool:
    return verdict.label in listed.get(f"{verdict.optimizer} {verdict.side}", {})


def row(title: str, group: Sequence[Fate], listed: Reasons) -> str:
    excused = sum(verdict.fate == "survived" and is_listed(verdict, listed) for verdict in group)
    fates = Counter(verdict.fate for verdict in group)
    killed, survived = fates["killed"], fates["survived"] - excused
    score = f"{100 * killed / (killed + survived):.1f} %" if killed + survived else ""
    return f"| {title} | {len(group)} | {fates['equivalent']} | {excused} | {killed} | {survived} | {score} |"


def early(counted: Sequence[Fate]) -> list[str]:
    """How many scenarios it took."""
    needed = sorted(verdict.scenarios for verdict in counted if verdict.fate == "killed")
    if not needed:
        return []
    half, most = needed[len(needed) // 2], needed[len(needed) * 99 // 100]
    return [f"Half of those killed fell in the first {half} scenarios, 99 % in the first {most}.", ""]


def remarks(counted: Sequence[Fate], listed: Reasons) -> list[str]:
    """Every survivor, with the reason where there is one."""
    survivors = [verdict for verdict in counted if verdict.fate == "survived"]
    lines = []
    for title, wanted in (("Listed with a reason", True), ("Survived", False)):
        chosen = [verdict for verdict in survivors if is_listed(verdict, listed) is wanted]
        if not chosen:
            continue
        lines += [f"## {title}", ""]
        for verdict in chosen:
            place = f"{verdict.optimizer} {verdict.side}"
            reason = listed.get(place, {}).get(verdict.label)
            lines.append(f"- {place}, `{verdict.label}`" + (f": {reason}" if reason else ""))
        lines.append("")
    return lines
