"""How Hypothesis chooses: independently each time, so that no program resembles the one before.

By default it also copies parts of earlier examples into later ones, which finds coincidences but makes rare
operators much rarer. Shrinking stays as it is.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

BACKEND = "optforge-independent"


class IndependentChoices(HypothesisProvider):
    """Every choice is drawn from its whole range, without constants that stand in somebody's code."""

    def _maybe_draw_constant(self, *arguments: Any, **keywords: Any) -> None:
        return None


AVAILABLE_PROVIDERS[BACKEND] = IndependentChoices


def independent(max_examples: int) -> settings:
    """Settings for that many unrelated examples; what fails is shrunk."""
    return settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        backend=BACKEND,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
