"""The catalogue: everything that can be wrong with a spec, one function per code.

A function takes the facts and returns the diagnostic; its docstring is the long explanation that
``optforge explain CODE`` prints, with an example that is wrong and one that is right. No message
is worded anywhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import wraps
from typing import Literal, ParamSpec

from optforge.dsl.diagnostics import Diagnostic, Label
from optforge.dsl.source import Span

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Entry:
    """A code, its one-line title and its long explanation."""

    code: str
    title: str
    explanation: str


CATALOGUE: dict[str, Entry] = {}


def entry(code: str, title: str) -> Callable[[Callable[P, Diagnostic]], Callable[P, Diagnostic]]:
    """Register a catalogue function under its code; the code's letter gives the severity."""
    severity: Literal["error", "warning"] = "error" if code.startswith("E") else "warning"

    def register(make: Callable[P, Diagnostic]) -> Callable[P, Diagnostic]:
        assert code not in CATALOGUE, code
        CATALOGUE[code] = Entry(code, title, inspect.cleandoc(make.__doc__ or ""))

        @wraps(make)
        def coded(*args: P.args, **kwargs: P.kwargs) -> Diagnostic:
            return replace(make(*args, **kwargs), code=code, severity=severity)

        return coded

    return register


def wrong(
    message: str, span: Span, note: str = "", labels: Sequence[Label] = (), help: str | None = None
) -> Diagnostic:
    return Diagnostic("", "error", message, span, note, tuple(labels), help)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """``did you mean `x`?`` where one known name is close enough to be likely."""
    found = get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return f"did you mean `{found[0]}`?" if found else None


def listed(names: Iterable[str], last: str = "or") -> str:
    """``a, b or c``, each in backticks."""
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 2:
        return "".join(quoted)
    return ", ".join(quoted[:-1]) + f" {last} {quoted[-1]}"


# The text itself


@entry("E001", "the file cannot be read as text")
def unreadable(path: str, reason: str, span: Span) -> Diagnostic:
    return wrong(f"cannot read `{path}`: {reason}", span)


@entry("E002", "a character the language does not have")
def unexpected_character(char: str, span: Span, help: str | None = None) -> Diagnostic:
    shown = char if char.isprintable() else f"U+{ord(char):04X}"
    return wrong(f"unexpected character `{shown}`", span, help=help)


@entry("E003", "a string that does not end")
def unclosed_string(span: Span, help: str | None = None) -> Diagnostic:
    return wrong("this string is never closed", span, help=help)


@entry("E004", "the grammar expects something else")
def unexpected_token(found: str, expected: str, span: Span, help: str | None = None) -> Diagnostic:
    return wrong(f"expected {expected}, found {found}", span, help=help)


@entry("E005", "indentation that fits no block")
def bad_indentation(
    span: Span, problem: str = "this indentation matches no open block", help: str | None = None
) -> Diagnostic:
    return wrong(problem, span, help=help)


@entry("E006", "a bracket without its partner")
def unbalanced_bracket(bracket: str, span: Span) -> Diagnostic:
    what = "is never closed" if bracket == "(" else "closes nothing"
    return wrong(f"`{bracket}` {what}", span)


@entry("E007", "nested too deeply or too large")
def too_large(what: str, limit: int, span: Span) -> Diagnostic:
    return wrong(f"{what} (the limit is {limit})", span)


@entry("E008", "a file without a spec")
def empty_file(span: Span) -> Diagnostic:
    return wrong("nothing is defined here", span, help="start with `optforge new NAME`")


@entry("E009", "arguments in the wrong order")
def misplaced_argument(what: str, span: Span) -> Diagnostic:
    return wrong(f"{what} follows one that has a name and a value", span, help="put it before the first `name=value`")


# Names


@entry("E010", "a reserved name is redefined")
def reserved_name(name: str, span: Span) -> Diagnostic:
    return wrong(f"`{name}` has a meaning of its own and cannot be redefined", span)


