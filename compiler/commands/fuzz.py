"""`optforge fuzz`: an optimizer that somebody wrote, held against a spec until a step differs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from optforge.compiler.commands.console import (
    FINE,
    SPEC_IS_WRONG,
    CommandProblem,
    Commands,
    add_command,
    amount,
    count,
    say,
)

if TYPE_CHECKING:
    from optforge.compiler.verify.differential.setup import Options, Setup

DTYPES = ("float64", "float32", "bfloat16", "float16")


def add_parser(commands: Commands) -> None:
    example = "optforge fuzz AdamW --against torch.optim:AdamW"
    parser = add_command(commands, "fuzz", run_fuzz, "compare an optimizer with a spec on random runs", example)
    parser.add_argument("spec", metavar="SPEC", help="a spec file, or the name of a shipped optimizer")
    parser.add_argument("--against", required=True, metavar="MODULE:CLASS", help="the optimizer to compare")
    parser.add_argument("--optimizer", metavar="NAME", help="which one, where the spec defines several")
    add_names(parser)
    add_budget(parser)
    add_space(parser)


def add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--map", nargs="+", default=[], metavar="OURS=THEIRS",
        help="what the other calls a hyper: `beta=momentum`, `beta1=betas[0]`; torch's names are known",
    )  # fmt: skip
    parser.add_argument(
        "--fix", nargs="+", default=[], metavar="OURS=VALUE", help="hypers of the spec that keep one value"
    )


def add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--examples", type=count, default=200, help="how many scenarios (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="where to start (default: 0)")
    parser.add_argument("--seconds", type=amount, default=float("inf"), help="stop after this time")


def add_space(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--groups", type=count, default=2, help="most parameter groups (default: 2)")
    parser.add_argument("--rest", action="store_true", help="vectors too, where matrices have a rule of their own")
    parser.add_argument("--role-key", metavar="KEY", help="tell the other each group's role under this key")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES[:2]), help="of the parameters")
    parser.add_argument("--tolerance", type=amount, help="relative to the step, instead of what rounding explains")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="WHAT",
        help="what the other need not do: missing, strided, inf, nan, closure, saved, order, groups, lr_changes, "
        "changes (of other hypers), kept_gradients",
    )  # fmt: skip


def run_fuzz(options: argparse.Namespace) -> int:
    from optforge.compiler.verify.differential.corpus import corpus_of
    from optforge.compiler.verify.differential.names import NameProblem
    from optforge.compiler.verify.differential.script import script
    from optforge.compiler.verify.differential.search import search
    from optforge.compiler.verify.differential.setup import set_up
    from optforge.compiler.verify.shared.budget import SearchBudget

    factory = load(options.against)
    try:
        setup = set_up(options.spec, factory, pair_options(options), options.against)
    except (NameProblem, LookupError) as problem:
        raise CommandProblem(str(problem)) from None
    show_names(setup)
    corpus = corpus_of(setup.source.text, options.against)
    budget = SearchBudget(options.examples, options.seconds, options.seed)
    result = search(setup.pair, setup.space, budget, corpus.scenarios(), show_progress)
    if result.finding is None and not result.tried:
        raise CommandProblem("no scenario was tried" + refused_text(result.refused))
    if result.finding is None:
        say(f"{result.tried} scenarios, no step differs" + refused_text(result.refused))
        return FINE
    path = corpus.keep(result.finding.scenario)
    print(script(setup, result.finding))
    say(f"differs after {result.tried} scenarios: {result.finding.difference}")
    say(f"kept as {path}, tried first the next time; the script above reproduces it")
    return SPEC_IS_WRONG


def show_progress(tried: int) -> None:
    """The count of scenarios, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r{tried} scenarios\r", end="", file=sys.stderr, flush=True)


def refused_text(refused: int) -> str:
    return f" ({refused} more have hypers for which the spec divides by zero)" if refused else ""


def pair_options(options: argparse.Namespace) -> Options:
    from optforge.compiler.verify.differential.setup import Options

    return Options(
        names=pairs(options.map),
        fixed={name: read_value(text) for name, text in pairs(options.fix).items()},
        optimizer=options.optimizer,
        rest=options.rest,
        role_key=options.role_key,
        dtypes=tuple(options.dtypes),
        groups=options.groups,
        tolerance=options.tolerance,
        without=tuple(options.without),
    )


def pairs(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise CommandProblem(f"`{text}` is not of the form NAME=VALUE")
        found[name] = value
    return found


def read_value(text: str) -> float | bool | str:
    """A number, true or false, or a string."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text


def load(target: str) -> Callable[..., Any]:
    """What MODULE:CLASS names; modules of the current folder count."""
    module, sign, name = target.partition(":")
    if not (module and sign and name):
        raise CommandProblem(f"`{target}` is not of the form MODULE:CLASS")
    sys.path.insert(0, "")
    try:
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as problem:
        raise CommandProblem(f"cannot load {target}: {problem}") from None
    except Exception as problem:  # whatever a module of somebody else raises
        raise CommandProblem(f"cannot load {target}: {type(problem).__name__}: {problem}") from None
    if not callable(found):
        raise CommandProblem(f"{target} is no class, but a value of type {type(found).__qualname__}")
    return found


def show_names(setup: Setup) -> None:
    targets = setup.pair.names.targets
    renamed = [f"{ours} is {theirs}" for ours, theirs in targets.items() if ours != str(theirs)]
    kept = [name for name in setup.space.values.by_name if name not in targets]
    for text in (*renamed, *([f"the spec's default: {', '.join(kept)}"] if kept else [])):
        say(f"  {text}")
