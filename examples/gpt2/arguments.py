"""What the command line may say, and the configurations that it amounts to.

In: strings. Out: a ``TrainPlan`` or a ``ComparePlan``. The flags of model, data and loop are the fields of their
configurations. A wrong argument ends the program with one sentence and exit code 2. Reads no text and trains nothing.
"""

from __future__ import annotations

import argparse
import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from examples.gpt2.config import DataConfig, LoopConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from examples.gpt2.logs import read_config_file
from examples.gpt2.model import PRESETS
from examples.gpt2.optimizers import OptimizerError, override, tuned_config
from examples.gpt2.processes import Sharding

TRAIN_EXAMPLES = """\
examples:
  python -m examples.gpt2 train --optimizer NAMO
      the demo's model on the source of Python's standard library; the same command continues an interrupted run
  torchrun --nproc-per-node 8 -m examples.gpt2 train --model small --data fineweb10B --batch 512 --accumulate 4 \\
      --dtype bfloat16 --compile --optimizer NAMOD --lr 0.01 --schedule UBA --steps 10000 --out runs/small
      GPT-2 124M on eight GPUs
  python -m examples.gpt2 train --optimizer mine.opt --set beta1=0.9 --telemetry-every 50
      a spec compiled on the fly, with its updates measured
"""

COMPARE_EXAMPLES = """\
examples:
  python -m examples.gpt2
      the comparison with its tuned settings, about four minutes on two cores
  python -m examples.gpt2 --optimizers NAMO,specs/nora.opt,torch.optim.SGD --lr NAMO=0.1 --steps 100
      a generated optimizer, a spec compiled on the fly, and one of torch's
  python -m examples.gpt2 compare --data shakespeare.txt --factors 0.3,1,3 --seeds 3 --jobs 2
      every optimizer at three learning rates with three seeds each, two runs at a time
  python -m examples.gpt2 --data shakespeare.txt --layers 6 --set Muon.rest_lr=3e-3 --set Muon.schedule=linear
      other text, a deeper model, other settings for Muon
"""

MEANINGS = {
    "vocab_size": "kinds of tokens, 0: as many as the data has",
    "context": "tokens per sequence",
    "layers": "blocks",
    "width": "size of the residual stream",
    "heads": "attention heads; divides the width",
    "dropout": "share of activations set to zero in training",
    "checkpointing": "compute activations again in the backward pass, for less memory",
    "weights": "start from Hugging Face gpt2 weights, a file or a folder",
    "path": "a text file, a folder of texts, nanoGPT's .bin files or FineWeb shards (default: Python's own source)",
    "tokenizer": "bytes, characters, bpe:SIZE (trained on the text), or gpt2",
    "steps": "steps of a run",
    "batch": "sequences per step, over all processes",
    "accumulate": "parts that a process works on one after the other",
    "seed": "decides weights and batches",
    "clip": "limit of the gradient's norm, inf: none",
    "validate_every": "steps between validations",
    "validation_batches": "batches that are held out",
    "checkpoint_every": "steps between checkpoints",
    "telemetry_every": "steps between measurements of the updates, 0: none",
    "curvature_every": "steps between estimates of the curvature, for optimizers that want it",
    "curvature_batch": "sequences that the curvature is estimated on",
    "dtype": "of the forward pass: float32, or bfloat16 under autocast",
    "compile": "torch.compile the model",
    "device": "cpu, cuda (default: where there is a GPU), cuda:1",
}
"""The help of each flag, which is a field of a configuration."""

FLAGS = {"path": ("--data", "--text")}
"""Flags that are not called like their field."""

KINDS = (ModelConfig, DataConfig, LoopConfig)


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """One run: its configuration and its folder."""

    config: RunConfig
    out: Path
    cache: Path
    fresh: bool
    threads: int | None
    sharding: Sharding | None


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """Optimizers over one base; each is tried at its own rates times the factors, with seeds 0, 1, ..."""

    optimizers: tuple[OptimizerConfig, ...]
    base: RunConfig
    factors: tuple[float, ...]
    seeds: int
    jobs: int
    baseline: str
    out: Path
    cache: Path
    threads: int | None


class OneSentenceParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def make_parser(arguments: Sequence[str]) -> tuple[OneSentenceParser, Sequence[str]]:
    """The parser for what the first argument asks for, ``compare`` where it names no command, and the rest."""
    if arguments[:1] == ["train"]:
        return make_train_parser(), arguments[1:]
    return make_compare_parser(), arguments[1:] if arguments[:1] == ["compare"] else arguments


