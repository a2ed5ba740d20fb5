"""How many small mistakes the fuzzer's default budget finds; run as a program.

Mutants of the programs of the shipped specs run beside their counterparts (references, or torch's own), and mutants of
the references beside the generated classes, over the scenarios that `optforge fuzz` tries by default. A mutant whose
program is the original's after the compiler's passes is equivalent, and so proved; others that are equivalent are
listed with the reason in a file. Results are kept, so that a campaign can be stopped and goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from optforge.compiler.driver import run_passes
from optforge.compiler.frontend.reporting import Report
from optforge.compiler.frontend.resolve import resolve_file
from optforge.compiler.ir import nodes as ir
from optforge.compiler.output import write_whole
from optforge.compiler.targets.torch.render import render_program
from optforge.compiler.targets.torch.target import TORCH
from optforge.compiler.verify.differential.corpus import digest
from optforge.compiler.verify.differential.plan import Scenario
from optforge.compiler.verify.differential.search import draw_scenarios
from optforge.compiler.verify.differential.setup import Setup, choose, read_spec, set_up
from optforge.compiler.verify.differential.side_by_side import Pair, SpecRefuses, run_both
from optforge.compiler.verify.shared.budget import SearchBudget
from optforge.dsl.parser import parse_source
from tools.mutants.counterparts import Counterpart, find_counterparts
from tools.mutants.program_mutations import check, program_mutants
from tools.mutants.source_mutations import load_module as loaded_source
from tools.mutants.source_mutations import source_mutants
from tools.mutants.table import table
from tools.programs.differential import forget_modules, load_module

LISTED = Path("benchmarks") / "equivalent_mutants.json"
RESULTS = Path(".optforge") / "mutants.jsonl"


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant: killed (after how many scenarios), survived, equivalent, or not counted.

    Not counted are ill-typed ones, those that repeat another mutant's program, and those that do not run at all.
    """

    optimizer: str
    side: str
    label: str
    fate: str
    scenarios: int = 0


@dataclass(frozen=True)
class Baseline:
    """An optimizer, its counterpart, and the scenarios in which the two agree."""

    name: str
    setup: Setup
    counterpart: Counterpart
    scenarios: Sequence[Scenario]


def find_baseline(name: str, counterpart: Counterpart, budget: SearchBudget) -> Baseline:
    """The baseline of an optimizer; RuntimeError if it and its counterpart differ as they are."""
    setup = set_up(name, counterpart.factory, counterpart.options)
    agreeing = []
    for scenario in draw_scenarios(setup.space, budget):
        try:
            difference = run_both(setup.pair, scenario)
        except SpecRefuses:
            continue
        if difference is not None:
            raise RuntimeError(f"{name} differs from its counterpart without any mistake: {difference}\n{scenario}")
        agreeing.append(scenario)
    return Baseline(name, setup, counterpart, agreeing)


