"""Hold an optimizer of one's own against a spec, in a test.

    from optforge.testing import assert_matches

    def test_my_adamw():
        assert_matches("AdamW", MyAdamW)

With pytest there is also a fixture of the same name (`optforge.pytest_plugin`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["assert_matches"]


def assert_matches(
    spec: str | Path,
    factory: Callable[..., Any],
    *,
    map: Mapping[str, str] | None = None,
    fix: Mapping[str, float | bool | str] | None = None,
    examples: int = 200,
    seed: int = 0,
    seconds: float = float("inf"),
    patience: float = 20.0,
    optimizer: str | None = None,
    rest: bool = False,
    role_key: str | None = None,
    dtypes: Sequence[str] = ("float64", "float32"),
    groups: int = 2,
    tolerance: float | None = None,
    without: Sequence[str] = (),
    corpus: str | Path = Path(".optforge") / "corpus",
) -> None:
    """AssertionError with a script that shows it, if some random run of ``factory`` differs from the spec.

    Args:
        spec: a spec file, or the name of a shipped optimizer.
        factory: a class or function called as a torch optimizer, ``factory(params, **hypers)``.
        map: what the other calls a hyper, ``{"beta": "momentum", "beta1": "betas[0]"}``; torch's names are known.
        fix: hypers of the spec that keep one value.
        examples: how many scenarios.
        seed: where to start; equal seeds give equal scenarios.
        seconds: stop after this time.
        patience: how many seconds shrinking a failure may take.
        optimizer: which one, where the spec defines several.
        rest: vectors too, where matrices have a rule of their own.
        role_key: tell the other each group's role under this key.
        dtypes: of the parameters.
        groups: most parameter groups.
        tolerance: relative to the step, instead of what rounding explains.
        without: what the other need not do, such as "closure" or "nan".
        corpus: the folder where failures are kept, to be tried first the next time.
    """
    from optforge.compiler.verify.differential import setup
    from optforge.compiler.verify.differential.corpus import corpus_of
    from optforge.compiler.verify.differential.script import script
    from optforge.compiler.verify.differential.search import search
    from optforge.compiler.verify.shared.budget import SearchBudget

    options = setup.Options(
        map or {}, fix or {}, optimizer, rest, role_key, tuple(dtypes), groups, tolerance, tuple(without)
    )
    target = getattr(factory, "__qualname__", type(factory).__name__)
    opened = setup.set_up(spec, factory, options, target)
    kept = corpus_of(opened.source.text, target, Path(corpus))
    budget = SearchBudget(examples, seconds, seed, patience)
    result = search(opened.pair, opened.space, budget, kept.scenarios())
    if result.finding is not None:
        kept.keep(result.finding.scenario)
        raise AssertionError(f"{result.finding.difference}\n\n{script(opened, result.finding)}")
