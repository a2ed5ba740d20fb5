"""The public constructors of the methods that the project began with: names, order and defaults are promises."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import optforge.generated as generated

ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
NAMO = {"mu1": 0.95, "mu2": 0.99}
CONSTRUCTORS: dict[str, dict[str, Any]] = {
    "Adam": {**ADAM, "weight_decay": 0},
    "AdamW": {**ADAM, "weight_decay": 1e-2},
    "Muon": {"lr": 0.02, "beta": 0.95, "nesterov": True, "weight_decay": 0.0, "steps": 5},
    "NAMO": {"lr": 1e-2, **NAMO, "eps": 1e-8, "weight_decay": 0.1},
    "NAMOD": {"lr": 9e-3, **NAMO, "c": 0.75, "eps": 1e-8, "weight_decay": 0.1},
    "Nora": {"lr": 5e-3, "beta": 0.95, "weight_decay": 0.1},
    "NorMuon": {"lr": 3.6e-4, "beta1": 0.95, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1},
    "RMNP": {"lr": 5e-3, "beta": 0.95, "weight_decay": 0.1},
    "SophiaG": {"lr": 6e-4, "beta1": 0.965, "beta2": 0.99, "rho": 0.05, "eps": 1e-12, "weight_decay": 0.2},
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_are_as_documented(name: str) -> None:
    """What follows (the hypers of the rest) may be added to; what is no hyper comes by keyword only."""
    arguments = list(inspect.signature(getattr(generated, name)).parameters.values())
    by_position = [a for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD]
    expected = CONSTRUCTORS[name]
    assert [a.name for a in by_position[: len(expected) + 1]] == ["params", *expected]
    assert [a.default for a in by_position[1 : len(expected) + 1]] == list(expected.values())
    by_keyword = [a.name for a in arguments if a.kind is a.KEYWORD_ONLY]
    assert by_keyword == ["precision", "seed", "skip_nonfinite", "backend", "capturable"]


@pytest.mark.parametrize("name", ["NAMO", "NAMOD", "Nora", "NorMuon", "RMNP"])
def test_official_variants_take_the_same_names(name: str) -> None:
    """With other defaults where the code has others, and with what the code adds."""
    names = list(inspect.signature(getattr(generated, f"{name}Official")).parameters)
    own = ["params", *CONSTRUCTORS[name]]
    assert names[: len(own)] == own and "nesterov" in names
