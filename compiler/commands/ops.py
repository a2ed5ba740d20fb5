"""`optforge ops`: the operators of the language."""

from __future__ import annotations

import argparse

from optforge.compiler.commands.console import FINE, Commands, add_command


def add_parser(commands: Commands) -> None:
    add_command(commands, "ops", run_ops, "list the operators of the language", "optforge ops")


def run_ops(options: argparse.Namespace) -> int:
    from optforge.compiler.ir.operators import ROWS

    shown = [row for row in ROWS if not row.internal]
    forms = [
        (row.group, written_form(row.name, row.symbol, row.signature, len(row.parameters)), row.doc) for row in shown
    ]
    width = max(len(form) for _, form, _ in forms)
    for group in dict.fromkeys(group for group, _, _ in forms):
        print(f"{group}:")
        for _, form, doc in (each for each in forms if each[0] == group):
            print(f"    {form.ljust(width)}  {doc}")
    print(f"state:\n    {'prev(x, init=0)'.ljust(width)}  x one step ago; init at the first step")
    return FINE


def written_form(name: str, symbol: str, signature: str, arguments: int) -> str:
    """How a spec writes the operator."""
    if not symbol:
        return signature
    if arguments == 2:
        return f"x {symbol} y"
    return f"x{symbol}" if name == "transpose" else f"{symbol} x" if symbol.isalpha() else f"{symbol}x"
