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
from textwrap import dedent
from typing import Literal, ParamSpec

from optforge.dsl.diagnostics import Diagnostic, Label
from optforge.dsl.source import Span

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Entry:
    """A code, its one-line title and the function that makes its diagnostics."""

    code: str
    title: str
    make: Callable[..., Diagnostic]

    @property
    def explanation(self) -> str:
        """The long explanation: the function's docstring."""
        return inspect.cleandoc(self.make.__doc__ or "")


CATALOGUE: dict[str, Entry] = {}


def entry(code: str, title: str) -> Callable[[Callable[P, Diagnostic]], Callable[P, Diagnostic]]:
    """Register a catalogue function under its code; the code's letter gives the severity."""
    severity: Literal["error", "warning"] = "error" if code.startswith("E") else "warning"

    def register(make: Callable[P, Diagnostic]) -> Callable[P, Diagnostic]:
        assert code not in CATALOGUE, code
        CATALOGUE[code] = Entry(code, title, make)

        @wraps(make)
        def coded(*args: P.args, **kwargs: P.kwargs) -> Diagnostic:
            return replace(make(*args, **kwargs), code=code, severity=severity)

        return coded

    return register


def explain(code: str) -> str | None:
    """The title and the long explanation of a code, with its examples."""
    found = CATALOGUE.get(code.upper())
    return None if found is None else f"{found.code}: {found.title}\n\n{found.explanation}\n"


def examples(code: str) -> tuple[str, str]:
    """The wrong and the right spec of a code's explanation, as files would hold them."""
    _, _, text = CATALOGUE[code].explanation.partition("\nWrong:\n")
    before, _, after = text.partition("\nRight:\n")
    return dedent(before).strip() + "\n", dedent(after).strip() + "\n"


def diagnose(
    message: str, span: Span, note: str = "", labels: Sequence[Label] = (), help: str | None = None
) -> Diagnostic:
    return Diagnostic("", "error", message, span, note, tuple(labels), help)


def suggest_nearest(name: str, known: Iterable[str]) -> str | None:
    """``did you mean `x`?`` where one known name is close enough to be likely."""
    names = sorted(set(known))
    found = [each for each in names if each.lower() == name.lower()] or get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean `{found[0]}`?" if found else None


def join_quoted(names: Iterable[str], last: str = "or") -> str:
    """``a, b or c``, each in backticks."""
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 2:
        return "".join(quoted)
    return ", ".join(quoted[:-1]) + f" {last} {quoted[-1]}"


# The text itself


@entry("E001", "the file cannot be read as text")
def unreadable(path: str, reason: str, span: Span) -> Diagnostic:
    """A spec is a text file in UTF-8 (a byte order mark is allowed, and line ends may be those of Windows).
    This file does not exist, is a folder, may not be read, or holds bytes that are no UTF-8: often it was
    saved in another encoding, or it is no text at all. Save it as UTF-8 in your editor, or correct the path.

    Wrong:

        (bytes that are not UTF-8, or no file of that name)

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grad
    """
    return diagnose(f"cannot read `{path}`: {reason}", span)


@entry("E002", "a character the language does not have")
def unexpected_character(char: str, span: Span, help: str | None = None) -> Diagnostic:
    """Outside strings and comments a spec consists of ASCII characters only, so that what looks alike is alike.
    Texts copied from papers and web pages often bring typographic lookalikes: a long minus sign, curly quotes,
    a multiplication dot, Greek letters, or a space that is not the usual one. Names are made of the letters
    a-z and A-Z, digits and the underscore. Operators of other languages such as `&&` or `%` have words here.

    Wrong:

        optimizer SGD:
            hyper η = 0.01 where η > 0
            for tensor:
                weight <- weight − η × grad

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grad
    """
    shown = "".join(each if each.isprintable() else f"U+{ord(each):04X}" for each in char)
    return diagnose(f"unexpected character `{shown}`", span, help=help)


@entry("E003", "a string that does not end")
def unclosed_string(span: Span, help: str | None = None) -> Diagnostic:
    """A string between double quotes ends on the line on which it begins; a docstring between three double quotes
    may take several lines, but it must end before the file does. The place shown is where the string begins.
    There are no escapes: a string that is to contain a double quote stands between three.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0 "learning rate
            for tensor:
                weight <- weight - lr * grad

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0 "learning rate"
            for tensor:
                weight <- weight - lr * grad
    """
    return diagnose("this string is never closed", span, help=help)


@entry("E004", "the grammar expects something else")
def unexpected_token(found: str, expected: str, span: Span, help: str | None = None) -> Diagnostic:
    """The message says what the grammar allows at this place and what stands there instead. The mistake may
    also be a little earlier: something left out is noticed at the next thing that cannot follow without it.
    Lines of other languages are a frequent cause: definitions are written `name = ...`, the result of a rule
    `weight <- ...`, powers `x^2`, choices `a if condition else b`, and strings stand between double quotes.

    Wrong:

        optimizer SGD
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grad ** 2

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grad^2
    """
    return diagnose(f"expected {expected}, found {found}", span, help=help)


@entry("E005", "indentation that fits no block")
def bad_indentation(
    span: Span, problem: str = "this indentation matches no open block", help: str | None = None
) -> Diagnostic:
    """The lines of a block begin in the same column, deeper than the line that opens it with a colon. This line
    begins deeper although nothing before it opens a block, or in a column that none of the open blocks has,
    or it mixes tabs and spaces so that its column depends on the editor. `optforge fmt` indents with four
    spaces. An expression continues on the next line only inside parentheses; there, indentation is free.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight
                    - lr * grad

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- (
                    weight
                    - lr * grad
                )
    """
    return diagnose(problem, span, help=help)


@entry("E006", "a bracket without its partner")
def unbalanced_bracket(bracket: str, span: Span) -> Diagnostic:
    """Every opening parenthesis needs a closing one. Inside parentheses line breaks mean nothing, so a forgotten
    closing one would swallow the lines below; the place shown is the opening one whose partner is missing,
    or the closing one that has nothing to close.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                step = lr * (grad + 0.1 * weight
                weight <- weight - step

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                step = lr * (grad + 0.1 * weight)
                weight <- weight - step
    """
    what = "is never closed" if bracket == "(" else "closes nothing"
    return diagnose(f"`{bracket}` {what}", span)


