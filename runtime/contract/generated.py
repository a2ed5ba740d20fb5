"""What all generated classes have in common, and the version of the contract between them and the runtime."""

from __future__ import annotations

from typing import Any, TypedDict

VERSION = (
    6  # one more whenever runtimes from before would not run what is written now, or this one what was written before
)


class Options(TypedDict, total=False):
    """What the constructor of every generated optimizer takes besides hypers; `SpecOptimizer` says what they mean."""

    precision: str
    seed: int
    skip_nonfinite: bool
    backend: str
    capturable: bool


class Generated:
    """What the bases of generated classes extend; a class says for which version it is made: `NAMO(..., runtime=6)`."""

    def __init_subclass__(cls, runtime: int = VERSION, **arguments: Any) -> None:
        """ImportError for a class that was made for another version of the runtime."""
        super().__init_subclass__(**arguments)
        if runtime != VERSION:
            remedy = "update optforge" if runtime > VERSION else "run `optforge build` again"
            raise ImportError(f"{cls.__name__} needs version {runtime} of optforge.runtime, not {VERSION}: {remedy}")

    @staticmethod
    def check_hypers(**hypers: Any) -> None:
        """Overridden by generated classes: calls `require` for each condition of the spec."""
