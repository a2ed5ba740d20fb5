"""What a stage has found so far: diagnostics, each once and no more than anybody reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic, SpecError

# More than this nobody reads.
ERROR_LIMIT = 50
EQUATION_LIMIT = 1000

Many = TypeVar("Many", bound=ast.Node)
Reporter = Callable[[Diagnostic], None]


def few(nodes: Sequence[Many], limit: int, what: str) -> Sequence[Many]:
    """The nodes themselves; too many of them end the check, for what is said about parts of them is no help."""
    if len(nodes) > limit:
        raise SpecError((errors.too_large(f"these are too many {what}", limit, nodes[limit].span),))
    return nodes


@dataclass
class Growth:
    """How many operations the functions of a file have been written out to, and the limit that was reached."""

    operations: int = 0
    cycles: set[frozenset[str]] = field(default_factory=set)
    problem: tuple[str, int] | None = None
    is_reported: bool = False


@dataclass(frozen=True)
class ReservedNames:
    """Names that mean something in the code of a target: for each kind of thing those that it cannot have, and why.

    Kinds are those of a spec: hyperparameter, argument, value, event, class.
    """

    reasons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def reason(self, text: str, kind: str) -> str | None:
        """Why a thing of this kind cannot be called so; None where it can."""
        return self.reasons.get(kind, {}).get(text)


class Report:
    """Collects the diagnostics of a file, one of a code at each place; ``count`` counts also those left out.

    ``reserved`` are the names that the target of the check has for itself. A :class:`SpecError` without diagnostics
    ends the check when there are enough of them.
    """

    def __init__(self, reserved: ReservedNames | None = None) -> None:
        self.reserved = reserved or ReservedNames()
        self.count = 0
        self.growth = Growth()
        self.diagnostics: list[Diagnostic] = []
        self._keys: set[object] = set()

    def __call__(self, diagnostic: Diagnostic) -> None:
        self.once(diagnostic, (diagnostic.code, diagnostic.span))

    def once(self, diagnostic: Diagnostic, key: object) -> None:
        """Report the first of several diagnostics that say the same, though maybe of different places."""
        self.count += 1
        if key not in self._keys:
            self._keys.add(key)
            self.diagnostics.append(diagnostic)
        if len(self.diagnostics) >= ERROR_LIMIT and self.failed:
            raise SpecError(())

    @property
    def failed(self) -> bool:
        return any(diagnostic.severity == "error" for diagnostic in self.diagnostics)
