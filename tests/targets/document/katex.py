"""What KaTeX knows of LaTeX, as far as formulas use it: commands by name, and what must stand in pairs."""

from __future__ import annotations

import re

# From the list of functions that KaTeX supports (katex.org/docs/supported).
COMMANDS = {
    *("frac", "sqrt", "left", "right", "begin", "end", "text", "mathrm", "mathbf", "mathcal", "texttt", "operatorname"),
    *("tilde", "hat", "bar", "check", "sum", "max", "min", "exp", "log", "tanh", "cos", "sin", "det", "arctan"),
    *("lVert", "rVert", "lvert", "rvert", "langle", "rangle", "lfloor", "rfloor", "top", "infty", "dots", "quad"),
    *("le", "ge", "ne", "land", "lor", "lnot", "bmod", "cdot", "odot", "gets", "iff", "ell", "varepsilon", "varphi"),
    *("alpha", "beta", "gamma", "delta", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi"),
    *("rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi"),
    *("Sigma", "Upsilon", "Phi", "Psi", "Omega"),
}
ENVIRONMENTS = {"cases", "aligned"}
PAIRS = {"{": "}", "(": ")", "[": "]", r"\lVert": r"\rVert", r"\lvert": r"\rvert", r"\langle": r"\rangle"}
PAIRS |= {r"\lfloor": r"\rfloor"}
TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
BRACED = {r"\frac", r"\sqrt", r"\text", r"\mathrm", r"\mathbf", r"\mathcal", r"\texttt", r"\operatorname", "^", "_"}


def require_katex(text: str) -> None:
    """Every command is known, every bracket and environment is closed, and indices and exponents stand in braces."""
    open_ones: list[str] = []
    tokens = TOKEN.findall(text.replace(r"\\[4pt]", r"\\"))
    for token, after in zip(tokens, [*tokens[1:], ""], strict=True):
        assert token in BRACED or not token.startswith("\\") or token[1:] in COMMANDS or token[1:] in r"\,_&#%", token
        assert token not in BRACED or after == "{", f"{token} without braces in {text}"
        if token == r"\left":
            open_ones.append(token)
        elif token == r"\right":
            continue
        elif token in PAIRS:
            open_ones.append(PAIRS[token])
        elif token in PAIRS.values():
            assert open_ones, f"{token} closes nothing in {text}"
            assert open_ones.pop() == token, f"{token} closes something else in {text}"
            if token != "}" and open_ones and open_ones[-1] == r"\left":
                open_ones.pop()
    assert not open_ones, f"{open_ones} left open in {text}"
    opened, closed = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
    assert sorted(opened) == sorted(closed)
    assert {*opened} <= ENVIRONMENTS


def formulas_of(page: str) -> list[str]:
    """The formulas of a page in Markdown: between two dollars in a line, and between lines of two dollars."""
    displays = re.findall(r"^\$\$\n(.*?)\n\$\$$", page, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^\$\$\n.*?\n\$\$$", "", page, flags=re.DOTALL | re.MULTILINE)
    return [*displays, *re.findall(r"(?<!\\)\$(.+?)(?<!\\)\$", re.sub(r"`[^`]*`", "", rest))]