@entry("E011", "a name that Python or the generated class needs")
def python_name(name: str, reason: str, span: Span) -> Diagnostic:
    return wrong(f"`{name}` cannot be used as a name: {reason}", span, help=f"rename it, for example to `{name}_`")


@entry("E012", "unknown name")
def unknown_name(name: str, span: Span, known: Iterable[str], help: str | None = None) -> Diagnostic:
    return wrong(f"unknown name `{name}`", span, help=help or nearest(name, known))


@entry("E013", "defined twice")
def duplicate(kind: str, name: str, span: Span, first: Span) -> Diagnostic:
    return wrong(f"{kind} `{name}` is defined twice", span, "defined again", [Label(first, "first defined here")])


@entry("E014", "unknown function")
def unknown_function(name: str, span: Span, known: Iterable[str]) -> Diagnostic:
    return wrong(f"unknown function `{name}`", span, help=nearest(name, known))


@entry("E015", "wrong number of arguments")
def wrong_arity(name: str, signature: str, problem: str, span: Span) -> Diagnostic:
    return wrong(f"`{name}` {problem}", span, help=f"it is called as `{signature}`")


@entry("E016", "unknown or repeated keyword argument")
def bad_keyword(name: str, keyword: str, problem: str, span: Span, known: Iterable[str]) -> Diagnostic:
    known = list(known)
    hint = nearest(keyword, known) or (f"it takes {listed(known, 'and')}" if known else None)
    return wrong(f"`{name}` {problem} `{keyword}`", span, help=hint)


@entry("E017", "recursion")
def recursion(cycle: Sequence[str], span: Span) -> Diagnostic:
    return wrong("definitions may not refer to themselves: " + " -> ".join(cycle), span)


@entry("E018", "unknown optimizer")
def unknown_optimizer(name: str, span: Span, known: Iterable[str]) -> Diagnostic:
    return wrong(f"unknown optimizer `{name}`", span, help=nearest(name, known))


@entry("E019", "unknown role")
def unknown_role(name: str, span: Span, known: Iterable[str]) -> Diagnostic:
    known = list(known)
    return wrong(f"`for {name}` is not a role", span, help=nearest(name, known) or f"roles are {listed(known, 'and')}")


@entry("E020", "two rules for one role")
def duplicate_role(name: str, span: Span, first: Span) -> Diagnostic:
    return wrong(f"`{name}` already has a rule", span, "second rule", [Label(first, "first rule")])


@entry("E021", "a rule without its result")
def missing_update(target: str, span: Span) -> Diagnostic:
    return wrong(f"this never says what becomes of `{target}`", span, help=f"add `{target} <- ...`")


@entry("E022", "two results")
def duplicate_update(target: str, span: Span, first: Span) -> Diagnostic:
    return wrong(f"`{target} <-` stands twice", span, "second result", [Label(first, "first result")])


@entry("E023", "`<-` on something that is not the result")
def wrong_update(name: str, target: str, span: Span) -> Diagnostic:
    return wrong(
        f"only `{target}` can stand left of `<-` here, not `{name}`",
        span,
        help=f"write `{name} = ...` to define a value",
    )


@entry("E024", "`super` with nothing to refer to")
def no_super(reason: str, span: Span) -> Diagnostic:
    return wrong(f"`super` has no meaning here: {reason}", span)


@entry("E025", "`prev` of something without a name")
def prev_needs_name(span: Span) -> Diagnostic:
    return wrong(
        "`prev` remembers a name, not an expression",
        span,
        help="give the expression a name first: `x = ...`, then `prev(x)`",
    )


@entry("E026", "two initial values for one memory")
def conflicting_initial(name: str, span: Span, first: Span) -> Diagnostic:
    return wrong(
        f"`prev({name}, ...)` has two different initial values",
        span,
        "one initial value",
        [Label(first, "another one")],
    )


@entry("E027", "the optimizer used here has no rule for these parameters")
def delegate_without_rule(optimizer: str, role: str, span: Span) -> Diagnostic:
    return wrong(f"`{optimizer}` has no rule for `{role}` parameters", span)


