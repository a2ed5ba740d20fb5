"""The parse tables: ``grammar.lark`` in, what the lexer and the automaton run on out.

Lark reads the grammar and computes the LALR tables; that costs a fifth of a second, importing Lark alone
a tenth. So the result is kept in ``grammar.json`` beside the grammar, with the grammar's checksum inside
(mistakes are to be noticed, not attacks, and a stronger one would cost more to import than the tables to
read). One function writes and checks that file (``python -m optforge.dsl.tables [--check]``); while the two
do not belong together, as during work on the grammar, the tables are silently computed anew.

This module does not parse anything.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

GRAMMAR = Path(__file__).with_name("grammar.lark")
TABLES = Path(__file__).with_name("grammar.json")

STARTS = ("start", "expression")


@dataclass(frozen=True, slots=True)
class Production:
    """What a reduction does with the ``size`` symbols it takes off the stack.

    Each letter of ``shape`` says what becomes of one of them: ``k`` is kept, ``d`` dropped, ``s`` is a list
    whose items are spliced in; ``n`` stands for an optional part that is absent. ``make`` names the
    function that gets the outcome; ``"list"`` makes a list, ``"pass"`` hands on the only child. A ``unit``
    just gives its only symbol another name, as most reductions of an expression do.
    """

    origin: str
    make: str
    shape: str
    size: int = field(init=False)
    unit: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", len(self.shape) - self.shape.count("n"))
        object.__setattr__(self, "unit", (self.make, self.shape) == ("pass", "k"))


@dataclass(frozen=True, slots=True)
class Tables:
    """``states[i][symbol]`` is the state to go to, or ``-1 - n`` for a reduction by production ``n``."""

    terminals: tuple[tuple[str, str], ...]
    keywords: dict[str, str]
    productions: tuple[Production, ...]
    states: tuple[dict[str, int], ...]
    starts: dict[str, int]
    ends: dict[str, int]


@cache
def load_tables() -> Tables:
    """The committed tables, or fresh ones where the grammar has changed since."""
    grammar = GRAMMAR.read_bytes()
    try:
        data = json.loads(TABLES.read_bytes())
        if data["grammar"] != crc32(grammar):
            data = compute_tables(grammar)
    except (OSError, ValueError, KeyError, TypeError):
        data = compute_tables(grammar)
    return Tables(
        terminals=tuple((name, pattern) for name, pattern in data["terminals"]),
        keywords=data["keywords"],
        productions=tuple(Production(*row) for row in data["productions"]),
        states=tuple(data["states"]),
        starts=data["starts"],
        ends=data["ends"],
    )


def compute_tables(grammar: bytes) -> dict[str, Any]:
    """Lark's tables as plain data, with states and productions in an order that no hash seed changes."""
    import io
    import pickle

    from lark import Lark

    lark = Lark(grammar.decode(), parser="lalr", lexer="basic", start=list(STARTS), maybe_placeholders=True)
    saved = io.BytesIO()
    lark.save(saved)
    content = pickle.loads(saved.getvalue())
    table, memo = content["data"]["parser"]["parser"], content["memo"]
    rules = sorted((entry for entry in memo.values() if entry["__type__"] == "Rule"), key=_rule_key)
    rows, numbers = _number_states(table, {_rule_key(rule): index for index, rule in enumerate(rules)}, memo)
    terminals, keywords = _split_terminals(lark.terminals)
    return {
        "grammar": crc32(grammar),
        "terminals": terminals,
        "keywords": keywords,
        "productions": [_describe_rule(rule) for rule in rules],
        "starts": {start: numbers[table["start_states"][start]] for start in STARTS},
        "ends": {start: numbers[table["end_states"][start]] for start in STARTS},
        "states": rows,
    }


def _rule_key(rule: dict[str, Any]) -> tuple[str, tuple[str, ...], str]:
    return rule["origin"]["name"], tuple(symbol["name"] for symbol in rule["expansion"]), rule["alias"] or ""


def _number_states(table: Any, rules: Any, memo: Any) -> tuple[list[dict[str, int]], dict[int, int]]:
    """The states in the order a walk from the starts meets them, and their new numbers."""
    shift, names = 0, table["tokens"]
    order = [table["start_states"][start] for start in STARTS]
    actions: list[dict[str, tuple[int, Any]]] = []
    for state in order:
        row = sorted((names[symbol], action) for symbol, action in table["states"][state].items())
        actions.append(dict(row))
        order.extend(target for _, (kind, target) in row if kind == shift and target not in order)
    numbers = {state: index for index, state in enumerate(order)}

    def encode(kind: int, target: Any) -> int:
        return numbers[target] if kind == shift else -1 - rules[_rule_key(memo[target["@"]])]

    return [{name: encode(*action) for name, action in row.items()} for row in actions], numbers


def _describe_rule(rule: dict[str, Any]) -> tuple[str, str, str]:
    origin, options = rule["origin"]["name"], rule["options"]
    absent = "".join("n" if missing else "." for missing in options["empty_indices"])
    gaps = [len(run) for run in absent.split(".")] if absent else [0] * (len(rule["expansion"]) + 1)
    letters = [_letter(symbol) for symbol in rule["expansion"]]
    shape = "".join("n" * gap + letter for gap, letter in zip(gaps, [*letters, ""], strict=True))
    if origin.startswith("_"):
        return origin, "list", shape
    if options["expand1"] and not rule["alias"]:
        return origin, "pass", shape
    return origin, rule["alias"] or origin, shape


def _letter(symbol: dict[str, Any]) -> str:
    if symbol["__type__"] == "Terminal":
        return "d" if symbol["filter_out"] else "k"
    return "s" if symbol["name"].startswith("_") else "k"


def _split_terminals(definitions: Any) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Patterns in the order they are tried (Lark's own), and the words that NAME would match."""
    words = {d.pattern.value: d.name for d in definitions if d.pattern.type == "str" and d.pattern.value.isidentifier()}
    others = [d for d in definitions if d.name not in words.values()]
    others.sort(key=lambda d: (-d.priority, -d.pattern.max_width, -len(d.pattern.value), d.name))
    return [(d.name, d.pattern.to_regexp()) for d in others], dict(sorted(words.items()))


def render_tables(data: dict[str, Any]) -> str:
    """JSON with one state or production to a line, so that a change shows as one."""
    parts = []
    for key, value in data.items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            parts.append(f'"{key}": [\n{rows}\n]')
        else:
            parts.append(f'"{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(arguments: list[str]) -> int:
    """Write ``grammar.json``, or with ``--check`` say whether it is what the grammar gives."""
    text = render_tables(compute_tables(GRAMMAR.read_bytes()))
    if "--check" not in arguments:
        TABLES.write_text(text, encoding="utf-8")
    elif not TABLES.exists() or TABLES.read_text(encoding="utf-8") != text:
        print("dsl/grammar.json is out of date; run `python -m optforge.dsl.tables`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
