"""Which contestants are timed side by side, on which parameters, and against which baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.contestants import Contestant, Step, in_graphs, ours, packages, sophias_events, torchs
from benchmarks.shapes import Named

METHODS = ("AdamW", "SGD", "SophiaG", "Muon", "NAMO", "NAMOD", "NorMuon", "Nora", "RMNP")
ORTHOGONALIZING = ("Muon", "NAMO", "NAMOD", "NorMuon")
NORMALIZING = ("Nora", "RMNP")

# What a step must at least move: what the method reads and what it writes, in bytes of float32 per parameter.
BYTES = {"AdamW": 28, "SGD": 20, "SophiaG": 24, "Nora": 20, "RMNP": 20}
STREAM_ELEMENTS = {"cpu": 1 << 25, "cuda": 1 << 28}  # far more than a cache holds
BYTES_PER_ELEMENT = 12  # of x += y: two reads and a write


@dataclass(frozen=True)
class Race:
    """Contestants that take turns on parameters of equal shapes.

    Args:
        name: of the section in the tables.
        scope: "all" parameters of a model, or its "hidden" matrices.
        baseline: the name of the contestant that the others are divided by.
        contestants: who takes part.
        models: those it is run on.
    """

    name: str
    scope: str
    baseline: str
    contestants: tuple[Contestant, ...]
    models: tuple[str, ...]


def memory_limit(bytes_per_parameter: int) -> Contestant:
    """As many bytes through memory as a step must move, by torch's fastest loop over two long tensors."""

    def make(params: Sequence[Named]) -> Step:
        device = params[0].tensor.device
        elements = bytes_per_parameter * sum(p.tensor.numel() for p in params) // BYTES_PER_ELEMENT
        longest = min(elements, STREAM_ELEMENTS.get(device.type, 1 << 25))
        # Zeros, so that no number of rounds makes the sums denormal or infinite.
        x, y = torch.zeros(longest, device=device), torch.zeros(longest, device=device)
        pieces = [min(longest, elements - start) for start in range(0, elements, longest)]

        def step() -> None:
            for piece in pieces:
                x[:piece].add_(y[:piece])

        return step

    return Contestant(f"memory limit ({bytes_per_parameter} bytes/parameter)", "", make, "torch")


def _elementwise(method: str, device_type: str) -> Race:
    counterparts = torchs("AdamW" if method == "SophiaG" else method)
    counterparts = counterparts[:1] if method == "SophiaG" else counterparts
    others = [*ours(method), *packages(method)]
    if method == "SophiaG":
        others += sophias_events()
    if device_type == "cuda":
        others += in_graphs(method)
    field = (memory_limit(BYTES[method]), *counterparts, *others)
    return Race(method, "all", counterparts[0].name, field, ("gpt2-small", "6x384"))


def _orthogonalizing(methods: Sequence[str], device_type: str, model: str) -> Race:
    """Everybody; but where a step takes many seconds, of the backends that one gets without choosing alone."""
    counterparts = [*torchs("Muon"), *packages("Muon"), *packages("MuonYouJiacheng"), *packages("NorMuon")]
    quick = device_type == "cuda" or model != "gpt2-small"
    generated = [contestant for method in methods for contestant in (ours(method) if quick else ours(method)[:1])]
    if device_type == "cuda":
        generated += [contestant for method in methods for contestant in in_graphs(method)]
    name = "orthogonalizing"
    return Race(name, "hidden", counterparts[0].name, (*counterparts, *generated), ("gpt2-small", "6x384"))


def _normalizing(methods: Sequence[str], device_type: str) -> Race:
    limit = memory_limit(BYTES["Nora"])
    field = [limit, torchs("AdamW")[0], *(contestant for method in methods for contestant in ours(method))]
    if device_type == "cuda":
        field += [contestant for method in methods for contestant in in_graphs(method)]
    return Race("normalizing", "hidden", limit.name, tuple(field), ("gpt2-small", "6x384"))


def _whole_model() -> Race:
    """Muon as it is used: hidden matrices orthogonalized, AdamW for the rest."""
    counterparts = [*torchs("Muon"), *packages("Muon")[:1]]
    return Race("Muon with AdamW for the rest", "all", counterparts[0].name, (*counterparts, *ours("Muon")), ("6x384",))


def races(model: str, methods: Sequence[str] = METHODS, *, device_type: str = "cpu", slow: bool = False) -> list[Race]:
    """The races of a model in which one of the methods takes part."""
    found = [_elementwise(method, device_type) for method in ("AdamW", "SGD", "SophiaG") if method in methods]
    if chosen := [method for method in ORTHOGONALIZING if method in methods]:
        found.append(_orthogonalizing(chosen, device_type, model))
    if chosen := [method for method in NORMALIZING if method in methods]:
        found.append(_normalizing(chosen, device_type))
    if "Muon" in methods:
        found.append(_whole_model())
    return [_without_slow(race, slow) for race in found if model in (*race.models, "tiny")]


def _without_slow(race: Race, slow: bool) -> Race:
    field = tuple(contestant for contestant in race.contestants if slow or not contestant.slow)
    return Race(race.name, race.scope, race.baseline, field, race.models)