@entry("E007", "nested too deeply or too large")
def too_large(what: str, limit: int, span: Span) -> Diagnostic:
    """An expression may be nested a hundred levels deep (every term of a long sum counts), a file may have
    131072 characters, a name a limited length, and a rule a limited number of equations after
    all functions are put in. No optimizer comes near these limits; what does is mostly generated by mistake.
    Give parts of a long expression names of their own.

    Wrong:

        def f(x) = (
            - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - -
            - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - -
            x
        )

    Right:

        def f(x) = -x
    """
    return diagnose(f"{what} (the limit is {limit})", span)


@entry("E008", "a file without a spec")
def empty_file(span: Span) -> Diagnostic:
    """A spec file defines something: optimizers, schedules, penalties or functions. This one is empty, or has
    nothing but comments and a docstring. `optforge new NAME` writes a file to start from.

    Wrong:

        # to be done

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grad
    """
    return diagnose("nothing is defined here", span, help="start with `optforge new NAME`")


@entry("E009", "arguments in the wrong order")
def misplaced_argument(what: str, span: Span) -> Diagnostic:
    """In a call the arguments without a name come first, then those with one, because the former are told apart
    by their position alone. For the same reason the parameters of a function that have a default value come
    after those that have none.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * ema(decay=0.9, grad)

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * ema(grad, decay=0.9)
    """
    return diagnose(
        f"{what} stands behind one with a name and a value", span, help="put it before the first `name=value`"
    )


# Names


@entry("E010", "a reserved name is redefined")
def reserved_name(name: str, span: Span, help: str | None = None) -> Diagnostic:
    """The values `grad weight t rows cols row col pi inf super` and the core operators such as `norm` or `prev`
    mean the same in every spec and cannot be defined anew. A prelude function can be replaced by a `def` of
    your own; an operator cannot. Only the result of a rule is written with the name of a given value, and
    with an arrow: `weight <- ...`.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                grad = 0.5 * grad
                weight <- weight - lr * grad

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                half = 0.5 * grad
                weight <- weight - lr * half
    """
    return diagnose(f"`{name}` has a meaning of its own and cannot be redefined", span, help=help)


@entry("E011", "a name that Python or the generated class needs")
def python_name(name: str, reason: str, span: Span) -> Diagnostic:
    """Names of a spec become names in the generated class, readable as you wrote them: a hyperparameter is an
    argument of its constructor and a key of its parameter groups. So hyperparameters, arguments of events and
    classes cannot be words of Python such as `lambda` or `class`, begin with two underscores, or be what the class
    or its parameter groups already use. Equations may have such names: nobody writes them in Python.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            hyper lambda = 0.1 where lambda >= 0
            for tensor:
                weight <- weight - lr * (grad + lambda * weight)

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            hyper weight_decay = 0.1 where weight_decay >= 0
            for tensor:
                weight <- weight - lr * (grad + weight_decay * weight)
    """
    other = f"{name.strip('_')}_"
    return diagnose(f"`{name}` cannot be used as a name: {reason}", span, help=f"rename it, for example to `{other}`")


@entry("E012", "unknown name")
def unknown_name(name: str, span: Span, known: Iterable[str], help: str | None = None) -> Diagnostic:
    """A name in an expression is a given value (`grad`, `weight`, `t`, `rows`, `cols`), a hyperparameter of this
    optimizer or of those it extends, a parameter of the function it stands in, an equation of the same rule,
    or a stream of an event. This one is none of these. A rule does not see the equations of another rule, and
    a function sees only its own parameters and equations: hand it what it needs.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grd

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grad
    """
    return diagnose(f"unknown name `{name}`", span, help=help or suggest_nearest(name, known))


@entry("E013", "defined twice")
def duplicate(kind: str, name: str, span: Span, first: Span, help: str | None = None) -> Diagnostic:
    """Equations are not executed one after the other, so a name can have one definition only: nothing would say
    which of two is meant where. Give the second value a name of its own. To refer to the value of the step
    before, write `prev(name)`. The same holds for hyperparameters, events, functions and optimizers.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                u = ema(grad, 0.9)
                u = u / norm(u)
                weight <- weight - lr * u

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = ema(grad, 0.9)
                u = m / norm(m)
                weight <- weight - lr * u
    """
    return diagnose(
        f"{kind} `{name}` is defined twice", span, "defined again", [Label(first, "first defined here")], help
    )


@entry("E014", "unknown function")
def unknown_function(name: str, span: Span, known: Iterable[str], help: str | None = None) -> Diagnostic:
    """A function that is called is a core operator, a `def` of this file, of a file beside it or of the shipped
    specs, or part of the prelude. There is none of this name. Functions and values do not share their names:
    a hyperparameter or an equation cannot be called.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * momentom(grad, 0.9)

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * momentum(grad, 0.9)
    """
    return diagnose(f"unknown function `{name}`", span, help=help or suggest_nearest(name, known))


@entry("E015", "wrong number of arguments")
def wrong_arity(name: str, signature: str, problem: str, span: Span) -> Diagnostic:
    """The call has more arguments than the function has parameters, or leaves out one that has no default value.
    The help line shows the parameters with their defaults. In a pipe the value before `|>` is the first argument:
    `x |> f(a)` is `f(x, a)`.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * ema(grad)

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * ema(grad, 0.9)
    """
    return diagnose(f"`{name}` {problem}", span, help=f"it is called as `{signature}`")


@entry("E016", "unknown or repeated keyword argument")
def bad_keyword(name: str, keyword: str, problem: str, span: Span, known: Iterable[str]) -> Diagnostic:
    """An argument with a name must name a parameter of the function (or a hyperparameter of the optimizer after
    `use`), and each may be given once only, by name or by position.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * momentum(grad, beta=0.9, nestorov=true)

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * momentum(grad, beta=0.9, nesterov=true)
    """
    known = list(known)
    hint = suggest_nearest(keyword, known) or (f"it takes {join_quoted(known, 'and')}" if known else None)
    return diagnose(f"`{name}` {problem} `{keyword}`", span, help=hint)


@entry("E017", "recursion")
def recursion(cycle: Sequence[str], span: Span) -> Diagnostic:
    """Functions are put in where they are called, so a function that calls itself, directly or through others,
    would never end. The same holds for optimizers that extend or use each other in a circle. Repetition over
    steps is what `prev` is for; a short loop within one step is written out.

    Wrong:

        def halve(x) = halve(x / 2) if norm(x) > 1 else x

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * halve(grad)

    Right:

        def shorten(x) = x / max(norm(x), 1)

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * shorten(grad)
    """
    return diagnose("definitions may not refer to themselves: " + " -> ".join(cycle), span)


