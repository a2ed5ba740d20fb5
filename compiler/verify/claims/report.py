"""Verdicts as lines for people and as JSON for programs; what is refuted comes with the values that show it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from optforge.compiler.verify.shared.verdicts import Proved, Refuted, Tested, Unknown, Verdict
from optforge.dsl.source import Span

WIDTH = 84  # of the place and the claim; longer ones push their verdict to the right


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict on what a spec says, or on what every spec must keep; ``what`` is shown in front of it."""

    span: Span
    subject: str
    what: str
    verdict: Verdict

    @property
    def is_refuted(self) -> bool:
        return isinstance(self.verdict, Refuted)


def verdict_text(verdict: Verdict) -> str:
    match verdict:
        case Proved(reason):
            return f"proved ({reason})"
        case Tested(cases):
            return f"tested ({cases} case{'s' if cases != 1 else ''})"
        case Refuted():
            return "refuted"
        case Unknown(reason):
            return f"unknown ({reason})"
        case _:
            assert_never(verdict)


def finding_lines(finding: Finding) -> list[str]:
    """``path:line:column  claim  verdict``, and the values of a counterexample below it."""
    line, column = finding.span.source.locate(finding.span.start)
    place = f"{finding.span.source.path}:{line}:{column}"
    lines = [f"{f'{place}  {finding.what}':<{WIDTH}}  {verdict_text(finding.verdict)}"]
    if isinstance(finding.verdict, Refuted):
        width = max(len(name) for name, _ in finding.verdict.values)
        lines.append(f"    {'in':<{width}}  {finding.subject}")
        lines += [f"    {name:<{width}}  {value}" for name, value in finding.verdict.values]
    return lines


def findings_json(findings: Sequence[Finding]) -> str:
    return json.dumps([finding_data(finding) for finding in findings], indent=2)


def finding_data(finding: Finding) -> dict[str, object]:
    line, column = finding.span.source.locate(finding.span.start)
    data: dict[str, object] = {
        "path": finding.span.source.path,
        "line": line,
        "column": column,
        "subject": finding.subject,
        "claim": finding.what,
        "verdict": type(finding.verdict).__name__.lower(),
    }
    match finding.verdict:
        case Proved(reason) | Unknown(reason):
            data["reason"] = reason
        case Tested(cases):
            data["cases"] = cases
        case Refuted(values):
            data["values"] = dict(values)
        case _:
            assert_never(finding.verdict)
    return data
