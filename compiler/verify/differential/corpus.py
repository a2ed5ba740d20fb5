"""Past failures, one JSON file each, in a folder per spec and target: kept when found, tried first the next time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optforge.compiler.output import write_whole
from optforge.compiler.verify.differential.plan import Scenario, read_scenario, scenario_text

FOLDER = Path(".optforge") / "corpus"


@dataclass(frozen=True)
class Corpus:
    """The failures of one pair; ``folder`` need not exist."""

    folder: Path

    def scenarios(self) -> Iterator[Scenario]:
        """All that were kept; files that are no scenarios (any more) are passed over."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                yield read_scenario(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue

    def keep(self, scenario: Scenario) -> Path:
        text = scenario_text(scenario) + "\n"
        path = self.folder / f"{digest(text)}.json"
        write_whole(path, text)
        return path


def corpus_of(spec_text: str, target: str, folder: Path = FOLDER) -> Corpus:
    """The corpus of a spec as it is now and a target: a scenario of another spec may have other hypers."""
    readable = re.sub(r"\W+", "_", target)
    return Corpus(folder / f"{readable}-{digest(spec_text + target)}")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
