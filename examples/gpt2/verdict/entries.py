"""The runs of a comparison as they lie in its folder, grouped by optimizer.

In: a folder in which every run, begun or not, has a folder with ``config.json``. Out: an ``Entry`` for each, and groups
of those that differ in nothing but learning rate and seed. Runs that cannot be compared are a ``VerdictError``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.gpt2.config import OptimizerConfig, RunConfig, describe_changes, write_config
from examples.gpt2.logs import CONFIG_FILE, LOG_FILE, Run, read_config_file, read_run

FREE_SETTINGS = tuple(
    f"loop.{name} "
    for name in ("seed", "accumulate", "validate_every", "checkpoint_every", "telemetry_every", "compile", "device")
)
"""Settings in which compared runs may differ: they change the time of a run, or what is seen of it."""

SHARED_FACTS = ("corpus", "unit", "tokens_per_step", "parameters")
"""What the logs of compared runs must agree on."""


class VerdictError(Exception):
    """A folder of runs that cannot be judged; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a comparison; ``run`` is None when it was not begun."""

    folder: Path
    config: RunConfig
    run: Run | None

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.config.loop.seed

    @property
    def lr(self) -> float:
        """Its peak learning rate: the one asked for, or the highest it reached; NaN where neither is known."""
        if self.config.optimizer.lr is not None:
            return self.config.optimizer.lr
        return max((record.lr for record in self.run.steps), default=math.nan) if self.run else math.nan

    @property
    def status(self) -> str:
        """``finished``, ``diverged``, ``unfinished`` or ``not started``."""
        if self.run is None:
            return "not started"
        if self.run.result is None:
            return "unfinished"
        return "diverged" if self.run.result.diverged else "finished"

    @property
    def final_loss(self) -> float:
        """Validation loss at the end; NaN for all but finished runs."""
        if self.run is None or self.run.result is None or self.run.result.diverged:
            return math.nan
        return self.run.result.final_validation_loss


def find_entries(folder: Path) -> list[Entry]:
    """Every run below ``folder``, by path; at least one must have been begun, and all must be comparable."""
    homes = sorted(path.parent for path in folder.rglob(CONFIG_FILE))
    entries = [_read_entry(home) for home in homes]
    reference = next((entry for entry in entries if entry.run), None)
    if reference is None:
        raise VerdictError(f"{folder}: expected the folders of runs, with {CONFIG_FILE} and {LOG_FILE}, found none")
    for entry in entries:
        changes = list_differences(reference, entry)
        if changes:
            raise VerdictError(
                f"{entry.folder} cannot be compared with {reference.folder}: {'; '.join(changes)}; "
                "all runs of a comparison need the same model, data and training"
            )
    return entries


def list_differences(first: Entry, second: Entry) -> list[str]:
    """What keeps two runs from being compared, a phrase each."""
    changes = describe_changes(first.config, second.config)
    changes = [change for change in changes if not change.startswith(("optimizer.", *FREE_SETTINGS))]
    if changes or first.run is None or second.run is None:
        return changes
    facts = [(name, getattr(first.run.header, name), getattr(second.run.header, name)) for name in SHARED_FACTS]
    return [f"{name} was {before}, is {after}" for name, before, after in facts if before != after]


def group_by_method(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """``entries`` by a label: the optimizer's name, and what sets it apart if several have that name."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[_identity(entry.config.optimizer)].append(entry)
    firsts = [group[0].config.optimizer for group in groups.values()]
    labelled = dict(zip(_labels(firsts), groups.values(), strict=True))
    for label, group in labelled.items():
        _require_different(label, group)
    return labelled


def short_name(name: str) -> str:
    """What a reader calls the optimizer ``name``: no folder, no ``.opt``; torch's keep their ``torch.optim``."""
    return Path(name).stem if name.endswith(".opt") else name.rpartition(":")[2]


def _read_entry(home: Path) -> Entry:
    begun = (home / LOG_FILE).exists() and b"\n" in (home / LOG_FILE).read_bytes()
    return Entry(home, read_config_file(home / CONFIG_FILE), read_run(home) if begun else None)


def _identity(optimizer: OptimizerConfig) -> str:
    """Everything of ``optimizer`` but its learning rates, which the runs of one method may vary together."""
    return json.dumps(_settings(optimizer) | {"name": optimizer.name}, sort_keys=True)


def _settings(optimizer: OptimizerConfig) -> dict[str, Any]:
    whole = write_config(RunConfig(dataclasses.replace(optimizer, lr=None, rest_lr=None)))["optimizer"]
    options: Mapping[str, Any] = whole["options"]
    return {**options, "schedule": whole["schedule"]["shape"], "warmup": whole["schedule"]["warmup"]}


def _labels(optimizers: Sequence[OptimizerConfig]) -> list[str]:
    names = [short_name(optimizer.name) for optimizer in optimizers]
    labels = []
    for name, optimizer in zip(names, optimizers, strict=True):
        others = [other for other, same in zip(optimizers, names, strict=True) if same == name and other != optimizer]
        own = _settings(optimizer)
        apart = [
            f"{key}={value}"
            for key, value in own.items()
            if any(_settings(other).get(key) != value for other in others)
        ]
        labels.append(" ".join([name, *apart]))
    doubled = {label for label in labels if labels.count(label) > 1}
    return [f"{label} ({number})" if label in doubled else label for number, label in enumerate(labels, start=1)]


def _require_different(label: str, group: Sequence[Entry]) -> None:
    seen: dict[tuple[float, int], Entry] = {}
    for entry in group:
        twin = seen.setdefault((entry.lr, entry.seed), entry)
        if twin is not entry:
            raise VerdictError(
                f"{twin.folder} and {entry.folder} are both {label} with lr {entry.lr:g} and seed {entry.seed}; "
                "a comparison needs one run of each"
            )
