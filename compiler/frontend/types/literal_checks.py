"""Numbers and strings of a spec: what can stand in one, and what is too large, too small, too long or invisible."""

from __future__ import annotations

import math
import re

from optforge.compiler.frontend.reporting import Reporter
from optforge.dsl import ast, errors

TEXT_LIMIT = 60


def require_representable(node: ast.Number, report: Reporter) -> None:
    """A number other than `inf` must be finite, and zero only if it is written so."""
    if node.spelling != "inf" and math.isinf(node.value):
        report(errors.bad_arithmetic(node.spelling, "is too large for a number", node.span))
    elif node.value == 0 and re.search("[1-9]", re.split("[eE]", node.spelling)[0]):
        report(errors.bad_arithmetic(node.spelling, "is too small for a number", node.span))


def require_choosable(node: ast.Text, report: Reporter) -> None:
    """A string in an expression is a choice, which people type: short, and of characters that can be seen."""
    strange = next((char for char in node.value if not char.isprintable()), None)
    if strange is not None:
        hint = "a string that is chosen has printable characters only"
        report(errors.unexpected_character(strange, node.span, hint))
    elif len(node.value) > TEXT_LIMIT:
        report(errors.too_large("this string is too long", TEXT_LIMIT, node.span))
