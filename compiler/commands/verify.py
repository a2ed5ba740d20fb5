"""`optforge verify`: the claims of specs, proved, tested or refuted; and what every generated class must keep."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from optforge.compiler.commands.console import (
    FINE,
    SPEC_IS_WRONG,
    CommandProblem,
    Commands,
    add_command,
    check_snapshots,
    require_declarations,
)

if TYPE_CHECKING:
    from optforge.compiler.driver import Snapshot
    from optforge.compiler.verify.claims.report import Finding
    from optforge.compiler.verify.shared.budget import Budget


def add_parser(commands: Commands) -> None:
    example = "optforge verify specs/namo.opt"
    parser = add_command(commands, "verify", run_verify, "check the claims of specs", example)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="spec files, or folders of them")
    parser.add_argument(
        "--examples", type=int, default=100, metavar="N", help="random cases for a claim (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="what the cases are drawn from (default: 0)")
    parser.add_argument(
        "--claims-only", action="store_true", help="leave out what every spec must keep, which needs torch"
    )
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")


def run_verify(options: argparse.Namespace) -> int:
    from optforge.compiler.verify.claims.report import finding_lines, findings_json
    from optforge.compiler.verify.shared.budget import Budget

    if options.examples < 1 or options.seed < 0:
        raise CommandProblem("`--examples` must be 1 or more, and `--seed` 0 or more")
    snapshots = check_snapshots(options.files)
    if not all(snapshot.program for snapshot in snapshots):
        return SPEC_IS_WRONG
    require_declarations(snapshots)
    found = []
    for snapshot in snapshots:
        for finding in findings_of(snapshot, Budget(options.examples, options.seed), options.claims_only):
            found.append(finding)
            if not options.json:
                print("\n".join(finding_lines(finding)), flush=True)
    if options.json:
        print(findings_json(found))
    return SPEC_IS_WRONG if any(finding.is_refuted for finding in found) else FINE


def findings_of(snapshot: Snapshot, budget: Budget, claims_only: bool) -> Iterator[Finding]:
    """What is found out about the claims of a file, and then about its classes."""
    from optforge.compiler.verify.claims.decide import decide
    from optforge.compiler.verify.claims.report import Finding
    from optforge.compiler.verify.claims.watch import questions_of, subjects_of
    from optforge.dsl.printer import print_expression

    for subject in subjects_of(snapshot):
        for question in questions_of(subject, budget):
            text = f"claim {print_expression(question.claim.written)}"
            yield Finding(question.claim.span, subject.name, text, decide(question))
    if not claims_only:
        from optforge.compiler.verify.properties.metamorphic import class_findings

        yield from class_findings(snapshot, budget)
