"""From a ``DataConfig`` to tokens.

In: a configuration, the context, and a folder that may keep tokens between runs. Out: a ``Corpus`` whose parts are
long enough for the context. Whatever is wrong with the files is a ``TextError``, one sentence that names the file.
Draws no batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.gpt2.config import DataConfig
from examples.gpt2.data.binary import is_binary, read_binary
from examples.gpt2.data.encoded import encode_text
from examples.gpt2.data.errors import TextError
from examples.gpt2.data.texts import Document, Text, read_text
from examples.gpt2.data.tokenizer import END_OF_FILE, Gpt2, Kind, Tokenizer, parse_kind
from examples.gpt2.data.tokens import Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Tokens to train on, tokens held out, and what is known of them.

    ``unit`` is ``byte``, ``character`` or ``token``; ``vocabulary`` says in words why ``vocab_size`` is what it is.
    ``bytes_per_token`` is that of the validation part (None: unknown), so that a validation loss of L nats per token
    is L / ln 2 / ``bytes_per_token`` bits per byte. Equal ``fingerprint``s mean the same tokens.
    """

    name: str
    train: Tokens
    validation: Tokens
    vocab_size: int
    vocabulary: str
    unit: str
    bytes_per_token: float | None
    fingerprint: str
    tokenizer: Tokenizer | None = None  # None: the tokens are bytes, or nobody knows what they stand for

    def decode(self, tokens: Sequence[int]) -> str:
        """The text that ``tokens`` stand for; a ``TextError`` where nobody knows it."""
        if self.unit == "byte":
            return bytes(tokens).decode("utf-8", "replace")
        if self.tokenizer is None:
            raise TextError(f"{self.name}: expected a known vocabulary; its files do not say what the tokens stand for")
        return self.tokenizer.decode(tokens)


def load_corpus(config: DataConfig, *, context: int, cache: Path | None = None) -> Corpus:
    """The corpus that ``config`` names, with parts longer than ``context``; ``cache`` keeps what was encoded."""
    kind = parse_kind(config.tokenizer)
    path = None if config.path is None else Path(config.path)
    if path is not None and path.is_dir() and is_binary(path):
        corpus = _load_binary(path, kind, cache)
    else:
        text = read_text(path, by_character=kind.name != "bytes")
        _require_bytes(text, context)
        corpus = _bytes_corpus(text) if kind.name == "bytes" else _encoded_corpus(text, kind, cache)
    for part, tokens in (("training", corpus.train), ("validation", corpus.validation)):
        _require_length(corpus.name, part, len(tokens), corpus.unit, context)
    return corpus


def _load_binary(folder: Path, kind: Kind, cache: Path | None) -> Corpus:
    shards = read_binary(folder, cache)
    is_gpt2 = shards.vocab_size == Gpt2.vocab_size
    if kind.name not in ("bytes", "gpt2") or (kind.name == "gpt2" and not is_gpt2):
        raise TextError(f"{folder}: expected no tokenizer besides files of tokens, found {kind.name}")
    return Corpus(
        folder.name,
        shards.train,
        shards.validation,
        shards.vocab_size,
        shards.vocabulary,
        "token",
        None,
        shards.fingerprint,
        Gpt2() if is_gpt2 else None,
    )


def _bytes_corpus(text: Text) -> Corpus:
    train, validation = (
        Tokens([_join(documents, text.ends)], vocab_size=256, names=[text.name])
        for documents in (text.train, text.validation)
    )
    fingerprint = hashlib.sha256(f"bytes {text.digest()}".encode()).hexdigest()
    return Corpus(text.name, train, validation, 256, "a token is a byte", "byte", 1.0, fingerprint)


def _encoded_corpus(text: Text, kind: Kind, cache: Path | None) -> Corpus:
    encoded = encode_text(text, kind, cache)
    tokenizer = encoded.tokenizer
    train, validation = (
        Tokens([array], vocab_size=tokenizer.vocab_size, names=[text.name])
        for array in (encoded.train, encoded.validation)
    )
    identity = f"{kind.name} {text.digest()} {tokenizer.write()}"
    return Corpus(
        text.name,
        train,
        validation,
        tokenizer.vocab_size,
        _describe(kind, tokenizer),
        tokenizer.unit,
        _count_bytes(text.validation, text.ends) / max(len(validation), 1),
        hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest(),
        tokenizer,
    )


def _describe(kind: Kind, tokenizer: Tokenizer) -> str:
    if kind.name == "characters":
        return "a token is one of the text's different characters"
    if kind.name == "bpe":
        fewer = f" ({kind.size} were asked for)" if tokenizer.vocab_size < kind.size else ""
        return f"a byte-level BPE trained on the training part{fewer}"
    return "GPT-2's own"


def _join(documents: Sequence[Document], ends: bool) -> NDArray[Any]:
    if not ends:
        return documents[0].content  # of one file, without a copy
    end = np.frombuffer(END_OF_FILE.encode(), dtype=np.uint8)
    return np.concatenate([array for document in documents for array in (document.content, end)])


def _count_bytes(documents: Sequence[Document], ends: bool) -> int:
    return sum(len(document.content) + ends for document in documents)


def _require_bytes(text: Text, context: int) -> None:
    """No tokenizer makes more tokens than there are bytes: what is too short in bytes need not be encoded."""
    for part, documents in (("training", text.train), ("validation", text.validation)):
        _require_length(text.name, part, _count_bytes(documents, text.ends), "byte", context)


def _require_length(name: str, part: str, length: int, unit: str, context: int) -> None:
    if length <= context:
        raise TextError(
            f"{name}: expected at least {context + 1} {unit}s in the {part} part (context {context}), found {length}"
        )