@entry("E018", "unknown optimizer")
def unknown_optimizer(name: str, span: Span, known: Iterable[str], help: str | None = None) -> Diagnostic:
    """The name after `extends` or `use` must be an optimizer of this file, of a file in the same folder, or one of
    the shipped specs. Neither PyTorch's own classes nor Python modules are looked at.

    Wrong:

        optimizer Mine:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * orthogonalize(grad)
            for rest: use AdamWW(lr=lr)

    Right:

        optimizer Plain:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grad

        optimizer Mine:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * orthogonalize(grad)
            for rest: use Plain(lr=lr)
    """
    return diagnose(f"unknown optimizer `{name}`", span, help=help or suggest_nearest(name, known))


@entry("E019", "unknown role")
def unknown_role(name: str, span: Span, known: Iterable[str]) -> Diagnostic:
    """A rule says for which parameters it is: `matrix` (hidden weights with two or more dimensions), `conv`,
    `embedding`, `head`, `vector` (fewer than two dimensions), `rest` (what no other rule takes), or `tensor`
    (every parameter, of any shape). There are no other roles; single parameters are chosen through groups
    when the optimizer is constructed, not in the spec.

    Wrong:

        optimizer Sign:
            hyper lr = 0.01 where lr > 0
            for matrices:
                weight <- weight - lr * sign(grad)

    Right:

        optimizer Sign:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * sign(grad)
    """
    known = list(known)
    return diagnose(
        f"`for {name}` is not a role",
        span,
        help=suggest_nearest(name, known) or f"roles are {join_quoted(known, 'and')}",
    )


@entry("E020", "two rules for one role")
def duplicate_role(name: str, span: Span, first: Span, note: str = "first rule") -> Diagnostic:
    """Each role has one rule at most, or it would be open which of the two a parameter follows. A rule for `tensor`
    takes every parameter, so that nothing is left for another one beside it. Put what differs into one
    rule with a choice, or give the parameters another role.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * grad
            for embedding, matrix:
                weight <- weight - lr * sign(grad)

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * grad
            for embedding, head:
                weight <- weight - lr * sign(grad)
    """
    return diagnose(f"`{name}` already has a rule", span, "second rule", [Label(first, note)])


@entry("E021", "a rule without its result")
def missing_update(target: str, span: Span, help: str | None = None) -> Diagnostic:
    """A rule states its result with an arrow: `weight <- ...` is the weight after the step, `factor <- ...` the
    factor of a schedule, `loss <- ...` the loss of a penalty. Without it the equations above come to nothing.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                step = lr * grad

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                step = lr * grad
                weight <- weight - step
    """
    return diagnose(f"this never says what becomes of `{target}`", span, help=help or f"add `{target} <- ...`")


@entry("E022", "two results")
def duplicate_update(target: str, span: Span, first: Span) -> Diagnostic:
    """A rule has one result. Lines are not executed in order, so two results are not two steps after each other.
    Combine them in one expression; parts of it can have names.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            hyper weight_decay = 0.1 where weight_decay >= 0
            for tensor:
                weight <- weight - lr * grad
                weight <- (1 - lr * weight_decay) * weight

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            hyper weight_decay = 0.1 where weight_decay >= 0
            for tensor:
                decayed = (1 - lr * weight_decay) * weight
                weight <- decayed - lr * grad
    """
    return diagnose(f"`{target} <-` stands twice", span, "second result", [Label(first, "first result")])


@entry("E023", "`<-` on something that is not the result")
def wrong_update(name: str, target: str, span: Span, help: str | None = None) -> Diagnostic:
    """The arrow `<-` is for the result alone: `weight` in a rule, `factor` in a schedule, `loss` in a penalty.
    Everything else is defined by `=`, also what is remembered from step to step: state exists wherever
    an equation looks at `prev(...)`.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m <- 0.9 * prev(m) + grad
                weight <- weight - lr * m

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = 0.9 * prev(m) + grad
                weight <- weight - lr * m
    """
    if not target:
        return diagnose(
            "a function has no `<-`", span, help="a function ends in `return ...`; its caller uses the value"
        )
    return diagnose(
        f"only `{target}` can stand left of `<-` here, not `{name}`",
        span,
        help=help or suggest_nearest(name, [target]) or f"write `{name} = ...` to define a value",
    )


@entry("E024", "`super` with nothing to refer to")
def no_super(reason: str, span: Span, help: str | None = None) -> Diagnostic:
    """`super` is the value that the optimizer named after `extends` gives to the equation of the same name. It
    needs such an optimizer, a rule of the same role there, and in it an equation of that name.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                step = super / 2
                weight <- weight - lr * step

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                step = grad
                weight <- weight - lr * step

        optimizer HalfSGD extends SGD:
            for tensor:
                step = super / 2
    """
    return diagnose(f"`super` has no meaning here: {reason}", span, help=help)


@entry("E025", "`prev` of something without a name")
def prev_needs_name(span: Span, fixed: str | None = None) -> Diagnostic:
    """A state has a name: it is stored under it in the optimizer's state, and checkpoints refer to it. So `prev`
    takes a name, that of an equation, a parameter of a function, `grad` or `weight`, and not an expression.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * (grad + prev(2 * grad))

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                double = 2 * grad
                weight <- weight - lr * (grad + prev(double))
    """
    if fixed is not None:
        hint = "one step ago it was `t - 1`" if fixed == "t" else f"use `{fixed}` itself"
        return diagnose(f"`prev` remembers streams, and `{fixed}` is none", span, help=hint)
    return diagnose(
        "`prev` remembers a name, not an expression",
        span,
        help="give the expression a name first: `x = ...`, then `prev(x)`",
    )


@entry("E026", "two initial values for one state")
def conflicting_initial(name: str, span: Span, first: Span) -> Diagnostic:
    """All uses of `prev(x)` in one place read the same state, and a state has one value before the first step:
    0, or the second argument. Two uses that name different initial values contradict each other. Give the
    same one everywhere, or make a second equation.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = 0.9 * prev(m, grad) + 0.1 * grad
                weight <- weight - lr * (m - prev(m, 2 * grad))

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = 0.9 * prev(m, grad) + 0.1 * grad
                weight <- weight - lr * (m - prev(m, grad))
    """
    return diagnose(
        f"`prev({name}, ...)` has two different initial values",
        span,
        "one initial value",
        [Label(first, "another one")],
    )


