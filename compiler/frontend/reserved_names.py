"""Which names a spec may give to its values, hypers, events and classes."""

from __future__ import annotations

import keyword

from optforge.compiler.frontend.builtins import CLAIM_FORMS, RESERVED
from optforge.compiler.frontend.reporting import Report, ReservedNames
from optforge.compiler.ir.operators import CALLABLE
from optforge.dsl import ast, errors

NAME_LIMIT = 60


def require_usable_name(name: ast.Identifier, kind: str, report: Report) -> None:
    """Report a name that has a meaning already or that generated Python could not carry."""
    text = name.name
    reason = reason_against(text, kind, report.reserved)
    if text in RESERVED:
        report(errors.reserved_name(text, name.span))
    elif reason:
        report(errors.python_name(text, reason, name.span))
    elif len(text) > NAME_LIMIT:
        report(errors.too_large("this name is too long", NAME_LIMIT, name.span))


def reason_against(text: str, kind: str, reserved: ReservedNames) -> str | None:
    """Why something of this kind cannot have that name in generated Python; None where it can.

    What users never write in Python, such as the equations of a rule, gets a name there that is none of its words.
    """
    if keyword.iskeyword(text) and kind != "value":
        return "it is a word of Python"
    if text.startswith("__"):
        return "names with two leading underscores belong to Python"
    if reason := reserved.reason(text, kind):
        return reason
    if kind in ("event", "class") and text in ("l", "O", "I"):
        return "it looks like a digit"
    if kind in ("event", "class") and text.startswith("_"):
        return "in Python a leading underscore says that nobody else should use it"
    return None


def require_usable_function_name(name: ast.Identifier, report: Report) -> None:
    if name.name in CALLABLE or name.name in CLAIM_FORMS or name.name in RESERVED:
        report(errors.reserved_name(name.name, name.span))
