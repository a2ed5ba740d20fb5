"""What people write out of habit from other languages, and what it is called here.

A refusal goes in, a line of help or nothing comes out. Help is given only where it is likely right.
"""

from __future__ import annotations

from unicodedata import name as character_name

from optforge.dsl.errors import suggest_nearest
from optforge.dsl.grammar import load_keywords
from optforge.dsl.mistakes import LINE_WORDS, Refusal

LOOKALIKES = {
    **dict.fromkeys("−–—‐‑", "type an ASCII minus sign: `-`"),
    **dict.fromkeys("×·⋅∗⊙", "multiplication is written `*`"),
    **dict.fromkeys("÷∕⁄", "division is written `/`"),
    **dict.fromkeys("“”„«»", 'strings stand between ASCII double quotes: `"..."`'),
    **dict.fromkeys("‘’′`´", "a transpose is written with an ASCII quote: `x'`"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000", "this is a space of another kind; type an ordinary one"),
    **dict.fromkeys("²³¹⁴⁵⁻ᵀ", "powers are written `x^2`, a transpose `x'`"),
    "≤": "this is written `<=`",
    "≥": "this is written `>=`",
    "≠": "this is written `!=`",
    "←": "this is written `<-`",
    "√": "this is written `sqrt(x)`",
    "∞": "this is written `inf`",
    "（": "type ASCII parentheses",
    "）": "type ASCII parentheses",
    "，": "type an ASCII comma",
    "：": "type an ASCII colon",
    "＝": "type an ASCII `=`",
}
SYMBOLS = {
    "&": "this is written `and`",
    "|": "this is written `or`; a pipe is `|>`",
    "!": "this is written `not`",
    "~": "this is written `not`",
    "%": "the remainder is `mod(a, b)`",
    "[": "there is no indexing; a tuple is written `(a, b)`",
    "]": "there is no indexing; a tuple is written `(a, b)`",
    "{": "blocks are indented, tuples are written `(a, b)`",
    "}": "blocks are indented, tuples are written `(a, b)`",
    ";": "every equation has a line of its own",
    "\\": "a long expression continues on the next line inside parentheses",
    "?": "a choice is written `a if condition else b`",
}
CHAINED = "choices are chained as `a if c else b if d else e`"
NO_CHOICE = "lines cannot be chosen, only values: `x = a if condition else b`"
WORDS = {
    "import": "what is beside this file is found by itself; what another file has is taken by `from file: name, name`",
    "class": "an optimizer begins with `optimizer Name:`",
    "lambda": "a function is defined by `def name(x) = ...`",
    "elif": CHAINED,
    "while": "there are no loops; state is `prev(x)`",
    "let": "a definition is just `name = ...`",
    "var": "a definition is just `name = ...`",
    "const": "a definition is just `name = ...`",
    "state": "state needs no declaration: it exists where an equation says `prev(x)`",
    **dict.fromkeys(("hyperparameter", "hparam", "param", "parameter"), "a hyperparameter begins with `hyper`"),
    "pass": "a block that does nothing is left out",
    "assert": "a promise about the rule begins with `claim`, a condition on a hyperparameter with `where`",
}


def suggest(refusal: Refusal) -> str | None:
    """One line of help for a refused token, if a habit explains it."""
    kind = refusal.token.type
    if kind in ("_FOREIGN", "_FOREIGN_WORD"):
        return _suggest_character(refusal)
    if kind == "_UNCLOSED":
        quote = '"""' if refusal.token.startswith('"""') else '"'
        return f"add `{quote}` where it should end"
    if kind == "_INDENT":
        return "a long expression continues on the next line only inside parentheses"
    return (
        _suggest_word(refusal)
        or (_suggest_at_line_start(refusal) if refusal.starts_statement else None)
        or (_suggest_definition(refusal) if {"EQUAL", "_ARROW"} <= refusal.expected else None)
        or _suggest_in_expression(refusal)
        or _suggest_keyword(refusal)
    )


def _suggest_character(refusal: Refusal) -> str | None:
    text = refusal.token
    char = next((char for char in text if not char.isascii()), text[0])
    if char in LOOKALIKES or char in SYMBOLS:
        return LOOKALIKES.get(char) or SYMBOLS[char]
    if char == ".":
        after_digit = refusal.adjacent and refusal.previous is not None and refusal.previous.type == "NUMBER"
        digits = after_digit or refusal.following[:1].isdigit()
        return "a number has digits on both sides of its point: `0.5`, `1.0`" if digits else "names have no parts"
    words = character_name(char, "").split()
    if words[:1] == ["GREEK"] and len(words) == 4:
        return f"names are ASCII: write `{words[3].lower()}`"
    if char.isalnum():
        return "names consist of the letters a-z and A-Z, digits and `_`"
    return None


def _suggest_word(refusal: Refusal) -> str | None:
    """Words that are keywords elsewhere: the refused one, or a name that nothing can follow."""
    token, previous = refusal.token, refusal.previous
    if token.type == "NAME" and token in WORDS:
        return WORDS[token]
    follows_name = previous is not None and previous.type == "NAME" and not refusal.first_in_line
    if previous is not None and follows_name and (refusal.is_keyword or token.type in ("NAME", "COLON", "NUMBER")):
        return WORDS.get(previous)
    if token.type == "IF" and previous is not None and previous.type == "ELSE":
        return CHAINED
    return None


def _suggest_at_line_start(refusal: Refusal) -> str | None:
    token = refusal.token
    if "_INDENT" in refusal.expected:
        return "indent the lines that belong to the block"
    if token.type == "FOR" and "NAME" in refusal.expected:
        return "a rule does not stand inside another, and there are no loops"
    if token.type == "AT":
        return "there are no decorators"
    if token.type in ("IF", "ELSE"):
        return NO_CHOICE
    if token.type == "STRING":
        return "a docstring stands first, right below the line that opens its block"
    if token.type == "RETURN":
        return "only functions return; the result of a rule is `weight <- ...`"
    if token.type == "NAME" and "FOR" in refusal.expected and refusal.following.startswith(("=", "<-")):
        return "equations stand in a rule, below a line such as `for matrix:`"
    if token.type == "NAME":
        keywords = load_keywords()
        return suggest_nearest(
            token, [word for word, kind in keywords.items() if kind in refusal.expected & set(LINE_WORDS)]
        )
    return None


def _suggest_definition(refusal: Refusal) -> str | None:
    """After the name at the start of an equation."""
    text, following = refusal.token, refusal.following
    if text in ("+", "-", "*", "/", "@", "^") and following.startswith("="):
        return "nothing is assigned twice: give the new value a name of its own"
    if text == ":" and following.startswith("="):
        return "a definition is written `name = ...`"
    if text == ":":
        return "types are found by the compiler and never written"
    if text == "==":
        return "a definition has a single `=`"
    if text in ("<", "<="):
        return "the result is written `weight <- ...`"
    return None


def _suggest_in_expression(refusal: Refusal) -> str | None:
    token, previous, expected = refusal.token, refusal.previous, refusal.expected
    before = previous if previous else ""
    wants_value, wants_operator = "NUMBER" in expected, "PLUS" in expected
    if wants_value and token == "*" and before == "*" and refusal.adjacent:
        return "powers are written `x^2`"
    if wants_value and token.type == "QUOTE":
        return 'strings stand between double quotes: `"..."`'
    if wants_value and token == "=" and before in ("+", "-", "*", "/", "@", "^", "<", ">", "=", "=="):
        return "an operator and `=` cannot be combined"
    if wants_operator and token.type == "EQUAL":
        return "equality is written `==`"
    if wants_operator and token.type == "_ARROW":
        return "`<-` is one sign; put a space between `<` and `-` to compare with a negative value"
    if wants_operator and token.type in ("NAME", "LPAR", "NUMBER") and refusal.adjacent:
        return "multiplication is always written: `2 * x`"
    if token.type == "COMMA" and refusal.adjacent and before.isdigit() and refusal.following[:1].isdigit():
        return "the decimal sign is a point: `0.01`"
    if token.type == "RPAR" and "COMMA" in expected and "RPAR" not in expected:
        return "a set has two members or more; one value is compared with `==`"
    if token.type == "IN" and "COLON" in expected:
        return "there are no loops; `for matrix:` says which parameters a rule is for"
    if token.type == "COLON" and "EQUAL" in expected:
        return "types are found by the compiler and never written"
    return None


def _suggest_keyword(refusal: Refusal) -> str | None:
    """A keyword where a name can stand, unless it may well have been meant as the keyword."""
    if not refusal.is_keyword or "NAME" not in refusal.expected:
        return None
    if refusal.token == "dim" and refusal.following.startswith("="):
        return "an axis is `per=row` or `per=col`"
    if refusal.starts_statement and not refusal.following.startswith(("=", "<-")):
        return None
    return f"`{refusal.token}` is a keyword and cannot be a name"