@entry("E027", "the optimizer used here has no rule for these parameters")
def delegate_without_rule(optimizer: str, roles: Sequence[str], span: Span) -> Diagnostic:
    """`for role: use Name(...)` hands the parameters of that role to a rule of another optimizer. That optimizer
    has rules only for parameters of another kind. It needs a rule for the role itself, for `rest`, or for `tensor`.

    Wrong:

        optimizer Sign:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * sign(grad)

        optimizer Mixed:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * grad
            for vector: use Sign(lr=lr)

    Right:

        optimizer Sign:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * sign(grad)

        optimizer Mixed:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * grad
            for vector: use Sign(lr=lr)
    """
    return diagnose(f"`{optimizer}` has no rule for {join_quoted(roles)} parameters", span)


@entry("E028", "a value that does not exist in this place")
def not_available(name: str | None, place: str, span: Span, help: str | None = None) -> Diagnostic:
    """Not everything exists everywhere. Conditions and defaults of hyperparameters see hyperparameters only; a
    schedule has neither `grad` nor `weight`, a penalty has no `grad` and no steps, so no `t` and no `prev`;
    `rows` and `cols` belong to matrices; a claim may look back, `prev(x)`, but has no state of its own; what `times`
    or `for` repeats has no `prev`.

    Wrong:

        schedule Decay:
            hyper total = 1000 where total > 0
            factor <- norm(grad) / total

    Right:

        schedule Decay:
            hyper total = 1000 where total > 0
            factor <- max(1 - t / total, 0)
    """
    return diagnose(f"{f'`{name}`' if name else 'this'} does not exist in {place}", span, help=help)


@entry("E029", "unsuitable state name")
def bad_state_name(name: str, reason: str, span: Span) -> Diagnostic:
    """What a rule remembers is stored in the optimizer's state under the name of its equation; the names are part of
    the checkpoint format. A few are taken by what the generated class keeps itself. Rename the equation.

    Wrong:

        optimizer Average:
            hyper lr = 0.01 where lr > 0
            for tensor:
                step = 0.9 * prev(step) + grad
                weight <- weight - lr * step

    Right:

        optimizer Average:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = 0.9 * prev(m) + grad
                weight <- weight - lr * m
    """
    return diagnose(f"a state cannot be stored as `{name}`: {reason}", span)


# Types


@entry("E030", "shapes that do not fit together")
def shape_mismatch(
    operator: str, left: str, left_span: Span, right: str, right_span: Span, span: Span, help: str | None = None
) -> Diagnostic:
    """Elementwise operators combine values of the same shape, or stretch a single value, one value per row or one
    per column to the other's shape. `x @ y` needs as many columns in x as rows in y; a transpose is `x'`. The
    message names both shapes, the labels show which part has which.

    Wrong:

        optimizer Gram:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * (grad + grad @ grad')

    Right:

        optimizer Gram:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * (grad + grad @ grad' @ grad)
    """
    return diagnose(
        f"`{operator}` cannot combine {left} with {right}",
        span,
        labels=[Label(left_span, f"this is {left}"), Label(right_span, f"this is {right}")],
        help=help,
    )


@entry("E031", "an operator that needs a matrix")
def not_elementwise(name: str, roles: str, span: Span) -> Diagnostic:
    """A rule `for tensor` takes parameters of any shape: vectors, matrices, convolutions. So it may use elementwise
    operators and reductions over the whole parameter only; matrix products, transposes, decompositions and
    values per row or column need `for matrix`.

    Wrong:

        optimizer Muon:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * orthogonalize(grad)

    Right:

        optimizer Muon:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * orthogonalize(grad)
            for rest:
                weight <- weight - lr * sign(grad)
    """
    return diagnose(f"`{name}` needs matrices, and `for {roles}` takes parameters of any shape", span)


@entry("E032", "the wrong kind of value")
def wrong_kind(where: str, wanted: str, found: str, span: Span, help: str | None = None) -> Diagnostic:
    """Numbers, truth values, strings and tuples are different kinds of values, and nothing is converted silently.
    Conditions are truth values: write `x > 0`, not `x`. A truth value becomes a number by a choice:
    `1 if x > 0 else 0`.

    Wrong:

        optimizer Cautious:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = ema(grad, 0.9)
                weight <- weight - lr * m * (m * grad > 0)

    Right:

        optimizer Cautious:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = ema(grad, 0.9)
                weight <- weight - lr * (m if m * grad > 0 else 0)
    """
    return diagnose(f"{where} wants {wanted}, not {found}", span, help=help)


@entry("E033", "the wrong shape")
def wrong_shape(where: str, wanted: str, found: str, span: Span) -> Diagnostic:
    """This place wants a value of a certain shape: the new weight has the shape of the weight, `trace` and
    `inverse_root` take square Gram matrices, a claim about cost takes a single number. The message says which shape
    is wanted and which one the value has.

    Wrong:

        optimizer Wide:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight @ weight' - lr

    Right:

        optimizer Wide:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight @ weight' @ weight - lr * grad
    """
    return diagnose(f"{where} wants {wanted}, not {found}", span, f"this is {found}")


@entry("E034", "a value that must be known before training")
def not_constant(where: str, span: Span) -> Diagnostic:
    """Some arguments decide what code is generated or how much work a step is: the number of iterations of
    `orthogonalize`, the axis of a reduction, a method. They must be known when the optimizer is built: a literal
    or a hyperparameter, or arithmetic of these, but nothing that depends on the gradient or the step.

    Wrong:

        optimizer Muon:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * orthogonalize(grad, steps=t)

    Right:

        optimizer Muon:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * orthogonalize(grad, steps=5)
    """
    return diagnose(f"{where} must be a constant or a hyperparameter", span, "this changes from step to step")


@entry("E035", "a string outside its closed set")
def unknown_choice(where: str, value: str, choices: Sequence[str], span: Span) -> Diagnostic:
    """Strings choose among a closed set of methods; this one is not among them. A hyperparameter that is a string
    names its set itself: `hyper method = "svd" where method in ("svd", "exact")`.

    Wrong:

        optimizer Muon:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * orthogonalize(grad, method="newton_schultz")

    Right:

        optimizer Muon:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * orthogonalize(grad, method="newton_schulz")
    """
    close = suggest_nearest(value, choices)
    hint = close.replace("`", '"') if close else "choose " + join_quoted(choices).replace("`", '"')
    return diagnose(f'{where} cannot be "{value}"', span, help=hint)


@entry("E036", "a hyperparameter default of no usable kind")
def bad_default(name: str, problem: str, span: Span, help: str | None = None) -> Diagnostic:
    """The default of a hyperparameter is a number, `true` or `false`, or a string whose condition names the set it
    comes from. It is a value, not a computation: what follows from other hyperparameters is an equation.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            hyper weight_decay = 0.1 * lr
            for tensor:
                weight <- weight - lr * (grad + weight_decay * weight)

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            hyper weight_decay = 0.001
            for tensor:
                weight <- weight - lr * (grad + weight_decay * weight)
    """
    return diagnose(f"the default of `{name}` {problem}", span, help=help)


