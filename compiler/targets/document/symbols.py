"""Symbols: what the names of a spec are called in mathematics, so that no two have one symbol.

Greek names become letters, digits and what stands behind a letter become indices, and other words stay upright.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from optforge.compiler.ir.names import EquationName, one_word
from optforge.compiler.targets.document.formulas import SCRIPT, Formula, escape_word

LETTERS = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu"),
    *("xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
    *("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"),
)
KNOWN = {
    **{letter: rf"\{letter}" for letter in LETTERS},
    "epsilon": r"\varepsilon",
    "eps": r"\varepsilon",
    "phi": r"\varphi",
    "lam": r"\lambda",
    "lr": r"\eta",
    "weight_decay": r"\lambda",
    "l": r"\ell",
    "o": "o",
}
ACCENTS = (r"\tilde", r"\hat", r"\bar", r"\check")
LETTER = re.compile(r"([A-Za-z]+?)(\d*)")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A letter or word, and what stands below it."""

    base: str
    indices: tuple[str, ...] = ()
    width: float = 0.6
    is_word: bool = False

    def formula(self, *more: str) -> Formula:
        """The symbol with more indices, such as that of the step."""
        indices = (*self.indices, *more)
        below = f"_{{{','.join(indices)}}}" if indices else ""
        return Formula(
            self.base + below,
            self.width + SCRIPT * sum(map(index_width, indices)),
            closes=self.is_word,
            is_word=self.is_word,
        )

    @property
    def text(self) -> str:
        return self.formula().text


def index_width(index: str) -> float:
    """About how wide an index is with its comma, in em of its size."""
    return 0.3 + 0.55 * len(re.sub(r"\\mathrm|\\[a-z]+|[{}\\]", lambda found: "x" * (found[0] not in "{}"), index))


def short_symbol(name: str) -> Symbol | None:
    """That of a letter, with its digits below it; None for a word."""
    match = LETTER.fullmatch(name)
    if name in KNOWN:
        return Symbol(KNOWN[name])
    if match is None or (match[1] not in KNOWN and len(match[1]) > 1):
        return None
    return Symbol(KNOWN.get(match[1], match[1]), (match[2],) if match[2] else ())


def upright(name: str) -> Symbol:
    return Symbol(rf"\mathrm{{{escape_word(name)}}}", width=0.52 * len(name) + 0.1, is_word=True)


def index_of(part: str) -> str:
    """What stands below: a letter, or an upright word."""
    short = short_symbol(part)
    return short.text if short and not short.indices else rf"\mathrm{{{escape_word(part)}}}"


def candidates(name: str) -> Iterator[Symbol]:
    """Symbols for a name, the best first; no other name has the last one."""
    if short := short_symbol(name):
        yield short
    parts = [part for part in name.split("_") if part]
    if len(parts) > 1 and parts[-1] in LETTERS:
        yield Symbol(KNOWN[parts[-1]], (*map(index_of, parts[:-1]),))
    if len(parts) > 1 and (first := short_symbol(parts[0])):
        yield replace(first, indices=(*first.indices, *map(index_of, parts[1:])))
    for cut in range(1, len(parts)):
        if last := short_symbol("_".join(parts[cut:])):
            yield replace(last, indices=(*last.indices, *map(index_of, parts[:cut])))
    yield upright(name)


def candidates_of_equation(name: EquationName) -> Iterator[Symbol]:
    """Those of its word, then with an accent or its number, then its whole path."""
    word, number = name.path[-1]
    for symbol in candidates(one_word(word)):
        if number > 1:
            yield replace(symbol, indices=(*symbol.indices, f"({number})"))
            continue
        yield symbol
        if not symbol.is_word:
            yield from (replace(symbol, base=f"{accent}{{{symbol.base}}}") for accent in ACCENTS)
    yield upright(one_word(name))


class Symbols:
    """Gives symbols, each once."""

    def __init__(self, streams: Iterable[str] = ()) -> None:
        """``streams`` are words with an index of the step, which a digit below the same letter would look like."""
        self.taken: set[str] = set()
        self.indexed = {each.base for each in map(short_symbol, streams) if each and not each.indices}

    def copy(self) -> Symbols:
        """The same, to which more can be added."""
        other = Symbols()
        other.taken, other.indexed = {*self.taken}, self.indexed
        return other

    def choose(self, wanted: Iterable[Symbol], is_stream: bool = False) -> Symbol:
        """The first symbol that is free; the last with strokes if none is."""
        last = Symbol("x")
        for last in wanted:
            looks_indexed = not is_stream and last.base in self.indexed and "".join(last.indices).isdigit()
            if last.text not in self.taken and not looks_indexed:
                break
        else:
            while last.text in self.taken:
                last = replace(last, base=f"{{{last.base}'}}")
        self.taken.add(last.text)
        return last