@entry("E028", "a value that does not exist in this place")
def not_available(name: str, place: str, span: Span, help: str | None = None) -> Diagnostic:
    return wrong(f"`{name}` does not exist in {place}", span, help=help)


@entry("E029", "unsuitable memory name")
def bad_memory_name(name: str, reason: str, span: Span) -> Diagnostic:
    return wrong(f"a memory cannot be stored as `{name}`: {reason}", span)


# Types


@entry("E030", "shapes that do not fit together")
def shape_mismatch(operator: str, left: str, left_span: Span, right: str, right_span: Span, span: Span) -> Diagnostic:
    return wrong(
        f"`{operator}` cannot combine {left} with {right}",
        span,
        labels=[Label(left_span, f"this is {left}"), Label(right_span, f"this is {right}")],
    )


@entry("E031", "an operator that needs a matrix")
def not_elementwise(name: str, roles: str, span: Span) -> Diagnostic:
    return wrong(f"`{name}` needs matrices, and `for {roles}` takes parameters of any shape", span)


@entry("E032", "the wrong kind of value")
def wrong_kind(where: str, wanted: str, found: str, span: Span, help: str | None = None) -> Diagnostic:
    return wrong(f"{where} wants {wanted}, not {found}", span, help=help)


@entry("E033", "the wrong shape")
def wrong_shape(where: str, wanted: str, found: str, span: Span) -> Diagnostic:
    return wrong(f"{where} wants {wanted}, not {found}", span, f"this is {found}")


@entry("E034", "a value that must be known before training")
def not_constant(where: str, span: Span) -> Diagnostic:
    return wrong(f"{where} must be a constant or a hyperparameter", span, "this changes from step to step")


@entry("E035", "a string outside its closed set")
def unknown_choice(where: str, value: str, choices: Sequence[str], span: Span) -> Diagnostic:
    hint = nearest(value, choices) or "choose " + " or ".join(f'"{choice}"' for choice in choices)
    return wrong(f'{where} cannot be "{value}"', span, help=hint)


@entry("E036", "a hyperparameter default of no usable kind")
def bad_default(name: str, problem: str, span: Span) -> Diagnostic:
    return wrong(f"the default of `{name}` {problem}", span)


@entry("E037", "a default that breaks its own condition")
def default_breaks_condition(name: str, value: str, condition: str, span: Span, condition_span: Span) -> Diagnostic:
    return wrong(
        f"the default {value} of `{name}` breaks the condition `{condition}`",
        span,
        labels=[Label(condition_span, "the condition")],
    )


@entry("E038", "arithmetic that has no result")
def bad_arithmetic(text: str, problem: str, span: Span) -> Diagnostic:
    return wrong(f"`{text}` {problem}", span)


@entry("E039", "a malformed claim")
def bad_claim(problem: str, span: Span) -> Diagnostic:
    return wrong(f"this claims nothing that can be checked: {problem}", span)


# Streams


@entry("E050", "an equation that needs its own result")
def instantaneous_cycle(cycle: Sequence[str], span: Span, labels: Sequence[Label]) -> Diagnostic:
    return wrong(
        "these equations need each other within one step: " + " -> ".join(cycle),
        span,
        labels=labels,
        help=f"break the cycle with the value of the step before: `prev({cycle[0]})`",
    )


@entry("E051", "an initial value that needs itself")
def initial_cycle(cycle: Sequence[str], span: Span) -> Diagnostic:
    return wrong("this initial value needs itself: " + " -> ".join(cycle), span)


# Warnings


@entry("W001", "a prelude function is replaced")
def replaces_prelude(name: str, span: Span) -> Diagnostic:
    return wrong(f"this replaces the prelude's `{name}` in this file", span)


@entry("W002", "a value nobody uses")
def unused_binding(name: str, span: Span) -> Diagnostic:
    return wrong(f"`{name}` is never used", span)


@entry("W003", "a hyperparameter nobody uses")
def unused_hyper(name: str, span: Span) -> Diagnostic:
    return wrong(f"hyperparameter `{name}` is never used", span)
