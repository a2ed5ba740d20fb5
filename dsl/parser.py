"""Text to tree: a source in, a surface tree or the reasons why there is none out.

Every refused line is reported and left out, and parsing goes on behind it, so that the errors of one
file come together. No name is looked up here; nothing is known of what a spec means.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lark import Token, Tree, UnexpectedToken

from optforge.dsl import ast, errors
from optforge.dsl.diagnostics import Diagnostic, sort_by_position
from optforge.dsl.grammar import end_of, load_grammar, load_keywords, make_token, scan, start_of
from optforge.dsl.layout import Layout
from optforge.dsl.source import Source, Span
from optforge.dsl.tree import TreeBuilder

if TYPE_CHECKING:
    from lark.parsers.lalr_interactive_parser import InteractiveParser

    from optforge.dsl.mistakes import Refusal

MAX_SIZE = 128 * 1024
MAX_ERRORS = 20
TOO_LONG = "this file has too many characters"


def read_source(path: str | Path) -> tuple[Source | None, tuple[Diagnostic, ...]]:
    """The text of a file, or why there is none. A byte order mark goes, and CRLF becomes LF."""
    shown = Path(path).as_posix()
    nowhere = Span(Source(shown, ""), 0, 0)
    try:
        with open(path, "rb") as file:
            data = file.read(4 * MAX_SIZE + 1)
        if len(data) > 4 * MAX_SIZE:
            return None, (errors.too_large(TOO_LONG, MAX_SIZE, nowhere),)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        return None, (errors.unreadable(shown, _describe_failure(error), nowhere),)
    return Source(shown, text.replace("\r\n", "\n")), ()


def _describe_failure(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "this is not a file name"


def parse_source(source: Source) -> tuple[ast.File | None, tuple[Diagnostic, ...]]:
    """The tree of a whole spec file; None if anything is wrong."""
    tree, comments, diagnostics = _Parse(source, "start").run()
    if not isinstance(tree, ast.File):
        return None, diagnostics
    return replace(tree, comments=comments), diagnostics


def parse_expression(source: Source) -> tuple[ast.Expression | None, tuple[Diagnostic, ...]]:
    """The tree of a single expression; None if anything is wrong."""
    tree, _, diagnostics = _Parse(source, "expression").run()
    return tree, diagnostics


@dataclass(slots=True)
class _Block:
    """An open block.

    ``before`` is the parser before its first line, None if its indentation is reported and ignored;
    ``troubled`` whether any line in it was refused; ``continues`` whether its first line, not read yet,
    may have been meant to continue the line before it.
    """

    before: InteractiveParser | None
    troubled: bool = False
    continues: bool = False


class _TooManyErrors(Exception):
    """There is no point in going on; what is known is reported."""


# What stands in for the first line of a block when that line is refused, so that the block itself can be read.
_HEADERS = {
    "OPTIMIZER": "OPTIMIZER NAME COLON _NL",
    "WRAPPER": "WRAPPER NAME COLON _NL",
    "SCHEDULE": "SCHEDULE NAME COLON _NL",
    "PENALTY": "PENALTY NAME COLON _NL",
    "FOR": "FOR NAME COLON _NL",
    "ON": "ON NAME LPAR RPAR COLON _NL",
    "DEF": "DEF NAME LPAR RPAR COLON _NL",
}

# What stands between the lines of a block.
_LINE_MARKS = frozenset({"_NL", "_INDENT", "_DEDENT"})


class _Parse:
    """One parse with recovery.

    ``line`` is the parser as it was before the current line, ``taken`` what it has taken since, and ``first`` the
    line's first token.
    """

    def __init__(self, source: Source, start: str) -> None:
        self.source = source
        self.start = start
        self.diagnostics: list[Diagnostic] = []
        self.layout = Layout(source, self.report)
        self.tokens = self.layout.arrange(scan(source.text))
        self.line = load_grammar().parse_interactive(start=start)
        self.parser = _copy(self.line)
        self.taken: list[Token] = []
        self.first = make_token("_NL", 0, 0)
        self.between_lines = True
        self.refused_header: str | None = None
        self.reported_at = -1
        self.blocks: list[_Block] = []
        self.previous: Token | None = None
        self.previous_first = False
        self.tree: Tree[Token] | None = None

    def run(self) -> tuple[Any, tuple[ast.Comment, ...], tuple[Diagnostic, ...]]:
        if len(self.source.text) > MAX_SIZE:
            whole = Span(self.source, 0, 0)
            return None, (), (errors.too_large(TOO_LONG, MAX_SIZE, whole),)
        value = None
        with suppress(_TooManyErrors):
            self.read_all()
            value = self.build()
        return (
            None if self.diagnostics else value,
            tuple(self.layout.comments),
            tuple(sort_by_position(self.diagnostics)),
        )

    def read_all(self) -> None:
        for token in self.tokens:
            if token.type == "_DEDENT" and self.blocks[-1].before is None:
                self.blocks.pop()
                continue
            while not self.take(token):
                if not self.recover(token):
                    break

    def build(self) -> Any:
        """What the tree stands for; after a refusal, just to report what else is wrong with it."""
        if self.tree is None:
            return None
        builder = TreeBuilder(self.source)
        value = builder.build(self.tree)
        for problem in sort_by_position(builder.problems):
            self.report(problem)
        return value

    def report(self, diagnostic: Diagnostic) -> None:
        if diagnostic in self.diagnostics:
            return  # What stands before a refused token was read twice.
        self.diagnostics.append(diagnostic)
        if len(self.diagnostics) >= MAX_ERRORS:
            raise _TooManyErrors

    def take(self, token: Token) -> bool:
        """Feed a token and note where lines and blocks begin; False if the parser refuses it and stands as before."""
        begins_line = self.between_lines and token.type not in _LINE_MARKS
        before = _copy(self.parser) if begins_line else None
        if not self.feed(token):
            return False
        if before is not None:
            self.line, self.first, self.taken = before, token, [token]
        if token.type == "_INDENT":
            self.blocks.append(_Block(self.line))
        elif token.type == "_DEDENT":
            self.blocks.pop()
        self.between_lines = token.type in _LINE_MARKS
        if self.between_lines and self.blocks:
            self.blocks[-1].continues = False
        self.refused_header = None
        if token:
            self.previous, self.previous_first = token, self.layout.line_start
        return True

    def feed(self, token: Token) -> bool:
        """Whether the parser takes a token. What Lark reduces before it notices that it does not is undone."""
        try:
            self.tree = self.parser.feed_token(token)
        except UnexpectedToken:
            self.parser = _copy(self.line)
            for each in self.taken:
                self.parser.feed_token(each)
            return False
        self.taken.append(token)
        return True

    def recover(self, token: Token) -> bool:
        """Report a refused token and get the parser to where it can go on.

        True if the token itself is still to be taken.
        """
        expected = frozenset(self.parser.accepts())
        if token.type == "$END":
            self.finish(token, expected)
            return False
        if token.type == "_INDENT":
            return self.enter_unexpected_block(token, expected)
        if expected == {"_INDENT"}:
            self.report_refusal(token, expected)
            self.return_to(self.line)
            return True
        if token.type == "_DEDENT":
            self.leave_block(token, expected)
            return False
        if token.type == "_NL" and "COLON" in expected:
            self.report_refusal(token, expected)
            return self.feed(make_token("COLON", start_of(token), end_of(token)))
        self.refuse_line(token, expected)
        return False

    def report_refusal(self, token: Token, expected: frozenset[str]) -> Refusal:
        # A spec without mistakes never pays for importing what explains them.
        from optforge.dsl.habits import suggest
        from optforge.dsl.mistakes import Refusal, explain_refusal

        if self.blocks:
            self.blocks[-1].troubled = True
        refusal = Refusal(
            self.source,
            token,
            self.previous,
            expected,
            tuple(bracket for bracket in self.layout.brackets if bracket is not token),
            self.layout.line_start and bool(token),
            self.previous_first,
        )
        if not self.is_known(token):
            self.report(explain_refusal(refusal, suggest(refusal)))
        self.reported_at = start_of(token)
        return refusal

    def is_known(self, token: Token) -> bool:
        """Whether a refusal only follows from something reported before: one thing is enough to say of a line."""
        if start_of(token) == self.reported_at or (self.blocks and self.blocks[-1].continues):
            return True
        first = token if self.between_lines else self.first
        return start_of(first) in self.layout.misplaced

    def finish(self, token: Token, expected: frozenset[str]) -> None:
        if self.diagnostics:
            return
        if self.start == "start" and expected != {"_INDENT"}:
            self.report(errors.empty_file(Span(self.source, start_of(token), end_of(token))))
        else:
            self.report_refusal(token, expected)

    def enter_unexpected_block(self, token: Token, expected: frozenset[str]) -> bool:
        """Read a block under the header it should have had, or leave out its indentation."""
        header = _HEADERS.get(self.refused_header or "")
        if header is not None and self.put_header(header.split(), start_of(token)):
            return True
        if self.refused_header is not None:
            self.skip_block()
            return False
        self.report_refusal(token, expected)
        self.blocks.append(_Block(None, continues=True))
        return False

    def put_header(self, kinds: list[str], position: int) -> bool:
        for kind in kinds:
            if not self.feed(make_token(kind, position, position)):
                self.return_to(self.line)
                return False
        return True

    def skip_block(self) -> None:
        depth = 1
        while depth:
            kind = next(self.tokens).type
            depth += (kind == "_INDENT") - (kind == "_DEDENT")

    def leave_block(self, token: Token, expected: frozenset[str]) -> None:
        """A block that ends too early; no message if that is because a line of it was refused."""
        block = self.blocks[-1]
        if not block.troubled:
            self.report_refusal(token, expected)
        self.blocks.pop()
        if self.blocks:
            self.blocks[-1].troubled = True
        assert block.before is not None
        self.return_to(block.before)

    def refuse_line(self, token: Token, expected: frozenset[str]) -> None:
        """Report a line, drop the rest of it and go on behind it."""
        refusal = self.report_refusal(token, expected)
        if self.between_lines:
            self.line, self.first = self.parser, token
        self.skip_line(token, refusal)
        if self.blocks:
            self.blocks[-1].continues = False
        self.return_to(self.line)
        self.refused_header = self.first.type if self.first.type in _HEADERS else _guess_header(self.first)

    def skip_line(self, token: Token, refusal: Refusal) -> None:
        end = end_of(self.previous) if self.previous else 0
        if refusal.starts_update and self.previous is not None:
            self.layout.reopen(start_of(self.previous), self.previous, token)
        elif refusal.leaves_bracket and token.type != "_NL":
            self.layout.reopen(end, token)
        elif token.type == "_UNCLOSED":
            self.layout.brackets.clear()
        while token.type != "_NL":
            token = next(self.tokens)
            if self.layout.begins_line(token):
                self.layout.reopen(end, token)

    def return_to(self, before: InteractiveParser) -> None:
        """Forget what was taken since then."""
        self.line, self.parser, self.taken = before, _copy(before), []
        self.between_lines = True


def _copy(parser: InteractiveParser) -> InteractiveParser:
    """An independent parser that stands where this one does; what it has read is shared."""
    twin: InteractiveParser = parser.copy(deepcopy_values=False)
    return twin


def _guess_header(word: str) -> str:
    """The kind of block a misspelt first word was probably meant to open; the word itself if none."""
    from difflib import get_close_matches

    keywords = {word: kind for word, kind in load_keywords().items() if kind in _HEADERS}
    found = get_close_matches(word, keywords, n=1, cutoff=0.6)
    return keywords[found[0]] if found else word
