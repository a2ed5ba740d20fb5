"""`optforge compare`: the steps of optimizers of any origin, side by side on the same gradients."""

from __future__ import annotations

import argparse

from optforge.compiler.commands.console import FINE, CommandProblem, Commands, add_command, count

EXAMPLE = "optforge compare Muon 'torch.optim:Muon?lr=0.02&weight_decay=0'"
TARGETS = "a spec file, a shipped optimizer, or MODULE:CLASS; with options: ?lr=0.02&weight_decay=0"
SAME = "compare the state OURS of specs with what classes keep as THEIRS, such as m=exp_avg"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "compare", run_compare, "compare the steps of optimizers", EXAMPLE)
    parser.add_argument("first", metavar="SPEC", help=f"what the others are compared with: {TARGETS}")
    parser.add_argument("others", nargs="+", metavar="TARGET", help="what is compared with it, written alike")
    parser.add_argument("--same", action="append", type=renaming, default=[], metavar="OURS=THEIRS", help=SAME)
    parser.add_argument("--shape", action="append", type=shape, metavar="ROWSxCOLS", help="instead of three shapes")
    parser.add_argument("--steps", type=count, default=10, metavar="N", help="show steps 1 and N (default: 10)")
    parser.add_argument("--seed", type=count, default=1, metavar="S", help="of weights and gradients (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def shape(text: str) -> tuple[int, int]:
    rows, cols = (count(size) for size in text.split("x"))
    return rows, cols


def renaming(text: str) -> tuple[str, str]:
    """From their name of a state to ours."""
    ours, theirs = text.split("=")
    return theirs, ours


def run_compare(options: argparse.Namespace) -> int:
    from optforge.compiler.verify.comparison.compare import compare
    from optforge.compiler.verify.comparison.report import render_json, render_table
    from optforge.compiler.verify.comparison.targets import TargetProblem, parse_target
    from optforge.compiler.verify.comparison.trials import SHAPES, make_trials

    render = render_json if options.json else render_table
    states = dict(options.same)
    if len(states) < len(options.same):
        raise CommandProblem("--same is given twice for the same state of a class")
    try:
        targets = [parse_target(text, states) for text in (options.first, *options.others)]
        trials = make_trials(options.shape or SHAPES, options.steps, options.seed)
        print(render(compare(targets, trials)))
    except TargetProblem as problem:
        raise CommandProblem(str(problem)) from None
    return FINE