@entry("E037", "a default that breaks its own condition")
def default_breaks_condition(
    name: str, value: str, condition: Span, span: Span, others: Sequence[Label] = (), source: str = "default"
) -> Diagnostic:
    """A hyperparameter's condition is checked whenever a value is given, also the default: with this default the
    optimizer could never be constructed without an argument. Correct the default or the condition.

    Wrong:

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            hyper beta = 1 where 0 <= beta < 1
            for tensor:
                weight <- weight - lr * ema(grad, beta)

    Right:

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            hyper beta = 0.9 where 0 <= beta < 1
            for tensor:
                weight <- weight - lr * ema(grad, beta)
    """
    return diagnose(
        f"the {source} {value} of `{name}` breaks the condition `{condition.text}`",
        span,
        labels=[Label(condition, "the condition"), *others],
    )


@entry("E038", "arithmetic that has no result")
def bad_arithmetic(text: str, problem: str, span: Span) -> Diagnostic:
    """This computes with constants only, and the result is no number: a division by zero, the root or logarithm of
    a negative number, an overflow. At run time it would fill the weights with NaN.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grad * (1 / (2 - 2))

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * grad * (1 / 2)
    """
    return diagnose(f"`{text}` {problem}", span)


@entry("E039", "a malformed claim")
def bad_claim(problem: str, span: Span, help: str | None = None) -> Diagnostic:
    """A claim is something that can be true or false of every step: a comparison of the rule's streams, several of
    them joined by `or` and `not`, or one of the forms `scale_free(grad)`, `cost(...)`, `state(...)`,
    `communicates(...)`, `orthogonal(x)`, `equivariant(rows)` and `equivariant(cols)`.

    Wrong:

        optimizer Sign:
            hyper lr = 0.01 where lr > 0
            for tensor:
                u = sign(grad)
                weight <- weight - lr * u
                claim norm(u)

    Right:

        optimizer Sign:
            hyper lr = 0.01 where lr > 0
            for tensor:
                u = sign(grad)
                weight <- weight - lr * u
                claim scale_free(grad)
    """
    return diagnose(f"this claims nothing that can be checked: {problem}", span, help=help)


@entry("E040", "a past that nothing has")
def bad_past(problem: str, span: Span, help: str | None = None) -> Diagnostic:
    """`m was exp_avg` says what a state of the rule was called in older versions of the spec, so that checkpoints of
    these can be loaded; `v was exp_avg_sq / (1 - beta2)` says that it was scaled otherwise. On the left stands a
    state: a value that is remembered from step to step. On the right stand states of the older version,
    hyperparameters, `t` (the steps taken) and elementwise operators, for each element is converted by itself.

    Wrong:

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = ema(grad, 0.9)
                n was exp_avg
                weight <- weight - lr * m

    Right:

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = ema(grad, 0.9)
                m was exp_avg
                weight <- weight - lr * m
    """
    return diagnose(f"no checkpoint can be read this way: {problem}", span, help=help)


@entry("E041", "a shape that nothing tells")
def undetermined_shape(name: str, sides: Sequence[str], span: Span) -> Diagnostic:
    """A state that starts at 0 has the shape of its equation, and here the equation has the shape of the state: as
    many columns as it had one step ago, say. Numbers do not help, for they go with any shape, nor does a condition:
    what it says of a row may choose in all columns. A value to start from, the second argument of `prev`, tells the
    shape, and something to add to it does so, too.

    Wrong:

        optimizer Power:
            hyper lr = 0.01 where lr > 0
            for matrix:
                v = grad @ grad' @ prev(v)
                weight <- weight - lr * norm(v) * grad

    Right:

        optimizer Power:
            hyper lr = 0.01 where lr > 0
            for matrix:
                v = grad @ grad' @ prev(v, mean(grad, per=row))
                weight <- weight - lr * norm(v) * grad
    """
    note = f"as many as `prev({name})`, which has as many as this"
    per, one = ("row", "one column") if "columns" in sides else ("col", "one row")
    hint = f"say what it starts from, a value of its shape: `prev({name}, 0 * mean(weight, per={per}))` for {one}"
    return diagnose(f"nothing tells how many {' and '.join(sides)} `{name}` has", span, note, help=hint)


@entry("E042", "events of one name that do not agree")
def two_signatures(event: str, argument: str, span: Span, first: Span) -> Diagnostic:
    """An optimizer may have an event that the optimizer it uses for other parameters has as well. One call fires it
    for the parameters of both, with the arguments of both: `refresh(decay, scale)` where one is `refresh(decay)` and
    the other `refresh(scale)`. An argument that both have must have one default, or none in both.

    Wrong:

        optimizer Inner:
            on refresh(decay=0.9):
                h = ema(grad^2, decay)
            for tensor:
                weight <- weight - 0.01 * grad / (1 + h)

        optimizer Outer:
            on refresh(decay=0.5):
                h = ema(norm(grad), decay)
            for matrix:
                weight <- weight - 0.01 * grad / (1 + h)
            for rest: use Inner()

    Right:

        optimizer Inner:
            on refresh(decay=0.9):
                h = ema(grad^2, decay)
            for tensor:
                weight <- weight - 0.01 * grad / (1 + h)

        optimizer Outer:
            on refresh(share=0.5):
                h = ema(norm(grad), share)
            for matrix:
                weight <- weight - 0.01 * grad / (1 + h)
            for rest: use Inner()
    """
    labels = [Label(first, "with these arguments")]
    message = f"one call fires both events `{event}`, which do not agree on the default of `{argument}`"
    help_text = f"give `{argument}` one default, or give the argument or the event another name"
    return diagnose(message, span, "and with these", labels, help_text)


# Streams


@entry("E043", "a sum over another rule")
def foreign_rule(span: Span, words: Sequence[str]) -> Diagnostic:
    """`total(x)` adds up over all parameters, `total(x, over=matrix)` over those of one rule: the one that it stands
    in, since the equations that x is made of are that rule's.

    Wrong:

        optimizer Shared:
            hyper lr = 0.01 where lr > 0
            for matrix:
                m = ema(grad, 0.9)
                weight <- weight - lr * m / sqrt(total(norm(m)^2, over=rest))
            for rest:
                weight <- weight - lr * grad

    Right:

        optimizer Shared:
            hyper lr = 0.01 where lr > 0
            for matrix:
                m = ema(grad, 0.9)
                weight <- weight - lr * m / sqrt(total(norm(m)^2, over=matrix))
            for rest:
                weight <- weight - lr * grad
    """
    help = f"here it is {join_quoted([f'over={word}' for word in words])}" if words else None
    return diagnose("`over` names the rule that this stands in", span, help=help)


