"""What the command line may say, and the typed plan that it amounts to.

In: strings. Out: a ``Plan``. A wrong argument ends the program with one sentence and exit code 2. Reads no text and
trains nothing.
"""

from __future__ import annotations

import argparse
import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from examples.gpt2.config import ModelConfig
from examples.gpt2.loop import LoopSettings
from examples.gpt2.optimizers import OptimizerError, Recipe, find_recipe, override

BYTES = 256
"""The vocabulary of text that is read byte by byte."""

EXAMPLES = """\
examples:
  python -m examples.gpt2
      the comparison with its tuned settings, about three minutes on two cores
  python -m examples.gpt2 --optimizers NAMO,specs/nora.opt,torch.optim.SGD --lr NAMO=0.1 --steps 100
      a generated optimizer, a spec compiled on the fly, and one of torch's
  python -m examples.gpt2 --text shakespeare.txt --layers 6 --set Muon.rest_lr=3e-3 --set Muon.schedule=linear
      other text, a deeper model, other settings for Muon
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the command line asks for."""

    recipes: tuple[Recipe, ...]
    model: ModelConfig
    loop: LoopSettings
    text: Path | None
    out: Path


class OneSentenceParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def make_parser() -> argparse.ArgumentParser:
    """The argument parser; its defaults are those of the dataclasses."""
    parser = OneSentenceParser(
        prog="python -m examples.gpt2",
        description="Train a small GPT-2 on bytes with several optimizers side by side: same start, same batches.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_comparison(parser.add_argument_group("what is compared"))
    _add_training(parser.add_argument_group("training"))
    _add_model(parser.add_argument_group("model"))
    files = parser.add_argument_group("files")
    files.add_argument(
        "--text", type=Path, help="a file or a folder (default: the source of Python's standard library)"
    )
    files.add_argument("--out", type=Path, default=Path("runs/gpt2"), help="for logs and plot (default: %(default)s)")
    return parser


def _add_comparison(group: argparse._ArgumentGroup) -> None:
    several: dict[str, Any] = {"action": "append", "default": []}
    group.add_argument(
        "--optimizers",
        type=parse_names,
        default=["NAMO", "NAMOD", "Muon", "AdamW"],
        metavar="A,B,...",
        help="generated classes, .opt files, torch.optim.X (default: NAMO,NAMOD,Muon,AdamW)",
    )
    group.add_argument("--lr", type=parse_rate, metavar="NAME=VALUE", help="peak learning rate of one", **several)
    group.add_argument(
        "--set",
        type=parse_setting,
        metavar="NAME.SETTING=VALUE",
        help="a keyword argument of one, its rest_lr (all but the hidden matrices), or its schedule: "
        "cosine, linear, constant, or a generated one such as UBA",
        **several,
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    loop = LoopSettings()
    group.add_argument("--steps", type=parse_count, default=loop.steps, help="per optimizer (default: %(default)s)")
    group.add_argument(
        "--batch", type=parse_count, default=loop.batch, help="sequences per step (default: %(default)s)"
    )
    group.add_argument("--seed", type=parse_seed, default=loop.seed, help="decides weights and batches (default: 0)")
    group.add_argument("--clip", type=parse_norm, default=loop.clip, help="gradient norm limit, 0: none (default: 1)")
    group.add_argument(
        "--validate-every",
        type=parse_count,
        default=loop.validate_every,
        metavar="STEPS",
        help="steps between validations (default: %(default)s)",
    )
    group.add_argument("--threads", type=parse_count, help="CPU threads (default: torch's choice)")


def _add_model(group: argparse._ArgumentGroup) -> None:
    model = ModelConfig()
    meanings = {
        "layers": "blocks",
        "width": "size of the residual stream",
        "heads": "attention heads; divides the width",
        "context": "bytes per sequence",
    }
    for name, meaning in meanings.items():
        default = getattr(model, name)
        group.add_argument(f"--{name}", type=parse_count, default=default, help=f"{meaning} (default: %(default)s)")


def make_plan(options: argparse.Namespace) -> Plan:
    """The plan behind parsed arguments; a contradiction in them is an ``OptimizerError`` or ``ConfigError``."""
    loop = LoopSettings(
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
        clip=options.clip or math.inf,
        validate_every=options.validate_every,
    )
    shape = {name: getattr(options, name) for name in ("context", "layers", "width", "heads")}
    model = ModelConfig(vocab_size=BYTES, **shape)
    settings = [*((name, "lr", value) for name, value in options.lr), *options.set]
    return Plan(choose_recipes(options.optimizers, settings), model, loop, options.text, options.out)


def choose_recipes(names: Sequence[str], settings: Sequence[tuple[str, str, Any]]) -> tuple[Recipe, ...]:
    """The recipes called ``names``, with every (name, setting, value) of ``settings`` applied in order."""
    recipes = {name: find_recipe(name) for name in names}
    for name, setting, value in settings:
        if name not in recipes:
            raise OptimizerError(
                f"{name} has a setting ({setting}) but is not among the optimizers: {', '.join(names)}"
            )
        recipes[name] = override(recipes[name], setting, value)
    return tuple(recipes.values())


def parse_names(text: str) -> list[str]:
    """``A,B`` as a list of different names."""
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected different names separated by commas, got {text!r}")
    return names


def parse_rate(text: str) -> tuple[str, float]:
    """``NAME=VALUE`` with a number of at least 0."""
    name, _, value = text.rpartition("=")
    try:
        rate = float(value)
    except ValueError:
        rate = math.nan
    if not name or not 0 <= rate < math.inf:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE such as NAMO=0.02, got {text!r}")
    return name, rate


def parse_setting(text: str) -> tuple[str, str, Any]:
    """``NAME.SETTING=VALUE``; the value is a Python literal, true or false, or else text."""
    target, equals, value = text.partition("=")
    name, _, setting = target.rpartition(".")
    if not (name and setting and equals):
        raise argparse.ArgumentTypeError(f"expected NAME.SETTING=VALUE such as Muon.rest_lr=3e-3, got {text!r}")
    try:
        return name, setting, ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
    except (ValueError, SyntaxError):
        return name, setting, value


def parse_count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole_number(text, least=1)


def parse_seed(text: str) -> int:
    """A whole number of at least 0."""
    return _whole_number(text, least=0)


def parse_norm(text: str) -> float:
    """A number of at least 0."""
    try:
        norm = float(text)
    except ValueError:
        norm = math.nan
    if not norm >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return norm


def _whole_number(text: str, *, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return number
