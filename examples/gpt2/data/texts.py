"""Text as bytes, and its split into a part to train on and a part that is held out.

In: nothing (the source of Python's own standard library), one file, or a folder. Out: a ``Text`` of documents. A
folder is split by file, through a hash of each relative path; one file, or a folder too small for that, by position
inside of each file. Text that cannot be used is a ``TextError``. Nothing is tokenized here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.gpt2.data.errors import TextError
from examples.gpt2.data.files import map_file

TRAINING_SHARE = 0.9
"""Share of the text (of the files of a folder) that is trained on."""

SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
)
"""Never entered: other people's packages, tests, and the standard library's tables that are data rather than source."""


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """The bytes of one file, or of the first or last part of it."""

    path: Path
    content: NDArray[np.uint8]

    def decode(self) -> str:
        """The content as characters."""
        try:
            return str(self.content.data, "utf-8")
        except UnicodeDecodeError as error:
            raise TextError(
                f"{self.path}: expected text in UTF-8, found {error.reason} at byte {error.start}; "
                "tokenizer bytes takes any file"
            ) from error

    def split(self, *, by_character: bool) -> tuple[Document, Document]:
        """The first nine tenths and the rest; ``by_character`` counts characters and tears none apart."""
        cut = int(TRAINING_SHARE * len(self.content))
        if by_character:
            characters = self.decode()
            cut = len(characters[: int(TRAINING_SHARE * len(characters))].encode())
        return Document(self.path, self.content[:cut]), Document(self.path, self.content[cut:])


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Documents to train on and documents held out; in a text of several files each ends in a mark (``ends``)."""

    name: str
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    ends: bool

    def digest(self) -> str:
        """A hash of what the documents say and where they end, not of where they lie."""
        state = hashlib.sha256(f"ends {self.ends}".encode())
        for documents in (self.train, self.validation):
            state.update(f"part of {len(documents)}".encode())
            for document in documents:
                state.update(f"document of {len(document.content)}".encode())
                state.update(document.content.data)
        return state.hexdigest()


def read_text(path: Path | None, *, by_character: bool) -> Text:
    """The text at ``path``; None is the standard library. ``by_character`` keeps characters whole where it is cut."""
    if path is None:
        return read_standard_library(by_character=by_character)
    if path.is_dir():
        return read_folder(path, by_character=by_character)
    return read_file(path, by_character=by_character)


def read_standard_library(*, by_character: bool = False) -> Text:
    """The ``.py`` files of the running Python's standard library."""
    root = Path(os.__file__).parent
    paths = [path for path in _files_below(root) if path.suffix == ".py"]
    if not paths:
        raise TextError(f"{root}: no source files of the standard library here; name a text instead")
    return _text_of_files("Python's standard library", root, paths, by_character)


def read_folder(root: Path, *, by_character: bool = False) -> Text:
    """Every text file below ``root`` except hidden ones."""
    paths = _files_below(root)
    if not paths:
        raise TextError(f"{root}: expected a folder with text files, found none")
    return _text_of_files(root.name, root, paths, by_character)


def read_file(path: Path, *, by_character: bool = False) -> Text:
    """One file; its last tenth is held out."""
    if path.suffix == ".bin" and path.is_file():
        raise TextError(f"{path}: expected a text file; tokens in .bin files are read by naming their folder")
    train, validation = Document(path, map_file(path, "u1", "a readable text file")).split(by_character=by_character)
    return Text(path.name, (train,), (validation,), ends=False)


def is_held_out(relative_path: str) -> bool:
    """Whether the file with this path (relative, with forward slashes) belongs to the validation part."""
    digest = hashlib.sha256(relative_path.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < (1 - TRAINING_SHARE) * 2**64


def _files_below(root: Path) -> list[Path]:
    """Files in a fixed order, without hidden ones and those in ``SKIPPED_FOLDERS``."""
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise TextError(f"{error.filename}: expected a readable folder: {error.strerror}") from error

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file() or not path.exists())  # no pipes: they never end


def _text_of_files(name: str, root: Path, paths: Sequence[Path], by_character: bool) -> Text:
    parts: dict[bool, list[Document]] = {False: [], True: []}
    for path in paths:
        content = _read_bytes(path)
        if b"\0" not in content:  # a zero byte marks a binary file
            held_out = is_held_out(path.relative_to(root).as_posix())
            parts[held_out].append(Document(path, np.frombuffer(content, dtype=np.uint8)))
    train, validation = parts[False], parts[True]
    if not train and not validation:
        raise TextError(f"{root}: expected a folder with text files, found a zero byte in each of {len(paths)} files")
    if not _has_content(train) or not _has_content(validation):
        halves = [document.split(by_character=by_character) for document in train + validation]
        train, validation = [first for first, _ in halves], [last for _, last in halves]
    return Text(name, tuple(train), tuple(validation), ends=True)


def _has_content(documents: Sequence[Document]) -> bool:
    return any(len(document.content) for document in documents)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"{path}: expected a readable text file: {error.strerror or error}") from error