@entry("E045", "a repetition that is none")
def bad_repetition(problem: str, span: Span, help: str | None = None) -> Diagnostic:
    """`x |> f(a) times 12` applies f twelve times, `x |> f(a / 2^k) for k in 1..20` twenty times, with k = 1, 2 and so
    on up to 20 in the arguments. The rounds are written out, 32 at most, so their number is a literal. What f gives has
    the shape of what it was given, and f has no state of its own. The counter has a name that means nothing else.

    Wrong:

        def polish(x) = 1.5 * x - 0.5 * x @ x' @ x

        optimizer Polished:
            hyper lr     = 0.01 where lr > 0
            hyper rounds = 10   where rounds > 0
            for matrix:
                weight <- weight - lr * (grad / norm(grad) |> polish times rounds)

    Right:

        def polish(x) = 1.5 * x - 0.5 * x @ x' @ x

        optimizer Polished:
            hyper lr = 0.01 where lr > 0
            for matrix:
                weight <- weight - lr * (grad / norm(grad) |> polish times 10)
    """
    return diagnose(problem, span, help=help)


@entry("E046", "a rule that cannot see matrices so")
def bad_orientation(words: str, span: Span, help: str | None = None) -> Diagnostic:
    """`for matrix as wide:` sees every matrix with at most as many rows as columns: one that has more is transposed.
    `as tall` is the other way round. There are no other ways, and only rules of matrices have rows and columns; a
    penalty sees matrices as they are. In such a rule `outputs` and `inputs` are the rows and columns that the
    parameter itself has.

    Wrong:

        optimizer OneSided:
            hyper lr = 0.01 where lr > 0
            for matrix as flat:
                weight <- weight - lr * inverse_root(grad @ grad', 2) @ grad

    Right:

        optimizer OneSided:
            hyper lr = 0.01 where lr > 0
            for matrix as wide:
                weight <- weight - lr * inverse_root(grad @ grad', 2) @ grad
    """
    return diagnose(words, span, help=help)


@entry("E047", "a dimension that cannot be one")
def bad_dimension(problem: str, span: Span, help: str | None = None) -> Diagnostic:
    """`dim r = min(rank, rows, cols)` gives the values of a rule a third size beside rows and columns, such as the
    rank of what is kept in place of a matrix. A rule of matrices has one at most. It follows from hyperparameters,
    `rows` and `cols` alone, for states have one size throughout training; the size is the whole part of the number,
    at least 1 and at most the smaller of `rows` and `cols`. Values get it from `leading(x, r)`, the first r columns
    of x.

    Wrong:

        optimizer Sketched:
            hyper lr   = 0.01 where lr > 0
            hyper rank = 4    where rank >= 1
            for matrix:
                dim r = rank + t
                p = leading(eigenbasis(grad @ grad'), r)
                weight <- weight - lr * p @ (p' @ grad)

    Right:

        optimizer Sketched:
            hyper lr   = 0.01 where lr > 0
            hyper rank = 4    where rank >= 1
            for matrix:
                dim r = min(rank, rows, cols)
                p = leading(eigenbasis(grad @ grad'), r)
                weight <- weight - lr * p @ (p' @ grad)
    """
    return diagnose(problem, span, help=help)


@entry("E050", "an equation that needs its own result")
def instantaneous_cycle(cycle: Sequence[str], span: Span, labels: Sequence[Label]) -> Diagnostic:
    """Equations are unordered, but each needs the values it mentions first. These need each other within the same
    step, so none can be computed. What is meant is nearly always the value of the step before: `prev(x)` looks
    at state and breaks the cycle.

    Wrong:

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = 0.9 * m + grad
                weight <- weight - lr * m

    Right:

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = 0.9 * prev(m) + grad
                weight <- weight - lr * m
    """
    return diagnose(
        "these equations need each other within one step: " + " -> ".join(cycle),
        span,
        labels=labels,
        help=f"break the cycle with the value of the step before: `prev({cycle[0]})`",
    )


@entry("E051", "an initial value that needs itself")
def initial_cycle(cycle: Sequence[str], span: Span) -> Diagnostic:
    """The second argument of `prev` is the value before the first step. It is computed at the first step, when
    there is no step before, so that every `prev` in it stands for an initial value, too. Here that leads back to
    the very state that is to be started, directly or through other equations.

    Wrong:

        optimizer Radius:
            hyper lr = 0.01 where lr > 0
            for tensor:
                r = 0.9 * prev(r, start) + 0.1 * norm(weight)
                start = 2 * r
                weight <- weight - lr * r * grad

    Right:

        optimizer Radius:
            hyper lr = 0.01 where lr > 0
            for tensor:
                r = 0.9 * prev(r, start) + 0.1 * norm(weight)
                start = 2 * norm(weight)
                weight <- weight - lr * r * grad
    """
    hint = "begin with what is known at the first step: numbers, hyperparameters, `weight`, `grad`"
    return diagnose("this initial value needs itself: " + " -> ".join(cycle), span, help=hint)


@entry("E052", "a shared value that is one of each parameter")
def not_shared(problem: str, span: Span, help: str | None = None) -> Diagnostic:
    """`shared d = ...` is one number for all parameters of its rule, in whichever groups they are and from whenever on
    they are trained. So it follows from what is the same for all of them: numbers, hyperparameters, sums over
    parameters (`total`), `t`, shared values of the step before, and what is made of these. A gradient, a weight, their
    sizes and their other states go into it by way of `total`.

    Wrong:

        optimizer Braked:
            hyper lr = 0.01 where lr > 0
            for tensor:
                shared longest = max(prev(longest, 0), norm(grad))
                weight <- weight - lr * grad / (1 + longest)

    Right:

        optimizer Braked:
            hyper lr = 0.01 where lr > 0
            for tensor:
                shared longest = max(prev(longest, 0), sqrt(total(sum(grad^2))))
                weight <- weight - lr * grad / (1 + longest)
    """
    return diagnose(problem, span, help=help or "a sum over all parameters is `total(x)`")


# Other files


