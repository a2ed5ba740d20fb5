"""`optforge new`: a commented spec to start from."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from optforge.compiler.commands.console import FINE, CommandProblem, Commands, add_command, say


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "new", run_new, "write a commented spec to start from", "optforge new Mine")
    parser.add_argument("name", metavar="NAME", help="the name of the optimizer, such as Mine")


NEW_SPEC = '''"""{name}: say here in one line what is new about it, and where it comes from (arXiv id)."""

optimizer {name}:
    # Each hyper becomes a constructor argument and a key of every parameter group.
    hyper lr           = 1e-2 where lr >= 0            "learning rate"
    hyper beta         = 0.95 where 0 <= beta < 1      "decay of the momentum"
    hyper weight_decay = 0.1  where weight_decay >= 0  "decay of the weights per unit of lr"

    # One step of a hidden weight matrix: equations, in any order. `grad` and `weight` are of this
    # step, `prev(x)` is x one step ago; `optforge ops` lists the operators.
    for matrix:
        m = momentum(grad, beta)
        d = orthogonalize(m)
        weight <- weight - lr * (0.2 * sqrt(max(rows, cols)) * d + weight_decay * weight)

        # A claim is checked, never trusted.
        claim scale_free(grad)

    # Everything else (embeddings, head, norms, biases) follows an optimizer that exists.
    for rest: use AdamW(lr=lr, beta2=0.95, weight_decay=0)
'''


def run_new(options: argparse.Namespace) -> int:
    from optforge.compiler.driver import check_source
    from optforge.compiler.output import write_whole
    from optforge.dsl.source import Source

    if not options.name.isidentifier() or not options.name.isascii():
        raise CommandProblem(f"`{options.name}` is no name: letters, digits and _ only, beginning with a letter")
    text = NEW_SPEC.format(name=options.name)
    problems = check_source(Source(f"{options.name}.opt", text)).diagnostics
    if problems:
        raise CommandProblem(problems[0].message)
    path = Path(f"{options.name.lower()}.opt")
    if os.path.lexists(path):
        raise CommandProblem(f"{path} exists already")
    write_whole(path, text)
    say(f"wrote {path}; next: optforge check {path}")
    return FINE
