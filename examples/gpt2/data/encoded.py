"""Text encoded once, kept in a folder, and mapped into memory ever after.

In: a ``Text``, the kind of its tokenizer and a folder to keep the result in (or None). Out: ``Encoded``: both parts
as arrays of 16 or 32 bits and the tokenizer. An entry of the folder is named by a hash of the content and of what
decides the tokens, appears whole or not at all, and is checked before it is used; entries are never deleted here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.gpt2.data.errors import TextError
from examples.gpt2.data.files import appearing_whole, map_file
from examples.gpt2.data.texts import Document, Text
from examples.gpt2.data.tokenizer import (
    END_OF_FILE,
    Kind,
    Tokenizer,
    cut_into_pieces,
    find_tokenizer,
    restore_tokenizer,
)

FORMAT = 1
"""Part of the name of an entry: to be raised whenever the same text would be encoded differently."""

GROUP = 16
"""Pieces of text that a library may encode at once, in threads of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Tokens and what made them."""

    tokenizer: Tokenizer
    train: NDArray[Any]
    validation: NDArray[Any]


def encode_text(text: Text, kind: Kind, cache: Path | None) -> Encoded:
    """``text`` in tokens of ``kind``, from ``cache`` if they are there, and kept there if they are not."""
    if cache is None:
        tokenizer = _find_tokenizer(text, kind)
        train, validation = (
            np.concatenate(list(_encode(tokenizer, documents, text.ends)))
            for documents in (text.train, text.validation)
        )
        return Encoded(tokenizer, train, validation)
    key = hashlib.sha256(f"{FORMAT} {kind.identity} {text.digest()}".encode()).hexdigest()
    entry = cache / f"{kind.name}-{key[:20]}"
    if not entry.is_dir():
        _store(entry, text, kind)
    return _load(entry, kind)


def _find_tokenizer(text: Text, kind: Kind) -> Tokenizer:
    others = [document.decode() for document in text.validation]
    return find_tokenizer(kind, [document.decode() for document in text.train], [*others, END_OF_FILE * text.ends])


def _encode(tokenizer: Tokenizer, documents: tuple[Document, ...], ends: bool) -> Iterator[NDArray[Any]]:
    pieces = _pieces(documents)
    dtype = _dtype(tokenizer)
    while group := list(islice(pieces, GROUP)):
        for tokens, (_, is_last) in zip(tokenizer.encode([piece for piece, _ in group]), group, strict=True):
            yield np.asarray(tokens, dtype=dtype)
            if ends and is_last:
                yield np.array([tokenizer.end], dtype=dtype)


def _pieces(documents: tuple[Document, ...]) -> Iterator[tuple[str, bool]]:
    """The pieces of all documents, and whether each is the last one of its document."""
    for document in documents:
        pieces = list(cut_into_pieces(document.decode())) or [""]
        yield from ((piece, False) for piece in pieces[:-1])
        yield pieces[-1], True


def _dtype(tokenizer: Tokenizer) -> str:
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"


def _store(entry: Path, text: Text, kind: Kind) -> None:
    tokenizer = _find_tokenizer(text, kind)
    with appearing_whole(entry) as draft:
        counts = {
            part: _write_tokens(draft / f"{part}.bin", _encode(tokenizer, documents, text.ends))
            for part, documents in (("train", text.train), ("validation", text.validation))
        }
        (draft / "tokenizer").write_text(tokenizer.write(), encoding="utf-8", newline="")
        meta = {"text": text.name, "tokenizer": kind.identity, "dtype": _dtype(tokenizer), **counts}
        (draft / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _write_tokens(path: Path, arrays: Iterator[NDArray[Any]]) -> int:
    count = 0
    with path.open("wb") as file:
        for array in arrays:
            file.write(array.data)
            count += len(array)
    return count


def _load(entry: Path, kind: Kind) -> Encoded:
    remedy = "(delete the folder and it is made again)"
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        with (entry / "tokenizer").open(encoding="utf-8", newline="") as file:
            tokenizer = restore_tokenizer(kind, file.read())
        dtype, counts = _dtype(tokenizer), {part: int(meta[part]) for part in ("train", "validation")}
    except TextError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise TextError(f"{entry}: expected tokens kept by an earlier run {remedy}: {error}") from error
    parts = {}
    for part, count in counts.items():
        path = entry / f"{part}.bin"
        parts[part] = map_file(path, dtype, f"the {part} tokens that an earlier run kept {remedy}")
        if len(parts[part]) != count:
            raise TextError(f"{path}: expected {count} tokens, found {len(parts[part])} {remedy}")
    return Encoded(tokenizer, **parts)
