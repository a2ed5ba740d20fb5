"""What the rules of a program do on sharded parameters, in words and as data: what `optforge explain SPEC` prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from optforge.compiler.analysis.sharding.placement import SPLIT, Cut, place_as_run
from optforge.compiler.analysis.sharding.report import PlacementReport, report_of
from optforge.compiler.ir import nodes as ir
from optforge.compiler.ir.types import Dim, Universe

CUTS = {
    "between rows": Cut(Dim.ROWS),
    "between columns": Cut(Dim.COLS),
    "several matrices (split), between rows": SPLIT,
}
OF_TENSORS = {"anywhere": Cut(Dim.ROWS)}  # a tensor is one column
KINDS = {
    "local": "every rank steps its shards alone",
    "sums": "shards are stepped where they are, with sums over all of them",
    "whole": "one rank, the owner, sees the whole matrix",
}
NOTE = "Bytes are what leaves a rank for one matrix, on average: W ranks, e bytes a number."


@dataclass(frozen=True, slots=True)
class ShardedRule:
    """What a rule does where its parameters are cut in some way; `totals` are sums over all parameters beside that."""

    optimizer: str
    rule: str
    cut: str
    totals: int
    report: PlacementReport
    orientation: str = ""  # rows and columns are those that the rule sees

    def as_data(self) -> dict[str, Any]:
        """The same for JSON."""
        head = {"optimizer": self.optimizer, "rule": self.rule, "cut": self.cut, "totals": self.totals}
        head |= {"seen as": self.orientation} if self.orientation else {}
        return {**head, **asdict(self.report)}


def sharded_rules(program: ir.Program) -> Iterator[ShardedRule]:
    """Each rule of each optimizer of a program after all passes, for each way to cut its parameters."""
    for optimizer in program.declarations:
        if isinstance(optimizer, ir.Optimizer):
            for rule in optimizer.rules:
                totals = sum(len(stage.collectives) for stage in rule.step)
                for text, cut in (CUTS if rule.universe is Universe.MATRIX else OF_TENSORS).items():
                    report = report_of(place_as_run(rule.update, cut))
                    yield ShardedRule(optimizer.name, rule.name, text, totals, report, rule.orientation)


def explain_text(found: list[ShardedRule]) -> str:
    """The same for people: one paragraph for each way to cut, and none twice for a rule that sends nothing."""
    lines: list[str] = []
    known: set[tuple[str, str]] = set()
    for each in found:
        if (key := (each.optimizer, each.rule)) not in known:
            known.add(key)
            seen = f", of matrices seen as {each.orientation}" if each.orientation else ""
            lines += ["", f"{each.optimizer}, rule {each.rule}{seen}"]
            lines += [f"  {each.totals} sums over all parameters"] if each.totals else []
        lines.append(f"  cut {each.cut}: {KINDS[each.report.kind]}")
        lines += [f"    {label.ljust(14)}{text}" for label, text in details(each.report)]
    return "\n".join([*lines[1:], "", NOTE])


def details(report: PlacementReport) -> Iterator[tuple[str, str]]:
    if report.kind == "local":
        return
    yield "rounds", str(report.rounds)
    for label, names in (
        ("to the owner", report.sent),
        ("and back", report.returned),
        ("sums", report.reduced),
        ("owner keeps", report.owned),
    ):
        if names:
            yield label, ", ".join(names)
    yield "bytes", report.bytes
