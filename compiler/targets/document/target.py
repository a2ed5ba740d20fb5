"""The targets of documents: the same pages in two forms."""

from __future__ import annotations

from optforge.compiler.frontend.reporting import ReservedNames
from optforge.compiler.targets.base import Rewrites, Target
from optforge.compiler.targets.document.latex import render_latex
from optforge.compiler.targets.document.markdown import render_markdown
from optforge.compiler.targets.document.outline import outline_calls

# What is printed is what the spec says, in its own order: no common subexpressions, and nothing in place.
AS_WRITTEN = Rewrites(outline=(("outline", outline_calls),), is_arranged=False)

LATEX = Target(name="latex", rewrites=AS_WRITTEN, reserved=ReservedNames(), render=render_latex)
MARKDOWN = Target(name="markdown", rewrites=AS_WRITTEN, reserved=ReservedNames(), render=render_markdown)