@entry("E060", "a name that two files define")
def ambiguous(kind: str, name: str, span: Span, places: Sequence[Span]) -> Diagnostic:
    """Functions and optimizers are found in this file, then in the files beside it, then among the shipped specs. Of
    the files in one folder none comes before another, so a name that is taken from there must be defined once.
    What a file defines itself is never looked for elsewhere: it may have a name that others use as well.

    Wrong:

        # scaling.opt
        def halved(x) = x / 2

        # steps.opt
        def halved(x) = x * 0.5

        # sgd.opt
        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * halved(grad)

    Right:

        # scaling.opt
        def halved(x) = x / 2

        # steps.opt
        def thirded(x) = x / 3

        # sgd.opt
        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * halved(grad)
    """
    files = list(dict.fromkeys(place.source.path for place in places))
    where = f"by {join_quoted(files, 'and')}" if len(files) > 1 else f"twice in `{files[0]}`"
    labels = [Label(place, "one definition" if place is places[0] else "another one") for place in places]
    return diagnose(
        f"{kind} `{name}` is defined {where}", span, labels=labels, help="rename all but one, or define it here"
    )


@entry("E061", "a name from a file that cannot be read")
def broken_neighbour(name: str, span: Span, first: Diagnostic) -> Diagnostic:
    """This name is defined in another file, which has mistakes of its own; the first of them is shown. Correct that
    file, or define the name here. Of a file beside this one nothing is read, and no mistake matters, until
    something is taken from it.

    Wrong:

        # scaling.opt
        def halved(x) = (x / 2

        # sgd.opt
        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * halved(grad)

    Right:

        # scaling.opt
        def halved(x) = x / 2

        # sgd.opt
        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * halved(grad)
    """
    path = first.span.source.path
    labels = [Label(first.span, first.message)]
    return diagnose(
        f"`{name}` is in `{path}`, which has mistakes", span, labels=labels, help=f"see `optforge check {path}`"
    )


@entry("E062", "a name that is taken from a file which does not have it")
def not_in_file(name: str, file: str, span: Span, known: Iterable[str]) -> Diagnostic:
    """`from file: name, name` takes functions and optimizers of another file: of one beside this file, or else of a
    shipped spec. The file is named without its ending `.opt`, and has a definition of each name. Functions of files
    beside this one are found without that, too, as long as only one of them has the name.

    Wrong:

        # scaling.opt
        def halved(x) = x / 2

        # sgd.opt
        from scaling: half

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * half(grad)

    Right:

        # scaling.opt
        def halved(x) = x / 2

        # sgd.opt
        from scaling: halved

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * halved(grad)
    """
    there = sorted(set(known))
    help_text = suggest_nearest(name, there) or (f"it has {join_quoted(there[:5], 'and')}" if there else None)
    missing = "defines no" if there else "is neither beside this file nor shipped, so there is no"
    return diagnose(f"`{file}.opt` {missing} `{name}`", span, help=help_text)


# Wrappers


@entry("E070", "unknown wrapper")
def unknown_wrapper(name: str, span: Span, known: Iterable[str], help: str | None = None) -> Diagnostic:
    """What stands behind `|>` where optimizers are put together is a wrapper: one of this file, of a file in the same
    folder, or a shipped one. What is wrapped, before the first `|>`, is an optimizer.

    Wrong:

        wrapper Signed:
            for tensor:
                weight <- step(sign(grad))

        optimizer Mine = AdamW |> Sigend

    Right:

        wrapper Signed:
            for tensor:
                weight <- step(sign(grad))

        optimizer Mine = AdamW |> Signed
    """
    return diagnose(f"unknown wrapper `{name}`", span, help=help or suggest_nearest(name, known))


@entry("E071", "`step` in the wrong place")
def misplaced_step(problem: str, span: Span, help: str | None = None, other: Span | None = None) -> Diagnostic:
    """In the rule of a wrapper, `step(g)` is the weight that the wrapped optimizer makes of `weight` when `g` is its
    gradient. Each rule says so exactly once, for the wrapped optimizer has one state, and at a place that every step
    comes to: not in a branch of a choice, which may not be taken, nor in an event or a function. Its name can be used
    as often as wanted. Behind the gradient it may give hyperparameters of the wrapped optimizer values of their own,
    `step(grad, weight_decay=0)`.

    Wrong:

        wrapper Late:
            hyper first = 100 where first >= 1
            for tensor:
                weight <- weight if t < first else step(grad)

    Right:

        wrapper Late:
            hyper first = 100 where first >= 1
            for tensor:
                moved = step(grad)
                weight <- weight if t < first else moved
    """
    labels = [] if other is None else [Label(other, "the first one")]
    return diagnose(problem, span, labels=labels, help=help)


@entry("E072", "this puts no optimizers together")
def bad_composition(problem: str, span: Span, help: str | None = None) -> Diagnostic:
    """`optimizer Name = Base |> Wrapper |> Other(hyper=value)`: an optimizer and the wrappers around it, innermost
    first. Each may be given defaults for its hyperparameters, which are numbers, `true` or `false`, or strings. The
    hyperparameters of the base keep their names, those of `Wrapper` become `wrapper_name`.

    Wrong:

        wrapper Smooth:
            hyper beta = 0.9 where 0 <= beta < 1
            for tensor:
                weight <- step(ema(grad, beta))

        optimizer Mine = AdamW + Smooth

    Right:

        wrapper Smooth:
            hyper beta = 0.9 where 0 <= beta < 1
            for tensor:
                weight <- step(ema(grad, beta))

        optimizer Mine = AdamW(beta2=0.99) |> Smooth(beta=0.5)
    """
    return diagnose(problem, span, help=help)


@entry("E073", "two events of one name that set the weight")
def clashing_events(event: str, wrapper: str, span: Span, first: Span) -> Diagnostic:
    """Where a wrapper and what it wraps have an event of one name, one call fires both. That is fine as long as one of
    them alone sets the weight: where both did, nothing would say which comes first, and whether what the one takes
    away was put there by the other.

    Wrong:

        wrapper Shift:
            hyper size = 1.0 where size > 0
            on show():
                weight <- weight + size
            for tensor:
                weight <- step(grad)

        optimizer Base:
            on show():
                weight <- weight - m
            for tensor:
                m = ema(grad, 0.9)
                weight <- weight - 0.01 * m

        optimizer Both = Base |> Shift

    Right:

        wrapper Shift:
            hyper size = 1.0 where size > 0
            on shift():
                weight <- weight + size
            for tensor:
                weight <- step(grad)

        optimizer Base:
            on show():
                weight <- weight - m
            for tensor:
                m = ema(grad, 0.9)
                weight <- weight - 0.01 * m

        optimizer Both = Base |> Shift
    """
    message = f"`{wrapper}` and what it wraps both set the weight in `{event}`"
    return diagnose(
        message, span, "wrapped here", [Label(first, "this one")], "give one of the two events another name"
    )