def make_train_parser() -> OneSentenceParser:
    """The parser of ``train``."""
    parser = OneSentenceParser(
        prog="python -m examples.gpt2 train",
        description="Train one GPT-2 with any optimizer; run the same command again to continue.",
        epilog=TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="a config.json with everything; no other setting may be given")
    group = parser.add_argument_group("optimizer")
    group.add_argument(
        "--optimizer", default="NAMO", help="a generated class, an .opt file, torch.optim.X, module:Class"
    )
    group.add_argument("--lr", type=parse_number, help="peak learning rate (default: tuned for the demo, or its own)")
    group.add_argument("--rest-lr", type=parse_number, help="that of all but the hidden matrices")
    group.add_argument(
        "--schedule", help="cosine, cosine-to-tenth, linear, constant, a generated one (UBA, WSD), a .opt file"
    )
    group.add_argument("--warmup", type=parse_number, help="share of the steps in which the rate rises (default: 0.1)")
    group.add_argument(
        "--set", type=parse_option, action="append", default=[], metavar="OPTION=VALUE", help="a keyword argument of it"
    )
    _add_configs(parser)
    files = _add_files(parser, "for log and checkpoints (default: runs/gpt2/OPTIMIZER)")
    files.add_argument("--fresh", action="store_true", help="remove the run in the folder and start again")
    files.add_argument(
        "--shard",
        type=parse_sharding,
        metavar="full|hybrid",
        help="parameters in shards (FSDP2) over torchrun's processes: all of them, or those of each machine, or of "
        "each of N replicas (hybrid:N); a run may go on with other processes, sharded or not",
    )
    parser.set_defaults(make_plan=make_train_plan)
    return parser