def number_labels(mutants: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Mutants of equal label get a number, in order."""
    seen: dict[str, int] = {}
    for label, mutant in mutants:
        seen[label] = seen.get(label, 0) + 1
        yield (label if seen[label] == 1 else f"{label} ({seen[label]})"), mutant


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most that many of the items, evenly."""
    return [items[index * len(items) // most] for index in range(most)] if len(items) > most else list(items)


def spec_verdicts(baseline: Baseline, known: Mapping[str, Verdict], most: int) -> Iterator[Verdict]:
    """The fate of every mutant of the spec's program."""
    source, folder = read_spec(baseline.name)
    file, _ = parse_source(source)
    assert file is not None
    raw = resolve_file(file, folder, Report())
    found = [(f"{m.place}: {m.change}", m) for m in program_mutants(raw, baseline.name)]
    seen = {normal_form(baseline.setup.pair.declaration)}
    for label, mutant in spread(list(number_labels(iter(found))), most):
        if label in known:
            yield known[label]
            continue
        fate, count = spec_fate(baseline, mutant.program, seen)
        yield Verdict(baseline.name, "spec", label, fate, count)


def normal_form(declaration: ir.Optimizer) -> str:
    """What two programs have in common that compute the same in the same way."""
    return digest(repr([(rule.step, rule.initial, rule.events) for rule in declaration.rules]))


def spec_fate(baseline: Baseline, program: Any, seen: set[str]) -> tuple[str, int]:
    typed = check(program)
    if typed is None:
        return "ill-typed", 0
    passed = run_passes(typed, TORCH.rewrites)
    declaration = choose(passed, baseline.setup.source.path, baseline.name, "")
    form = normal_form(declaration)
    if form in seen:
        return ("equivalent" if form == normal_form(baseline.setup.pair.declaration) else "repeated"), 0
    seen.add(form)
    ours = getattr(load_module(render_program(passed, "a mutant")), baseline.name)
    return judge(replace(baseline.setup.pair, ours=ours, declaration=declaration), baseline.scenarios)


def judge(pair: Pair, scenarios: Sequence[Scenario]) -> tuple[str, int]:
    """Killed by the first scenario in which something differs, or in which the spec has no value any more.

    A program that does not run at all, for whatever reason, shows in the first scenario too: that is no merit of the
    scenarios, so it is told apart.
    """
    for number, scenario in enumerate(scenarios, start=1):
        try:
            difference = run_both(pair, scenario)
        except SpecRefuses:
            return "killed", number
        except Exception:
            return "broken", number
        if difference is not None:
            return "killed", number
    return "survived", len(scenarios)


def reference_verdicts(baseline: Baseline, known: Mapping[str, Verdict], most: int) -> Iterator[Verdict]:
    """The fate of every mutant of the reference's module."""
    if baseline.counterpart.module is None:
        return
    path = import_module(baseline.counterpart.module).__file__
    assert path is not None
    text = Path(path).read_text(encoding="utf-8")
    for label, changed in spread(list(number_labels(source_mutants(text))), most):
        if label in known:
            yield known[label]
            continue
        factory = getattr(loaded_source(changed, baseline.counterpart.module), baseline.name)
        fate, count = judge(replace(baseline.setup.pair, factory=factory), baseline.scenarios)
        yield Verdict(baseline.name, "reference", label, fate, count)


class Ledger:
    """Verdicts on disk, one line each, under a key of everything that they depend on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, Verdict]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            found = json.loads(line)
            key = found.pop("key")
            self.known.setdefault(key, {})[found["label"]] = Verdict(**found)

    def add(self, key: str, verdict: Verdict) -> None:
        if verdict.label in self.known.setdefault(key, {}):
            return
        self.known[key][verdict.label] = verdict
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **vars(verdict)}) + "\n")


def campaign(
    names: Sequence[str], counterparts: Mapping[str, Counterpart], budget: SearchBudget, ledger: Ledger, most: int
) -> list[Verdict]:
    """The verdicts on all mutants of these optimizers and of their references."""
    verdicts: list[Verdict] = []
    bar = tqdm(unit=" mutants", disable=None)
    for name in names:
        bar.set_description(name)
        try:
            baseline = find_baseline(name, counterparts[name], budget)
        except Exception as problem:
            print(f"{name} is left out: {str(problem)[:500]}", file=sys.stderr)
            continue
        for side, fates in (("spec", spec_verdicts), ("reference", reference_verdicts)):
            key = digest(
                f"{side} {most} {baseline.setup.source.text} {baseline.counterpart.module} {baseline.scenarios}"
            )
            for verdict in fates(baseline, ledger.known.get(key, {}), most):
                ledger.add(key, verdict)
                verdicts.append(verdict)
                bar.update()
        forget_modules()
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    program = "python -m tools.mutants"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="optimizers (default: all that have a counterpart)")
    parser.add_argument("--references", type=Path, default=Path("tests") / "references", help="their folder")
    parser.add_argument("--examples", type=int, default=SearchBudget().examples, help="scenarios for each mutant")
    parser.add_argument("--most", type=int, default=sys.maxsize, help="most mutants of one spec or reference")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    counterparts = find_counterparts(options.references)
    names = options.names or sorted(counterparts)
    start = time.monotonic()
    verdicts = campaign(names, counterparts, SearchBudget(options.examples), Ledger(RESULTS), options.most)
    listed = json.loads(LISTED.read_text(encoding="utf-8")) if LISTED.exists() else {}
    text = table(verdicts, listed)
    print(text)
    print(f"{time.monotonic() - start:.0f} seconds", file=sys.stderr)
    if options.write:
        write_whole(options.write, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