@entry("E074", "a wrapper asks for a direction that cannot be seen")
def no_direction(wrapper: str, words: Iterable[str], span: Span) -> Diagnostic:
    """A wrapper with an equation `direction` changes what its optimizer subtracts from the weight, before that is
    multiplied by the learning rate and without decay: `d` in `weight - lr * (d + weight_decay * weight)`. It is found
    by the form of the rule, or is the equation that the rule itself calls `direction`.

    Wrong:

        wrapper Signed:
            for tensor:
                direction = sign(super)
                weight <- step(grad)

        optimizer Folded:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = 0.9 * prev(m) + lr * grad
                weight <- weight - m

        optimizer Mine = Folded |> Signed

    Right:

        wrapper Signed:
            for tensor:
                direction = sign(super)
                weight <- step(grad)

        optimizer Apart:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = 0.9 * prev(m) + grad
                weight <- weight - lr * m

        optimizer Mine = Apart |> Signed
    """
    help_text = "write it as `weight - lr * (d + weight_decay * weight)`, or call the equation `direction`"
    message = f"`{wrapper}` changes the direction of a rule `for {', '.join(words)}` that shows none"
    return diagnose(message, span, help=help_text)


@entry("E079", "a shape that no argument of an event has")
def bad_argument_shape(problem: str, span: Span, help: str | None = None) -> Diagnostic:
    """An argument of an event is one number for all parameters, or, with a shape behind its name, a matrix that each
    parameter has its own of: `k: cols x cols`. The sides are `rows` and `cols`, those of the matrix that the rule sees,
    or 1. It has no default, it is no part of a `total`, and no first value is made of it. A rule for tensors of any
    shape sees elements, and so takes `rows x cols` alone.

    Wrong:

        optimizer NewtonMuon:
            hyper lr = 0.02 where lr >= 0
            on activations(k: inputs x inputs):
                s = ema(k, 0.95)
            for matrix:
                weight <- weight - lr * (grad @ inverse_root(s, 1, 0.2))
            for rest:
                weight <- weight - lr * grad

    Right:

        optimizer NewtonMuon:
            hyper lr = 0.02 where lr >= 0
            on activations(k: cols x cols):
                s = ema(k, 0.95)
            for matrix:
                weight <- weight - lr * (grad @ inverse_root(s, 1, 0.2))
            for rest:
                weight <- weight - lr * grad
    """
    return diagnose(problem, span, help=help or "such as `k: cols x cols`, `level: rows x 1` or `g: rows x cols`")


# Warnings


@entry("W001", "a prelude function is replaced")
def replaces_prelude(name: str, span: Span, path: str | None = None) -> Diagnostic:
    """A `def` may have the name of a function of the prelude; calls in this file, and in the files beside it, then
    mean yours, also where a reader expects the known one. If that is not on purpose, choose another name.

    Wrong:

        def ema(x, decay) = decay * x

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * ema(grad, 0.9)

    Right:

        def scaled(x, decay) = decay * x

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            for tensor:
                weight <- weight - lr * scaled(grad, 0.9)
    """
    if path is not None:
        return diagnose(f"this is the `{name}` of `{path}`, not the prelude's", span)
    return diagnose(f"this replaces the prelude's `{name}` in this file", span)


@entry("W002", "a value nobody uses")
def unused_binding(name: str, span: Span) -> Diagnostic:
    """Neither the result of the rule, nor a claim, nor another equation in use depends on this one. It leaves no
    trace in the generated code. Often a name is misspelt where it was meant to be used, or a line is left over.

    Wrong:

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = ema(grad, 0.9)
                weight <- weight - lr * grad

    Right:

        optimizer Momentum:
            hyper lr = 0.01 where lr > 0
            for tensor:
                m = ema(grad, 0.9)
                weight <- weight - lr * m
    """
    return diagnose(f"`{name}` is never used", span)


@entry("W003", "a hyperparameter nobody uses")
def unused_hyper(name: str, span: Span) -> Diagnostic:
    """No equation and no condition of another hyperparameter mentions this one: whoever sets it changes nothing.
    Use it or remove it.

    Wrong:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            hyper weight_decay = 0.1 where weight_decay >= 0
            for tensor:
                weight <- weight - lr * grad

    Right:

        optimizer SGD:
            hyper lr = 0.01 where lr > 0
            hyper weight_decay = 0.1 where weight_decay >= 0
            for tensor:
                weight <- weight - lr * (grad + weight_decay * weight)
    """
    return diagnose(f"hyperparameter `{name}` is never used", span)


@entry("W004", "an event that changes nothing")
def idle_event(name: str, span: Span) -> Diagnostic:
    """No rule reads what this event computes, and it changes no weight: firing it would do nothing, so the generated
    class does not have it. A rule with equations of its own reads the streams of events by their names; one that
    follows another optimizer (`use`) reads that one's events.

    Wrong:

        optimizer Curved:
            hyper lr = 0.01 where lr > 0
            on curvature(scale):
                h = ema(scale * grad^2, 0.99)
            for tensor:
                weight <- weight - lr * grad

    Right:

        optimizer Curved:
            hyper lr = 0.01 where lr > 0
            on curvature(scale):
                h = ema(scale * grad^2, 0.99)
            for tensor:
                weight <- weight - lr * grad / (1 + h)
    """
    return diagnose(f"the event `{name}` changes nothing", span)


@entry("W005", "a state that a choice of two shapes makes larger")
def enlarged_state(name: str, whole: str, then: str, otherwise: str, span: Span) -> Diagnostic:
    """`a if rows >= cols else b` of a value for each row and a value for each column has the shape of both, a whole
    matrix: one of them is spread over the other. What is remembered of it is as large for every parameter. A rule that
    sees one side only, `for matrix as wide:`, needs no choice; else remember each branch by itself, and choose after
    that: both states are kept then, and together they are still small.

    Wrong:

        optimizer Short:
            hyper lr = 0.01 where lr > 0
            for matrix:
                s = norm(grad, per=row) if rows <= cols else norm(grad, per=col)
                weight <- weight - lr * grad / (ema(s, 0.9) + 1e-8)

    Right:

        optimizer Short:
            hyper lr = 0.01 where lr > 0
            for matrix as wide:
                s = norm(grad, per=row)
                weight <- weight - lr * grad / (ema(s, 0.9) + 1e-8)
    """
    help = "see one side only, `for matrix as wide:`, or remember each branch by itself"
    problem = f"of this `{name}` remembers {whole} numbers; its branches have {then} and {otherwise}"
    return diagnose(problem, span, help=help)
