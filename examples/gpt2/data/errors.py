"""The one kind of failure of this package.

In: nothing. Out: ``TextError``, which every module here raises for whatever is wrong with a file, its content or the
tokenizer asked for; a wrong argument of the caller's own making is a ``ValueError`` instead.
"""

from __future__ import annotations


class TextError(Exception):
    """The text or its tokens cannot be used; the message is one sentence that names the file and what was expected."""
