"""Several spec files in one text: a line such as `# scaling.opt` begins a file, and the last one is the user's."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from optforge.compiler.driver import check_source
from optforge.compiler.frontend.files import SPECS
from optforge.compiler.targets.torch.reserved import RESERVED
from optforge.dsl.diagnostics import Diagnostic
from optforge.dsl.source import Source

MAKES_A_CLASS = re.compile(r"^(optimizer|schedule|penalty) ", re.MULTILINE)
HEADING = re.compile(r"^# (\w+\.opt)\n", re.MULTILINE)


def split_files(text: str, name: str = "spec.opt") -> dict[str, str]:
    """The files by name; a text without headings is one file, of the name that is given."""
    first, *rest = HEADING.split(text)
    return dict(zip(rest[::2], rest[1::2], strict=True)) if rest and not first.strip() else {name: text}


def shipped_with_classes() -> list[Path]:
    """The shipped specs that classes are made of; others have functions or wrappers alone."""
    return sorted(path for path in SPECS.glob("*.opt") if MAKES_A_CLASS.search(path.read_text(encoding="utf-8")))


def check_files(text: str, name: str = "spec.opt") -> tuple[Diagnostic, ...]:
    """What is said of the last file, with the others beside it."""
    files = split_files(text, name)
    own = list(files)[-1]
    if len(files) == 1:
        return check_source(Source(own, files[own]), reserved=RESERVED).diagnostics
    with TemporaryDirectory() as folder:
        for each, content in files.items():
            Path(folder, each).write_text(content, encoding="utf-8")
        return check_source(Source(own, files[own]), Path(folder), reserved=RESERVED).diagnostics