def make_compare_parser() -> OneSentenceParser:
    """The parser of ``compare``, which is also what runs without a command."""
    parser = OneSentenceParser(
        prog="python -m examples.gpt2",
        description="Train GPT-2 with several optimizers side by side: same start, same batches. "
        "`train --help` is about one run.",
        epilog=COMPARE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    several: dict[str, Any] = {"action": "append", "default": []}
    group = parser.add_argument_group("what is compared")
    group.add_argument(
        "--optimizers",
        type=parse_names,
        default=["NAMO", "NAMOD", "Muon", "AdamW"],
        metavar="A,B,...",
        help="generated classes, .opt files, torch.optim.X, module:Class (default: NAMO,NAMOD,Muon,AdamW)",
    )
    group.add_argument("--lr", type=parse_rate, metavar="NAME=VALUE", help="peak learning rate of one", **several)
    group.add_argument(
        "--set",
        type=parse_setting,
        metavar="NAME.SETTING=VALUE",
        help="a keyword argument of one, its rest_lr (all but the hidden matrices), or its schedule",
        **several,
    )
    group.add_argument(
        "--factors", type=parse_factors, default=(1.0,), metavar="A,B,...",
        help="learning rates to try, as factors on each optimizer's own (default: 1)",
    )  # fmt: skip
    group.add_argument("--seeds", type=parse_count, default=1, help="runs of each with seeds 0, 1, ... (default: 1)")
    group.add_argument("--jobs", type=parse_count, default=1, help="runs at the same time (default: 1)")
    group.add_argument("--baseline", default="AdamW", help="whose loss the others race to reach (default: AdamW)")
    _add_configs(parser)
    _add_files(parser, "for runs and verdict (default: runs/compare)")
    parser.set_defaults(make_plan=make_compare_plan)
    return parser


def _add_configs(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of the configurations; what is not given is absent from the parsed options."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", choices=PRESETS, default="tiny", help="a shape by name (default: tiny)")
    for kind, group in zip(
        KINDS, (model, parser.add_argument_group("data"), parser.add_argument_group("training")), strict=True
    ):
        for each in fields(kind):
            names = FLAGS.get(each.name, (f"--{each.name.replace('_', '-')}",))
            told = "" if kind is ModelConfig or "default" in MEANINGS[each.name] else f" (default: {each.default})"
            how: dict[str, Any] = {"dest": each.name, "default": argparse.SUPPRESS, "help": MEANINGS[each.name] + told}
            if each.type == "bool":
                group.add_argument(*names, action=argparse.BooleanOptionalAction, **how)
            else:
                read = {"int": parse_whole, "float": parse_number}.get(str(each.type), str)
                group.add_argument(*names, type=read, metavar=each.name.upper().rpartition("_")[2], **how)


def _add_files(parser: argparse.ArgumentParser, meaning: str) -> argparse._ArgumentGroup:
    files = parser.add_argument_group("files and machine")
    files.add_argument("--out", type=Path, help=meaning)
    files.add_argument("--cache", type=Path, default=Path("runs/tokens"), help="for tokens (default: %(default)s)")
    files.add_argument("--threads", type=parse_count, help="CPU threads (default: torch's choice)")
    return files


# Plans


def make_train_plan(options: argparse.Namespace) -> TrainPlan:
    """The plan behind the parsed arguments of ``train``."""
    if options.config:
        config = read_config_file(options.config)
    else:
        optimizer = tuned_config(options.optimizer)
        given = [("lr", options.lr), ("rest_lr", options.rest_lr), ("schedule", options.schedule)]
        for setting, value in [*((name, value) for name, value in given if value is not None), *options.set]:
            optimizer = override(optimizer, setting, value)
        if options.warmup is not None:
            optimizer = replace(optimizer, schedule=ScheduleConfig(optimizer.schedule.shape, options.warmup))
        config = make_base(optimizer, options)
    out = options.out or Path("runs/gpt2", config.optimizer.name.replace("/", "_"))
    return TrainPlan(config, out, options.cache, options.fresh, options.threads, options.shard)


def make_compare_plan(options: argparse.Namespace) -> ComparePlan:
    """The plan behind the parsed arguments of ``compare``."""
    settings = [*((name, "lr", value) for name, value in options.lr), *options.set]
    optimizers = choose_optimizers(options.optimizers, settings)
    return ComparePlan(
        optimizers,
        make_base(optimizers[0], options),
        options.factors,
        options.seeds,
        options.jobs,
        options.baseline,
        options.out or Path("runs/compare"),
        options.cache,
        options.threads,
    )


def make_base(optimizer: OptimizerConfig, options: argparse.Namespace) -> RunConfig:
    """The configuration of a run with ``optimizer``: the model by name, with every given field replaced."""
    loop = LoopConfig(device="cuda" if torch.cuda.is_available() else "cpu")
    parts: list[Any] = [PRESETS[options.model], DataConfig(), loop]
    model, data, loop = (replace(part, **_given(type(part), vars(options))) for part in parts)
    return RunConfig(optimizer, model, data, loop)


def _given(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: options[each.name] for each in fields(kind) if each.name in options}


def choose_optimizers(names: Sequence[str], settings: Sequence[tuple[str, str, Any]]) -> tuple[OptimizerConfig, ...]:
    """The tuned settings of ``names``, with every (name, setting, value) of ``settings`` applied in order."""
    chosen = {name: tuned_config(name) for name in names}
    for name, setting, value in settings:
        if name not in chosen:
            raise OptimizerError(
                f"{name} has a setting ({setting}) but is not among the optimizers: {', '.join(names)}"
            )
        chosen[name] = override(chosen[name], setting, value)
    return tuple(chosen.values())


# Words


def parse_names(text: str) -> list[str]:
    """``A,B`` as a list of different names."""
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected different names separated by commas, got {text!r}")
    return names


def parse_factors(text: str) -> tuple[float, ...]:
    """``0.3,1,3`` as different numbers above 0, in order."""
    factors = tuple(sorted(_number(word) for word in text.split(",")))
    if not all(0 < factor < math.inf for factor in factors) or len(set(factors)) < len(factors):
        raise argparse.ArgumentTypeError(f"expected different numbers above 0 separated by commas, got {text!r}")
    return factors


def parse_rate(text: str) -> tuple[str, float]:
    """``NAME=VALUE`` with a number of at least 0."""
    name, _, value = text.rpartition("=")
    rate = _number(value)
    if not name or not 0 <= rate < math.inf:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE such as NAMO=0.02, got {text!r}")
    return name, rate


def parse_setting(text: str) -> tuple[str, str, Any]:
    """``NAME.SETTING=VALUE``; the value is a Python literal, true or false, or else text."""
    target, equals, value = text.partition("=")
    name, _, setting = target.rpartition(".")
    if not (name and setting and equals):
        raise argparse.ArgumentTypeError(f"expected NAME.SETTING=VALUE such as Muon.rest_lr=3e-3, got {text!r}")
    return name, setting, _literal(value)


def parse_option(text: str) -> tuple[str, Any]:
    """``OPTION=VALUE``; the value is a Python literal, true or false, or else text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected OPTION=VALUE such as beta1=0.9, got {text!r}")
    return name, _literal(value)


def parse_sharding(text: str) -> Sharding:
    """``full``, ``hybrid`` or ``hybrid:REPLICAS``."""
    kind, colon, replicas = text.partition(":")
    if kind not in ("full", "hybrid") or (colon and (kind == "full" or not replicas.isdecimal() or not int(replicas))):
        raise argparse.ArgumentTypeError(f"expected full, hybrid, or hybrid:REPLICAS, got {text!r}")
    return Sharding(kind == "hybrid", int(replicas) if colon else None)


def parse_number(text: str) -> float:
    """A number of at least 0; ``inf`` is one."""
    number = _number(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return number


def parse_count(text: str) -> int:
    """A whole number of at least 1."""
    number = parse_whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def parse_whole(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text
