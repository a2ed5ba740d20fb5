"""The text as bytes, its split, and the batches.

In: nothing (the source of Python's own standard library), one file, or a folder. Out: a ``Corpus`` of two byte
tensors, and batches that are a pure function of (corpus, seed, step), so that every optimizer sees the same ones and
a run can continue anywhere. A folder is split by file, through a hash of each relative path; one file is split by
position. Text that cannot be used ends in a ``TextError`` that names it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

VALIDATION_SHARE = 0.1
"""Share of the text (of the files of a folder) that is held out."""

END_OF_FILE = b"\0"
"""Stands after each file of a folder; a zero byte does not occur in text."""

SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
)
"""Never entered: other people's packages, tests, and the standard library's tables that are data rather than source."""


class TextError(Exception):
    """The text cannot be used; the message is one sentence that names the file."""


class Batch(NamedTuple):
    """Token numbers and the tokens that follow them, both int64 of shape (batch, context)."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Text as two one-dimensional uint8 tensors, and a name for messages and reports."""

    name: str
    train: Tensor
    validation: Tensor


def load_corpus(text: Path | None, *, context: int) -> Corpus:
    """The corpus at ``text`` (a file or a folder; None is the standard library), long enough for ``context``."""
    if text is None:
        corpus = read_standard_library()
    elif text.is_dir():
        corpus = read_folder(text)
    else:
        corpus = read_file(text)
    require_length(corpus, context)
    return corpus


def read_standard_library() -> Corpus:
    """The ``.py`` files of the running Python's standard library, split by file."""
    root = Path(os.__file__).parent
    paths = [path for path in _files_below(root) if path.suffix == ".py"]
    if not paths:
        raise TextError(f"{root}: no source files of the standard library here; name a text with --text")
    return _corpus_of_files("Python's standard library", root, paths)


def read_folder(root: Path) -> Corpus:
    """Every text file below ``root`` except hidden ones, split by file."""
    paths = _files_below(root)
    if not paths:
        raise TextError(f"{root}: expected a folder with text files, found none")
    return _corpus_of_files(root.name, root, paths)


def read_file(path: Path) -> Corpus:
    """One file; its last tenth is held out."""
    content = _read_bytes(path)
    if not content:
        raise TextError(f"{path}: expected text, found an empty file")
    cut = round(len(content) * (1 - VALIDATION_SHARE))
    return Corpus(path.name, _as_tensor(content[:cut]), _as_tensor(content[cut:]))


def require_length(corpus: Corpus, context: int) -> None:
    """Refuse a corpus with a part too short for one sequence and the byte after it."""
    for part, tokens in (("training", corpus.train), ("validation", corpus.validation)):
        if len(tokens) <= context:
            raise TextError(
                f"{corpus.name}: expected at least {context + 1} bytes in the {part} part (context {context}), "
                f"found {len(tokens)}"
            )


def is_held_out(relative_path: str) -> bool:
    """Whether the file with this path (relative, with forward slashes) belongs to the validation part."""
    digest = hashlib.sha256(relative_path.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64


def draw_batch(tokens: Tensor, *, seed: int, step: int, batch: int, context: int) -> Batch:
    """``batch`` windows at random places of ``tokens``; the same arguments always give the same windows."""
    starts = np.random.default_rng((seed, step)).integers(0, len(tokens) - context, size=batch)
    return _windows(tokens, torch.from_numpy(starts), context)


def spread_batches(tokens: Tensor, *, batches: int, batch: int, context: int) -> Iterator[Batch]:
    """``batches`` batches of windows at even distances over the whole of ``tokens``: the fixed validation set."""
    starts = torch.linspace(0, len(tokens) - context - 1, batches * batch, dtype=torch.float64).long()
    for chunk in starts.split(batch):
        yield _windows(tokens, chunk, context)


def _windows(tokens: Tensor, starts: Tensor, context: int) -> Batch:
    places = starts[:, None] + torch.arange(context + 1)
    window = tokens[places].long()
    return Batch(window[:, :-1], window[:, 1:])


def _files_below(root: Path) -> list[Path]:
    """Files in a fixed order; hidden ones and ``SKIPPED_FOLDERS`` are not entered."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _corpus_of_files(name: str, root: Path, paths: list[Path]) -> Corpus:
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    for path in paths:
        content = _read_bytes(path)
        if END_OF_FILE not in content:  # a zero byte marks a binary file
            parts[is_held_out(path.relative_to(root).as_posix())].append(content + END_OF_FILE)
    return Corpus(name, _as_tensor(b"".join(parts[False])), _as_tensor(b"".join(parts[True])))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"{path}: expected a readable text file: {error.strerror or error}") from error


def _as_tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(content), dtype=np.uint8))
