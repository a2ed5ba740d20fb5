"""Everything that decides one training run, as plain data that can be written to a file and read back.

In: nothing. Out: ``RunConfig`` and its parts. Two runs with equal configurations see the same weights, batches and
learning rates. ``read_config`` refuses what ``write_config`` did not write: an unknown or missing field is a
``ConfigError`` that names it. No file is opened here, nothing is built.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DTYPES = ("float32", "bfloat16")


class ConfigError(Exception):
    """A configuration that cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a GPT-2 and how it is computed; the defaults are the demo's model (1.3 M parameters, bytes).

    ``context`` is the longest sequence in tokens, ``width`` the size of the residual stream, which ``heads`` divides.
    ``vocab_size`` 0 stands for that of the data. ``dropout`` is the share of embeddings, attention weights and residual
    updates that training sets to zero. ``checkpointing`` computes activations again in the backward pass.
    """

    vocab_size: int = 0
    context: int = 128
    layers: int = 4
    width: int = 160
    heads: int = 5
    dropout: float = 0.0
    checkpointing: bool = False
    weights: str | None = None  # a folder or file with Hugging Face gpt2 weights to start from

    def __post_init__(self) -> None:
        for name in ("context", "layers", "width", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.vocab_size < 0:
            raise ConfigError(f"vocab_size must be at least 0, got {self.vocab_size}")
        if self.width % self.heads:
            raise ConfigError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, got {self.dropout}")

    def count_parameters(self) -> int:
        """Number of trained numbers, the tied head counted once: ``(V + T) d + L (12 d^2 + 13 d) + 2 d``."""
        d = self.width
        return (self.vocab_size + self.context) * d + self.layers * (12 * d * d + 13 * d) + 2 * d


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where the tokens come from.

    ``path`` is a text file, a folder of text files, a folder with ``train.bin`` and ``val.bin`` as nanoGPT writes
    them, or a folder of FineWeb ``.bin`` shards; None is the source of Python's standard library. ``tokenizer`` is
    ``bytes``, ``characters``, ``bpe:SIZE`` (trained on the training part) or ``gpt2`` (tiktoken's); binary formats
    bring their own tokens.
    """

    path: str | None = None
    tokenizer: str = "bytes"


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """How the learning rate moves: ``warmup`` is the share of the steps in which it rises to its full value.

    ``shape`` is a key of ``optimizers.DECAYS``, a generated schedule class such as ``UBA`` or ``WSD``, or a spec file.
    """

    shape: str = "cosine"
    warmup: float = 0.1


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """One optimizer: its name, learning rates, further keyword arguments, and schedule.

    ``name`` is a generated class (``NAMO``), a spec file (``mine.opt``), ``torch.optim.X`` or ``module:Class``. ``lr``
    is the peak rate (None: the optimizer's own default); ``rest_lr`` that of all but the hidden matrices (None:
    whatever the optimizer makes of ``lr``).
    """

    name: str
    lr: float | None = None
    rest_lr: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: ScheduleConfig = ScheduleConfig()


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """The training itself. ``batch`` counts the sequences of one step over all processes and accumulated parts.

    ``clip`` bounds the norm of the whole gradient (infinity: no clipping). ``telemetry_every`` 0 measures nothing.
    Optimizers that want the curvature, or the inputs of layers, are shown it every ``curvature_every`` steps on
    ``curvature_batch`` sequences; those that limit attention logits see those of these sequences after every step.
    ``dtype`` is that of the forward pass: ``float32``, or ``bfloat16`` under autocast.
    """

    steps: int = 250
    batch: int = 8
    accumulate: int = 1
    seed: int = 0
    clip: float = 1.0
    validate_every: int = 50
    validation_batches: int = 24
    checkpoint_every: int = 50
    telemetry_every: int = 0
    curvature_every: int = 10
    curvature_batch: int = 4
    dtype: str = "float32"
    compile: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        least = {"seed": 0, "telemetry_every": 0}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.type == "int" and value < least.get(each.name, 1):
                raise ConfigError(f"{each.name} must be at least {least.get(each.name, 1)}, got {value}")
        if not self.clip > 0:
            raise ConfigError(f"clip must be above 0 (inf: no clipping), got {self.clip}")
        if self.batch % self.accumulate:
            raise ConfigError(f"batch ({self.batch}) must be a multiple of accumulate ({self.accumulate})")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype}")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One training run."""

    optimizer: OptimizerConfig
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loop: LoopConfig = LoopConfig()


def write_config(config: RunConfig) -> dict[str, Any]:
    """``config`` as nested dictionaries of what JSON knows; infinity, which it does not, is the text ``inf``."""
    return _json_ready(dataclasses.asdict(config))


def read_config(content: Mapping[str, Any]) -> RunConfig:
    """The configuration that ``write_config`` wrote as ``content``; raises ``ConfigError`` for anything else."""
    parts = dict(_require_fields(RunConfig, content, "the configuration"))
    optimizer = dict(_require_fields(OptimizerConfig, parts["optimizer"], "optimizer"))
    optimizer["schedule"] = ScheduleConfig(**_require_fields(ScheduleConfig, optimizer["schedule"], "schedule"))
    loop = dict(_require_fields(LoopConfig, parts["loop"], "loop"))
    return RunConfig(
        OptimizerConfig(**optimizer),
        ModelConfig(**_require_fields(ModelConfig, parts["model"], "model")),
        DataConfig(**_require_fields(DataConfig, parts["data"], "data")),
        LoopConfig(**{**loop, "clip": float(loop["clip"])}),
    )


def describe_changes(before: RunConfig, after: RunConfig) -> list[str]:
    """What differs, a phrase each: ``loop.batch was 8, is 16``."""
    old, new = _flat(write_config(before)), _flat(write_config(after))
    names = [*old, *(name for name in new if name not in old)]
    return [f"{name} was {old.get(name)}, is {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def _require_fields(kind: type, content: Any, place: str) -> Mapping[str, Any]:
    known = {each.name for each in dataclasses.fields(kind)}
    if not isinstance(content, Mapping):
        raise ConfigError(f"{place}: expected an object with {', '.join(sorted(known))}, found {content!r}")
    if set(content) != known:
        strange, missing = sorted(set(content) - known), sorted(known - set(content))
        problems = [f"unknown {', '.join(strange)}"] * bool(strange) + [f"missing {', '.join(missing)}"] * bool(missing)
        raise ConfigError(f"{place}: {'; '.join(problems)}")
    return content


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        found |= inner
    return found
