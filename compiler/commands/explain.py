"""`optforge explain`: the long text of an error code, or what a spec does on sharded parameters."""

from __future__ import annotations

import argparse

from optforge.compiler.commands.console import FINE, CommandProblem, Commands, add_command

SUBJECT = "such as E012, `all` for a list of codes, a spec file, or the name of a shipped optimizer"


def add_parser(commands: Commands) -> None:
    text = "explain an error code at length, or how a spec runs on sharded parameters"
    parser = add_command(commands, "explain", run_explain, text, "optforge explain E012")
    parser.add_argument("subject", metavar="CODE|SPEC", help=SUBJECT)
    parser.add_argument("--json", action="store_true", help="print what is said of a spec as JSON")


def run_explain(options: argparse.Namespace) -> int:
    from optforge.dsl.errors import CATALOGUE, explain

    if options.subject.lower() == "all":
        for entry in CATALOGUE.values():
            print(f"{entry.code}  {entry.title}")
        return FINE
    text = explain(options.subject.upper())
    print(explain_spec(options.subject, options.json) if text is None else text)
    return FINE


def explain_spec(path_or_name: str, as_json: bool) -> str:
    """How the rules of a spec are computed where parameters are cut into shards."""
    import json

    from optforge.compiler.analysis.sharding.explain import explain_text, sharded_rules
    from optforge.compiler.load import program_for, snapshot_for

    try:
        snapshot = snapshot_for(path_or_name)
    except LookupError as problem:
        codes = "`optforge explain all` lists the codes of errors"
        raise CommandProblem(f"{problem}, and no such code; {codes}") from None
    found = list(sharded_rules(program_for(snapshot)))
    if not found:
        raise CommandProblem(f"{snapshot.path} defines no optimizer")
    return json.dumps([each.as_data() for each in found], indent=2) if as_json else explain_text(found)
